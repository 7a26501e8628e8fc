"""Counts how often `mtseg-predict` warns: of scans like those of training, and of other scans.

    python benchmarks/verdicts.py --familiar BRAINS/1010_SS.nii.gz … --foreign breast.nii.gz …

Familiar are phantoms that were used neither for training nor for testing, and the scans that are
named. Foreign are the scans that are named; the first `--altered` of the familiar ones with dark
and bright exchanged, like those of another contrast, and with a header that makes voxels a third as
large; label maps in place of scans; phantoms of tasks that the model does not have; and noise. A
scan that is refused counts as warned of. One that is not assessed, such as one of few voxels, is
neither an alarm nor missed: its user is told. Both rates are printed with an exact 95 % binomial
interval. `--model DIR` uses another model than the packaged one. About 10 seconds per scan on 2
cores; smallest form: `--phantoms 1 --size 32 --tasks cta`.

    unwarned_familiar_over_familiar   share of familiar scans without a warning
    warned_foreign_over_foreign       share of foreign scans with a warning, or not assessed
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import finish, make_parser, run_benchmark
from scipy.stats import binomtest

from mtseg.errors import InputError
from mtseg.models.loading import load
from mtseg.phantoms.scanner import CLASS_LABELS, make_phantom
from mtseg.prediction.pipeline import segment_files
from mtseg.system.text_table import format_table

FIRST_SEED = 9_000
"""Far from the seeds of training and test phantoms."""

NUM_NOISE_SCANS = 3


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--familiar", nargs="*", type=Path, default=[], metavar="SCAN")
    parser.add_argument("--foreign", nargs="*", type=Path, default=[], metavar="SCAN")
    parser.add_argument("--model", help="(the packaged one)")
    parser.add_argument("--phantoms", type=int, default=10, help="of each task (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="of the phantoms (%(default)s)")
    parser.add_argument(
        "--tasks", nargs="*", default=["breast", "cta"], help="of the phantoms (%(default)s)"
    )
    parser.add_argument(
        "--altered", type=int, default=4, help="familiar scans that are altered (%(default)s)"
    )
    arguments = parser.parse_args()
    model = load(arguments.model)
    if model.out_of_distribution_check is None:
        raise SystemExit("error: the model has no out-of-distribution check. Export it again.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kinds = {
            f"familiar: {task} phantoms": list(
                make_phantoms(folder, task, arguments.phantoms, arguments.size)
            )
            for task in arguments.tasks
        }
        altered = arguments.familiar[: arguments.altered]
        known = {task.name for task in model.tasks}
        kinds |= {
            "familiar: scans": arguments.familiar,
            "foreign: scans": arguments.foreign,
            "foreign: dark and bright exchanged": [
                exchange(scan, folder / f"exchanged{number}") for number, scan in enumerate(altered)
            ],
            "foreign: voxels said to be a third as large": [
                shrink_voxels(scan, folder / f"shrunk{number}")
                for number, scan in enumerate(altered)
            ],
            "foreign: label maps": [
                path
                for task in arguments.tasks
                for path in make_phantoms(
                    folder, task, min(arguments.phantoms, 3), arguments.size, is_label_map=True
                )
            ],
            "foreign: phantoms of other tasks": [
                path
                for task in CLASS_LABELS
                if task not in known
                for path in make_phantoms(folder, task, min(arguments.phantoms, 4), arguments.size)
            ],
            "foreign: noise": list(make_noise(folder, NUM_NOISE_SCANS)),
        }
        rows, warned, not_assessed = [], {}, {}
        for number, (kind, scans) in enumerate(kinds.items()):
            warned[kind] = not_assessed[kind] = 0
            for scan, outcome in segment_files(model, scans, folder / f"out{number}"):
                if isinstance(outcome, InputError):
                    warned[kind] += 1
                    rows.append([kind, scan.name, "", "refused", str(outcome)])
                    print(f"{scan.name}: refused", flush=True)
                    continue
                verdict = outcome.verdict
                score = np.nan if verdict.score is None else verdict.score
                warned[kind] += verdict.warning is not None
                not_assessed[kind] += verdict.status == "not assessed"
                mark = {"ok": "", "warning": "warned of"}.get(verdict.status, verdict.status)
                rows.append([kind, scan.name, f"{score:.1f}", mark, verdict.describe()])
                print(f"{scan.name}: score {score:.1f} {mark}", flush=True)
    header = ("kind", "scan", "score", "warning", "verdict")
    print("\n" + format_table(header, rows, left=("kind", "scan", "warning", "verdict")))
    threshold = model.out_of_distribution_check.threshold
    print(f"\nthreshold {threshold:.1f}")
    totals: dict[str, list[int]] = {"familiar": [0, 0], "foreign": [0, 0]}
    for kind, scans in kinds.items():
        side = kind.split(":")[0]
        besides = f", {not_assessed[kind]} not assessed" if not_assessed[kind] else ""
        print(f"{kind:<46}{warned[kind]} of {len(scans)} warned of{besides}")
        of_side = totals[side]
        of_side[0] += warned[kind] + (not_assessed[kind] if side == "foreign" else 0)
        of_side[1] += len(scans)
    (false_alarms, num_familiar), (found, num_foreign) = totals.values()
    print(describe_rate("familiar: false alarms", false_alarms, num_familiar))
    print(describe_rate("foreign: missed", num_foreign - found, num_foreign))
    ratios = {
        "unwarned_familiar_over_familiar": (
            (num_familiar - false_alarms) / num_familiar if num_familiar else None
        ),
        "warned_foreign_over_foreign": found / num_foreign if num_foreign else None,
    }
    finish("verdicts", ratios, {"threshold": threshold}, 1, arguments.json)


def describe_rate(name: str, count: int, total: int) -> str:
    """A share of scans with its exact 95 % binomial interval, in percent.

    Example:
        >>> describe_rate("foreign: missed", 1, 40)
        'foreign: missed                               1 of 40, 2.5 % (0.1 to 13.2)'
    """
    if not total:
        return f"{name:<46}no scans"
    found = binomtest(count, total)
    interval = found.proportion_ci(method="exact")
    return (
        f"{name:<46}{count} of {total}, {100 * count / total:.1f} % "
        f"({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    )


def make_phantoms(
    folder: Path, task: str, count: int, size: int, *, is_label_map: bool = False
) -> Iterator[Path]:
    """Writes phantoms that no network has seen, or their label maps, and yields their files."""
    assert task in CLASS_LABELS
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        phantom = make_phantom(task, seed, size)
        path = folder / f"{task}{seed}{'_label_map' if is_label_map else ''}.nii.gz"
        array = phantom.label_map if is_label_map else phantom.image
        nib.save(nib.Nifti1Image(array, phantom.affine), path)
        yield path


def shrink_voxels(scan: Path, folder: Path) -> Path:
    """Writes a scan whose header makes voxels a third as large as they are.

    Args:
        scan: file of the scan.
        folder: new folder for the file, which has the scan's name.
    """
    image = nib.load(scan)
    affine = image.affine.copy()
    affine[:3, :3] /= 3
    folder.mkdir()
    path = folder / f"shrunk_{scan.name}"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    return path


def exchange(scan: Path, folder: Path) -> Path:
    """Writes a scan with dark and bright exchanged inside its foreground.

    Args:
        scan: file of the scan.
        folder: new folder for the file, which has the scan's name.
    """
    image = nib.load(scan)
    array = np.asarray(image.dataobj).astype(np.float32)
    highest = np.percentile(array[array > 0], 99.5)
    exchanged = np.where(array > 0, np.maximum(highest - array, 1), 0).astype(np.int16)
    folder.mkdir()
    path = folder / f"exchanged_{scan.name}"
    nib.save(nib.Nifti1Image(exchanged, image.affine), path)
    return path


def make_noise(folder: Path, count: int) -> Iterator[Path]:
    """Writes scans of noise, and yields their files."""
    for seed in range(count):
        array = np.random.default_rng(seed).integers(1, 1000, (64, 64, 48)).astype(np.int16)
        path = folder / f"noise{seed}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        yield path


if __name__ == "__main__":
    run_benchmark(main)
