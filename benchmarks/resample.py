"""Resampling a brain-size scan: SciPy, which mtseg uses, against SimpleITK.

Prints seconds, peak memory and the error on a smooth function of which every value is known, pair
by pair in one run, and how long the machine takes to copy as many bytes as must be read and
written. Linux only; SimpleITK is needed for the comparison alone:

    pip install simpleitk && python benchmarks/resample.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mtseg.scans.resampling import CUBIC, resample
from mtseg.scans.volume import Volume

SHAPE, SPACING_MM, TARGET_MM = (256, 256, 128), (1.0, 1.0, 1.25), 1.0
NEW_SHAPE = tuple(round(n * s / TARGET_MM) for n, s in zip(SHAPE, SPACING_MM, strict=True))

INNER = (slice(12, -12),) * 3
"""Away from the border, beyond which nothing is known and each library continues in its own way."""


def smooth(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Waves around the field of view's centre, the one along the slices 12.6 mm long."""
    i, j, k = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True))
    waves = (
        np.sin(i / 4)[:, None, None] + np.cos(j / 5)[None, :, None] + np.sin(k / 2)[None, None, :]
    )
    return (100 + 20 * waves).astype(np.float32)


def with_scipy(array: np.ndarray) -> np.ndarray:
    return resample(Volume(array, np.diag([*SPACING_MM, 1.0])), TARGET_MM, CUBIC).array


def with_simpleitk(array: np.ndarray) -> np.ndarray:
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(SPACING_MM)
    centre = [(n - 1) / 2 * s for n, s in zip(SHAPE, SPACING_MM, strict=True)]
    origin = [c - (n - 1) / 2 * TARGET_MM for c, n in zip(centre, NEW_SHAPE, strict=True)]
    resampled = sitk.Resample(
        image, NEW_SHAPE, sitk.Transform(), sitk.sitkBSpline, origin, [TARGET_MM] * 3,
        image.GetDirection(), 0.0, sitk.sitkFloat32, True,
    )  # fmt: skip
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)


def measure(run: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> tuple:
    """Returns seconds, peak bytes above those held before, and the result."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    held = peak_bytes()
    started = time.perf_counter()
    resampled = run(array)
    return time.perf_counter() - started, peak_bytes() - held, resampled


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments = parser.parse_args()
    array, expected = smooth(SHAPE, SPACING_MM), smooth(NEW_SHAPE, (TARGET_MM,) * 3)
    libraries = {"scipy": with_scipy, "simpleitk": with_simpleitk}
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    peaks: dict[str, list[int]] = {name: [] for name in libraries}
    errors: dict[str, float] = {}
    copying: list[float] = []
    for pair in range(arguments.runs):
        results = {}
        # Whoever goes first meets the machine as the run before has left it: they take turns.
        for name in list(libraries)[:: 1 if pair % 2 == 0 else -1]:
            took, peak, results[name] = measure(libraries[name], array)
            seconds[name].append(took)
            peaks[name].append(peak)
            errors[name] = float(np.abs(results[name] - expected)[INNER].max())
            print(
                f"{name}: {took:.2f} s, {peak / 1e6:.0f} MB, largest error {errors[name]:.4f} of "
                "100 away from the border"
            )
        apart = np.abs(results["scipy"] - results["simpleitk"])
        print(f"apart: {apart[INNER].max():.5f} of 100 inside, {apart.max():.2f} at the border")
        started = time.perf_counter()
        written = np.zeros_like(expected)
        written[:, :, : SHAPE[2]] = array
        copying.append(time.perf_counter() - started)
    pairs = list(zip(seconds["simpleitk"], seconds["scipy"], strict=True))
    ratios = {
        "simpleitk_seconds_over_scipy": statistics.median(itk / ours for itk, ours in pairs),
        "simpleitk_peak_memory_over_scipy": statistics.median(
            itk / ours for itk, ours in zip(peaks["simpleitk"], peaks["scipy"], strict=True)
        ),
        "simpleitk_error_over_scipy": errors["simpleitk"] / errors["scipy"],
        "floor_seconds_over_scipy": statistics.median(
            copy / ours for copy, ours in zip(copying, seconds["scipy"], strict=True)
        ),
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3g} (medians of {arguments.runs} pairs)")
    floor = {"bytes": array.nbytes + expected.nbytes, "seconds": statistics.median(copying)}
    print(f"Floor: {floor['bytes'] / 1e6:.0f} MB read and written, {floor['seconds']:.3f} s.")
    if arguments.json:
        machine = {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "simpleitk_threads": sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(),
        }
        print(
            json.dumps(
                {
                    "name": "resample",
                    "ratios": ratios,
                    "floor": floor,
                    "machine": machine,
                    "runs": arguments.runs,
                }
            )
        )


if __name__ == "__main__":
    main()
