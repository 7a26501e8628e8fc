"""Compares the precisions of the network: Dice against manual labels, and the processor's seconds.

    python benchmarks/precision.py
    python benchmarks/precision.py SCAN=LABELS ... --phantoms 0

OpenVINO computes the packaged network in float32, bfloat16 and int8 in turn, scan by scan: the
brains in the folder that `MTSEG_REAL_DATA` names which are there for testing, or those that are
named, with the challenge's label values; and phantoms of breast and CTA, which are synthetic and
none of those that the network knows. None of these scans chose anything in int8. The seconds are
the processor's, from the file to the labels. About 8 minutes on 2 cores; smallest form:
`--phantoms 1 --size 32 --tasks cta --no-brains`.

    float32_seconds_over_bfloat16, bfloat16_seconds_over_int8   above 1: fewer digits are faster
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, median_ratio, run_benchmark
from ensembles import find_test_brains, read_pairs

import mtseg
from mtseg.evaluation.metrics import dice
from mtseg.inference.engines.choice import PRECISIONS
from mtseg.phantoms.scanner import make_phantom
from mtseg.system.text_table import format_table
from mtseg.tasks.label_space import parse_tasks

FIRST_SEED = 9_500
"""Far from the seeds of training and test phantoms."""


class Labelled(NamedTuple):
    """A scan and its manual label map, class indices of its task."""

    task: str
    scan: Path
    reference: npt.NDArray[np.uint8]


def read_brains(pairs: dict[Path, Path]) -> Iterator[Labelled]:
    """Brains with the challenge's label values."""
    task = parse_tasks("brain:miccai2012").selections[0].task
    for scan, path in pairs.items():
        stored = np.asarray(nib.load(path).dataobj)
        reference = task.map_labels(stored, task.source("miccai2012"), path)
        yield Labelled("brain", scan, reference.astype(np.uint8))


def make_phantoms(folder: Path, task: str, number: int, size: int) -> Iterator[Labelled]:
    """Phantoms as files, one after the other."""
    for seed in range(FIRST_SEED, FIRST_SEED + number):
        phantom = make_phantom(task, seed, size)
        path = folder / f"{task}_{seed}.nii.gz"
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
        yield Labelled(task, path, phantom.label_map)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("pairs", nargs="*", metavar="SCAN=LABELS")
    parser.add_argument("--no-brains", action="store_true", help="phantoms alone")
    parser.add_argument("--phantoms", type=int, default=8, help="of each task (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="of the phantoms (%(default)s)")
    parser.add_argument(
        "--tasks", nargs="*", default=["breast", "cta"], help="of the phantoms (%(default)s)"
    )
    arguments = parser.parse_args()
    pairs = {} if arguments.no_brains else read_pairs(arguments.pairs) or find_test_brains()
    models = {name: mtseg.load(precision=name, engine="openvino") for name in PRECISIONS}
    found = Comparison(models)
    with tempfile.TemporaryDirectory() as name:
        for labelled in read_brains(pairs):
            found.add(labelled)
        for task in arguments.tasks:
            for labelled in make_phantoms(Path(name), task, arguments.phantoms, arguments.size):
                found.add(labelled)
    found.report(arguments.json)


class Comparison:
    """Dice, labels that differ, and seconds, of every scan in every precision.

    Args:
        models: precision -> the model.
    """

    def __init__(self, models: dict[str, mtseg.api.model.Model]) -> None:
        self._models = models
        self._dice: dict[str, list[list[float]]] = {}  # class -> for each scan, by precision
        self._differ: dict[str, list[float]] = {name: [] for name in models}
        self._seconds: dict[str, list[float]] = {name: [] for name in models}

    def add(self, labelled: Labelled) -> None:
        """Segments a scan in every precision."""
        task, scan, reference = labelled
        labels = {}
        for name, model in self._models.items():
            started = time.process_time()
            labels[name] = model.segment(scan).labels
            self._seconds[name].append(time.process_time() - started)
        exact = labels["float32"]
        num_labelled = max(np.count_nonzero(exact), 1)
        for name, array in labels.items():
            self._differ[name].append(np.count_nonzero(array != exact) / num_labelled)
        table = next(iter(self._models.values())).label_table
        entries = [entry for entry in table if entry.task == task]
        for index, entry in enumerate(entries, start=1):
            values = [dice(reference == index, labels[name] == entry.label) for name in labels]
            self._dice.setdefault(entry.title, []).append(values)
        shown = ", ".join(f"{name} {self._seconds[name][-1]:.1f} s" for name in labels)
        print(f"{scan.name}: {shown} of the processor", flush=True)

    def report(self, use_json: bool) -> None:
        """Prints the table and the ratios."""
        header = ["class", "scans", *PRECISIONS]
        header += [*(f"{name} change" for name in PRECISIONS[1:]), "int8, largest of a scan"]
        rows = []
        largest = dict.fromkeys(PRECISIONS, 0.0)
        for title, values in self._dice.items():
            of_class = np.array(values)
            means = of_class.mean(axis=0)
            changes = means - means[0]
            for name, change in zip(PRECISIONS, changes, strict=True):
                largest[name] = max(largest[name], abs(change))
            of_scans = (of_class - of_class[:, :1])[:, -1]
            extreme = of_scans[np.abs(of_scans).argmax()]
            rows.append(
                [title, str(len(values)), *(f"{mean:.5f}" for mean in means)]
                + [f"{change:+.5f}" for change in changes[1:]]
                + [f"{extreme:+.5f}"]
            )
        print(format_table(header, rows, left=["class"]))
        for name in PRECISIONS[1:]:
            share = 100 * np.mean(self._differ[name])
            print(f"{name}: {share:.3f} % of the labelled voxels of float32 differ (mean of scans)")
        ratios = {
            f"{a}_seconds_over_{b}": median_ratio(self._seconds[a], self._seconds[b])
            for a, b in itertools.pairwise(PRECISIONS)
        }
        changes = {f"largest_dice_change_{name}": largest[name] for name in PRECISIONS[1:]}
        finish("precision", ratios, changes, len(self._seconds["int8"]), use_json)


if __name__ == "__main__":
    run_benchmark(main)
