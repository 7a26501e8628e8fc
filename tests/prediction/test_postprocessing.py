"""Post-processing in prediction: the labels on the scan's own grid, the report, and the switch."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from mtseg.inference.dense import DenseNetwork
from mtseg.models.loading import ExportedModel
from mtseg.network.architecture import HALO
from mtseg.prediction.options import Options
from mtseg.prediction.pipeline import segment_files
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table


def of_intensity(tile, chunk_positions):
    """The class that a voxel's intensity says: bright is muscle, dark is background."""
    interior = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
    is_bright = tf.cast(tf.boolean_mask(interior, interior != 0) > 0.5, tf.float32)
    return tf.stack([1 - is_bright, is_bright], axis=-1)


@pytest.fixture
def model(tmp_path):
    (task,) = (selection.task for selection in parse_tasks("breast").selections)
    muscle = dataclasses.replace(task.classes[0], largest_component=True, fill_holes=True)
    task = dataclasses.replace(task, decision="argmax", classes=(muscle,))
    return ExportedModel(
        path=tmp_path,
        class_names=task.class_names,
        class_task=(None, task.name),
        thresholds=(None, None),
        label_table=make_label_table([(task.name, muscle)]),
        network=DenseNetwork(of_intensity, 2, "float32", 1000),
        kept_alive=None,
        tasks=(task,),
        model_id="m",
    )


def test_stray_voxels_are_removed_holes_filled_and_both_are_said(model, tmp_path):
    image = np.full((9, 8, 7), 10, np.int16)
    image[2:7, 2:7, 1:6] = 100
    expected = image == 100
    image[4, 4, 3] = 10  # a hole
    image[0, 0, 6] = image[8, 7, 0] = 100  # stray voxels
    # Axes stored in another order and direction than RAS+.
    affine = np.array([[0, -1, 0, 9], [0, 0, 1, 0], [-1, 0, 0, 5], [0, 0, 0, 1.0]])
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(image, affine), path)

    def is_muscle(result):
        return np.asarray(nib.load(result.label_path).dataobj) > 0

    ((_, result),) = segment_files(model, [path], tmp_path / "with")
    np.testing.assert_array_equal(is_muscle(result), expected)
    stored = json.loads(result.verdict_path.read_text())
    assert stored["postprocessing"] == [
        {
            "class": "pectoral_muscle",
            "largest_component": True,
            "fill_holes": True,
            "removed_voxels": 2,
            "filled_voxels": 1,
        }
    ]
    assert stored["volumes_ml"]["pectoral_muscle"] == pytest.approx(0.125)
    assert result.notes[-1] == (
        "post-processing of pectoral_muscle: 2 voxels outside its largest component removed, 1 "
        "voxels of holes filled"
    )
    assert not (tmp_path / "with" / "scan_labels_unprocessed.nii.gz").exists()
    ((_, both),) = segment_files(model, [path], tmp_path / "both", Options(use_unprocessed=True))
    assert both.label_path.read_bytes() == result.label_path.read_bytes()
    before = nib.load(tmp_path / "both" / "scan_labels_unprocessed.nii.gz")
    np.testing.assert_array_equal(np.asarray(before.dataobj) > 0, image == 100)
    options = Options(use_postprocessing=False)
    ((_, result),) = segment_files(model, [path], tmp_path / "without", options)
    np.testing.assert_array_equal(is_muscle(result), image == 100)
    assert json.loads(result.verdict_path.read_text())["postprocessing"] == []
    assert not any("post-processing" in note for note in result.notes)


def test_results_with_and_without_it_are_not_taken_for_each_other():
    assert Options().deciding() != Options(use_postprocessing=False).deciding()


def test_its_memory_is_part_of_the_estimate(model, tmp_path):
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.ones((30, 40, 50), np.int16), np.eye(4)), path)
    works = []
    for use_it in (True, False):
        options = Options(use_postprocessing=use_it, memory_bytes=2e9)
        list(segment_files(model, [path], tmp_path, options, on_start=lambda _, w: works.append(w)))
    assert works[0].peak_bytes - works[1].peak_bytes == 7 * 32 * 42 * 52
