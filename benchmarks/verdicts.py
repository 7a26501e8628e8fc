"""How often `mtseg-predict` warns: of scans like those of training, and of scans of other kinds.

    python benchmarks/verdicts.py --familiar BRAINS/1010_SS.nii.gz … --foreign breast.nii.gz …

Familiar are phantoms that were neither trained nor tested on, and the scans named. Foreign are the
scans named, noise, and the familiar scans named with dark and bright exchanged, as another
contrast would show them. `--model DIR` is another than the packaged one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from mtseg.errors import InputError
from mtseg.models.loading import load
from mtseg.phantoms.scanner import CLASS_LABELS, make_phantom
from mtseg.prediction.pipeline import segment_files

FIRST_SEED = 9_000
"""Far from the seeds of training and test phantoms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--familiar", nargs="*", type=Path, default=[], metavar="SCAN")
    parser.add_argument("--foreign", nargs="*", type=Path, default=[], metavar="SCAN")
    parser.add_argument("--model", help="(the packaged one)")
    parser.add_argument("--phantoms", type=int, default=10, help="of each task (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="of the phantoms (%(default)s)")
    parser.add_argument(
        "--tasks", nargs="*", default=["breast", "cta"], help="of the phantoms (%(default)s)"
    )
    arguments = parser.parse_args()
    model = load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            **{
                f"familiar: {task} phantoms": list(
                    make_phantoms(Path(folder), task, arguments.phantoms, arguments.size)
                )
                for task in arguments.tasks
            },
            "familiar: scans": arguments.familiar,
            "foreign: scans": arguments.foreign,
            "foreign: dark and bright exchanged": [
                exchange(scan, Path(folder)) for scan in arguments.familiar
            ],
            "foreign: noise": list(make_noise(Path(folder), 3)),
        }
        warned = {}
        for kind, scans in kinds.items():
            scores = []
            for scan, outcome in segment_files(model, scans, Path(folder) / "out"):
                if isinstance(outcome, InputError):
                    raise outcome
                verdict = outcome.verdict
                scores.append(verdict.score)
                print(
                    f"{kind:<36}{scan.name:<34}{verdict.score:>7.1f}  "
                    f"{'warned of' if verdict.warning else ''}  {verdict.describe()}",
                    flush=True,
                )
            warned[kind] = (
                sum(s > model.out_of_distribution_check.threshold for s in scores),
                len(scores),
            )
    print(f"\nthreshold {model.out_of_distribution_check.threshold:.1f}")
    for kind, (count, total) in warned.items():
        print(f"{kind:<36}{count} of {total} warned of")


def make_phantoms(folder: Path, task: str, count: int, size: int) -> Iterator[Path]:
    """Writes phantoms that no network has seen."""
    assert task in CLASS_LABELS
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        phantom = make_phantom(task, seed, size)
        path = folder / f"{task}{seed}.nii.gz"
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
        yield path


def exchange(scan: Path, folder: Path) -> Path:
    """The scan with dark and bright exchanged inside its foreground."""
    image = nib.load(scan)
    array = np.asarray(image.dataobj).astype(np.float32)
    highest = np.percentile(array[array > 0], 99.5)
    exchanged = np.where(array > 0, np.maximum(highest - array, 1), 0).astype(np.int16)
    path = folder / f"exchanged_{scan.name}"
    nib.save(nib.Nifti1Image(exchanged, image.affine), path)
    return path


def make_noise(folder: Path, count: int) -> Iterator[Path]:
    """Writes scans of nothing."""
    for seed in range(count):
        array = np.random.default_rng(seed).integers(1, 1000, (64, 64, 48)).astype(np.int16)
        path = folder / f"noise{seed}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        yield path


if __name__ == "__main__":
    main()
