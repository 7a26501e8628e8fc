"""What a run remembers of its data, and what of it makes figures those of other scans."""

import dataclasses
import json

import pytest

from mtseg.errors import InputError
from mtseg.provenance.fingerprint import (
    PREPARATION,
    add_checksums,
    describe_subjects,
    make_fingerprint,
)
from mtseg.provenance.training_data import (
    TRAINING_DATA,
    check_earlier_data,
    check_training_data,
    list_changes,
    list_record_changes,
    list_stale,
    read_all_training_data,
    refuse_training_scans,
    scored_checksum,
    write_training_data,
)
from mtseg.sources.find import find_subjects
from mtseg.sources.splits import ValidationRule
from tests.layout_files import write_nnunet, write_task
from tests.provenance.test_differences import BEFORE, changed, subject, with_subjects

NOW = changed("versions", preparation=PREPARATION)

TEST_CORRECTED = with_subjects(*BEFORE.subjects[:2], subject("s2", "test", label_map="x"))
TRAIN_CORRECTED = with_subjects(subject("s0", label_map="x"), *BEFORE.subjects[1:])


@pytest.mark.parametrize(
    ("now", "texts"),
    [
        (BEFORE, []),
        (TRAIN_CORRECTED, []),
        (TEST_CORRECTED, ["renal:folder: label map of s2 changed"]),
        (
            with_subjects(subject("s1"), subject("s2"), subject("s0", "test")),
            [
                "renal:folder: split of s2 changed from test to train; split of s0 changed from "
                "train to test"
            ],
        ),
    ],
)
def test_only_changes_of_the_scans_that_are_scored_count(now, texts):
    assert list_record_changes([BEFORE], [now], ["test"]) == texts
    is_same = scored_checksum([BEFORE], ["test"]) == scored_checksum([now], ["test"])
    assert is_same == (not texts)


def test_what_labels_mean_is_part_of_the_checksum():
    swapped = changed("source", labels={"background": "0", "kidney": "2", "cyst": "1"})
    assert scored_checksum([swapped], ["test"]) != scored_checksum([BEFORE], ["test"])


def test_the_same_scans_in_another_folder_have_the_same_checksum():
    moved = [dataclasses.replace(s.image, path=f"/B/{s.name}") for s in BEFORE.subjects]
    subjects = [
        dataclasses.replace(s, image=image) for s, image in zip(BEFORE.subjects, moved, strict=True)
    ]
    assert scored_checksum([with_subjects(*subjects)], ["test"]) == (
        scored_checksum([BEFORE], ["test"])
    )


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("other", "text"),
    [
        (changed("settings", size=64), "size of phantoms is 64, was the default"),
        (changed("versions", preparation=2), "version of preparation is 2, was 1"),
        (
            changed("source", labels={"background": "0", "kidney": "2", "cyst": "1"}),
            "labels of kidney are 2, were 1; labels of cyst are 1, were 2",
        ),
        (TEST_CORRECTED, "label map of s2 changed"),
    ],
)
def test_patches_and_volumes_that_were_prepared_otherwise_are_refused(other, text):
    volumes = dataclasses.replace(other, kind="volumes")
    assert check_training_data([BEFORE], [dataclasses.replace(BEFORE, kind="volumes")]) == []
    with pytest.raises(InputError, match=f"patches and volumes were prepared from .*: {text}"):
        check_training_data([BEFORE], [volumes])


def test_a_run_is_scored_on_phantoms_of_another_size_with_a_line(tmp_path):
    assert list_changes(tmp_path, [BEFORE], [changed("settings", seed=3)]) == []
    (line,) = list_changes(tmp_path, [BEFORE], [changed("settings", size=64)])
    assert "size of phantoms is 64, was the default" in line


@pytest.mark.promise("exact resume")
def test_a_run_draws_from_the_shards_that_it_began_with(tmp_path):
    write_training_data(tmp_path, [BEFORE])
    write_training_data(tmp_path, [TEST_CORRECTED])
    with pytest.raises(InputError, match="number of shards is 3, was the default"):
        write_training_data(tmp_path, [changed("settings", num_shards=3)])


def test_a_run_remembers_what_the_networks_were_trained_on_that_it_started_from(tmp_path):
    """Of fold 1 a network was trained on the scan that fold 2 tests."""
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir(), second.mkdir()
    of_first = with_subjects(subject("s0"), subject("s1", "test"))
    of_second = with_subjects(subject("s1"), subject("s0", "test"))
    write_training_data(first, [of_first])
    earlier, is_all = read_all_training_data(first, "")
    assert is_all
    assert check_earlier_data("1", earlier, [of_first], ["test"]) == []
    (line,) = check_earlier_data("1", earlier, [of_second], ["test"])
    assert line.startswith("Warning: --init-from: 1 was trained on scans that are scored here: s0")
    write_training_data(second, [of_second], earlier)
    for _ in range(2):
        known, is_all = read_all_training_data(second, "")
        assert is_all
        with pytest.raises(InputError, match="was trained on scans that would be scored: s0"):
            refuse_training_scans(second, known, [of_second], ["test"])
        write_training_data(second, [of_second], is_new=False)  # as a resumed run does


def test_a_run_that_begins_again_remembers_what_it_starts_from_now(tmp_path):
    """Its initial network was trained anew before the run had a checkpoint."""
    old, new = with_subjects(subject("s0")), with_subjects(subject("s1"))
    own = with_subjects(subject("s2"), subject("s1", "test"))
    write_training_data(tmp_path, [own], [old])
    write_training_data(tmp_path, [own], [new])
    known, _ = read_all_training_data(tmp_path, "initial")
    assert known == [own, new]
    with pytest.raises(InputError, match="was trained on scans that would be scored: s1"):
        refuse_training_scans(tmp_path, known, [own], ["test"])


def test_a_run_of_an_earlier_version_does_not_know_what_it_started_from(tmp_path):
    write_training_data(tmp_path, [BEFORE])
    path = tmp_path / TRAINING_DATA
    path.write_text(json.dumps({"records": json.loads(path.read_text())["records"]}))
    assert read_all_training_data(tmp_path, "") == ([BEFORE], True)
    assert read_all_training_data(tmp_path, "packaged") == ([BEFORE], False)


def test_what_a_start_does_not_know_is_not_taken_for_nothing(tmp_path):
    assert read_all_training_data(tmp_path, "") == ([], False)
    assert "does not say what it was trained on" in check_earlier_data("x", None, [BEFORE], [])[0]
    write_training_data(tmp_path, [BEFORE], None)
    assert read_all_training_data(tmp_path, "") == ([BEFORE], False)


def test_records_of_another_version_are_named_where_the_scans_are_gone(tmp_path):
    (line,) = list_stale([BEFORE], [write_task(tmp_path / "renal.toml")])
    assert line.startswith("Warning: renal:folder: the records were prepared by another version")
    assert "mtseg-prepare with --update" in line
    assert list_stale([NOW], [write_task(tmp_path / "renal.toml")]) == []


def test_labels_that_a_data_set_defines_itself_are_compared(tmp_path):
    task, folder = write_task(tmp_path / "renal.toml"), write_nnunet(tmp_path / "scans")
    found = find_subjects(task, "nnunet", folder)
    now = make_fingerprint(
        task, found.labels, describe_subjects(found), folder,
        kind="volumes", settings={}, validation=ValidationRule(), versions={},
    )  # fmt: skip
    files = [dataclasses.replace(s, image=s.image.with_checksum()) for s in now.subjects]
    files = [dataclasses.replace(s, label_map=s.label_map.with_checksum()) for s in files]
    stored = dataclasses.replace(now, subjects=tuple(files))
    assert add_checksums(now, stored) == stored
    assert list_stale([stored], [task]) == []
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] |= {"kidney": 2, "cyst": 1}
    path.write_text(json.dumps(content))
    (line,) = list_stale([stored], [task])
    assert "labels of kidney are 2, were 1; labels of cyst are 1, were 2. The records" in line
