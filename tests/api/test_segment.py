"""Segmentation in memory: the labels of `mtseg-predict`, whatever the scan is given as."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

import mtseg
from mtseg.api.model import Model
from mtseg.cli import predict
from mtseg.errors import InputError
from mtseg.inference.dense import DenseNetwork
from mtseg.network.architecture import HALO
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table
from tests.dicom_files import write_series
from tests.models.documented_commands import keys_in
from tests.scans.grids import oblique_affine

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "files.md"

TASKS = tuple(selection.task for selection in parse_tasks("brain,breast,cta").selections)
TABLE = make_label_table((task.name, tissue) for task in TASKS for tissue in task.classes)


def of_intensity(tile, chunk_positions):
    """The classes of a voxel follow its intensity and that of its neighbour."""
    interior = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
    neighbour = tile[HALO + 1 : 1 - HALO, HALO:-HALO, HALO:-HALO]
    voxels = tf.boolean_mask(interior + 0.1 * neighbour, interior != 0)
    centres = tf.linspace(0.0, 1.0, len(TABLE) + 1)
    return tf.nn.softmax(-200 * (voxels[:, None] - centres) ** 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of three tasks whose network is quick and sees intensities alone."""
    return Model(
        path=tmp_path_factory.mktemp("model"),
        class_names=("background", *(entry.name for entry in TABLE)),
        class_task=(None, *(entry.task for entry in TABLE)),
        thresholds=(*[None] * 7, 0.3, 0.3),
        label_table=TABLE,
        network=DenseNetwork(of_intensity, len(TABLE) + 1, "float32", 1000),
        kept_alive=None,
        tasks=TASKS,
        model_id="m",
    )


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """An oblique scan of whole numbers, stored with its axes in another order than RAS+."""
    array = np.random.default_rng(0).integers(1, 50, (18, 12, 14))
    array = (array * np.geomspace(0.1, 100, 14)).astype(np.int16)
    array[:4] = 0
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, oblique_affine()), path)
    return path


@pytest.fixture(scope="module")
def written(model, scan):
    """The results that `mtseg-predict` writes for the scan, with that model."""
    out = scan.parent / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "load", lambda *arguments: model)
        assert predict.main([str(scan), "-o", str(out), "--probabilities", "--preview"]) == 0
    return out


def labels_of(out):
    return np.asarray(nib.load(out / "scan_labels.nii.gz").dataobj)


@pytest.mark.parametrize(
    "give",
    [
        lambda path: (path, {}),
        lambda path: (str(path), {}),
        lambda path: (nib.load(path), {}),
        lambda path: (nib.Nifti1Image(np.asarray(nib.load(path).dataobj), oblique_affine()), {}),
        lambda path: (nib.load(path).get_fdata(), {"affine": nib.load(path).affine}),
        lambda path: (
            np.asarray(nib.load(path).dataobj)[..., None],
            {"affine": nib.load(path).affine.tolist()},
        ),
    ],
    ids=["path", "text", "image of a file", "image of an array", "floats", "single frame"],
)
def test_a_scan_in_memory_gets_the_labels_that_the_command_writes(model, scan, written, give):
    given, where = give(scan)
    seg = mtseg.segment(given, model=model, **where)
    assert len(np.unique(seg.labels)) > 3
    assert seg.labels.dtype == np.uint8
    np.testing.assert_array_equal(seg.labels, labels_of(written))
    verdict = json.loads((written / "scan_verdict.json").read_text())
    assert seg.volumes_ml == verdict["volumes_ml"]
    assert {name: round(value, 4) for name, value in seg.confidence.items()} == (
        verdict["confidence"]
    )
    assert (seg.assessment.status, seg.assessment.task) == (verdict["status"], verdict["task"])
    same = ("classes", "features", "computed", "spacing_mm", "modality", "intensities")
    assert {name: seg.to_json()[name] for name in same} == {name: verdict[name] for name in same}


def test_the_file_that_it_saves_is_that_of_the_command(model, scan, written, tmp_path):
    seg = model.segment(scan)
    assert seg.save(str(tmp_path / "labels.nii.gz")) == tmp_path / "labels.nii.gz"
    saved, expected = nib.load(tmp_path / "labels.nii.gz"), nib.load(written / "scan_labels.nii.gz")
    assert saved.header.binaryblock == expected.header.binaryblock
    assert saved.header.extensions == expected.header.extensions
    np.testing.assert_array_equal(saved.dataobj, expected.dataobj)
    names = seg.image.header.extensions[0].get_content()
    assert names == expected.header.extensions[0].get_content()
    np.testing.assert_array_equal(seg.image.affine, nib.load(scan).affine)
    np.testing.assert_array_equal(seg.affine, nib.load(scan).affine)
    assert seg.preview().png == (written / "scan_preview.png").read_bytes()


def test_probabilities_are_those_of_the_file_before_rounding(model, scan, written):
    seg = model.segment(scan, probabilities=True)
    stored = nib.load(written / "scan_probabilities.nii.gz").get_fdata()
    assert seg.probabilities.shape == stored.shape
    np.testing.assert_allclose(seg.probabilities, stored, atol=0.501 / 255)
    np.testing.assert_allclose(seg.probabilities.sum(axis=-1), 1, atol=1e-5)
    assert model.segment(scan).probabilities is None


def test_the_reference_lists_every_value_of_the_verdict(written):
    verdict = json.loads((written / "scan_verdict.json").read_text())
    page = REFERENCE.read_text(encoding="utf-8")
    assert keys_in(page, "Verdict") == set(verdict)
    assert verdict["classes"]
    for name in verdict["classes"][0]:
        assert f"`{name}`" in page


def test_names_are_those_of_the_labels(model, scan):
    seg = model.segment(scan)
    assert seg.names == {entry.label: entry.name for entry in model.label_table}
    assert set(np.unique(seg.labels)) <= {0, *seg.names}
    voxel_ml = abs(np.linalg.det(seg.affine)) / 1000
    for label, name in seg.names.items():
        count = int((seg.labels == label).sum())
        assert seg.num_voxels[name] == count
        assert seg.volumes_ml[name] == pytest.approx(count * voxel_ml, abs=0.0006)


def test_an_array_is_not_changed(model):
    array = np.random.default_rng(0).uniform(1, 500, (10, 10, 10)).astype(np.float32)
    array[:2] = -5  # is set to 0 in the scan that is computed
    before = array.copy()
    image = nib.Nifti1Image(array, np.eye(4))
    one, other = model.segment(array, spacing_mm=(1, 1, 1)), model.segment(image)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert not one.labels[:2].any()


def test_a_dicom_series_gets_the_labels_that_are_written(model, tmp_path):
    array = np.random.default_rng(1).integers(-1000, 500, (10, 11, 12)).astype(np.float32)
    folder = write_series(tmp_path / "series", array, oblique_affine())
    seg = model.segment(folder)
    ((_, outcome),) = segment_files(model, [folder], tmp_path / "out", Options())
    np.testing.assert_array_equal(seg.labels, nib.load(outcome.label_path).dataobj)
    assert "read as CT, by its DICOM Modality" in seg.notes


def test_several_scans_give_a_list_and_progress_reaches_1(model, scan):
    shares = []
    segs = model.segment([scan, nib.load(scan)], progress=shares.append)
    assert [seg.scan.path.name for seg in segs] == ["scan.nii.gz", "scan.nii.gz"]
    np.testing.assert_array_equal(segs[0].labels, segs[1].labels)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert model.segment([]) == []


def test_options_are_obeyed(model, scan):
    seg = model.segment(scan, task="breast", computed_spacing_mm=2, modality="mr")
    assert seg.scan.recognition.spacing_mm == 2
    assert {seg.names[label] for label in np.unique(seg.labels) if label} <= {"pectoral_muscle"}
    assert "read as MR, as given" in seg.notes


def test_a_bad_scan_among_several_is_refused_before_any_is_computed(model, scan, tmp_path):
    started = []
    with pytest.raises(InputError, match=r"none\.nii"):
        model.segment([scan, tmp_path / "none.nii"], progress=started.append)
    assert not started


ARRAY = np.ones((4, 4, 4))


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("scan", "how", "words"),
    [
        (ARRAY, {}, "array: give one of affine"),
        (ARRAY, {"affine": np.eye(4), "spacing_mm": (1, 1, 1)}, "array: give one of affine"),
        (ARRAY, {"spacing_mm": (1, 1)}, "spacing_mm is (1, 1), not three voxel sizes above 0"),
        (ARRAY, {"spacing_mm": (1, 1, 0)}, "not three voxel sizes above 0"),
        (ARRAY, {"spacing_mm": "1,1,1"}, "not three voxel sizes above 0"),
        (ARRAY, {"affine": np.eye(3)}, "affine is not 4 × 4"),
        (ARRAY, {"affine": np.diag([1, 1, 0, 1])}, "singular affine"),
        (ARRAY, {"affine": np.diag([np.nan, 1, 1, 1])}, "singular affine"),
        (ARRAY[0], {"affine": np.eye(4)}, "has shape (4, 4), not three dimensions"),
        (ARRAY > 0, {"affine": np.eye(4)}, "array: has voxels of type bool"),
        (ARRAY * np.nan, {"affine": np.eye(4)}, "array: 64 voxels are NaN"),
        (ARRAY * 0, {"affine": np.eye(4)}, "array: every voxel is background"),
        ("missing.nii", {}, "missing.nii: No such file"),
        ("missing.nii", {"affine": np.eye(4)}, "affine: is for arrays"),
        (nib.Nifti1Image(ARRAY, np.eye(4)), {"spacing_mm": (1, 1, 1)}, "spacing_mm: is for arrays"),
        (nib.Nifti1Image(np.ones((4, 4, 4, 2)), np.eye(4)), {}, "image: has shape (4, 4, 4, 2)"),
        (nib.Nifti1Image(ARRAY, None), {}, "image: has no affine"),
        (12, {}, "a scan cannot be a int"),
        ([[ARRAY]], {}, "a scan cannot be a list"),
        ([ARRAY, ARRAY[0]], {"affine": np.eye(4)}, "array 2: has shape (4, 4)"),
        (ARRAY, {"affine": np.eye(4), "task": "brian"}, "brain, breast, cta"),
        (ARRAY, {"affine": np.eye(4), "modality": "pet"}, "modality: 'pet' is not one of ct, mr"),
        (ARRAY, {"affine": np.eye(4), "computed_spacing_mm": 30}, "30 mm is not a voxel size"),
        (ARRAY, {"affine": np.eye(4), "memory_gb": 0}, "0 GB is not an amount of memory"),
        (ARRAY, {"affine": np.eye(4), "precision": "bfloat16"}, "the model was loaded in float32"),
    ],
)
def test_what_cannot_be_segmented_is_refused_in_a_line(model, scan, how, words):
    with pytest.raises(InputError) as refusal:
        mtseg.segment(scan, model=model, **how)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_scan_itself_is_never_replaced(model, scan):
    before = scan.read_bytes()
    with pytest.raises(InputError, match="is the scan itself"):
        model.segment(scan).save(scan)
    assert scan.read_bytes() == before


def test_a_notebook_shows_names_volumes_and_the_verdict(model, scan):
    seg = model.segment(scan)
    assert repr(seg).startswith("<Segmentation of scan.nii.gz: not assessed, recognised as ")
    shown = seg._repr_html_()
    assert "<b>scan.nii.gz: not assessed</b>" in shown
    for entry in model.label_table:
        assert (entry.title in shown) == (seg.volumes_ml[entry.name] > 0)


def test_a_name_that_is_html_is_shown_as_text(model, scan, tmp_path):
    path = tmp_path / "<script>.nii.gz"
    shutil.copy(scan, path)
    shown = model.segment(path)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;.nii.gz" in shown


def test_a_model_says_what_it_is(model):
    assert repr(model) == f"<Model {model.path}: brain, breast, cta; float32>"
    assert [task.name for task in model.tasks] == ["brain", "breast", "cta"]
    assert f"# {model.path}" in model.card
    assert "- breast: 7 Pectoral muscle" in model.card


def test_flips_make_left_and_right_alike(model):
    array = np.random.default_rng(1).integers(1, 50, (9, 6, 7)).astype(np.float32)
    array[:2, 1] = 0

    def probabilities(array, tta):
        found = model.segment(
            array, spacing_mm=(1, 1, 1), task="brain", probabilities=True, tta=tta
        )
        return found.probabilities

    once, mirrored = probabilities(array, None), probabilities(array[::-1], None)[::-1]
    assert abs(once - mirrored).max() > 0.1  # the network looks to one side
    both, both_mirrored = probabilities(array, "flip"), probabilities(array[::-1], "flip")[::-1]
    np.testing.assert_allclose(both, both_mirrored, atol=1e-6)
    np.testing.assert_allclose(both, (once + mirrored) / 2, atol=1e-6)


def test_flips_are_refused_where_left_and_right_differ(model, scan):
    with pytest.raises(InputError, match=r"^--tta flip: cta does not allow left and right"):
        model.segment(scan, tta="flip")
    with pytest.raises(InputError, match=r"^tta: 'mirror' is not flip"):
        model.segment(scan, tta="mirror")
