"""Which value a class has in label files: that of its task file, in every network."""

import itertools
import json

import numpy as np
import pytest

from mtseg.runs.manifest import PACKAGED, read_manifest
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.tasks.label_table import DEFAULT_COLORS, default_color, make_label_table, to_labels
from mtseg.tasks.task import Code, TissueClass
from mtseg.tasks.task_file import read_task, shipped_path, shipped_tasks
from tests.tasks.kidney_task import KIDNEY, refused


def labels_of(label_space):
    return {entry.name: entry.label for entry in label_space.label_table}


def test_shipped_classes_have_the_same_labels_in_every_network():
    everything = labels_of(parse_tasks("brain,breast,cta,hippocampus,heart"))
    assert list(everything.values()) == list(range(1, 14))
    assert labels_of(parse_tasks("cta")) == {"coronary_arteries": 8}
    for text in ("breast,brain", "cta,brain", "heart,cta,breast,brain", "heart,hippocampus"):
        labels = labels_of(parse_tasks(text))
        assert labels == {name: everything[name] for name in labels}


def test_combined_class_indices_become_labels():
    lookup = to_labels(parse_tasks("cta,breast").label_table)
    assert lookup.dtype == np.uint8
    assert lookup[np.array([[0, 1], [2, 1]])].tolist() == [[0, 8], [7, 8]]


def test_a_class_without_a_label_gets_the_lowest_that_is_free(tmp_path):
    (tmp_path / "kidney.toml").write_text(KIDNEY)
    space = parse_tasks(f"{tmp_path}/kidney.toml:folder,cta,brain")
    assert [entry.label for entry in space.label_table] == [7, 9, 8, 1, 2, 3, 4, 5, 6]
    assert labels_of(parse_tasks(f"{tmp_path}/kidney.toml:folder")) == {"kidney": 1, "cyst": 2}


def test_two_tasks_with_the_same_label_are_refused(tmp_path):
    path = tmp_path / "kidney.toml"
    path.write_text(KIDNEY.replace('title = "Cyst"', 'title = "Cyst"\nlabel = 8'))
    message = refused(parse_tasks, f"cta,{path}:folder")
    assert message == (
        f"{path}: the class cyst has the label 8, as coronary_arteries of task cta has. Change the "
        "label in one of the two task files, or leave it out."
    )


def test_models_of_earlier_versions_keep_their_order():
    stored = parse_tasks("cta,brain").to_json()
    for task in stored["tasks"]:
        for tissue in task["classes"]:
            for key in ("label", "color", "code"):
                tissue.pop(key, None)
    old = LabelSpace.from_json(stored)
    assert [entry.label for entry in old.label_table] == [1, 2, 3, 4, 5, 6, 7]
    packaged = LabelSpace.from_json(read_manifest(PACKAGED)["label_space"])
    assert [entry.label for entry in packaged.label_table] == [1, 2, 3, 4, 5, 6, 9, 10, 7, 8]


def test_labels_colours_and_codes_are_stored_with_a_model():
    space = parse_tasks("breast,cta")
    stored = json.loads(json.dumps(space.to_json()))
    assert "code" not in stored["tasks"][0]["classes"][0]
    assert LabelSpace.from_json(stored).label_table == space.label_table
    (artery,) = (entry for entry in space.label_table if entry.label == 8)
    assert artery.code == Code("SCT", "41801008", "Coronary artery")


def test_shipped_colours_differ_and_so_do_their_codes():
    table = parse_tasks(",".join(shipped_tasks())).label_table
    assert len({entry.color for entry in table}) == len(table) == 13
    papers = [entry.color for entry in parse_tasks("brain,breast,cta").label_table]
    assert papers == list(DEFAULT_COLORS)
    codes = [entry.code for entry in table if entry.code]
    assert len(set(codes)) == len(codes) == 9


COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""What a person without cones for a colour sees, from linear to linear RGB (Machado et al., A
Physiologically-based Model for Simulation of Color Vision Deficiency, 2009)."""


def seen_as(color, blindness):
    """A colour in CIE L*a*b*, in which distances are about those that people see."""
    stored = np.array(list(bytes.fromhex(color[1:]))) / 255
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(blindness) @ linear, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    x, y, z = np.array(to_xyz) @ linear / [0.95047, 1, 1.08883]
    x, y, z = (np.cbrt(c) if c > 216 / 24389 else (24389 / 27 * c + 16) / 116 for c in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", COLOUR_BLINDNESS)
def test_shipped_colours_can_be_told_apart_with_colour_blindness(blindness):
    """Those of one task as well as the nearest two of Okabe and Ito's, which are 16 apart."""
    table = parse_tasks(",".join(shipped_tasks())).label_table
    seen = {entry: seen_as(entry.color, COLOUR_BLINDNESS[blindness]) for entry in table}
    for one, other in itertools.combinations(table, 2):
        least = 16 if one.task == other.task else 10
        assert np.linalg.norm(seen[one] - seen[other]) > least, (one.name, other.name)


def test_shipped_codes_are_those_of_snomed_as_dicom_has_them():
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    known = {value: names for by_value in concepts.values() for value, names in by_value.items()}
    for task in shipped_tasks():
        for tissue in read_task(shipped_path(task)).classes:
            if tissue.code is not None:
                assert tissue.code.value in known, tissue


def test_chosen_colours_do_not_repeat_soon():
    assert default_color(0) == "#E69F00"
    assert len({default_color(number) for number in range(24)}) == 24
    table = make_label_table([("a", TissueClass("x", "X", color="#abCDef"))])
    assert table[0].color == "#ABCDEF"
    assert table[0].rgb == (0xAB, 0xCD, 0xEF)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("label = 0", "classes, number 2: label: must be a whole number from 1 to 255, not 0"),
        ("label = 256", "classes, number 2: label: must be a whole number from 1 to 255, not 256"),
        ("label = true", "label: must be a whole number from 1 to 255, not True"),
        ("label = 1.0", "label: must be a whole number from 1 to 255, not 1.0"),
        ("label = 3", "classes: kidney and cyst have the same label, 3. Give each class its own."),
        ('color = "red"', "color: 'red' is not a colour. Write it as #RRGGBB."),
        ('code = { scheme = "SCT", value = "1" }', "code.meaning: is missing"),
        ('code = { scheme = "SCT", value = "", meaning = "a" }', "code.value: must have 1 to 16"),
        (
            'code = { scheme = "SCT", value = "64033007", meaning = "a" }',
            "classes: kidney and cyst have the same code, SCT 64033007.",
        ),
    ],
)
def test_what_a_class_may_not_have(tmp_path, added, message):
    kidney = 'label = 3\ncode = { scheme = "SCT", value = "64033007", meaning = "Kidney" }'
    text = KIDNEY.replace('title = "Kidney"\n', f'title = "Kidney"\n{kidney}\n', 1)
    path = tmp_path / "kidney.toml"
    path.write_text(text.replace('title = "Cyst"', f'title = "Cyst"\n{added}'))
    assert message in refused(read_task, path)
