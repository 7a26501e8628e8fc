"""DICOM series: every voxel at its place, or refused by name."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    HTJ2KLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from mtseg.errors import InputError
from mtseg.scans import reading
from mtseg.scans.discovery import ListedScan, list_scans
from mtseg.scans.volume import Volume
from tests.dicom_files import (
    change,
    encode,
    without_meta,
    write_disc,
    write_multiframe,
    write_series,
)
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


def with_positions(folder, positions_mm):
    """Replaces the positions (x, y, z) of a series, in the order of its files."""
    for path, position in zip(sorted(folder.iterdir()), positions_mm, strict=True):
        change(path, ImagePositionPatient=[float(mm) for mm in position])
    return folder


@pytest.mark.parametrize(
    ("x_mm", "names"),
    [
        ((0, 0, 30, 30, 30), ("0001.dcm", "0002.dcm")),
        ((0, 0, 0.5, 0.5, 0.5), ("0001.dcm", "0002.dcm")),  # half a voxel
        ((0, 0, -30, 0, 0), ("0001.dcm", "0002.dcm")),
        ((0, 0, 0, 0, 30), ("0003.dcm", "0004.dcm")),
    ],
)
def test_slices_that_jump_sideways_are_refused(tmp_path, x_mm, names):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    with_positions(folder, [(x, 0, k) for k, x in enumerate(x_mm)])
    refuse(reading.read_scan, folder, "in their plane", *names)


def test_frames_that_jump_sideways_are_refused(tmp_path):
    path = write_multiframe(tmp_path / "frames.dcm", ranged(), np.eye(4))
    dataset = pydicom.dcmread(path)
    for group in list(dataset.PerFrameFunctionalGroupsSequence)[2:]:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [30, *position.ImagePositionPatient[1:]]
    dataset.save_as(path)
    refuse(reading.read_scan, path, "in their plane", "frame 2", "frame 3")


def test_positions_that_are_rounded_are_on_a_line(tmp_path):
    affine = oblique_affine()
    folder = write_series(tmp_path / "series", ranged(), affine, order=SHUFFLED)
    for path in folder.iterdir():
        position = pydicom.dcmread(path).ImagePositionPatient
        change(path, ImagePositionPatient=np.round(np.array(position, float), 1).tolist())
    np.testing.assert_allclose(reading.read_scan(folder).spacing_mm, (1, 1.2, 2), rtol=1e-6)


@pytest.mark.parametrize(
    "orientation",
    [
        [1.0, 0.3, 0, -0.3, 1.0, 0],  # both 1.04 long
        [0.9, 0, 0, 0, 0.9, 0],
        [1, 0, 0, 0.1, 0.995, 0],  # 84 degrees
        [0, 0, 0, 0, 1, 0],
    ],
)
def test_directions_that_are_no_perpendicular_unit_vectors_are_refused(tmp_path, orientation):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    for path in folder.iterdir():
        change(path, ImageOrientationPatient=orientation)
    refuse(lambda _: reading.read_scan(folder), folder / "0000.dcm", "directions")
    path = write_multiframe(tmp_path / "frames.dcm", ranged(), np.eye(4))
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = orientation
    dataset.save_as(path)
    refuse(reading.read_scan, path, "directions")


@pytest.mark.parametrize("num_decimals", [2, 3, 4])
def test_directions_that_are_rounded_leave_the_voxel_size_as_it_is(tmp_path, num_decimals):
    affine = oblique_affine()
    folder = write_series(tmp_path / "series", ranged(), affine, order=SHUFFLED)
    for path in folder.iterdir():
        axes = np.array(pydicom.dcmread(path).ImageOrientationPatient, float)
        change(path, ImageOrientationPatient=np.round(axes, num_decimals).tolist())
    scan = reading.read_scan(folder)
    np.testing.assert_allclose(scan.spacing_mm, (1, 1.2, 2), rtol=1e-6)
    np.testing.assert_allclose(scan.affine[:, :2], affine[:, :2], atol=10.0**-num_decimals)


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


def stored_in(folder, stored, **fields):
    """Replaces the stored values of a series, (columns, rows, slices), and fields of its files."""
    for k, path in enumerate(sorted(folder.iterdir())):
        kind = "<i2" if fields.get("PixelRepresentation") else "<u2"
        change(path, PixelData=stored[..., k].T.astype(kind).tobytes(), **fields)
    return folder


@pytest.mark.parametrize("encoder", ["JPEG", "JPEG2000", JPEGLSLossless, RLELossless])
@pytest.mark.parametrize(
    ("is_signed", "num_bits"), [(True, 16), (True, 12), (False, 16), (False, 12)]
)
def test_lossless_compression_keeps_every_value(tmp_path, encoder, is_signed, num_bits):
    lowest = -(2 ** (num_bits - 1)) if is_signed else 0
    rng = np.random.default_rng(0)
    stored = rng.integers(lowest, lowest + 2**num_bits, (20, 16, 3))
    stored[0, 0, 0], stored[-1, -1, -1] = lowest, lowest + 2**num_bits - 1
    folder = stored_in(
        write_series(tmp_path / "series", np.zeros(stored.shape), np.eye(4)), stored,
        PixelRepresentation=int(is_signed), BitsStored=num_bits, HighBit=num_bits - 1,
        RescaleSlope=1, RescaleIntercept=0, Modality="MR",
    )  # fmt: skip
    plain = reading.read_scan(folder).array
    np.testing.assert_array_equal(plain, stored)
    encode(folder, encoder)
    assert pydicom.dcmread(folder / "0000.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(reading.read_scan(folder).array, plain)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [(JPEGLosslessSV1, "'mtseg[dicom]'"), (HTJ2KLossless, "pylibjpeg pylibjpeg-openjpeg")],
)
def test_a_compression_without_a_decoder_names_the_package(tmp_path, monkeypatch, syntax, package):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    decoder = get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {
        name: (f"{name}>=1",) for name in (("gdcm",) if "mtseg" in package else ("pylibjpeg",))
    })  # fmt: skip
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        dataset.save_as(path)
    refuse(lambda _: reading.read_scan(folder), folder, syntax.name, f"pip install {package}")


def test_a_video_cannot_be_decoded(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.PixelData = encapsulate([bytes(8)])
        dataset.save_as(path)
    refuse(lambda _: reading.read_scan(folder), folder, "MPEG2", "cannot be decoded")


@pytest.mark.parametrize(
    ("is_signed", "num_bits", "expected"),
    [
        (False, 16, [65535, 65530, 64535]),
        (False, 12, [4095, 4090, 3095]),
        (True, 16, [-1, -6, -1001]),
    ],
)
def test_monochrome1_is_reversed_as_itk_does(tmp_path, is_signed, num_bits, expected):
    stored = np.resize([0, 5, 1000], (3, 4, 5))
    folder = stored_in(
        write_series(tmp_path / "series", np.zeros(stored.shape), np.eye(4)), stored,
        PixelRepresentation=int(is_signed), BitsStored=num_bits, HighBit=num_bits - 1,
        RescaleSlope=2, RescaleIntercept=-7, Modality="MR", PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    scan = reading.read_scan(folder).array
    np.testing.assert_array_equal(np.unique(scan), np.sort(np.multiply(expected, 2) - 7))
    assert (scan[stored == 1000] < scan[stored == 0].min()).all()
    if num_bits == 16:  # this release of ITK cannot read 12 bits of MONOCHROME1
        by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "0000.dcm")))
        np.testing.assert_array_equal(by_itk[0].T, scan[..., 0])


def test_a_modality_lut_turns_stored_values_into_intensities(tmp_path):
    stored = np.resize(np.arange(4), (3, 4, 5))
    table = Dataset()
    table.LUTDescriptor = [3, 1, 16]  # three entries, the first for the stored value 1
    table.ModalityLUTType = "US"
    table.LUTData = [10, 200, 3000]
    table["LUTData"].VR = "US"
    folder = write_series(tmp_path / "series", np.zeros(stored.shape), np.eye(4))
    stored_in(folder, stored, PixelRepresentation=0, ModalityLUTSequence=[table], Modality="MR")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(path)
    expected = np.array([10, 10, 200, 3000])[stored]
    np.testing.assert_array_equal(reading.read_scan(folder).array, expected)


def test_an_emptied_rescale_of_an_mr_leaves_the_stored_values(tmp_path):
    stored = np.resize(np.arange(60), (3, 4, 5))
    folder = stored_in(
        write_series(tmp_path / "series", np.zeros(stored.shape), np.eye(4)), stored,
        RescaleSlope=None, RescaleIntercept=None, Modality="MR",
    )  # fmt: skip
    np.testing.assert_array_equal(reading.read_scan(folder).array, stored)


def test_a_ct_whose_rescale_was_emptied_is_refused_unless_it_has_values_below_0(tmp_path):
    folder = write_series(tmp_path / "series", np.zeros((3, 4, 5)), np.eye(4))
    stored = np.resize(np.arange(60), (3, 4, 5))
    stored_in(folder, stored, RescaleSlope=None, RescaleIntercept=None)
    refuse(reading.read_scan, folder, "RescaleIntercept", "Hounsfield")
    stored_in(folder, stored - 1000, PixelRepresentation=1)
    np.testing.assert_array_equal(reading.read_scan(folder).array, stored - 1000)


@pytest.mark.parametrize("is_implicit", [True, False])
def test_files_without_preamble_and_meta_information(tmp_path, is_implicit):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    for number, path in enumerate(sorted(folder.iterdir())):
        without_meta(path, is_implicit=is_implicit)
        path.rename(folder / f"IM{number}")  # nor an ending
    assert list_scans([folder]) == [ListedScan(folder, Path())]
    assert_same_in_world(reading.read_scan(folder), Volume(ranged(), np.eye(4)))


@pytest.mark.parametrize("padding", [-2000, 3000])
def test_padding_is_air_in_a_ct_and_background_in_an_mr(tmp_path, padding):
    stored = np.resize(np.arange(10, 70), (3, 4, 5))
    stored[0] = padding
    for modality, air in (("CT", -1024), ("MR", 0)):
        folder = stored_in(
            write_series(tmp_path / modality, np.zeros(stored.shape), np.eye(4)), stored,
            PixelRepresentation=1, Modality=modality, RescaleSlope=1, RescaleIntercept=0,
        )  # fmt: skip
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.add_new("PixelPaddingValue", "SS", padding)
            dataset.save_as(path)
        scan = reading.read_scan(folder)
        np.testing.assert_array_equal(scan.array[0], air)
        np.testing.assert_array_equal(scan.array[1:], stored[1:])


def test_a_padding_value_that_the_image_has_too_is_left(tmp_path):
    """Some headers call 0 padding where 0 is water."""
    stored = np.resize(np.arange(-30, 30), (3, 4, 5))
    folder = stored_in(
        write_series(tmp_path / "series", np.zeros(stored.shape), np.eye(4)), stored,
        PixelRepresentation=1, RescaleSlope=1, RescaleIntercept=0,
    )  # fmt: skip
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", 0)
        dataset.save_as(path)
    np.testing.assert_array_equal(reading.read_scan(folder).array, stored)


@pytest.mark.parametrize(("modality", "expected"), [("CT", True), ("MR", False), ("PT", None)])
def test_the_modality_is_that_of_the_header(tmp_path, modality, expected):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    path = write_multiframe(tmp_path / "IM_0001", ranged(), np.eye(4))
    for file in (*folder.iterdir(), path):
        change(file, Modality=modality)
    for scan in (folder, path):
        assert reading.open_scan(scan).is_ct is expected
        assert reading.read_scan(scan).is_ct is expected


@pytest.mark.parametrize("name", ["IM_0001", "e.DCM", "1.2.840.113619"])
def test_one_multiframe_file_may_have_any_name(tmp_path, name):
    path = write_multiframe(tmp_path / name, ranged(), np.eye(4))
    assert list_scans([path]) == [ListedScan(path, Path())]
    assert_same_in_world(reading.read_scan(path), Volume(ranged(), np.eye(4)))


@pytest.mark.parametrize("num_frames", [3, 6])
def test_a_multiframe_file_with_places_for_other_frames_is_refused(tmp_path, num_frames):
    path = write_multiframe(tmp_path / "frames.dcm", ranged(), np.eye(4))
    one_frame = len(pydicom.dcmread(path).PixelData) // 5
    content = pydicom.dcmread(path).PixelData * 2
    change(path, NumberOfFrames=num_frames, PixelData=content[: num_frames * one_frame])
    refuse(reading.read_scan, path, f"{num_frames} frames", "5")


def test_a_multiframe_file_without_places_is_refused(tmp_path):
    path = write_multiframe(tmp_path / "frames.dcm", ranged(), np.eye(4))
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    refuse(reading.read_scan, path, "5 frames", "no place")


def test_each_series_of_a_disc_is_a_scan(tmp_path):
    series = [write_series(tmp_path / name, ranged(), np.eye(4)) for name in ("one", "two")]
    disc = write_disc(tmp_path / "disc", series)
    found = list_scans([disc])
    assert len(found) == 2
    for scan in found:
        assert_same_in_world(reading.read_scan(scan.path), Volume(ranged(), np.eye(4)))
    refuse(reading.read_scan, disc / "DICOMDIR", "list of a disc", "folder")
    refuse(reading.read_scan, disc, "no DICOM image")


def test_several_series_in_one_folder_are_listed_with_their_descriptions(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4), series_uid="1.2.3")
    other = write_series(tmp_path / "other", ranged(), np.eye(4), series_uid="1.2.4")
    for path in sorted(other.iterdir()):
        change(path, SeriesDescription="T1 axial", Modality="MR")
        path.rename(folder / f"b{path.name}")
    refuse(reading.read_scan, folder, "2 series", "CT, 1.2.3, 5 files", "MR T1 axial, 1.2.4")


def test_a_series_among_many_other_files_is_found(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"scan{number}")
    for number in range(40):
        (folder / f"a{number:02d}.txt").write_text("from the console " * 20)
    (folder / "._scan1").write_bytes(b"\0\5\x16\7" + bytes(200))
    (folder / "report").write_bytes(b"%PDF-1.4 " * 50)
    assert list_scans([folder]) == [ListedScan(folder, Path())]
    assert_same_in_world(reading.read_scan(folder), Volume(ranged(), np.eye(4)))


def test_a_report_and_a_segmentation_beside_the_slices_are_left_out(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    content = (folder / "0000.dcm").read_bytes()
    (folder / "segmentation.dcm").write_bytes(content)
    change(
        folder / "segmentation.dcm",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4",
        SeriesInstanceUID="1.2.9",
    )
    (folder / "report.dcm").write_bytes(content)
    report = pydicom.dcmread(folder / "report.dcm")
    report.SOPClassUID, report.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.8"
    del report.Rows, report.Columns, report.PixelData
    report.save_as(folder / "report.dcm")
    assert_same_in_world(reading.read_scan(folder), Volume(ranged(), np.eye(4)))
    refuse(reading.read_scan, folder / "segmentation.dcm", "segmentation")


def test_a_last_slice_that_was_cut_off_is_not_lost_silently(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4))
    last = folder / "0004.dcm"
    content = last.read_bytes()
    for length in (0, 100, 200, 500):
        last.write_bytes(content[:length])
        refuse(lambda _: reading.read_scan(folder), last, "Copy it again")


def test_several_volumes_of_one_series_are_refused(tmp_path):
    folder = write_series(tmp_path / "series", ranged(), np.eye(4), series_uid="1.2.3")
    second = write_series(tmp_path / "second", ranged(), np.eye(4), series_uid="1.2.3")
    for path in second.iterdir():
        path.rename(folder / f"b{path.name}")
    refuse(reading.read_scan, folder, "2 slices at each place", "echoes")


@pytest.mark.promise("refused input")
def test_a_value_of_no_type_in_a_header_is_one_line(tmp_path):
    """pydicom decodes a value when it is first asked for, so it may raise anywhere."""
    folder = write_series(tmp_path / "series", np.ones((4, 5, 3)), np.eye(4))
    path = sorted(folder.iterdir())[1]
    content = path.read_bytes()
    place = content.find(b"\x28\0\x30\0DS") + 4  # of the pixel spacing
    path.write_bytes(content[:place] + b"D\x0b" + content[place + 2 :])
    with pytest.raises(InputError, match="damaged DICOM"):
        reading.read_scan(folder)


@pytest.mark.promise("refused input")
def test_a_deflated_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "series", np.ones((400, 500, 2)), np.eye(4))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        dataset.save_as(path)
        assert path.stat().st_size < 5_000
    assert reading.read_scan(folder).array.shape == (400, 500, 2)
    monkeypatch.setattr("mtseg.scans.formats.dicom_files._MOST_INFLATED_BYTES", 100_000)
    monkeypatch.setattr(pydicom, "dcmread", None)
    with pytest.raises(InputError, match=r"0000\.dcm: inflates to more than"):
        reading.read_scan(folder)
