"""The forms of dataset.json: read rightly, or refused in one line."""

import json

import pytest

from mtseg.sources.find import find_subjects
from tests.layout_files import NAMES, write_msd, write_nnunet, write_task
from tests.sources.test_find import refused

LABELS = {"background": 0, "kidney": 1, "cyst": 2}


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


def write_changed(folder, **changes):
    """nnU-Net's data set with other keys; None as a value removes the key."""
    path = write_nnunet(folder) / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not REMOVED}))
    return folder


REMOVED = object()

FIRST_VERSION = {
    "channel_names": REMOVED,
    "file_ending": REMOVED,
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "kidney", "2": "cyst"},
    "training": [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in NAMES
    ],
    "test": [],
}


@pytest.mark.parametrize(
    "changes",
    [
        FIRST_VERSION,
        FIRST_VERSION | {"modality": "MRI"},
        {"labels": {"0": "background", "1": "kidney", "2": "cyst"}},
        {"labels": {"background": "0", "kidney": "1", "cyst": ["2"]}},
        {"labels": {"background": [0], "kidney": [1], "cyst": [2, 2]}},
        {"channel_names": "T1"},
        {"channel_names": ["T1"]},
        {"channel_names": {"0": None}},
        {"file_ending": "nii.gz"},
        {"regions_class_order": None},
    ],
)
def test_every_form_of_the_same_data_set_is_read(task, tmp_path, changes):
    found = find_subjects(task, "nnunet", write_changed(tmp_path / "data", **changes))
    assert len(found.require_sound().subjects) == len(NAMES)
    assert found.issues == ()
    assert found.labels.values == (("kidney", (1,)), ("cyst", (2,)))
    assert found.labels.background == (0,)


def test_a_byte_order_mark_is_left_out(task, tmp_path):
    path = write_nnunet(tmp_path / "data") / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert find_subjects(task, "nnunet", tmp_path / "data").labels.background == (0,)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["background", "kidney", "cyst"]}, ['not ["background", "kidney", "cyst"]']),
        ({"labels": None}, ["labels", "not null"]),
        ({"labels": LABELS | {"cyst": None}}, ["cyst is null"]),
        ({"labels": LABELS | {"cyst": [[2]]}}, ["cyst is [[2]]"]),
        ({"labels": LABELS | {"cyst": []}}, ["cyst is []"]),
        ({"labels": LABELS | {"cyst": True}}, ["cyst is true"]),
        ({"labels": LABELS | {"cyst": 2.5}}, ["cyst is 2.5"]),
        ({"labels": LABELS | {"cyst": {"value": 2}}}, ["cyst is {"]),
        ({"labels": LABELS | {"cyst": 10**12}}, ["1000000000000", "65535"]),
        ({"labels": {"0": "background", "1": "kidney", "2": "kidney"}}, ["1 and 2", "'kidney'"]),
        ({"channel_names": None}, ["channel_names", "is null", '{"0": "MRI"}']),
        ({"channel_names": {}}, ["channel_names", "is {}"]),
        ({"channel_names": {"0": "T1", "1": "T2"}}, ["2 channels (T1, T2)"]),
        ({"channel_names": 3}, ["channel_names", "is 3"]),
        ({"file_ending": None}, ["file_ending is null"]),
        ({"file_ending": ".png"}, ['file_ending is ".png"', ".nii.gz"]),
        ({"file_ending": REMOVED}, ["lacks channel_names and file_ending"]),
        ({"regions_class_order": [1]}, ["regions_class_order is [1]", "kidney, cyst"]),
        ({"regions_class_order": [1, None]}, ["regions_class_order is [1, null]"]),
    ],
)
def test_other_contents_are_refused_by_key_and_value(task, tmp_path, changes, words):
    folder = write_changed(tmp_path / "data", **changes)
    message = refused(find_subjects, task, "nnunet", folder)
    assert message.startswith(str(folder))
    assert all(word in message for word in words), message


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"labels": {}, "labels": {}}', "it has 'labels' twice"),
        ("[]", "not a JSON object"),
        ("{", "is not a dataset.json"),
    ],
)
def test_a_file_that_is_not_a_dataset_json_is_refused(task, tmp_path, text, words):
    folder = write_nnunet(tmp_path / "data")
    (folder / "dataset.json").write_text(text)
    for source in ("nnunet", "msd"):
        assert words in refused(find_subjects, task, source, folder)


def test_the_decathlon_and_the_first_version_are_told_apart_by_the_names_of_scans(task, tmp_path):
    assert "name the source msd" in refused(
        find_subjects, task, "nnunet", write_msd(tmp_path / "m")
    )
    first = write_changed(tmp_path / "n", **FIRST_VERSION)
    assert "Name the source nnunet" in refused(find_subjects, task, "msd", first)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("training", [None, [3], ["a.nii.gz"], [{"image": "a.nii.gz"}], 3])
def test_another_list_of_the_decathlons_pairs_is_refused(task, tmp_path, training):
    path = write_msd(tmp_path / "data") / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": training}))
    assert "training is not as" in refused(find_subjects, task, "msd", tmp_path / "data")
