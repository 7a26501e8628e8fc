"""Synthetic scans at random voxel sizes: is the task recognised, and are the labels as good?

    python benchmarks/recognition.py --model DIR [--scans 30] [--size 224] [--journal FILE]

Makes phantoms of each task of a model that was trained on phantoms, scans each at its task's voxel
size and at a random one between half and twice that, and segments both without any flag. Prints
which task was recognised and mean Dice at both voxel sizes, each against the exact labels of the
scan's own grid. About three minutes a scan on two cores, and a quarter of that at a size of 128.
With `--journal`, the same command goes on where it was stopped.

At a size of 224 a voxel is about 1 mm of an adult, as in a real scan of the brain. What delimits a
structure must be thick enough to be seen in a scan of twice the voxel size. In phantoms of fewer
voxels it is not: the fat behind the pectoral muscle is 0.6 voxels thick at a size of 128, and 0.4
at 96. So each line also has the Dice of `exact labels`: those of the scan at its task's voxel size,
without any error of a network, brought to the other grid.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, mean_dice_of_task, run_benchmark
from journal import Journal

import mtseg
from mtseg.errors import InputError
from mtseg.models.loading import ExportedModel
from mtseg.phantoms.scanner import CLASS_LABELS, Phantom, make_phantom
from mtseg.prediction.pipeline import segment_files
from mtseg.scans.resampling import LINEAR, interpolate
from mtseg.tasks.task import Task

FIRST_SEED = 7_000
"""Phantoms of the data that a network is trained and tested on have lower seeds."""

ALLOWED_LOSS = 0.03
"""Loss of mean Dice against the scan at its own voxel size that counts as the same."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What came of a subject that was scanned with two voxel sizes.

    Attributes:
        task: its task.
        factor: the other voxel size, as a multiple of the task's.
        voxel_mm: the other voxel size along the first axis, in mm.
        own: mean Dice at the task's voxel size.
        other: mean Dice at the other one.
        exact: mean Dice of the exact labels at the task's voxel size on the other grid.
        recognised: the task that the scan of the other voxel size was recognised as.
    """

    task: str
    factor: float
    voxel_mm: float
    own: float
    other: float
    exact: float
    recognised: str | None

    @property
    def kind(self) -> tuple[str, str]:
        """The task, and whether the voxels are finer or coarser than its."""
        return self.task, "finer" if self.factor < 1 else "coarser"

    @property
    def is_right(self) -> bool:
        """Whether the task was recognised."""
        return self.task == self.recognised

    @property
    def loss(self) -> float:
        """Mean Dice that the other voxel size costs."""
        return self.own - self.other

    def __str__(self) -> str:
        return (
            f"{self.task:<8}{self.voxel_mm:6.2f} mm ({self.factor:.2f} of its own)  mean Dice "
            f"{self.other:.3f} ({self.own:.3f} at its own, exact labels {self.exact:.3f})  "
            f"{'recognised' if self.is_right else 'NOT recognised'}"
        )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--scans", type=int, default=30, help="over all tasks (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="voxels a side (%(default)s)")
    parser.add_argument("--journal", type=Path, help="file that keeps each scan's scores")
    arguments = parser.parse_args()
    model = mtseg.load(arguments.model)
    if arguments.journal and model.model_id is None:
        raise InputError(
            f"--journal: {arguments.model} does not say which model it is, so its scores could be "
            "taken for another's. Export it again, or leave the journal out."
        )
    tasks = [task for task in model.tasks if task.name in CLASS_LABELS]
    journal = Journal(arguments.journal, f"{model.model_id} {model.network.precision}")
    rng = np.random.default_rng(0)
    scores = []
    for number in range(arguments.scans):
        task = tasks[number % len(tasks)]
        factor = float(2 ** rng.uniform(-1, 1))
        subject = f"{task.name} {FIRST_SEED + number} {arguments.size} {factor}"
        kept = journal.find(subject)
        if kept is None:
            scored = score_subject(model, task, FIRST_SEED + number, arguments.size, factor)
            journal.keep(subject, dataclasses.asdict(scored))
        else:
            scored = Scores(**kept)
        scores.append(scored)
        print(scored, flush=True)
    for kind in sorted({scored.kind for scored in scores}):
        of_kind = [scored for scored in scores if scored.kind == kind]
        print(f"{kind[0]:<8}{kind[1]:<8} {summarise(of_kind)}")
    exact = [1 - scored.exact for scored in scores]
    num_recognised = sum(scored.is_right for scored in scores)
    print(
        f"recognised {num_recognised} of {len(scores)}; {summarise(scores)}; of exact labels "
        f"{np.mean(exact):.3f}, largest {np.max(exact):.3f}"
    )
    ratios = {
        "recognised_over_scans": num_recognised / len(scores),
        "as_good_over_scans": count_as_good(scores) / len(scores),
    }
    finish("recognition", ratios, {}, 1, arguments.json)


def summarise(scores: Sequence[Scores]) -> str:
    """The losses of some subjects, in words."""
    losses = [scored.loss for scored in scores]
    return (
        f"mean loss {np.mean(losses):.3f}, largest {np.max(losses):.3f}, "
        f"within {ALLOWED_LOSS} in {count_as_good(scores)} of {len(scores)}"
    )


def count_as_good(scores: Sequence[Scores]) -> int:
    """How many subjects have the same Dice at both voxel sizes."""
    return sum(scored.loss <= ALLOWED_LOSS for scored in scores)


def score_subject(model: ExportedModel, task: Task, seed: int, size: int, factor: float) -> Scores:
    """Scans a subject with the task's voxel size and with another one, and scores both."""
    at_own = make_phantom(task.name, seed, size)
    own, _ = score(model, task, at_own)
    phantom = make_phantom(task.name, seed, size, voxel_factor=factor)
    other, recognised = score(model, task, phantom)
    values = {entry.name: entry.label for entry in model.label_table} | {"background": 0}
    brought = np.array([values[name] for name in task.class_names])[on_grid(at_own, phantom)]
    exact = mean_dice_of_task(phantom.label_map, brought, task, model.label_table)
    voxel_mm = float(np.linalg.norm(phantom.affine[:3, 0]))
    return Scores(task.name, factor, voxel_mm, own, other, exact, recognised)


def score(model: ExportedModel, task: Task, phantom: Phantom) -> tuple[float, str | None]:
    """Mean Dice over the classes of a task, and the task that the scan was recognised as."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
        ((_, outcome),) = segment_files(model, [path], Path(folder) / "out")
        if isinstance(outcome, Exception):
            raise outcome
        found: npt.NDArray[np.uint8] = np.asarray(nib.load(outcome.label_path).dataobj)
        recognised = outcome.verdict.task
    return mean_dice_of_task(phantom.label_map, found, task, model.label_table), recognised


def on_grid(scanned: Phantom, other: Phantom) -> npt.NDArray[np.intp]:
    """The exact labels of a scan on the grid of another one of the same subject, interpolated."""
    sizes = (np.linalg.norm(each.affine[:3, :3], axis=0) for each in (other, scanned))
    step = np.divide(*sizes)
    shares = [
        interpolate(of_class.astype(np.float32), other.image.shape, step, LINEAR)
        for of_class in (scanned.label_map == value for value in range(scanned.label_map.max() + 1))
    ]
    return np.argmax(shares, axis=0)


if __name__ == "__main__":
    run_benchmark(main)
