"""Flags that set training subjects aside for validation."""

import pytest

from mtseg.cli import prepare
from mtseg.records.prepared import prepared_settings, records_dir
from mtseg.records.reading import count_scans
from mtseg.tasks.label_space import parse_tasks

TINY = ["--size", "32", "--num-train", "4", "--num-test", "0", "--num-processes", "1"]


def run(capsys, *arguments):
    code = prepare.main(["breast:phantom", *(str(argument) for argument in arguments)])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "num_validation", "origin"),
    [
        (["--validation-share", "0.01"], 1, "validation share 0.01, seed 0"),
        (["--validation-share", "0.5", "--split-seed", "3"], 2, "validation share 0.5, seed 3"),
        (["--fold", "2/2"], 2, "fold 2/2, seed 0"),
        (["--validation-share", "0"], 0, "generated"),
    ],
)
def test_persons_are_set_aside_printed_and_stored(tmp_path, capsys, flags, num_validation, origin):
    code, printed = run(capsys, "--data-dir", tmp_path, *TINY, *flags)
    assert code == 0
    counts = f"{4 - num_validation} train, {num_validation or 'no'} validation, no test subjects"
    assert counts in printed.out
    assert origin in printed.out
    label_space = parse_tasks("breast:phantom")
    assert count_scans(tmp_path, label_space, "validation") == {"breast": num_validation}
    assert count_scans(tmp_path, label_space, "train") == {"breast": 4 - num_validation}
    stored = prepared_settings(records_dir(tmp_path, "breast", "phantom", "volumes"))["split"]
    assert len(stored["validation"]) == num_validation
    assert origin in stored["origin"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--validation-share", "1"], "--validation-share: must be at least 0 and below 1"),
        (["--fold", "3/2"], "--fold: '3/2' is not a fold"),
        (["--fold", "1/9"], "has training scans of 4 persons"),
        (["--fold", "1/2", "--validation-share", "0.5"], "Leave out one of the two"),
        (["--split-seed", "1"], "--split-seed: needs --validation-share or --fold"),
        (["--num-test", "-1"], "-1 test phantoms"),
    ],
)
def test_what_cannot_be_set_aside_is_refused_in_a_line(tmp_path, capsys, flags, words):
    code, printed = run(capsys, "--data-dir", tmp_path / "data", *TINY, *flags)
    assert code == 2
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_another_fold_of_records_that_exist_is_refused(tmp_path, capsys):
    assert run(capsys, "--data-dir", tmp_path, *TINY, "--fold", "1/2")[0] == 0
    code, printed = run(capsys, "--data-dir", tmp_path, *TINY, "--fold", "2/2")
    assert code == 2
    assert "fold" in printed.err
