"""Bad input of every kind: one line, exit code 2, no traceback, no files left behind."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import evaluate, experiments, export, predict, prepare, train

pytestmark = pytest.mark.promise("refused input")


def run(command, capsys, *arguments):
    """Exit code and the lines of standard error."""
    try:
        code = command.main([str(a) for a in arguments])
    except SystemExit as stop:  # how argparse ends
        code = stop.code
    return code, [line for line in capsys.readouterr().err.splitlines() if line.strip()]


def expect_refusal(outcome, *words):
    code, lines = outcome
    assert code == 2
    assert len(lines) == 1, lines
    for word in words:
        assert str(word) in lines[0], lines[0]


def write_scan(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def scan():
    return np.random.default_rng(0).integers(1, 500, (6, 7, 8)).astype(np.int16)


@pytest.fixture
def challenge(tmp_path, scan):
    """A folder in the layout of the challenge, with one training and one test subject."""
    folder = tmp_path / "challenge"
    folder.mkdir()
    (folder / "split.csv").write_text("subject,split\n1000,train\n1010,test\n")
    labels = np.resize(np.array([0, 44, 100, 59, 4, 38, 35], np.int16), scan.shape)
    for number, subject in enumerate(("1000", "1010")):
        write_scan(folder / f"{subject}_SS.nii.gz", scan + np.int16(number))
        write_scan(folder / f"{subject}_glm.nii.gz", labels)
    return folder


def prepare_challenge(capsys, tmp_path, folder):
    outcome = run(
        prepare, capsys, "brain:miccai2012", "--manual-dir", folder, "--data-dir", tmp_path / "data"
    )
    # TFDS notes the builder's configurations; no record, whole or half, may be left.
    left = [p for p in (tmp_path / "data").rglob("*") if p.is_file() and ".config" not in p.parts]
    assert not left, left
    return outcome


def test_a_label_file_that_is_missing(challenge, tmp_path, capsys):
    (challenge / "1000_glm.nii.gz").unlink()
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000", "label maps: none")


def test_an_empty_label_map(challenge, tmp_path, scan, capsys):
    write_scan(challenge / "1000_glm.nii.gz", np.zeros_like(scan))
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000_glm.nii.gz", "empty")


def test_label_values_that_the_task_file_does_not_know(challenge, tmp_path, scan, capsys):
    labels = np.full_like(scan, 44)
    labels[0, 0, :2] = [998, 999]
    write_scan(challenge / "1010_glm.nii.gz", labels)
    # Whether the subject is for training or testing does not matter: nothing is written.
    outcome = run(
        prepare, capsys, "brain:miccai2012", "--manual-dir", challenge, "--data-dir", tmp_path
    )
    expect_refusal(outcome, "1010_glm.nii.gz", "998", "999")


def test_image_and_label_map_on_different_grids(challenge, tmp_path, scan, capsys):
    write_scan(challenge / "1000_glm.nii.gz", np.full((6, 7, 9), 44, np.int16))
    expect_refusal(
        prepare_challenge(capsys, tmp_path, challenge), "1000_glm.nii.gz", "6", "9", "grid"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite(challenge, tmp_path, scan, capsys, value):
    broken = scan.astype(np.float32)
    broken[0, 0, 0] = value
    write_scan(challenge / "1000_SS.nii.gz", broken)
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000_SS.nii.gz", "finite")


def test_an_all_zero_scan(challenge, tmp_path, scan, capsys):
    write_scan(challenge / "1000_SS.nii.gz", np.zeros_like(scan))
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000_SS.nii.gz", "0")


def test_a_truncated_scan(challenge, tmp_path, capsys):
    path = challenge / "1000_SS.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000_SS.nii.gz")


def test_a_file_that_is_no_nifti(challenge, tmp_path, capsys):
    (challenge / "1000_SS.nii.gz").write_bytes(gzip.compress(b"no scan at all" * 100))
    expect_refusal(prepare_challenge(capsys, tmp_path, challenge), "1000_SS.nii.gz", ".nii.gz")


def test_a_folder_of_scans_that_is_not_there(tmp_path, capsys):
    expect_refusal(prepare_challenge(capsys, tmp_path, tmp_path / "missing"), "missing")


def test_no_folder_of_scans_at_all(tmp_path, capsys):
    outcome = run(prepare, capsys, "brain:miccai2012", "--data-dir", tmp_path / "data")
    expect_refusal(outcome, "--manual-dir")


@pytest.mark.parametrize("command", [prepare, train])
def test_an_unknown_task_is_answered_with_the_valid_ones(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["brian"] if command is prepare else ["--tasks", "brian"]
    expect_refusal(run(command, capsys, *arguments), "brian", "brain", "breast", "cta")
    assert not list(tmp_path.iterdir())


def test_a_data_dir_without_prepared_data_names_the_command(tmp_path, capsys):
    outcome = run(
        train, capsys, "--tasks", "brain:miccai2012", "--data-dir", tmp_path / "data",
        "--workdir", tmp_path / "run",
    )  # fmt: skip
    expect_refusal(outcome, "mtseg-prepare brain:miccai2012", tmp_path / "data", "--manual-dir")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--seed", "--split-seed"])
def test_a_negative_seed(tmp_path, capsys, flag):
    code, lines = run(prepare, capsys, "breast", "--data-dir", tmp_path, flag, -1)
    assert code == 2
    assert lines[-1].endswith(f"argument {flag}: must be at least 0, not -1")


def test_other_settings_of_prepared_data_are_shown(tiny_data, capsys):
    outcome = run(prepare, capsys, "breast", "--data-dir", tiny_data.data_dir, "--size", 48)
    expect_refusal(outcome, "size of phantoms is 48, was 32", "--update", "--overwrite")


def test_a_bad_setting_is_refused_by_name(tiny_data, tmp_path, capsys):
    outcome = run(
        train, capsys, "--data-dir", tiny_data.data_dir, "--workdir", tmp_path / "run",
        "--global-batch-size", 0,
    )  # fmt: skip
    expect_refusal(outcome, "global_batch_size")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [evaluate, export])
def test_a_folder_that_is_no_run(command, tmp_path, capsys):
    arguments = [tmp_path] if command is evaluate else [tmp_path, tmp_path / "model"]
    expect_refusal(run(command, capsys, *arguments), tmp_path, "mtseg-train")


def test_predicting_a_missing_file(tmp_path, capsys):
    missing = tmp_path / "scan.nii.gz"
    outcome = run(predict, capsys, missing, "--model", tmp_path, "-o", tmp_path / "out")
    expect_refusal(outcome, missing)


def test_predicting_without_a_model(tmp_path, scan, capsys):
    path = write_scan(tmp_path / "scan.nii.gz", scan)
    outcome = run(predict, capsys, path, "--model", tmp_path / "none", "-o", tmp_path / "out")
    expect_refusal(outcome, tmp_path / "none", "mtseg-export")
    assert not (tmp_path / "out").exists()


def test_two_scans_that_would_share_a_label_file(tmp_path, scan, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_scan(tmp_path / folder / "scan.nii.gz", scan)
    scans = [tmp_path / "a/scan.nii.gz", tmp_path / "b/scan.nii.gz"]
    outcome = run(predict, capsys, *scans, "-o", tmp_path / "out")
    expect_refusal(outcome, "scan", "would share its results")


def test_a_name_with_a_line_break_is_still_one_line(tmp_path, capsys):
    scan = tmp_path / "line\nbreak.nii"
    scan.write_bytes(b"no scan")
    assert predict.main([str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "line\\nbreak.nii" in capsys.readouterr().err.splitlines()[-1]


def test_a_terminal_obeys_nothing_in_the_name_of_a_file(tmp_path, capsys):
    """Such a name could clear the screen, or show an ending that the file does not have."""
    scan = tmp_path / "a\x1b[2J\x9b\u202e.nii"
    scan.write_bytes(b"no scan")
    assert predict.main([str(scan), "-o", str(tmp_path / "out")]) == 2
    printed = "".join(capsys.readouterr())
    assert not set("\x1b\x9b\u202e") & set(printed)
    assert "a\\x1b[2J\\x9b\\u202e.nii" in printed


@pytest.mark.parametrize("file", ["manifest.json", "config.json"])
def test_a_file_that_is_nested_too_deeply(tmp_path, scan, capsys, file):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / file).write_text("[" * 100_000)
    if file == "manifest.json":
        path = write_scan(tmp_path / "scan.nii.gz", scan)
        outcome = run(predict, capsys, path, "--model", tmp_path / "folder", "-o", tmp_path / "out")
    else:
        outcome = run(export, capsys, tmp_path / "folder", tmp_path / "model")
    expect_refusal(outcome, tmp_path / "folder")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num-parts", "2", "--part-id", "2"], ["--part-id: 2 is not one of --num-parts 2"]),
        (["--num-parts", "2", "--minutes", "5"], ["--minutes", "--minibatches-per-task"]),
    ],
)
def test_parts_of_the_experiments_that_cannot_be(tmp_path, capsys, flags, words):
    outcome = run(experiments, capsys, "--out", tmp_path / "out", *flags)
    expect_refusal(outcome, *words)
    assert not (tmp_path / "out").exists()
