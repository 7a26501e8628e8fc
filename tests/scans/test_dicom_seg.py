"""DICOM SEG: the labels of a series are where another library finds them."""

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from mtseg.errors import InputError
from mtseg.prediction.options import Options
from mtseg.scans.dicom_seg import distinct_codes, write_dicom_seg
from mtseg.scans.formats.dicom import open_series
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import Code, TissueClass
from tests.dicom_files import write_multiframe, write_series
from tests.prediction.test_pipeline import model, segment  # noqa: F401 - the fixture
from tests.scans.grids import SHAPE, affine_of, ranged

CEREBELLUM = Code("SCT", "113305005", "Cerebellum")
TABLE = make_label_table(
    [
        ("brain", TissueClass("white_matter", "White matter", label=1)),
        (
            "brain",
            TissueClass("cerebellum", "Cerebellum", label=2, color="#0072B2", code=CEREBELLUM),
        ),
        ("brain", TissueClass("brain_stem", "Brain stem", label=6)),
    ]
)
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
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, path, TABLE)
    masks = read_segments(tmp_path / "seg.dcm")
    assert set(masks) == {"white matter", "cerebellum"}
    assert_same_places(masks, LABELS, affine)


def test_a_scan_in_which_nothing_is_found(tmp_path):
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros_like(LABELS), path, TABLE)
    masks = read_segments(tmp_path / "seg.dcm")
    assert set(masks) == {"white matter", "cerebellum", "brain stem"}
    assert not any(mask.any() for mask, _ in masks.values())


def describe(path):
    """Number of each segment -> its label, its code and its description, read with pydicom."""
    return {
        segment.SegmentNumber: (
            segment.SegmentLabel,
            segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator,
            segment.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            segment.SegmentDescription,
        )
        for segment in pydicom.dcmread(path).SegmentSequence
    }


def test_segments_are_numbered_by_their_labels_and_coded_by_the_task_file(tmp_path):
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, path, TABLE[::-1])
    assert describe(tmp_path / "seg.dcm") == {
        1: ("white matter", "99MTSEG", "white_matter",
            "White matter; label 1 in mtseg's label files"),
        2: ("cerebellum", "SCT", "113305005", "Cerebellum; label 2 in mtseg's label files"),
    }  # fmt: skip
    (_, cerebellum) = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    color = hd.color.CIELabColor(*_cielab(cerebellum.RecommendedDisplayCIELabValue))
    np.testing.assert_allclose(color.to_rgb(), (0x00, 0x72, 0xB2), atol=1)


def _cielab(stored):
    lightness, a, b = stored
    return 100 * lightness / 65535, 255 * a / 65535 - 128, 255 * b / 65535 - 128


def test_labels_with_a_gap_are_numbered_in_order(tmp_path):
    """DICOM allows no gap: the description states the label."""
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    labels = np.array([0, 1, 6], np.uint8)[LABELS]
    write_dicom_seg(tmp_path / "seg.dcm", labels, path, TABLE)
    segments = describe(tmp_path / "seg.dcm")
    assert {number: text[-1] for number, text in segments.items()} == {
        1: "White matter; label 1 in mtseg's label files",
        2: "Brain stem; label 6 in mtseg's label files",
    }
    mask, affine = read_segments(tmp_path / "seg.dcm")["brain stem"]
    found = points_mm(mask, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    assert found == points_mm(LABELS == 2, open_series(path).affine)


def test_no_two_segments_have_the_same_code():
    classes = [
        ("ct", TissueClass("liver_ct", "Liver", code=Code("SCT", "10200004", "Liver"))),
        ("mr", TissueClass("liver_mr", "Liver", code=Code("SCT", "10200004", "Liver"))),
        ("mr", TissueClass("left_anterior_cruciate", "Left")),
        ("mr", TissueClass("left_anterior_cruciate_ligament", "Left too")),
        ("mr", TissueClass("left_anterior", "Left three")),
    ]
    codes = distinct_codes(make_label_table(classes))
    assert [code.scheme for code in codes] == ["SCT", *["99MTSEG"] * 4]
    assert codes[1].value == "liver_mr"
    assert codes[2].value.startswith("left_an-")
    assert len({(code.scheme, code.value) for code in codes}) == 5
    assert all(len(code.value) <= 16 for code in codes)
    shipped = distinct_codes(parse_tasks("brain,breast,cta").label_table)
    assert len({(code.scheme, code.value) for code in shipped}) == 8
    assert [code.scheme for code in shipped].count("SCT") == 6


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    path = write_series(tmp_path / "series", ranged(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="cannot be written"):
        write_dicom_seg(tmp_path / "nowhere" / "seg.dcm", LABELS, path, TABLE)


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
