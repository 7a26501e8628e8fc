"""`mtseg-predict`, from scan file to label file, against nnU-Net v2's predictor; and its memory.

The whole command is timed, start of Python included; of nnU-Net the sliding window alone, on the
same scan in memory: its plain 3-D full-resolution U-Net with random weights, patches of
128×160×128, step 0.5. With mirroring one window is timed and multiplied by their number, since each
takes the same. Nothing else should run on the machine.

    pip install torch==2.13.0 nnunetv2
    python benchmarks/predict.py --scan brain.nii.gz --model mtseg_model
    python benchmarks/predict.py --model mtseg_model --sizes

`--torch-python` names another environment's interpreter that has them. `--sizes` segments synthetic
scans of growing size instead, each in a process of its own, and prints seconds, the estimate of the
memory and its peak above what the libraries take.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import Worker, finish, median_ratio

PATCH_SIZE, STEP = (128, 160, 128), 0.5

SIZES = {
    "64": ((64, 64, 64), (1.0, 1.0, 1.0)),
    "128": ((128, 128, 128), (1.0, 1.0, 1.0)),
    "256": ((256, 256, 256), (1.0, 1.0, 1.0)),
    "cta": ((512, 512, 320), (0.4, 0.4, 0.5)),
}
"""Shape and voxel size in mm; the last is resampled to isotropic voxels."""

MEASURE = """
import sys, time
from pathlib import Path
from mtseg.models.loading import load
from mtseg.prediction.pipeline import segment_files
from mtseg.prediction.scan import Options

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])

model, scan, out, memory_gb = sys.argv[1:]
model = load(model)
libraries = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
options = Options(memory_bytes=float(memory_gb) * 1e9 if memory_gb else None)
works, started = [], time.perf_counter()
for _, outcome in segment_files(
    model, [Path(scan)], Path(out), options, on_start=lambda _, work: works.append(work)
):
    outcome.label_path
seconds = time.perf_counter() - started
peak = status("VmHWM") - libraries
print(seconds, works[0].peak_bytes, peak, works[0].plan.flop, len(works[0].plan.tiles))
"""


def count_windows(shape: tuple[int, ...]) -> int:
    """Windows of nnU-Net's predictor."""
    return math.prod(
        math.ceil(max(n - patch, 0) / (patch * STEP)) + 1
        for n, patch in zip(shape, PATCH_SIZE, strict=True)
    )


def compare(arguments: argparse.Namespace) -> None:
    """Prints ratios to nnU-Net."""
    real = Path(os.environ.get("MTSEG_REAL_DATA", "../shared/data")) / "brain_miccai2012"
    scan = str(arguments.scan or real / "1000_SS.nii.gz")
    shape = nib.load(scan).shape
    windows = count_windows(shape)
    command = [str(Path(sys.executable).parent / "mtseg-predict"), scan, "--model"]
    worker = str(Path(__file__).parent / "torch_worker.py")
    seconds: dict[str, list[float]] = {"ours": [], "plain": [], "mirrored": []}
    with (
        tempfile.TemporaryDirectory() as out,
        Worker(arguments.torch_python, worker, "nnunet", scan) as nnunet,
    ):
        for pair in range(arguments.pairs):
            started = time.perf_counter()
            subprocess.run(
                [*command, arguments.model, "-o", out], check=True, stdout=subprocess.DEVNULL
            )
            seconds["ours"].append(time.perf_counter() - started)
            seconds["plain"].append(nnunet.run())
            seconds["mirrored"].append(nnunet.run("run mirrored") * windows)
            latest = ", ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items())
            print(f"pair {pair + 1}: {latest}", flush=True)
    print(f"{Path(scan).name} {shape}, {windows} windows; mirrored: one window times {windows}")
    ratios = {
        "nnunet_seconds_over_ours": median_ratio(seconds["plain"], seconds["ours"]),
        "nnunet_mirrored_seconds_over_ours": median_ratio(seconds["mirrored"], seconds["ours"]),
    }
    floor = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    finish("predict", ratios, floor, arguments.pairs, arguments.json)


def write_ct(path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    """A synthetic CT: waves and noise in a round field of view, air around it."""
    rng = np.random.default_rng(0)
    i, j = np.ogrid[: shape[0], : shape[1]]
    is_seen = np.hypot(i / shape[0] - 0.5, j / shape[1] - 0.5) < 0.5
    array = np.empty(shape, np.int16, order="F")
    for k in range(shape[2]):
        waves = 40 + 100 * np.sin(i / 17) * np.cos(j / 23 + k / 31)
        array[:, :, k] = np.where(is_seen, waves + rng.normal(0, 20, shape[:2]), -1024)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)


def measure_sizes(arguments: argparse.Namespace) -> None:
    """Prints seconds and memory for scans of growing size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        for name, memory_gb in itertools.product(
            arguments.sizes or SIZES, arguments.memory_gb or [""]
        ):
            write_ct(scan, *SIZES[name])
            command = [sys.executable, "-c", MEASURE, arguments.model, str(scan), folder]
            done = subprocess.run(
                [*command, memory_gb],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            seconds, estimate, peak, flop, tiles = map(float, done.stdout.split())
            labels = np.asarray(nib.load(Path(folder) / "scan_labels.nii.gz").dataobj)
            rows.append(
                {
                    "size": name,
                    "memory_gb": memory_gb,
                    "seconds": seconds,
                    "estimate_gb": estimate / 1e9,
                    "peak_gb": peak / 1e9,
                    "tflop": flop / 1e12,
                    "tiles": int(tiles),
                    "labels_crc": f"{zlib.crc32(labels.tobytes(order='F')):08x}",
                }
            )
            print(
                f"{'×'.join(map(str, SIZES[name][0]))}, --memory-gb {memory_gb or 'default'}: "
                f"{seconds:.0f} s, {flop / 1e12:.1f} TFLOP in {int(tiles)} tiles; "
                f"estimate {estimate / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB; "
                f"labels {rows[-1]['labels_crc']}",
                flush=True,
            )
    ratios = {
        f"{row['size']}_{row['memory_gb'] or 'default'}_estimate_over_peak": row["estimate_gb"]
        / row["peak_gb"]
        for row in rows
    }
    finish("predict_sizes", ratios, {"rows": rows}, 1, arguments.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="from mtseg-export")
    parser.add_argument("--scan", help="NIfTI file of a brain")
    parser.add_argument("--pairs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument(
        "--sizes", nargs="*", choices=list(SIZES), help="measure these sizes, or all, instead"
    )
    parser.add_argument(
        "--memory-gb", action="append", metavar="GB", help="with --sizes; may be given again"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line at the end")
    arguments = parser.parse_args()
    (compare if arguments.sizes is None else measure_sizes)(arguments)


if __name__ == "__main__":
    main()
