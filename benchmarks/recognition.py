"""Synthetic scans at random voxel sizes: is the task recognised, and are the labels as good?

    python benchmarks/recognition.py --model DIR [--scans 30] [--size 96]

Makes phantoms of each task of a model that was trained on phantoms, resamples each to a random
voxel size between half and twice its own, and segments both without any flag. Prints which task was
recognised and mean Dice at both voxel sizes, each on the scan's own grid. About 6 minutes on two
cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, run_benchmark
from nibabel.processing import resample_from_to

import mtseg
from mtseg.evaluation.metrics import dice
from mtseg.models.loading import ExportedModel
from mtseg.phantoms.scanner import CLASS_LABELS, make_phantom
from mtseg.prediction.pipeline import segment_files
from mtseg.tasks.task import Task

FIRST_SEED = 7_000
"""Phantoms of the data that a network is trained and tested on have lower seeds."""

ALLOWED_LOSS = 0.03
"""Loss of mean Dice against the scan at its own voxel size that counts as the same."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--scans", type=int, default=30, help="over all tasks (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="voxels a side (%(default)s)")
    arguments = parser.parse_args()
    model = mtseg.load(arguments.model)
    tasks = [task for task in model.tasks if task.name in CLASS_LABELS]
    rng = np.random.default_rng(0)
    num_recognised = num_as_good = 0
    losses = []
    for number in range(arguments.scans):
        task = tasks[number % len(tasks)]
        factor = float(2 ** rng.uniform(-1, 1))
        phantom = make_phantom(task.name, FIRST_SEED + number, arguments.size)
        image = nib.Nifti1Image(phantom.image, phantom.affine)
        label_map = nib.Nifti1Image(phantom.label_map.astype(np.uint8), phantom.affine)
        own, _ = score(model, task, image, label_map)
        coarse, recognised = score(model, task, *resample_both(image, label_map, factor))
        is_right = task.name == recognised
        num_recognised += is_right
        num_as_good += own - coarse <= ALLOWED_LOSS
        losses.append(own - coarse)
        voxel_mm = factor * np.linalg.norm(phantom.affine[:3, 0])
        print(
            f"{task.name:<8}{voxel_mm:6.2f} mm ({factor:.2f} of its own)  mean Dice {coarse:.3f} "
            f"({own:.3f} at its own)  {'recognised' if is_right else 'NOT recognised'}",
            flush=True,
        )
    print(
        f"recognised {num_recognised} of {arguments.scans}; mean Dice within {ALLOWED_LOSS} in "
        f"{num_as_good}; mean loss {np.mean(losses):.3f}, largest {np.max(losses):.3f}"
    )
    ratios = {
        "recognised_over_scans": num_recognised / arguments.scans,
        "as_good_over_scans": num_as_good / arguments.scans,
    }
    finish("recognition", ratios, {}, arguments.scans, arguments.json)


def resample_both(
    image: nib.Nifti1Image, label_map: nib.Nifti1Image, factor: float
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A scan and its labels on a grid of voxels that are `factor` times as large along every axis.

    Both are interpolated linearly, each class as a mask of its own. The nearest label would be up
    to half a voxel off, which costs thin vessels more Dice than is allowed here.
    """
    shape = tuple(int(np.ceil(size / factor)) for size in image.shape)
    affine = image.affine @ np.diag([factor, factor, factor, 1])
    lowest = float(np.asarray(image.dataobj).min())
    array = np.asarray(resample_from_to(image, (shape, affine), order=1, cval=lowest).dataobj)
    own = np.asarray(label_map.dataobj)
    shares = [
        np.asarray(
            resample_from_to(
                nib.Nifti1Image((own == value).astype(np.float32), image.affine),
                (shape, affine),
                order=1,
                cval=float(value == 0),
            ).dataobj
        )
        for value in range(int(own.max()) + 1)
    ]
    labels = np.argmax(shares, axis=0).astype(np.uint8)
    as_stored = nib.Nifti1Image(np.rint(array).astype(np.int16), affine)
    return as_stored, nib.Nifti1Image(labels, affine)


def score(
    model: ExportedModel, task: Task, image: nib.Nifti1Image, label_map: nib.Nifti1Image
) -> tuple[float, str | None]:
    """Mean Dice over the classes of a task, and the task that the scan was recognised as."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(image, path)
        ((_, outcome),) = segment_files(model, [path], Path(folder) / "out")
        if isinstance(outcome, Exception):
            raise outcome
        found: npt.NDArray[np.uint8] = np.asarray(nib.load(outcome.label_path).dataobj)
        recognised = outcome.verdict.task
    reference = np.asarray(label_map.dataobj)
    first = model.class_names.index(task.class_names[1])
    values = [dice(reference == c, found == first + c - 1) for c in range(1, task.num_classes)]
    return float(np.mean([value for value in values if value is not None])), recognised


if __name__ == "__main__":
    run_benchmark(main)
