"""Scan files of every format: read with every voxel at its place, or refused by name."""

import gzip
import os
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mtseg.scans import reading
from mtseg.scans.label_files import read_label_map
from tests.layout_files import write
from tests.scans.grids import (
    ORIENTATIONS,
    SHAPE,
    affine_of,
    oblique_affine,
    ranged,
    refuse,
    save,
)


@pytest.mark.promise("refused input")
def test_files_that_are_no_scan(tmp_path):
    refuse(reading.read_scan, tmp_path / "missing.nii.gz", "No such file")
    refuse(reading.read_scan, tmp_path, "no DICOM image")
    (tmp_path / "text.nii.gz").write_text("not a scan")
    refuse(reading.read_scan, tmp_path / "text.nii.gz", ".nii.gz")
    (tmp_path / "empty.nii").write_bytes(b"")
    refuse(reading.read_scan, tmp_path / "empty.nii")
    (tmp_path / "scan.jpg").write_bytes(b"\xff\xd8 picture")
    refuse(reading.read_scan, tmp_path / "scan.jpg", ".nii.gz")
    nib.save(nib.AnalyzeImage(ranged(), np.eye(4)), tmp_path / "scan.img")
    refuse(reading.read_scan, tmp_path / "scan.img", ".nii.gz")
    plain = save(tmp_path / "plain.nii", ranged()).rename(tmp_path / "plain.nii.gz")
    refuse(reading.read_scan, plain, ".nii.gz")


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_truncated_files(tmp_path, name):
    path = save(tmp_path / name, np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-5000])
    refuse(reading.read_scan, path, "truncated")


@pytest.mark.promise("bounded memory")
def test_a_short_file_is_refused_before_what_it_claims_is_allocated(tmp_path, monkeypatch):
    path = save(tmp_path / "scan.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([900] * 3, "<i2").tobytes()
    path.write_bytes(content)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(np, "asarray", None)
    refuse(reading.read_scan, path, "truncated")
    refuse(reading.read_scan, tmp_path / "scan.nii.gz", "truncated")


@pytest.mark.promise("refused input")
def test_voxels_that_are_not_finite_are_counted(tmp_path):
    array = ranged()
    array[0, 0, :2] = [np.nan, np.inf]
    refuse(reading.read_scan, save(tmp_path / "scan.nii.gz", array), "2 voxels")
    huge = np.full(SHAPE, 1e300)  # infinite in float32
    refuse(reading.read_scan, save(tmp_path / "huge.nii.gz", huge), "60 voxels")


@pytest.mark.promise("refused input")
def test_complex_and_colour_voxels(tmp_path):
    refuse(reading.read_scan, save(tmp_path / "c.nii", np.zeros(SHAPE, np.complex64)), "complex64")
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refuse(reading.read_scan, save(tmp_path / "rgb.nii", colour), "plain numbers")


@pytest.mark.promise("bounded memory")
def test_a_header_that_claims_more_than_the_machine_has(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(content)
    refuse(reading.read_scan, path, "(32767, 32767, 32767)", "GB")


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    "columns",
    [
        [(1, 0, 0), (0, 1, 0), (0, 0, 0)],
        [(1, 0, 0), (1, 0, 0), (0, 0, 1)],
        [(1, 0, 0), (0, np.nan, 0), (0, 0, 1)],
        [(1, 0, 0), (0, np.inf, 0), (0, 0, 1)],
    ],
)
def test_a_singular_affine(tmp_path, columns):
    path = tmp_path / "scan.nii"
    image = nib.Nifti1Image(ranged(), None)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = [*(column[row] for column in columns), 0]
    image.header["sform_code"] = 1
    nib.save(image, path)
    refuse(reading.read_scan, path, "affine")


@pytest.mark.promise("refused input")
def test_directions_of_other_lengths_than_1(tmp_path):
    """Voxels would be larger than the file states."""
    path = tmp_path / "scan.mgz"
    image = nib.MGHImage(ranged(), np.eye(4))
    image.header["Mdc"] *= 1.1
    path.write_bytes(gzip.compress(image.header.binaryblock + ranged().tobytes(order="F")))
    refuse(reading.read_scan, path, "directions", "1.1")
    fields = ["ElementSpacing = 1 1 1", "TransformMatrix = 1 0.3 0 -0.3 1 0 0 0 1"]
    path = write_text_header(tmp_path / "scan.mha", *fields)
    refuse(reading.read_scan, path, "directions", "1.044")


def test_microscopic_voxels_are_no_singular_affine(tmp_path):
    path = save(tmp_path / "scan.nii", ranged(), np.diag([1e-4, 1e-4, 1e-4, 1]))
    np.testing.assert_allclose(reading.read_scan(path).spacing_mm, 1e-4)


@pytest.mark.promise("refused input")
def test_a_voxel_size_of_zero(tmp_path):
    path = tmp_path / "scan.nii"
    for codes, is_refused in (({"qform": 1}, True), ({}, True), ({"sform": 1}, False)):
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        save(path, ranged(), affine, **{name: (affine, code) for name, code in codes.items()})
        content = bytearray(path.read_bytes())
        content[80:84] = bytes(4)  # pixdim[1]
        content[252:256] = np.array([codes.get("qform", 0), codes.get("sform", 0)], "<i2").tobytes()
        path.write_bytes(content)
        if is_refused:
            refuse(reading.read_scan, path, "voxel size of 0")
        else:
            assert reading.read_scan(path).spacing_mm == (2, 2, 2)


@pytest.mark.parametrize("ending", [".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_format_has_its_voxels_at_their_places(tmp_path, ending, codes):
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    scan = reading.read_scan(write(tmp_path / f"scan{ending}", ranged(), affine))
    np.testing.assert_array_equal(scan.array, ranged())
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz", ".nrrd"])
def test_an_oblique_scan_of_every_format(tmp_path, ending):
    affine = oblique_affine()
    scan = reading.read_scan(write(tmp_path / f"scan{ending}", ranged(), affine))
    np.testing.assert_array_equal(scan.array, ranged())
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mgz"])
def test_label_maps_of_every_format_keep_their_values(tmp_path, ending):
    labels = (ranged() * 30).astype(np.int32)
    path = write(tmp_path / f"labels{ending}", labels, np.eye(4))
    label_map = read_label_map(path)
    np.testing.assert_array_equal(label_map.array, labels)
    assert label_map.array.dtype == np.int16


@pytest.mark.promise("refused input")
def test_itk_files_that_are_no_scan(tmp_path):
    (tmp_path / "text.nrrd").write_text("not a scan")
    refuse(reading.read_scan, tmp_path / "text.nrrd", "no known format")
    refuse(reading.read_scan, tmp_path / "missing.mha", "No such file")
    path = write(tmp_path / "short.mha", ranged(), np.eye(4))
    path.write_bytes(path.read_bytes()[:-50])
    refuse(reading.read_scan, path, "truncated")
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkInt16), str(tmp_path / "flat.nrrd"))
    refuse(reading.read_scan, tmp_path / "flat.nrrd", "(4, 5)")
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkVectorInt16, 3), str(tmp_path / "colour.mha"))
    refuse(reading.read_scan, tmp_path / "colour.mha", "3 values per voxel")


@pytest.mark.parametrize("field", ["endian", "sizes", "zzz"])
def test_a_line_of_a_header_that_would_end_itk_is_refused(tmp_path, field):
    """Its memory is overwritten, and the process ends without a word."""
    path = write(tmp_path / "scan.nrrd", ranged(), np.eye(4))
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    lines = [*head.split(b"\n"), b"data file: scan.raw", f"{field}: {'x' * 3000}".encode()]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    refuse(reading.read_scan, path, "has a line of 30")
    path = write(tmp_path / "scan.mha", ranged(), np.eye(4))
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = 9223372036854775808"))
    refuse(reading.read_scan, path, "says 9223372036854775808 axes")


def write_text_header(path, *fields):
    """Writes a NRRD or MetaImage file of `ranged` with these fields beside those that it needs."""
    if path.suffix == ".nrrd":
        head = ["NRRD0004", "type: float", "dimension: 3", "sizes: 3 4 5", "endian: little"]
        lines = [*head, "encoding: raw", *fields, "", ""]
    else:
        head = ["NDims = 3", "DimSize = 3 4 5", "ElementType = MET_FLOAT", "BinaryData = True"]
        lines = ["ObjectType = Image", *head, *fields, "ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(lines).encode() + ranged().tobytes(order="F"))
    return path


LPS = "space: left-posterior-superior"


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("scan.nrrd", []),
        ("scan.nrrd", [LPS]),
        ("scan.nrrd", [LPS, "space directions: none none none"]),
        ("scan.nrrd", ["spacings: 2 nan 3"]),
        ("scan.nrrd", ["spacings:=2 2 3"]),  # a key of the user's own
        ("scan.nrrd", ["# spacings: 2 2 3"]),
        ("scan.mha", []),
        ("scan.mha", ["elementspacing = 2 2 3"]),  # MetaImage tells capitals from small letters
    ],
)
def test_itk_files_without_a_voxel_size_are_refused(tmp_path, name, fields):
    """ITK reads them as 1 x 1 x 1 mm."""
    path = write_text_header(tmp_path / name, *fields)
    assert sitk.ReadImage(str(path)).GetSpacing()[1] == 1
    refuse(reading.read_scan, path, "how large its voxels are", "Convert it again")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("scan.nrrd", ["Spacings: 2 2.5 3"]),
        ("scan.nrrd", ["spacings: 2 2.5 3", 'units: "mm" "mm" "mm"']),
        ("scan.nrrd", ["spacings: 2 2.5 3", 'units: "" "" ""']),
        ("scan.nrrd", [LPS, "space directions: (2, 0, 0) (0, 2.5, 0) (0, 0, 3e0)"]),
        ("scan.nrrd", ["space dimension: 3", "space directions: (2,0,0) (0,2.5,0) (0,0,3)"]),
        ("scan.mha", ["ElementSpacing = 2 2.5 3", "DistanceUnits = mm"]),
        ("scan.mha", ["  ElementSpacing:2 2.5 3"]),
        ("scan.mha", ["ElementSize = 2 2.5 3"]),
    ],
)
def test_itk_files_that_state_a_voxel_size_in_mm_are_read(tmp_path, name, fields):
    scan = reading.read_scan(write_text_header(tmp_path / name, *fields))
    assert scan.spacing_mm == (2, 2.5, 3)
    np.testing.assert_array_equal(scan.array, ranged())


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("name", "fields", "unit"),
    [
        ("scan.nrrd", ["spacings: 2 2 3", 'units: "cm" "cm" "cm"'], "cm"),
        (
            "scan.nrrd",
            [LPS, "space directions: (2,0,0) (0,2,0) (0,0,3)", 'space units: "mm" "mm" "microns"'],
            "microns",
        ),
        ("scan.mha", ["ElementSpacing = 2 2 3", "DistanceUnits = um"], "um"),
    ],
)
def test_itk_files_in_other_units_are_refused(tmp_path, name, fields, unit):
    path = write_text_header(tmp_path / name, *fields)
    refuse(reading.read_scan, path, f"voxel size in {unit}, not mm")


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    "field",
    [
        " ElementDataFile = {}",
        "\vElementDataFile: {}",
        "ElementDataFile\t:= {}",
        "ElementDataFile: LIST\n{}",
    ],
)
def test_voxels_outside_of_the_folder_are_not_read_however_the_line_is_written(tmp_path, field):
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside.raw").write_bytes(ranged().tobytes())
    path = tmp_path / "folder" / "scan.mhd"
    fields = "ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementSpacing = 1 1 1\n"
    fields += "ElementType = MET_FLOAT\nBinaryData = True\n"
    path.write_text(fields + field.format("../outside.raw") + "\n")
    refuse(reading.read_scan, path, "its voxels are in ../outside.raw")
    path.write_text(fields.replace("NDims = 3", " NDims: 9223372036854775808"))
    refuse(reading.read_scan, path, "says 9223372036854775808 axes")
    path.write_text(fields.replace("DimSize = ", f"DimSize := {' ' * 3000}"))
    refuse(reading.read_scan, path, "has a line of 30")


@pytest.mark.parametrize("named", ["/etc/hostname", "../outside.raw", "/dev/zero", "pipe"])
@pytest.mark.parametrize("ending", ["nhdr", "mhd"])
def test_voxels_outside_of_the_folder_of_their_header_are_not_read(tmp_path, ending, named):
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    path = write(folder / f"scan.{ending}", ranged(), np.eye(4))
    (tmp_path / "outside.raw").write_bytes(next(folder.glob("*raw*")).read_bytes())
    (folder / "LOCAL").mkdir()
    (folder / "LIST").mkdir()
    assert reading.read_scan(path).array.shape == ranged().shape
    text = path.read_text()
    (before,) = [
        p.name for p in folder.iterdir() if p.name not in ("pipe", "LOCAL", "LIST", path.name)
    ]
    path.write_text(text.replace(before, named))
    refuse(reading.read_scan, path, f"its voxels are in {named}")
    if ending == "mhd":
        path.write_text(text.replace(before, f"LIST\n{named}"))
        refuse(reading.read_scan, path, f"its voxels are in {named}")


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
def test_the_files_of_a_scan_are_its_header_and_its_voxels(tmp_path, ending):
    path = write(tmp_path / f"scan.{ending}", ranged(), np.eye(4))
    (tmp_path / "other.raw").write_bytes(b"no part of it")
    voxels = [file for file in tmp_path.iterdir() if file.name.startswith("scan") and file != path]
    assert len(voxels) == (ending in ("nhdr", "mhd"))
    assert reading.scan_files(path) == [path, *voxels]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("LIST\n1.raw\n50% a.raw", ["1.raw", "50% a.raw"]),
        ("%d.raw 1 2 1", ["1.raw", "2.raw"]),
        ("%d.raw 2 1 -1", ["2.raw", "1.raw"]),
        ("s%03d.raw 1 9 4", ["s001.raw", "s005.raw"]),
        ("50% a.raw", ["50% a.raw"]),
        ("s%d%d.raw 1 2 1", []),
        (". %d", []),
        ("%d.raw 1 2 0", ["1.raw"]),
        ("scan.mhd", []),
        ("n" * 300, []),
    ],
)
def test_the_voxels_of_a_scan_may_be_in_several_files(tmp_path, named, expected):
    for name in ("1.raw", "2.raw", "3.raw", "s001.raw", "s005.raw", "50% a.raw", "other.raw"):
        (tmp_path / name).write_bytes(b"slice")
    path = tmp_path / "scan.mhd"
    path.write_text(f"NDims = 3\nElementDataFile = {named}\n")
    assert reading.scan_files(path) == [path, *(tmp_path / name for name in expected)]


def test_an_itk_file_of_one_frame_is_a_volume_and_of_two_is_refused(tmp_path):
    one = sitk.GetImageFromArray(ranged().T[np.newaxis], isVector=False)
    one.SetSpacing((1.0, 1.5, 2.0, 1.0))
    one.SetOrigin((1.0, 2.0, 3.0, 0.0))
    sitk.WriteImage(one, str(tmp_path / "one.nrrd"))
    scan = reading.read_scan(tmp_path / "one.nrrd")
    np.testing.assert_array_equal(scan.array, ranged())
    expected = [[-1, 0, 0, -1], [0, -1.5, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(scan.affine, expected)
    two = sitk.GetImageFromArray(np.stack([ranged().T] * 2), isVector=False)
    sitk.WriteImage(two, str(tmp_path / "two.nrrd"))
    refuse(reading.read_scan, tmp_path / "two.nrrd", "(3, 4, 5, 2)")


def test_a_format_whose_library_is_missing_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "scan.nrrd", ranged(), np.eye(4))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    refuse(reading.read_scan, path, "pip install 'mtseg[itk]'")
