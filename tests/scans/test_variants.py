"""Scans as other programs, archives and anonymisers write them: the same scan, or one line.

Each variant is made from one small MR or one small CT. `prepare_scan` must give the same foreground
as for the plain scan, and the same intensities if the variant keeps them.
"""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from mtseg.errors import InputError
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from tests.dicom_files import change, encode, without_meta, write_multiframe, write_series

SHAPE = (24, 22, 20)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_head():
    """An MR: 0 outside a ball, whole numbers from 100 inside."""
    i, j, k = np.indices(SHAPE)
    ball = (i - 11.5) ** 2 + (j - 10.5) ** 2 + (k - 9.5) ** 2 < 64
    values = np.random.default_rng(0).integers(100, 900, SHAPE)
    return np.where(ball, values, 0).astype(np.float32)


def make_chest():
    """A CT: air at -1024 outside a ball, fat, soft tissue and bone inside."""
    tissue = np.random.default_rng(1).choice([-90, 40, 60, 400], SHAPE, p=[0.3, 0.3, 0.3, 0.1])
    return np.where(make_head() > 0, tissue, -1024).astype(np.float32)


HEAD, CHEST = make_head(), make_chest()
INSIDE = HEAD > 0


def nifti(array, slope=None, inter=0.0):
    def make(folder):
        image = nib.Nifti1Image(array, AFFINE)
        if slope is not None:
            image.header.set_slope_inter(slope, inter)
        nib.save(image, folder / "scan.nii.gz")
        return folder / "scan.nii.gz"

    return make


def series(array=HEAD, modality="MR", after=lambda folder: None, **fields):
    """A DICOM series; fields are set in each file, and `after` changes the folder."""

    def make(folder):
        made = write_series(folder / "series", array, AFFINE, modality=modality)
        for path in sorted(made.iterdir()):
            change(path, **fields)
        after(made)
        return made

    return make


def stored(array, kind, modality, after=lambda folder: None, padding=None, **fields):
    """A series with these stored values, one after the other along the third axis."""

    def make(folder):
        made = write_series(folder / "series", array, AFFINE, modality=modality)
        for k, path in enumerate(sorted(made.iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.PixelRepresentation = int(kind == "<i2")
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
            for name, value in fields.items():
                setattr(dataset, name, value)
            if padding is not None:
                dataset.add_new("PixelPaddingValue", "US", padding)
            dataset.PixelData = array[..., k].T.astype(kind).tobytes()
            dataset.save_as(path)
        after(made)
        return made

    return make


def rename(pattern):
    def after(folder):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / pattern.format(number))

    return after


def rewrite(syntax):
    def after(folder):
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            is_little_endian = syntax != ExplicitVRBigEndian
            if not is_little_endian:
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
                dataset["PixelData"].VR = "OW"
            dataset.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(
                path, dataset, implicit_vr=False, little_endian=is_little_endian,
                force_encoding=True,
            )  # fmt: skip

    return after


def strip(folder):
    for path in folder.iterdir():
        without_meta(path, is_implicit=False)


def add_other_files(folder):
    (folder / "DICOMDIR").write_bytes((folder / "0000.dcm").read_bytes()[:140])
    (folder / "._0001.dcm").write_bytes(bytes(300))
    for number in range(15):
        (folder / f"0{number}.jpg").write_bytes(b"\xff\xd8" * 100)


def multiframe(name, after=lambda path: None):
    def make(folder):
        path = write_multiframe(folder / name, CHEST, AFFINE)
        after(path)
        return path

    return make


def padded(array, value):
    out = array.copy()
    out[:3] = value
    return out


def ringing(array):
    out = array.copy()
    out[::3, 0, 0] = -600
    return out


MR = {
    "unsigned bytes": nifti((HEAD / 4).astype(np.uint8)),
    "z-scored in double precision": nifti((HEAD.astype(np.float64) - HEAD.mean()) / HEAD.std()),
    "0 to 1": nifti(HEAD / 900),
    "scaled by the header": nifti(HEAD.astype(np.int16), 0.01, 0.0),
    "offset by the header": nifti(HEAD.astype(np.int16), 1.0, 120.0),
    "big-endian": nifti(HEAD.astype(">i2")),
    "a few voxels below -500": nifti(ringing(HEAD)),
    "padding of -32768": nifti(padded(HEAD, -32768)),
    "padding of 65535": nifti(padded(HEAD, 65535)),
    "names as Siemens gives them": series(after=rename("MR.1.2.{:03d}.IMA")),
    "names in capitals": series(after=rename("IM{:03d}.DCM")),
    "no preamble, types in the file": series(after=strip),
    "big-endian DICOM": series(after=rewrite(ExplicitVRBigEndian)),
    "deflated": series(after=rewrite(DeflatedExplicitVRLittleEndian)),
    "pictures, a disc's list and AppleDouble files beside it": series(after=add_other_files),
    "run-length encoded": series(after=lambda folder: encode(folder, RLELossless)),
    "emptied slope": stored(HEAD, "<i2", "MR", RescaleSlope=None),
    "reversed, unsigned": stored(
        65535 - HEAD, "<u2", "MR", PhotometricInterpretation="MONOCHROME1"
    ),
    "padding by its tag": stored(padded(HEAD, 40000), "<u2", "MR", padding=40000),
}

CT = {
    "clipped at -250": nifti(CHEST.clip(-250)),
    "unsigned with an intercept in the header": nifti((CHEST + 1024).astype(np.uint16), 1.0, -1024),
    "padding of -3024": nifti(padded(CHEST, -3024)),
    "multi-frame without an ending": multiframe("IM_0001"),
    "padding of 63536 as unsigned": stored(
        padded(CHEST + 1024, 63536), "<u2", "CT", padding=63536, RescaleIntercept=-1024
    ),
    "a Modality that the values do not show": series(np.maximum(CHEST, -100), "CT"),
}

REFUSED = {
    "emptied intercept of a CT": (
        stored(CHEST + 1024, "<u2", "CT", RescaleIntercept=None),
        "Hounsfield",
    ),
    "fewer frames than places": (
        multiframe("a.dcm", lambda path: change(path, NumberOfFrames=19)),
        "19 frames",
    ),
    "an intensity of 1e35": (nifti(np.where(INSIDE, 1e35, 0).astype(np.float32)), "implausible"),
    "nothing but padding": (nifti(np.zeros(SHAPE, np.int16)), "every voxel is background"),
    "a web page for a slice": (
        series(after=lambda folder: (folder / "0003.dcm").write_text("<html>" * 50)),
        "0003.dcm",
    ),
}


def in_ras(mask):
    return mask[::-1, ::-1]


@pytest.mark.parametrize("name", MR)
def test_variants_of_an_mr_are_the_same_scan(tmp_path, name):
    prepared = prepare_scan(read_scan(MR[name](tmp_path)))
    assert not prepared.is_ct
    np.testing.assert_array_equal(prepared.volume.array > 0, in_ras(INSIDE))
    expected = prepare_scan(read_scan(nifti(HEAD)(tmp_path))).volume.array
    tolerance = 0.02 if name == "unsigned bytes" else 1e-4
    np.testing.assert_allclose(prepared.volume.array, expected, atol=tolerance)


@pytest.mark.parametrize("name", CT)
def test_variants_of_a_ct_are_the_same_scan(tmp_path, name):
    prepared = prepare_scan(read_scan(CT[name](tmp_path)))
    assert prepared.is_ct
    np.testing.assert_array_equal(prepared.volume.array > 0, in_ras(INSIDE))
    expected = prepare_scan(read_scan(nifti(CHEST)(tmp_path))).volume.array
    np.testing.assert_allclose(prepared.volume.array, expected, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_variants_that_cannot_be_right_are_one_line(tmp_path, name):
    make, words = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        prepare_scan(read_scan(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
