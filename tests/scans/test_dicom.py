"""DICOM series: every voxel at its place, or refused by name."""

import numpy as np
import pydicom
import pytest

from mtseg.scans import reading
from mtseg.scans.volume import Volume
from tests.dicom_files import change, write_multiframe, write_series
from tests.scans.grids import (
    ORIENTATIONS,
    affine_of,
    assert_same_in_world,
    oblique_affine,
    ranged,
    refuse,
)

SHUFFLED = [3, 0, 4, 1, 2]
"""An order of the five slices of `ranged`."""


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_slices_are_put_in_the_order_of_their_places(tmp_path, codes):
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    folder = write_series(tmp_path / "series", ranged(), affine, order=SHUFFLED)
    assert_same_in_world(reading.read_scan(folder), Volume(ranged(), affine))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_frames_of_one_file_are_put_in_the_order_of_their_places(tmp_path, codes):
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    path = write_multiframe(tmp_path / "frames.dcm", ranged(), affine, order=SHUFFLED)
    assert_same_in_world(reading.read_scan(path), Volume(ranged(), affine))


def test_a_series_with_the_axes_of_its_slices_keeps_them(tmp_path):
    """Columns to the left, rows to the back, slices to the top: nothing is turned."""
    affine = affine_of("LPS", (1.0, 1.5, 2.0))
    for path in (
        write_series(tmp_path / "series", ranged() - 0.5, affine, order=SHUFFLED),
        write_multiframe(tmp_path / "frames.dcm", ranged() - 0.5, affine, order=SHUFFLED),
    ):
        scan = reading.read_scan(path)
        np.testing.assert_array_equal(scan.array, ranged() - 0.5)
        np.testing.assert_allclose(scan.affine, affine, atol=1e-9)
        assert reading.open_scan(path).shape == ranged().shape


def test_an_oblique_series_keeps_its_affine(tmp_path):
    affine = oblique_affine()
    folder = write_series(tmp_path / "series", ranged(), affine, order=SHUFFLED)
    assert_same_in_world(reading.read_scan(folder), Volume(ranged(), affine))


def test_two_slices_that_are_exchanged_would_show():
    exchanged = ranged()
    exchanged[..., [1, 2]] = exchanged[..., [2, 1]]
    with pytest.raises(AssertionError):
        assert_same_in_world(Volume(exchanged, np.eye(4)), Volume(ranged(), np.eye(4)))


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


def test_a_colour_picture_is_refused(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    for path in folder.iterdir():
        colours = pydicom.dcmread(path).PixelData * 3
        change(path, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
        change(path, PixelData=colours)
    refuse(lambda _: reading.read_scan(folder), folder, "colour")


def test_damaged_files(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    content = (folder / "0003.dcm").read_bytes()
    (folder / "0003.dcm").write_bytes(content[:-10])
    refuse(lambda _: reading.read_scan(folder), folder / "0003.dcm", "decoded")
    (folder / "0003.dcm").write_bytes(content[:200])
    refuse(lambda _: reading.read_scan(folder), folder)
    single = write_series(tmp_path / "single", ranged()[..., :1], np.eye(4))
    refuse(reading.read_scan, single, "single slice")
