"""The example task files are valid, find the files of their data sets, and say how to use them."""

import re
import shlex
from pathlib import Path

import pytest

from mtseg.sources.layouts.catalog import find_files
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.task_file import describe_doubts, read_task, shipped_path
from tests.models.documented_commands import code_blocks, parse

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "tasks"
EXAMPLES = sorted(FOLDER.glob("*.toml"))


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request):
    return request.param


def test_an_example_is_a_task_with_a_citation_and_a_licence(example):
    task = read_task(example)
    assert task.name == example.stem
    assert not describe_doubts(task)
    assert "CC BY" in task.citation or "terms of use" in task.citation
    assert "http" in task.citation


def test_the_commands_in_its_comments_are_accepted(example, monkeypatch):
    monkeypatch.chdir(FOLDER)
    lines = re.findall(r"^# +(mtseg .+)$", example.read_text(encoding="utf-8"), re.MULTILINE)
    prepare, train = (parse(shlex.split(line)) for line in lines)
    assert prepare.tasks == [train.tasks]
    (selection,) = parse_tasks(train.tasks).selections
    assert selection.task.name == example.stem


def test_every_example_is_on_the_page():
    page = (FOLDER.parents[1] / "how-to" / "add-a-task.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert f"(../examples/tasks/{example.name})" in page


@pytest.mark.parametrize(
    ("name", "source", "scan", "label_map", "subject"),
    [
        (
            "abdomen_ct",
            "amos",
            "imagesTr/amos_0004.nii.gz",
            "labelsTr/amos_0004.nii.gz",
            "amos_0004",
        ),
        (
            "abdomen_ct",
            "btcv",
            "Training/img/img0001.nii.gz",
            "Training/label/label0001.nii.gz",
            "0001",
        ),
    ],
)
def test_the_patterns_find_the_files_as_they_are_distributed(
    tmp_path, name, source, scan, label_map, subject
):
    for file in (scan, label_map):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = find_files(read_task(FOLDER / f"{name}.toml").source(source), tmp_path, name)
    (files,) = found.subjects
    assert files.name == subject
    assert files.images == (tmp_path / scan,)
    assert files.label_maps == (tmp_path / label_map,)


def test_parts_of_a_data_set_are_sources_as_the_page_writes_them(tmp_path):
    page = (FOLDER.parents[1] / "how-to" / "prepare-many-scans.md").read_text(encoding="utf-8")
    (parts,) = code_blocks(page, "toml")
    text = Path(shipped_path("brain")).read_text(encoding="utf-8")
    copy = tmp_path / "many.toml"
    copy.write_text(text.replace('name = "brain"', 'name = "many"') + parts, encoding="utf-8")
    (selection,) = parse_tasks(f"{copy}:part1+part2").selections
    assert selection.task.name == "many"
    assert [selection.task.source(name).layout for name in selection.sources] == ["nnunet"] * 2
