"""Reading subjects: the modality of the task decides what the intensities mean."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from mtseg.sources.reading import prepare_subject
from mtseg.sources.subject import Subject
from mtseg.tasks.task import LabelSource, Split
from tests.layout_files import write_task


@pytest.mark.parametrize("modality", ["MR", "CT angiography"])
def test_the_task_decides_what_is_ct(tmp_path, modality):
    """One voxel in a hundred below -500 HU, or none: the values would say the opposite."""
    task = dataclasses.replace(write_task(tmp_path / "renal.toml"), modality=modality)
    rng = np.random.default_rng(0)
    image = rng.integers(1, 900, (5, 6, 7)).astype(np.int16)
    if modality == "MR":
        image[2, 3, 3:5] = -600
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii")
    labels = (image > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "b.nii")
    subject = Subject("a", "train", str(tmp_path / "a.nii"), str(tmp_path / "b.nii"), None)
    source = LabelSource("folder", "folder", (("kidney", (1,)),), (0,), Split(("a",), ()))
    prepared = prepare_subject(task, source, subject)
    expected = image + 1024.0 if modality != "MR" else np.maximum(image, 0)
    scale = np.percentile(expected[expected > 0], 99)
    np.testing.assert_allclose(prepared.image, expected / scale, rtol=1e-5)
