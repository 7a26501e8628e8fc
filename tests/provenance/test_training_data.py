"""What a run remembers of its data, and what of it makes figures those of other scans."""

import dataclasses

import pytest

from mtseg.provenance.training_data import list_scored_changes, scored_checksum
from tests.provenance.test_differences import BEFORE, changed, subject, with_subjects

TEST_CORRECTED = with_subjects(*BEFORE.subjects[:2], subject("s2", "test", label_map="x"))
TRAIN_CORRECTED = with_subjects(subject("s0", label_map="x"), *BEFORE.subjects[1:])


@pytest.mark.parametrize(
    ("now", "texts"),
    [
        (BEFORE, []),
        (TRAIN_CORRECTED, []),
        (changed("settings", num_shards=3), []),
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
    assert list_scored_changes([BEFORE], [now], "test") == texts
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
