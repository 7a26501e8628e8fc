"""DICOM series: the same volume as the one they were written from, or refused by name."""

import numpy as np
import pydicom
import pytest

from mtseg.phantoms.scanner import make_phantom
from mtseg.scans import reading
from tests.dicom_files import change, write_multiframe, write_series
from tests.scans.test_volume import ORIENTATIONS, affine_of, oblique_affine, ranged, refuse


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_slices_are_put_in_the_order_of_their_places(tmp_path, codes):
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 2] *= -1  # rows and columns then say which way slices count
    folder = write_series(tmp_path / "series", ranged(), affine, order=[3, 0, 4, 1, 2])
    scan = reading.read_scan(folder)
    assert_same_volume(scan, ranged(), affine)


def assert_same_volume(scan, array, affine):
    """Equal values at equal places, whichever way slices are counted."""
    np.testing.assert_allclose(np.sort(scan.array.ravel()), np.sort(array.ravel()), atol=0.3)
    for volume, of in ((scan.array, scan.affine), (array, affine)):
        index = np.unravel_index(np.argmax(volume), volume.shape)
        place = of @ [*index, 1]
        if of is scan.affine:
            found = place
    np.testing.assert_allclose(found, place, atol=1e-4)


def test_a_phantom_comes_back_from_slices_and_from_frames(tmp_path):
    phantom = make_phantom("cta", 3, 40)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.abs(phantom.affine)
    array = phantom.image.astype(np.float32)
    for path in (
        write_series(tmp_path / "series", array, affine),
        write_multiframe(tmp_path / "frames.dcm", array, affine),
    ):
        scan = reading.read_scan(path)
        np.testing.assert_allclose(scan.array, array, atol=0.25)
        np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
        assert reading.open_scan(path).shape == array.shape


def test_an_oblique_series_keeps_its_affine(tmp_path):
    affine = oblique_affine()
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 2] *= -1
    scan = reading.read_scan(write_series(tmp_path / "series", ranged(), affine))
    assert_same_volume(scan, ranged(), affine)


def test_other_files_in_the_folder_do_not_disturb(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    (folder / "README.txt").write_text("from the scanner")
    (folder / "0001.dcm").rename(folder / "IM2")  # many scanners write no ending
    assert reading.read_scan(folder).array.shape == ranged().shape


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    (folder / "0002.dcm").unlink()
    refuse(reading.read_scan, folder, "1 missing", "0001.dcm", "0003.dcm")


def test_a_slice_at_the_place_of_another_is_named(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    (folder / "copy.dcm").write_bytes((folder / "0002.dcm").read_bytes())
    refuse(reading.read_scan, folder, "copy.dcm", "0002.dcm", "same place")


def test_slices_that_are_uneven_are_refused(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    position = pydicom.dcmread(folder / "0002.dcm").ImagePositionPatient
    change(folder / "0002.dcm", ImagePositionPatient=[*position[:2], position[2] + 0.3])
    refuse(reading.read_scan, folder, "unevenly spaced")


def test_two_series_in_a_folder_are_refused(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4), series_uid="1.2.3")
    moved = np.eye(4)
    moved[2, 3] = 100
    write_series(tmp_path / "other", ranged(), moved, series_uid="1.2.4")
    for file in (tmp_path / "other").iterdir():
        file.rename(folder / f"other_{file.name}")
    refuse(reading.read_scan, folder, "2 series", "1.2.3, 5 files", "1.2.4, 5 files")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"PixelSpacing": [2.0, 2.0]}, ["0001.dcm", "spacing"]),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, ["0001.dcm", "orientation"]),
        ({"Rows": 2}, ["differ in size"]),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, fields, words):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    change(folder / "0001.dcm", **fields)
    refuse(lambda _: reading.read_scan(folder), folder, *words)


def test_a_tilted_gantry_is_refused(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = 0.3
    folder = write_series(tmp_path / "series", ranged(), affine)
    refuse(reading.read_scan, folder, "tilted")


def test_files_that_do_not_say_where_they_are(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    dataset = pydicom.dcmread(folder / "0000.dcm")
    del dataset.ImagePositionPatient
    dataset.save_as(folder / "0000.dcm")
    refuse(lambda _: reading.read_scan(folder), folder / "0000.dcm", "position")


def test_damaged_files(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    content = (folder / "0003.dcm").read_bytes()
    (folder / "0003.dcm").write_bytes(content[:-10])
    refuse(lambda _: reading.read_scan(folder), folder / "0003.dcm", "decoded")
    (folder / "0003.dcm").write_bytes(content[:200])
    refuse(lambda _: reading.read_scan(folder), folder)
    single = write_series(tmp_path / "single", ranged()[..., :1], np.eye(4))
    refuse(reading.read_scan, single, "single slice")
