"""Phantoms are used where they are asked for, and flags that would do nothing are refused."""

import pytest

from mtseg.cli import check, prepare, train
from tests.layout_files import write_folder, write_task

pytestmark = pytest.mark.promise("refused input")


def run(capsys, command, *arguments):
    """Exit code and the last line of standard error."""
    try:
        code = command.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # how argparse ends
        code = stop.code
    lines = capsys.readouterr().err.strip().splitlines()
    return code, lines[-1] if lines else ""


def write_records(data_dir, source):
    """The description of records, which is what makes them prepared."""
    folder = data_dir / "mtseg_brain" / f"{source}_volumes" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")


def test_records_of_real_scans_are_not_passed_over_for_phantoms(tmp_path, capsys):
    write_records(tmp_path / "data", "miccai2012")
    flags = ["--data-dir", tmp_path / "data"]
    for command, arguments in (
        (train, ["--tasks", "breast,brain", *flags, "--workdir", tmp_path / "run"]),
        (prepare, ["brain", *flags]),
    ):
        code, line = run(capsys, command, *arguments)
        assert code == 2
        assert f"{tmp_path}/data has records of miccai2012, but no source is named" in line
        assert "brain:miccai2012 or brain:phantom" in line
    assert not (tmp_path / "run").exists()


def test_phantoms_that_are_named_are_used_beside_records_of_scans(tmp_path, capsys):
    write_records(tmp_path, "miccai2012")
    code, line = run(
        capsys, train, "--tasks", "brain:phantom", "--data-dir", tmp_path, "--workdir",
        tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "mtseg-prepare brain:phantom" in line


def test_a_folder_of_scans_is_not_passed_over_for_phantoms(tmp_path, capsys):
    folder = write_folder(tmp_path / "scans")
    flags = ["--manual-dir", folder, "--data-dir", tmp_path / "data"]
    code, line = run(capsys, prepare, "brain", *flags)
    assert code == 2
    assert "--manual-dir gives scans, but no source is named" in line
    assert "brain:miccai2012, brain:freesurfer, brain:bids, brain:folder" in line
    assert not (tmp_path / "data").exists()
    code, line = run(capsys, check, "brain", folder)
    assert code == 2
    assert "Name the source of the scans: brain:miccai2012" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brain:phantom", "--manual-dir", "x"], "--manual-dir: is for scans, and only phantoms"),
        (["brain:folder", "--manual-dir", "bids=x"], "--manual-dir bids=x: no task here"),
        (["brain:phantom", "--manual-dir", "phantom=x"], "--manual-dir phantom=x: no task here"),
        (["brain:folder", "--manual-dir", "x", "--size", "40"], "--size: is for phantoms"),
        (["brain:folder", "--manual-dir", "x", "--num-train", "2"], "--num-train: is for phantoms"),
        (
            ["brain:folder", "--manual-dir", "x", "--bids-filter", "run=1"],
            "--bids-filter: no",
        ),
        (["brain:phantom", "--kinds", "patches", "--seed", "-1"], "must be at least 0, not -1"),
    ],
)
def test_a_flag_that_means_nothing_here_is_refused(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, line = run(capsys, prepare, *arguments)
    assert code == 2
    assert words in line
    assert not list(tmp_path.iterdir())


def test_a_task_called_like_a_shipped_one_and_an_odd_modality_are_said(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    write_task(path)
    text = path.read_text().replace('name = "renal"', 'name = "brain"', 1)
    path.write_text(text.replace('modality = "MR"', 'modality = "MRX"'))
    folder = write_folder(tmp_path / "data")
    assert check.main([f"{path}:folder", str(folder), "--num-processes", "1"]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert any("the task is called brain, like one that comes with mtseg" in n for n in notes)
    assert any(
        "modality 'MRX' is not one of MR, CT" in n and "did you mean MR?" in n for n in notes
    )
    code, _ = run(capsys, check, f"{write_task(tmp_path / 'other.toml').path}:folder", folder)
    assert code == 0
    assert "note:" not in capsys.readouterr().err
