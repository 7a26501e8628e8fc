"""The modality of a scan: by the user, else by its DICOM header, else by its values."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from mtseg.inference.dense import make_dense_network
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.scan import _prepare, excluded_classes, load_scan
from mtseg.scans.volume import Volume
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import TissueClass
from mtseg.tasks.task_file import read_task, shipped_path
from tests.dicom_files import write_series
from tests.inference.test_dense import make_patch_model

BREAST, CTA = (read_task(shipped_path(name)) for name in ("breast", "cta"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network of two MR classes and one CT class."""
    tasks = (dataclasses.replace(BREAST, name="organ"), dataclasses.replace(CTA, name="vessels"))
    return ExportedModel(
        path=tmp_path_factory.mktemp("none"),
        class_names=("background", "a", "b", "vessel"),
        class_task=(None, "organ", "organ", "vessels"),
        thresholds=(None, None, None, 0.2),
        label_table=make_label_table(
            [
                ("organ", TissueClass("a", "A")),
                ("organ", TissueClass("b", "B")),
                ("vessels", TissueClass("vessel", "Vessel")),
            ]
        ),
        network=make_dense_network(make_patch_model(), "float32"),
        kept_alive=None,
        tasks=tasks,
    )


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(1, 500, (20, 12, 14)).astype(np.float32)


@pytest.mark.parametrize(
    ("modality", "given", "is_ct", "why", "excluded"),
    [
        ("CT", None, True, "read as CT, by its DICOM Modality", [1, 2]),
        ("MR", None, False, "read as MR, by its DICOM Modality", [3]),
        ("PT", None, False, "read as MR, by its values", []),
        ("CT", False, False, "read as MR, as given", [3]),
        ("MR", True, True, "read as CT, as given", [1, 2]),
    ],
)
def test_the_user_decides_then_the_header_then_the_values(
    model, tmp_path, array, modality, given, is_ct, why, excluded
):
    series = write_series(tmp_path / "series", array, np.eye(4), modality=modality)
    options = Options(spacing_mm=1.0, is_ct=given)
    scan = load_scan(model, series, options, 1e9)
    assert scan.prepared.is_ct is is_ct
    assert scan.prepared.intensities == why
    assert excluded_classes(model, scan, options) == excluded


@pytest.mark.parametrize(
    ("modality", "given", "task", "excluded"),
    [
        ("PT", None, "organ", [3]),
        ("MR", None, "organ", [3]),
        ("CT", None, "organ", [3]),
        ("MR", True, "organ", [3]),
        ("MR", None, "vessels", [1, 2]),
    ],
)
def test_no_voxel_gets_a_class_of_another_task_than_the_given_one_whatever_the_modality(
    model, tmp_path, array, modality, given, task, excluded
):
    series = write_series(tmp_path / "series", array, np.eye(4), modality=modality)
    options = Options(spacing_mm=1.0, is_ct=given, task=task)
    scan = load_scan(model, series, options, 1e9)
    assert excluded_classes(model, scan, options) == excluded


def test_the_command_prints_and_stores_what_was_decided(model, tmp_path, array):
    series = write_series(tmp_path / "series", array, np.eye(4), modality="CT")
    nib.save(nib.Nifti1Image(array - 600, np.eye(4)), tmp_path / "scan.nii")
    outcomes = segment_files(model, [series, tmp_path / "scan.nii"], tmp_path / "out")
    for (_, result), why in zip(outcomes, ("by its DICOM Modality", "by its values"), strict=True):
        assert f"read as CT, {why}" in result.notes
        verdict = json.loads(result.verdict_path.read_text())
        assert (verdict["modality"], verdict["intensities"]) == ("CT", f"read as CT, {why}")
        labels = np.unique(np.asarray(nib.load(result.label_path).dataobj))
        if "DICOM" in why:
            assert set(labels) <= {0, 3}


@pytest.mark.parametrize("kind", ["padded MR", "clipped CT"])
def test_the_voxel_size_is_chosen_for_the_modality_that_is_read(model, kind):
    """Padding below -500 makes no CT, and a CT without air is one."""
    rng = np.random.default_rng(0)
    if kind == "padded MR":
        array = rng.integers(1, 500, (20, 12, 14)).astype(np.float32)
        array[:3] = -2000
    else:
        array = rng.choice([-200, -90, 40, 55, 400], (20, 12, 14), p=[0.3, 0.2, 0.2, 0.2, 0.1])
        array = array.astype(np.float32)
    prepared, recognition = _prepare(model, [Volume(array, np.eye(4))], Options())
    assert prepared.is_ct == (kind == "clipped CT")
    assert recognition.tasks == (("vessels",) if prepared.is_ct else ("organ",))
