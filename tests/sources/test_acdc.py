"""The layout of ACDC: two frames a patient, the challenge's split, and what Info.cfg says."""

import numpy as np
import pytest

from mtseg.sources.checks import check_subject
from mtseg.sources.find import find_subjects
from mtseg.sources.reading import prepare_subject
from mtseg.tasks.task_file import read_task, shipped_path
from tests.layout_files import write
from tests.sources.test_find import refused

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])
"""As the challenge's files have it: voxel sizes are right, directions and origin say nothing."""


@pytest.fixture(scope="module")
def heart():
    return read_task(shipped_path("heart"))


def write_patient(folder, number, frames=(1, 12), labelled=True, info=None):
    """A patient as the challenge has one; `info` replaces the two lines of Info.cfg that matter."""
    patient = folder / f"patient{number:03d}"
    rng = np.random.default_rng(number)
    for frame in frames:
        place = f"{patient.name}_frame{frame:02d}"
        write(
            patient / f"{place}.nii.gz", rng.integers(1, 900, (12, 13, 5)).astype(np.int16), AFFINE
        )
        if labelled:
            labels = rng.integers(0, 4, (12, 13, 5)).astype(np.uint8)
            write(patient / f"{place}_gt.nii.gz", labels, AFFINE)
    film = rng.integers(1, 900, (12, 13, 5, 3)).astype(np.int16)
    write(patient / f"{patient.name}_4d.nii.gz", film, AFFINE)
    text = f"ED: {frames[0]}\nES: {frames[-1]}\n" if info is None else info
    (patient / "Info.cfg").write_text(
        f"{text}Group: NOR\nHeight: 172.0\nNbFrame: 28\nWeight: 70.0\n"
    )
    return patient


def sides(found):
    return {subject.name: subject.split for subject in found.subjects}


def test_the_challenges_folders_are_the_split(heart, tmp_path):
    write_patient(tmp_path / "training", 1)
    write_patient(tmp_path / "training", 2, frames=(1, 9))
    write_patient(tmp_path / "testing", 101, frames=(1, 14))
    found = find_subjects(heart, "acdc", tmp_path).require_sound()
    assert sides(found) == {
        "patient001_frame01": "train",
        "patient001_frame12": "train",
        "patient002_frame01": "train",
        "patient002_frame09": "train",
        "patient101_frame01": "test",
        "patient101_frame14": "test",
    }
    assert found.split_origin == "the layout acdc"
    assert not found.issues  # the films are no scans that were forgotten
    for subject in found.subjects:
        assert subject.label_path == subject.image_path.replace(".nii.gz", "_gt.nii.gz")


@pytest.mark.parametrize("above", ["database/training", "training", "."])
def test_the_folder_may_be_any_above_the_patients(heart, tmp_path, above):
    for number in (1, 2, 3):
        write_patient(tmp_path / above, number)
    if above != ".":  # test patients without label maps, as in the challenge's first years
        write_patient((tmp_path / above).with_name("testing"), 101, labelled=False)
    found = find_subjects(heart, "acdc", tmp_path).require_sound()
    assert len(found.subjects) == 6
    assert not found.issues
    persons = [{n[:10] for n, side in sides(found).items() if side == s} for s in ("train", "test")]
    assert not persons[0] & persons[1]  # both frames of a patient are on one side
    assert list(map(len, persons)) == [2, 1]


def test_a_scan_that_is_there_twice_is_used_once(heart, tmp_path):
    for number in (74, 75, 76):
        write_patient(tmp_path / "training", number)
    found = find_subjects(heart, "acdc", tmp_path).require_sound()
    assert {name[:10] for name in sides(found)} == {"patient074", "patient075"}
    (issue,) = found.issues  # a warning
    assert "not used: training/patient076/patient076_frame01.nii.gz" in issue.message
    rows = "patient074_frame01,train\npatient076_frame01,train\npatient075_frame01,test\n"
    (tmp_path / "split.csv").write_text(f"subject,split\n{rows}")
    assert "patient076_frame01" in sides(find_subjects(heart, "acdc", tmp_path))


def test_a_frame_that_info_names_must_be_there(heart, tmp_path):
    write_patient(tmp_path / "training", 2)
    write_patient(tmp_path / "training", 3)
    write_patient(tmp_path / "training", 1, frames=(1,), info="ED: 1\nES: 12\n")
    message = refused(find_subjects(heart, "acdc", tmp_path).require_sound)
    assert "subject patient001_frame12 must have one scan and one label map" in message
    (tmp_path / "training" / "patient001" / "Info.cfg").unlink()  # the frames alone decide then
    assert len(find_subjects(heart, "acdc", tmp_path).require_sound().subjects) == 5


@pytest.mark.parametrize("info", ["", "ED: 1\n", "ED: one\nES: 12\n", "ES: 12\nXED: 1\n"])
def test_an_info_without_the_two_frames_is_refused(heart, tmp_path, info):
    path = write_patient(tmp_path / "training", 1, info=info) / "Info.cfg"
    message = refused(find_subjects, heart, "acdc", tmp_path)
    assert message.startswith(f"{path}: lacks the lines ED: N and ES: N")


def test_an_info_that_is_no_text_is_refused(heart, tmp_path):
    path = write_patient(tmp_path / "training", 1) / "Info.cfg"
    path.write_bytes(b"ED: \xff\xfe")
    assert refused(find_subjects, heart, "acdc", tmp_path).startswith(f"{path}: cannot be read")


def test_a_scan_of_another_name_is_not_used_and_named(heart, tmp_path):
    for number in (1, 2):
        patient = write_patient(tmp_path / "training", number)
    write(patient / "patient001_frame05.nii.gz", np.ones((3, 4, 5), np.int16), AFFINE)
    found = find_subjects(heart, "acdc", tmp_path).require_sound()
    (issue,) = found.issues
    assert "patient002/patient001_frame05.nii.gz" in issue.message
    assert not issue.is_error


def test_a_header_with_two_voxel_sizes_is_refused_with_a_remedy(heart, tmp_path):
    """Some copies of such files have another size in their affine than in pixdim."""
    import nibabel as nib

    path = write_patient(tmp_path / "training", 1) / "patient001_frame01.nii.gz"
    write_patient(tmp_path / "training", 2)
    image = nib.load(path)
    image.header.set_sform(np.eye(4), code=1)  # pixdim stays as it is
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    found = find_subjects(heart, "acdc", tmp_path).require_sound()
    spoilt = next(s for s in found.subjects if s.name == "patient001_frame01")
    (issue,) = check_subject(heart, found.labels, spoilt).issues
    assert "1 x 1 x 1 mm in its sform, 1.5 x 1.5 x 10 mm in its pixdim" in issue.message
    assert "set the sform code to 0 if pixdim is right" in issue.message


# Real scans.


def test_real_hearts_are_the_same_in_the_challenges_folders(heart, real_data, tmp_path):
    """Linked into the challenge's folders, and as they are, in images/ and labels/."""
    source = real_data / "heart_acdc"
    names = ["patient001_frame01", "patient001_frame12", "patient004_frame01"]
    for name in names:
        patient = tmp_path / "training" / name[:10]
        patient.mkdir(parents=True, exist_ok=True)
        (patient / f"{name}.nii.gz").symlink_to((source / "images" / f"{name}.nii.gz").resolve())
        (patient / f"{name}_gt.nii.gz").symlink_to((source / "labels" / f"{name}.nii.gz").resolve())
    challenge = find_subjects(heart, "acdc", tmp_path).require_sound()
    folder = find_subjects(heart, "folder", source).require_sound()
    assert sorted(s.name for s in challenge.subjects) == names
    assert len(folder.subjects) == 118
    as_folder = {subject.name: subject for subject in folder.subjects}
    (subject,) = (s for s in challenge.subjects if s.name == "patient004_frame01")
    one = prepare_subject(heart, challenge.labels, subject)
    other = prepare_subject(heart, folder.labels, as_folder[subject.name])
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.class_index_map, other.class_index_map)
    # The files have voxel sizes, but no directions: x to the left, y to the back, from 0 on.
    spacing = np.linalg.norm(one.affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, 1.3671875, rtol=1e-5)
    assert np.unique(one.class_index_map).tolist() == [0, 1, 2, 3]
