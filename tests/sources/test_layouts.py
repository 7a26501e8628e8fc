"""Layouts: the same subjects from every layout, and clear refusals of folders that differ."""

import json

import numpy as np
import pytest

from mtseg.sources.find import find_subjects, list_subjects
from mtseg.sources.layouts.catalog import LAYOUTS
from mtseg.sources.reading import prepare_subject
from mtseg.tasks.label_space import parse_tasks
from tests.dicom_files import write_series
from tests.layout_files import (
    AFFINE,
    NAMES,
    WRITERS,
    subject,
    write,
    write_bids,
    write_folder,
    write_msd,
    write_nnunet,
    write_task,
)
from tests.sources.test_find import refused


@pytest.fixture
def task(tmp_path):
    """A task with a source of every layout, and no labels of its own."""
    own = "".join(f"[sources.{name}]\n" for name in LAYOUTS)
    return write_task(tmp_path / "renal.toml", own)


def prepared(task, source, folder):
    found = find_subjects(task, source, folder).require_sound()
    return {s.name: prepare_subject(task, found.labels, s) for s in found.subjects}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_voxels(task, tmp_path, layout):
    subjects = prepared(task, layout, WRITERS[layout](tmp_path / layout))
    assert len(subjects) == len(NAMES)
    for number, name in enumerate(sorted(subjects)):
        assert name.endswith(NAMES[number][1:])
        image, labels = subject(number)
        turned = np.flip(labels, (0, 1))  # from LPS to RAS
        np.testing.assert_array_equal(subjects[name].class_index_map, turned)
        foreground = np.flip(image, (0, 1)) / subjects[name].image
        np.testing.assert_allclose(foreground, foreground[0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_are_left_out(task, tmp_path, layout):
    """Such as those that macOS writes beside every file on a shared disk."""
    folder = WRITERS[layout](tmp_path / layout)
    for path in [path for path in folder.rglob("*") if path != folder]:
        hidden = path.with_name(f"._{path.name}")
        if path.is_dir():
            hidden.mkdir()
        else:
            hidden.write_bytes(b"Mac OS X")
    found = find_subjects(task, layout, folder)
    assert len(found.require_sound().subjects) == len(NAMES)
    assert not any("._" in issue.message for issue in found.issues)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_nnunet_in_its_other_formats(task, tmp_path, ending):
    subjects = prepared(task, "nnunet", write_nnunet(tmp_path / "data", ending))
    np.testing.assert_array_equal(subjects["a1"].class_index_map, np.flip(subject(0)[1], (0, 1)))


def test_labels_may_be_named_as_the_data_set_names_them(tmp_path):
    labels = {"background": 0, "left kidney": 1, "right kidney": 2}
    folder = write_nnunet(tmp_path / "data", labels=labels)
    text = (
        '[sources.nnunet.labels]\nbackground = ["background"]\n'
        'kidney = ["left kidney"]\ncyst = ["right kidney"]\n'
    )
    found = find_subjects(write_task(tmp_path / "t.toml", text), "nnunet", folder)
    assert found.labels.values == (("kidney", (1,)), ("cyst", (2,)))
    wrong = write_task(tmp_path / "w.toml", text.replace("left kidney", "left kidny"))
    message = refused(find_subjects, wrong, "nnunet", folder)
    assert "'left kidny'" in message
    assert "left kidney, right kidney" in message


def test_nnunets_ignore_label_and_regions(task, tmp_path):
    labels = {"background": 0, "kidney": [1, 5], "cyst": 2, "ignore": 6}
    found = find_subjects(task, "nnunet", write_nnunet(tmp_path / "data", labels=labels))
    assert found.labels.values == (("kidney", (1, 5)), ("cyst", (2,)))
    assert found.labels.ignore == (6,)


def test_two_scans_of_one_name_are_not_taken_for_each_other(task, tmp_path):
    """Whatever `split.csv` says of the name."""
    folder = write_nnunet(tmp_path / "data")
    write(folder / "imagesTs" / f"{NAMES[0]}_0000.nii.gz", subject(9)[0])
    write(folder / "labelsTs" / f"{NAMES[0]}.nii.gz", subject(9)[1])
    (folder / "split.csv").write_text(f"subject,split\n{NAMES[0]},train\n{NAMES[1]},test\n")
    message = refused(find_subjects, task, "nnunet", folder)
    assert all(f"{folder / of}" in message for of in ("imagesTr", "imagesTs"))
    assert "has the same name" in message


def test_freesurfers_time_points_of_a_person_stay_on_one_side(task, tmp_path):
    folder = tmp_path / "data"
    names = ["p_1", "p_2", "p", "p_1.long.p", "p_2.long.p", "q", "r"]
    for number, name in enumerate(names):
        image, labels = subject(number)
        write(folder / name / "mri" / "orig.mgz", image)
        write(folder / name / "mri" / "aseg.mgz", labels)
    sides = {s.name: s.split for s in find_subjects(task, "freesurfer", folder).subjects}
    assert len({sides[name] for name in names if name.startswith("p")}) == 1
    (folder / "split.csv").write_text("subject,split\np_1.long.p,train\np_2,test\nq,train\n")
    assert "are one person" in refused(list_subjects, task, "freesurfer", folder)


def test_nnunets_test_scans_are_used_where_they_have_label_maps(task, tmp_path):
    folder = write_nnunet(tmp_path / "data")
    write(folder / "imagesTs" / "t1_0000.nii.gz", subject(9)[0])
    assert {s.name for s in find_subjects(task, "nnunet", folder).subjects} == set(NAMES)
    write(folder / "labelsTs" / "t1.nii.gz", subject(9)[1])
    found = find_subjects(task, "nnunet", folder).require_sound()
    assert {s.name for s in found.subjects if s.split == "test"} == {"t1"}


PATTERNS = """
[sources.folder]
images = "{}"
label_maps = "{}"
"""


def write_as(folder, image, label_map):
    """The subjects of `write_folder` under other names; {} is the subject."""
    for number, name in enumerate(NAMES):
        scan, labels = subject(number)
        write(folder / image.format(*[name] * 3), scan)
        write(folder / label_map.format(*[name] * 3), labels)
    return folder


@pytest.mark.parametrize(
    ("images", "label_maps"),
    [
        ("imgs/*_t1.nii.gz", "segs/*_seg.nii.gz"),
        ("*/*_t1.nii.gz", "*/*_seg.nii.gz"),
        ("BraTS_*/BraTS_*_t1.nii.gz", "BraTS_*/BraTS_*_seg.nii.gz"),
        ("all/*.nii.gz", "all/*_seg.nii.gz"),
        ("all/*_t1.nii.gz", "all/*.nii.gz"),
        ("sc[an]s/*", "maps/*"),
    ],
)
def test_patterns_of_the_task_file_find_files_of_any_name(tmp_path, images, label_maps):
    task = write_task(tmp_path / "t.toml", PATTERNS.format(images, label_maps))
    endings = [p if p.endswith("gz") else f"{p}.nii.gz" for p in (images, label_maps)]
    folder = write_as(tmp_path / "data", *(p.replace("*", "{}") for p in endings))
    write(folder / "other" / "b1_t1.nii.gz", subject(8)[0])
    found = find_subjects(task, "folder", folder)
    assert sorted(s.name for s in found.require_sound().subjects) == list(NAMES)
    for s in found.subjects:
        assert s.image_path.endswith(endings[0].replace("*", s.name))
        assert s.label_path.endswith(endings[1].replace("*", s.name))


def test_a_pattern_finds_series_and_follows_links(tmp_path):
    task = write_task(tmp_path / "t.toml", PATTERNS.format("cases/*/mr", "cases/*/seg.nii.gz"))
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write_series(tmp_path / "real" / name / "mr", image.astype(np.float32), AFFINE)
        write(tmp_path / "real" / name / "seg.nii.gz", labels)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cases").symlink_to(tmp_path / "real")
    subjects = prepared(task, "folder", tmp_path / "data")
    np.testing.assert_array_equal(subjects["a1"].class_index_map, np.flip(subject(0)[1], (0, 1)))


def test_a_pattern_that_matches_nothing_is_refused_with_the_pattern(tmp_path):
    task = write_task(tmp_path / "t.toml", PATTERNS.format("imgs/*_t2.nii.gz", "segs/*.nii.gz"))
    folder = write_as(tmp_path / "data", "imgs/{}_t1.nii.gz", "other/{}.nii.gz")
    message = refused(find_subjects, task, "folder", folder)
    assert "Give a folder with imgs/*_t2.nii.gz (scans)" in message


def test_folders_that_are_named_like_scans_are_opened(task, tmp_path):
    """Kaggle unpacks s1.nii.gz as s1.nii/s1.nii, or with another name inside."""
    folder = tmp_path / "data"
    for number, name in enumerate(NAMES):
        image, labels = subject(number)
        write(folder / "images" / f"{name}.nii" / f"{name}.nii", image)
        write(folder / "labels" / f"{name}.nii" / "W39_segmentation.nii", labels)
    subjects = prepared(task, "folder", folder)
    np.testing.assert_array_equal(subjects["a2"].class_index_map, np.flip(subject(1)[1], (0, 1)))


@pytest.mark.parametrize("layout", ["imagecas", "asoca"])
def test_linked_folders_are_followed_once(task, tmp_path, layout):
    real = WRITERS[layout](tmp_path / "real")
    (tmp_path / "links").mkdir()
    for sub in real.iterdir():
        (tmp_path / "links" / sub.name).symlink_to(sub)
    (real / sub.name / "loop").symlink_to(real)
    found = find_subjects(task, layout, tmp_path / "links").require_sound()
    assert len(found.subjects) == len(NAMES)


def test_files_in_folders_of_their_names_are_found_once(task, tmp_path):
    """As Kaggle unpacks archives: `1.img.nii.gz/1.img.nii.gz`."""
    folder = WRITERS["imagecas"](tmp_path / "data")
    for path in sorted(path for path in folder.rglob("*.nii.gz") if path.is_file()):
        moved = path.rename(path.with_name("moved"))
        path.mkdir()
        moved.rename(path / path.name)
    found = find_subjects(task, "imagecas", folder).require_sound()
    assert len(found.subjects) == len(NAMES)


def test_more_than_one_channel_is_refused(task, tmp_path):
    folder = write_nnunet(tmp_path / "data")
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["channel_names"] = {"0": "T1", "1": "FLAIR"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    message = refused(find_subjects, task, "nnunet", folder)
    assert "2 channels (T1, FLAIR)" in message
    assert "dataset.json" in message


def test_a_data_set_of_another_convention_is_named(task, tmp_path):
    assert "name the source msd" in refused(
        find_subjects, task, "nnunet", write_msd(tmp_path / "m")
    )
    assert "name the source nnunet" in refused(
        find_subjects, task, "msd", write_nnunet(tmp_path / "n")
    )
    assert "no dataset.json" in refused(find_subjects, task, "msd", write_folder(tmp_path / "f"))
    (tmp_path / "n" / "dataset.json").write_text("{")
    assert "is not a dataset.json" in refused(find_subjects, task, "nnunet", tmp_path / "n")


def test_sessions_of_a_person_stay_on_one_side(task, tmp_path):
    folder = write_bids(tmp_path / "data")
    for session in ("ses-1", "ses-2"):
        image, labels = subject(20)
        place = f"sub-b/{session}/anat/sub-b_{session}"
        write(folder / f"{place}_T1w.nii.gz", image)
        write(folder / f"derivatives/manual/{place}_dseg.nii.gz", labels)
    sides = {s.name: s.split for s in find_subjects(task, "bids", folder).require_sound().subjects}
    assert sides["sub-b_ses-1"] == sides["sub-b_ses-2"]
    (folder / "split.csv").write_text(
        "subject,split\nsub-b_ses-1,train\nsub-b_ses-2,test\nsub-a1,train\n"
    )
    message = refused(list_subjects, task, "bids", folder)
    assert "sub-b_ses-1, sub-b_ses-2 are one person" in message


def test_a_bids_file_without_the_name_of_its_participant_is_left_out(task, tmp_path):
    folder = write_bids(tmp_path / "data")
    (next(folder.glob("sub-*")) / "anat" / "sub-_T1w.nii.gz").touch()
    assert len(find_subjects(task, "bids", folder).require_sound().subjects) == len(NAMES)


@pytest.mark.parametrize("table", ["value,label\n1,kidney\n", "index\tname\n1\n"])
def test_a_table_of_labels_with_other_columns(task, tmp_path, table):
    folder = write_bids(tmp_path / "data")
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    assert "columns index and name" in refused(find_subjects, task, "bids", folder)


def test_a_folder_of_dicom_series(task, tmp_path):
    folder = write_folder(tmp_path / "data")
    (folder / "images" / "a1.nii.gz").unlink()
    image = subject(0)[0].astype(np.float32)
    write_series(folder / "images" / "a1", image, AFFINE)
    subjects = prepared(task, "folder", folder)
    np.testing.assert_array_equal(subjects["a1"].class_index_map, np.flip(subject(0)[1], (0, 1)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_says_what_is_expected(task, tmp_path, layout):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        message = refused(list_subjects, task, layout, folder)
        assert str(folder) in message
        assert "Give " in message
    assert "--manual-dir" in refused(list_subjects, task, layout, None)


# Real scans.


def test_the_real_scans_are_the_same_in_three_layouts(tmp_path, real_data):
    challenge = parse_tasks("brain").selections[0].task.source("miccai2012")
    table = "\n".join(
        f"{name} = {list(values)}"
        for name, values in [("background", challenge.background), *challenge.values]
    )
    classes = "".join(
        f'[[classes]]\nname = "{name}"\ntitle = "{name}"\n' for name, _ in challenge.values
    )
    sources = "".join(
        f"[sources.{layout}.labels]\n{table}\n" for layout in ("miccai2012", "folder", "nnunet")
    )
    path = tmp_path / "brain.toml"
    write_task(path)
    text = path.read_text()
    path.write_text(text[: text.index("[[classes]]")] + classes + sources)
    task = parse_tasks(str(path)).selections[0].task
    scans = sorted((real_data / "brain_miccai2012").glob("*_glm.nii.gz"))[:2]
    nnunet = {"channel_names": {"0": "T1"}, "labels": {}, "file_ending": ".nii.gz"}
    for folder in ("m", "f/images", "f/labels", "n/imagesTr", "n/labelsTr"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "n" / "dataset.json").write_text(json.dumps(nnunet))
    for label_map in scans:
        name = label_map.name.removesuffix("_glm.nii.gz")
        image = label_map.with_name(f"{name}_SS.nii.gz")
        for link, of in (
            (f"m/{name}_SS.nii.gz", image),
            (f"m/{name}_glm.nii.gz", label_map),
            (f"f/images/{name}.nii.gz", image),
            (f"f/labels/{name}.nii.gz", label_map),
            (f"n/imagesTr/{name}_0000.nii.gz", image),
            (f"n/labelsTr/{name}.nii.gz", label_map),
        ):
            (tmp_path / link).symlink_to(of.resolve())
    three = [
        prepared(task, source, tmp_path / folder)
        for source, folder in (("miccai2012", "m"), ("folder", "f"), ("nnunet", "n"))
    ]
    for name, first in three[0].items():
        assert np.unique(first.class_index_map).tolist() == [0, 1, 2, 3, 4, 5, 6]
        for other in three[1:]:
            np.testing.assert_array_equal(other[name].class_index_map, first.class_index_map)
            np.testing.assert_array_equal(other[name].image, first.image)
