"""DICOM SEG: the labels of a series are where another library finds them."""

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.prediction.scan import Options
from mtseg.scans.dicom_seg import write_dicom_seg
from mtseg.scans.formats.dicom import open_series
from tests.dicom_files import write_multiframe, write_series
from tests.prediction.test_pipeline import model, segment  # noqa: F401 - the fixture
from tests.scans.grids import SHAPE, affine_of, ranged

NAMES = ("background", "white_matter", "cerebellum", "brain_stem")
LABELS = np.random.default_rng(0).integers(0, 3, SHAPE, np.uint8)  # no brain stem


def read_segments(path):
    """Name of each segment -> its mask and its affine (LPS), as highdicom reads them."""
    seg = hd.seg.segread(path)
    masks = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        label = seg.get_segment_description(number).segment_label
        masks[label] = (np.asarray(volume.array) > 0, volume.affine)
    return masks


def points_mm(mask, affine):
    """World coordinates of the voxels of a mask."""
    points = (affine[:3, :3] @ np.argwhere(mask).T + affine[:3, 3:]).T
    return {tuple(point) for point in points.round(3) + 0.0}


def assert_same_places(masks, labels, affine):
    for value, name in ((1, "white matter"), (2, "cerebellum")):
        mask, lps_affine = masks[name]
        found = points_mm(mask, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps_affine)
        assert found == points_mm(labels == value, affine)


@pytest.mark.parametrize("write", [write_series, write_multiframe])
@pytest.mark.parametrize("codes", ["LPS", "PIR", "RAS"])
def test_segments_have_their_names_and_places(tmp_path, write, codes):
    affine = affine_of(codes, (1.0, 1.5, 2.0))
    path = write(tmp_path / "scan.dcm", ranged(), affine, order=[2, 0, 4, 1, 3])
    np.testing.assert_allclose(open_series(path).affine, affine, atol=1e-6)
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, path, NAMES)
    masks = read_segments(tmp_path / "seg.dcm")
    assert set(masks) == {"white matter", "cerebellum"}
    assert_same_places(masks, LABELS, affine)


def test_a_scan_in_which_nothing_is_found(tmp_path):
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros_like(LABELS), path, NAMES)
    masks = read_segments(tmp_path / "seg.dcm")
    assert set(masks) == {"white matter", "cerebellum", "brain stem"}
    assert not any(mask.any() for mask, _ in masks.values())


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="cannot be written"):
        write_dicom_seg(tmp_path / "nowhere" / "seg.dcm", LABELS, path, NAMES)


def test_a_series_is_segmented_like_the_same_scan_in_nifti(model, tmp_path):  # noqa: F811
    affine = np.diag([-1.0, -1.5, 1.2, 1.0])
    array = np.random.default_rng(0).integers(1, 500, (30, 12, 14)).astype(np.float32)
    series = write_series(tmp_path / "series", array, affine, modality="MR")
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii")
    outcomes = segment(
        model, [series, tmp_path / "scan.nii"], tmp_path / "out", Options(use_dicom_seg=True)
    )
    assert isinstance(outcomes[1][1], InputError)
    assert "not a DICOM series" in str(outcomes[1][1])
    segment(model, [tmp_path / "scan.nii"], tmp_path / "out")
    one, other = (nib.load(tmp_path / "out" / f"{n}_labels.nii.gz") for n in ("series", "scan"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-6)
    masks = read_segments(tmp_path / "out" / "series_labels.dcm")
    found = np.unique(np.asarray(one.dataobj))
    assert set(masks) == {model.class_names[n] for n in found if n}
