"""Measures `mtseg-predict`, from scan file to label file, against nnU-Net v2; or its memory.

    pip install torch==2.13.0 nnunetv2
    python benchmarks/predict.py --scan brain.nii.gz --model mtseg_model
    python benchmarks/predict.py --model mtseg_model --sizes

The first form times the whole command, including the start of Python. Of nnU-Net it times only the
sliding window on the same scan in memory: its plain 3-D full-resolution U-Net with random weights,
patches of 128×160×128, step 0.5. With mirroring, one window is timed and multiplied by the number
of windows, because each takes the same time. `--torch-python` names another interpreter that has
nnU-Net; `--without-nnunet` leaves it out. Nothing else should run on the machine. About 20 minutes
on 2 cores, 3 without nnU-Net; smallest form: `--size 32 --pairs 1 --without-nnunet`.

    nnunet_seconds_over_ours            without mirroring
    nnunet_mirrored_seconds_over_ours   with mirroring, nnU-Net's default

`--sizes` segments synthetic scans of growing size instead, each in its own process. It prints the
seconds, the estimate of the memory before, and the peak above the memory of the libraries. About 25
minutes on 2 cores for all sizes; smallest form: `--sizes 64`.

    SIZE_LIMIT_estimate_over_peak       above 1: the estimate was enough; LIMIT is --memory-gb
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from comparison import (
    Worker,
    add_pairs_option,
    finish,
    first_real_brain,
    make_parser,
    median_ratio,
    peak_growth_bytes,
    require_modules,
    run_benchmark,
    seconds_of,
)

PATCH_SIZE, STEP = (128, 160, 128), 0.5
"""Of nnU-Net's sliding window: voxels, and share of a window from one to the next."""

SIZES = {
    "64": ((64, 64, 64), (1.0, 1.0, 1.0)),
    "128": ((128, 128, 128), (1.0, 1.0, 1.0)),
    "256": ((256, 256, 256), (1.0, 1.0, 1.0)),
    "cta": ((512, 512, 320), (0.4, 0.4, 0.5)),
}
"""Shape and voxel size in mm; the last is resampled to isotropic voxels."""


def count_windows(shape: tuple[int, ...]) -> int:
    """Number of windows of nnU-Net's predictor in a scan."""
    return math.prod(
        math.ceil(max(n - patch, 0) / (patch * STEP)) + 1
        for n, patch in zip(shape, PATCH_SIZE, strict=True)
    )


def run_command(scan: Path, model: Path | None, out: Path) -> float:
    """Seconds of `mtseg-predict` for one scan.

    Args:
        scan: file of the scan.
        model: folder that mtseg-export wrote; None uses the packaged one.
        out: a folder without results, because a scan that has results is not segmented again.
    """
    command = [str(Path(sys.executable).parent / "mtseg-predict"), str(scan), "-o", str(out)]
    if model is not None:
        command += ["--model", str(model)]
    seconds = seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    if not list(out.glob("*_labels.nii.gz")):
        raise SystemExit(f"error: {' '.join(command)} wrote no label file")
    return seconds


def compare_with_nnunet(arguments: argparse.Namespace, folder: Path) -> None:
    """Times both in turn and prints the ratios."""
    scan = choose_scan(arguments, folder)
    shape = nib.load(scan).shape
    num_windows = count_windows(shape)
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "mirrored": []}
    with contextlib.ExitStack() as stack:
        nnunet = None
        if not arguments.without_nnunet:
            worker = str(Path(__file__).parent / "torch_worker.py")
            nnunet = stack.enter_context(
                Worker(arguments.torch_python, worker, "nnunet", str(scan))
            )
        # The first run reads the libraries from the disk; the others find them in the page cache.
        run_command(scan, arguments.model, folder / "first")
        for pair in range(arguments.pairs):
            seconds["ours"].append(run_command(scan, arguments.model, folder / f"pair{pair}"))
            if nnunet is not None:
                seconds["plain"].append(nnunet.run())
                seconds["mirrored"].append(nnunet.run("run mirrored") * num_windows)
            measured = {name: values for name, values in seconds.items() if values}
            latest = ", ".join(f"{name} {values[-1]:.1f} s" for name, values in measured.items())
            print(f"pair {pair + 1}: {latest}", flush=True)
    print(f"{scan.name} {shape}, {num_windows} windows; mirrored: one window times {num_windows}")
    ratios = {}
    if not arguments.without_nnunet:
        ratios = {
            "nnunet_seconds_over_ours": median_ratio(seconds["plain"], seconds["ours"]),
            "nnunet_mirrored_seconds_over_ours": median_ratio(seconds["mirrored"], seconds["ours"]),
        }
    floor = {f"{name}_seconds": statistics.median(values) for name, values in measured.items()}
    finish("predict", ratios, floor, arguments.pairs, arguments.json)


def choose_scan(arguments: argparse.Namespace, folder: Path) -> Path:
    """The scan that is named, a synthetic CT of `--size`, or the first real brain."""
    if arguments.size is not None:
        scan = folder / "scan.nii.gz"
        write_ct(scan, (arguments.size,) * 3, (1.0, 1.0, 1.0))
        return scan
    found: Path | None = arguments.scan or first_real_brain()
    if found is None:
        raise SystemExit("error: no scan. Give --scan, or name a folder in MTSEG_REAL_DATA.")
    return found


def write_ct(path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    """Writes a synthetic CT: waves and noise in a round field of view, air around it."""
    rng = np.random.default_rng(0)
    i, j = np.ogrid[: shape[0], : shape[1]]
    is_seen = np.hypot(i / shape[0] - 0.5, j / shape[1] - 0.5) < 0.5
    array = np.empty(shape, np.int16, order="F")
    for k in range(shape[2]):
        waves = 40 + 100 * np.sin(i / 17) * np.cos(j / 23 + k / 31)
        array[:, :, k] = np.where(is_seen, waves + rng.normal(0, 20, shape[:2]), -1024)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)


def measure_size(
    scan: Path, model: Path | None, out: Path, memory_gb: float | None
) -> dict[str, Any]:
    """Seconds, operations and memory of segmenting a scan in this process.

    The voxel size of the computation is given, the smallest of the scan, because that of a
    recognised task would change the number of voxels.
    """
    from mtseg.errors import InputError
    from mtseg.models.loading import load
    from mtseg.prediction.options import Options
    from mtseg.prediction.pipeline import Work, segment_files

    loaded = load(model)
    options = Options(
        memory_bytes=memory_gb * 1e9 if memory_gb else None,
        spacing_mm=float(min(nib.load(scan).header.get_zooms())),
    )
    works: list[Work] = []
    labels: list[Path] = []

    def segment() -> None:
        for _, outcome in segment_files(
            loaded, [scan], out, options, on_start=lambda _, work: works.append(work)
        ):
            if isinstance(outcome, InputError):
                raise outcome
            labels.append(outcome.label_path)

    started = time.perf_counter()
    peak_bytes = peak_growth_bytes(segment)
    seconds = time.perf_counter() - started
    array = np.asarray(nib.load(labels[0]).dataobj)
    return {
        "seconds": seconds,
        "estimate_gb": works[0].peak_bytes / 1e9,
        "peak_gb": peak_bytes / 1e9,
        "tflop": works[0].plan.flop / 1e12,
        "tiles": len(works[0].plan.tiles),
        "labels_crc": f"{zlib.crc32(array.tobytes(order='F')):08x}",
    }


def measure_sizes(arguments: argparse.Namespace, folder: Path) -> None:
    """Prints seconds and memory for scans of growing size, each in its own process."""
    rows: list[dict[str, Any]] = []
    scan = folder / "scan.nii.gz"
    for name, memory_gb in itertools.product(
        arguments.sizes or SIZES, arguments.memory_gb or [None]
    ):
        shape, spacing_mm = SIZES[name]
        write_ct(scan, shape, spacing_mm)
        command = [sys.executable, __file__, "--measure", str(scan)]
        command += ["--out", str(folder / f"out{len(rows)}")]
        if arguments.model is not None:
            command += ["--model", str(arguments.model)]
        if memory_gb is not None:
            command += ["--memory-gb", str(memory_gb)]
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        row = {"size": name, "memory_gb": memory_gb} | json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{'×'.join(map(str, shape))}, --memory-gb {memory_gb or 'default'}: "
            f"{row['seconds']:.0f} s, {row['tflop']:.1f} TFLOP in {row['tiles']} tiles; "
            f"estimate {row['estimate_gb']:.2f} GB, peak {row['peak_gb']:.2f} GB; "
            f"labels {row['labels_crc']}",
            flush=True,
        )
    ratios = {
        f"{row['size']}_{_name_limit(row['memory_gb'])}_estimate_over_peak": row["estimate_gb"]
        / row["peak_gb"]
        for row in rows
    }
    finish("predict_sizes", ratios, {"rows": rows}, 1, arguments.json)


def _name_limit(memory_gb: float | None) -> str:
    return "default" if memory_gb is None else f"{memory_gb:g}"


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="from mtseg-export (default: the packaged one)"
    )
    parser.add_argument("--scan", type=Path, help="file of a brain")
    parser.add_argument(
        "--size", type=int, metavar="N", help="use a synthetic CT of N voxels per axis instead"
    )
    add_pairs_option(parser)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with nnU-Net")
    parser.add_argument("--without-nnunet", action="store_true")
    parser.add_argument(
        "--sizes", nargs="*", choices=list(SIZES), help="measure these sizes, or all, instead"
    )
    parser.add_argument(
        "--memory-gb", type=float, action="append", metavar="GB", help="with --sizes; repeatable"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        (memory_gb,) = arguments.memory_gb or [None]
        print(
            json.dumps(measure_size(arguments.measure, arguments.model, arguments.out, memory_gb))
        )
        return
    if arguments.sizes is None and not arguments.without_nnunet:
        require_modules(
            ["torch", "nnunetv2"],
            "Install them, name another --torch-python, or give --without-nnunet.",
            arguments.torch_python,
        )
    with tempfile.TemporaryDirectory() as folder:
        run = compare_with_nnunet if arguments.sizes is None else measure_sizes
        run(arguments, Path(folder))


if __name__ == "__main__":
    run_benchmark(main)
