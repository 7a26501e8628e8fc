"""What a message tells the user to do can be done: its options, files and commands exist."""

import ast
import importlib
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import check, prepare, train
from mtseg.errors import InputError
from mtseg.sources.find import find_subjects
from mtseg.tasks.label_space import parse_tasks
from tests.cli.test_own_task import TASK_FILE
from tests.datasets.test_builders import write_challenge_folder

MTSEG = Path(prepare.__file__).parents[1]

REACHED_BY = {
    "sources": {"check", "prepare"},
    "records": {"prepare", "train"},
    "training": {"train", "experiments"},
    "experiments": {"experiments"},
    "prediction": {"predict"},
}
"""Package -> the commands whose users read its messages, where these are few."""

NAMES_ITS_COMMAND = re.compile(r"mtseg-[a-z]+[^.]* --|--[a-z-]+ of mtseg-|mtseg-[a-z]+: --")
"""A message may name an option of another command with that command."""


def options(command):
    parser = importlib.import_module(f"mtseg.cli.{command}").make_parser()
    return {name for action in parser._actions for name in action.option_strings}


def messages(path):
    """Every text in a file but the docstrings, with that of an f-string in one piece."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.JoinedStr):
                values = [getattr(part, "value", "") for part in child.values]
                yield "".join(value if isinstance(value, str) else "..." for value in values)
            elif isinstance(child, ast.Constant) and not isinstance(node, ast.Expr | ast.JoinedStr):
                yield str(child.value)


@pytest.mark.parametrize("package", sorted(REACHED_BY))
def test_an_option_that_a_message_names_is_one_of_every_command_that_shows_it(package):
    known = set.intersection(*(options(command) for command in REACHED_BY[package]))
    for path in (MTSEG / package).rglob("*.py"):
        for text in messages(path):
            is_part_of_a_command = text.lstrip().startswith("-")
            if not is_part_of_a_command and not NAMES_ITS_COMMAND.search(text):
                unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
                assert not unknown, f"{path.name}: {text}"


def refusal(command, capsys, *arguments):
    """The line of standard error that a command ends with."""
    assert command.main([str(argument) for argument in arguments]) == 2
    outcome = capsys.readouterr()
    return (outcome.err or outcome.out).splitlines()[-1 if outcome.err else 1]


@pytest.mark.parametrize("source", ["miccai2012", "msd", "folder"])
@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_check_names_no_option_that_it_lacks(tmp_path, capsys, source, folder):
    (tmp_path / "empty").mkdir()
    line = refusal(check, capsys, f"brain:{source}", tmp_path / folder)
    assert str(tmp_path / folder) in line
    assert "--" not in line


def test_a_task_file_is_named_in_the_command_that_prepares_it(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(TASK_FILE)
    task = f"{tmp_path}/mine.toml:miccai2012"
    for kind in ("patches", "volumes"):
        line = refusal(
            train, capsys, "--tasks", task, "--data-dir", tmp_path / "data", "--input", kind,
            "--workdir", tmp_path / "run",
        )  # fmt: skip
        command = f"mtseg-prepare {task} --data-dir {tmp_path}/data --manual-dir FOLDER"
        assert line.endswith(command + (" --kinds patches,volumes" if kind == "patches" else ""))


def test_the_file_of_a_task_that_comes_with_the_package_is_to_be_copied(tmp_path, capsys):
    write_challenge_folder(tmp_path)
    for path in tmp_path.glob("*_glm.nii.gz"):
        image = nib.load(path)
        labels = np.full(image.shape, 44, np.int16)
        labels[0, 0, :2] = 998
        nib.save(nib.Nifti1Image(labels, image.affine), path)
    line = refusal(prepare, capsys, "brain:miccai2012", "--manual-dir", tmp_path)
    assert "998" in line
    assert "a copy of " in line
    assert "brain.toml, and give its path in place of brain. " in line


def test_a_task_file_of_the_user_is_to_be_edited_itself(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TASK_FILE)
    (task,) = (selection.task for selection in parse_tasks(str(path)).selections)
    assert task.file_to_edit == str(path)
    path.write_text(TASK_FILE.replace('"38-41"', '"cerebellum"'))
    (task,) = (selection.task for selection in parse_tasks(str(path)).selections)
    write_challenge_folder(tmp_path)
    with pytest.raises(InputError, match=rf"labels in {path}\."):
        find_subjects(task, "miccai2012", tmp_path)


def test_settings_of_phantoms_are_refused_for_scans(tmp_path, capsys):
    line = refusal(prepare, capsys, "brain:miccai2012", "--manual-dir", tmp_path, "--size", 48)
    assert line == (
        "error: --size: is for phantoms, and no task here has the source phantom. Leave it out."
    )
