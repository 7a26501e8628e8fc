"""Regions that overlap: the later one wins where an order is known, else they are refused."""

import json

import numpy as np
import pytest

from mtseg.cli import check
from mtseg.sources.find import find_subjects
from tests.layout_files import write_nnunet, write_task
from tests.sources.test_find import refused

REGIONS = {
    "background": 0,
    "whole_tumor": [1, 2, 3],
    "tumor_core": [2, 3],
    "enhancing_tumor": [3],
}
CLASSES = tuple(REGIONS)[1:]


def write_tumour_task(path, classes=CLASSES, sources=""):
    text = write_task(path) and path.read_text()
    tables = "".join(f'[[classes]]\nname = "{name}"\ntitle = "{name}"\n' for name in classes)
    path.write_text(text[: text.index("[[classes]]")] + tables + sources)
    from mtseg.tasks.task_file import read_task

    return read_task(path)


def write_regions(folder, **changes):
    path = write_nnunet(folder, labels=REGIONS) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_with_an_order_the_later_region_wins_and_this_is_said(tmp_path, capsys):
    task = write_tumour_task(tmp_path / "t.toml")
    folder = write_regions(tmp_path / "data", regions_class_order=[1, 2, 3])
    found = find_subjects(task, "nnunet", folder).require_sound()
    assert found.labels.values == (
        ("whole_tumor", (1,)),
        ("tumor_core", (2,)),
        ("enhancing_tumor", (3,)),
    )
    label_map = np.array([0, 1, 2, 3])
    assert task.map_labels(label_map, found.labels, "s").tolist() == [0, 1, 2, 3]
    (issue,) = found.issues
    assert not issue.is_error
    assert "whole_tumor is learnt from label 1 alone, without 2, 3" in issue.message
    assert "tumor_core is learnt from label 2 alone, without 3" in issue.message
    assert check.main([f"{task.path}:nnunet", str(folder), "--num-processes", "1"]) == 2
    assert "whole_tumor is learnt from label 1 alone" in capsys.readouterr().out


def test_a_region_of_its_own_is_whole(tmp_path):
    """Nothing overlaps in a task of one region, so an order is not needed."""
    task = write_tumour_task(tmp_path / "t.toml", ["whole_tumor"])
    found = find_subjects(task, "nnunet", write_regions(tmp_path / "data")).require_sound()
    assert found.labels.values == (("whole_tumor", (1, 2, 3)),)
    assert found.issues == ()


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("classes", "changes", "words"),
    [
        (CLASSES, {}, ["label 2 is of both whole_tumor and tumor_core", "regions_class_order"]),
        (CLASSES[::-1], {}, ["label 3 is of both", "regions_class_order"]),
        (
            CLASSES[::-1],
            {"regions_class_order": [1, 2, 3]},
            ["enhancing_tumor and tumor_core share label 3", "in the order of dataset.json"],
        ),
        (
            CLASSES,
            {"labels": REGIONS | {"tumor_core": [3]}, "regions_class_order": [1, 2, 3]},
            ["all labels of tumor_core are also of later regions"],
        ),
        (
            CLASSES,
            {"labels": REGIONS | {"background": [0, 1]}, "regions_class_order": [0, 1, 2, 3]},
            ["label 1 is of both whole_tumor and background"],
        ),
        (
            CLASSES,
            {"labels": REGIONS | {"ignore": 3}, "regions_class_order": [1, 2, 3]},
            ["label 3 is of both ignore and"],
        ),
    ],
)
def test_an_overlap_that_nothing_decides_is_refused(tmp_path, classes, changes, words):
    task = write_tumour_task(tmp_path / "t.toml", classes)
    message = refused(find_subjects, task, "nnunet", write_regions(tmp_path / "data", **changes))
    assert all(word in message for word in words), message


def test_regions_may_be_divided_in_the_task_file(tmp_path):
    """Each value once, by number: then no order is needed."""
    text = (
        "[sources.nnunet.labels]\nbackground = [0]\nwhole_tumor = [1]\ntumor_core = [2]\n"
        'enhancing_tumor = ["enhancing_tumor"]\n'
    )
    task = write_tumour_task(tmp_path / "t.toml", sources=text)
    found = find_subjects(task, "nnunet", write_regions(tmp_path / "data"))
    assert dict(found.labels.values)["enhancing_tumor"] == (3,)
    mixed = text.replace("[2]", '["tumor_core"]')
    task = write_tumour_task(tmp_path / "m.toml", sources=mixed)
    message = refused(find_subjects, task, "nnunet", tmp_path / "data")
    assert "label 3 is of both tumor_core and enhancing_tumor" in message
