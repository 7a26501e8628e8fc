"""Resampling a brain-size scan: SciPy, which mtseg uses, against SimpleITK.

Prints seconds, peak memory above the arrays and the error on a smooth function of which every
value is known, measured in turn in one run. SimpleITK is needed for the comparison only:

    pip install simpleitk && python benchmarks/resample.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time

import numpy as np
import SimpleITK as sitk

from mtseg.volumes import CUBIC, Volume, resample

SHAPE, SPACING_MM, TARGET_MM = (256, 256, 128), (1.0, 1.0, 1.25), 1.0


def smooth(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """A sum of waves of 20 to 40 mm around the field of view's centre."""
    i, j, k = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True))
    waves = (
        np.sin(i / 4)[:, None, None] + np.cos(j / 5)[None, :, None] + np.sin(k / 6)[None, None, :]
    )
    return (100 + 20 * waves).astype(np.float32)


def with_scipy(array: np.ndarray) -> np.ndarray:
    return resample(Volume(array, np.diag([*SPACING_MM, 1.0])), TARGET_MM, CUBIC).array


def with_simpleitk(array: np.ndarray) -> np.ndarray:
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(SPACING_MM)
    shape = [round(n * s / TARGET_MM) for n, s in zip(SHAPE, SPACING_MM, strict=True)]
    centre = [(n - 1) / 2 * s for n, s in zip(SHAPE, SPACING_MM, strict=True)]
    origin = [c - (n - 1) / 2 * TARGET_MM for c, n in zip(centre, shape, strict=True)]
    resampled = sitk.Resample(
        image, shape, sitk.Transform(), sitk.sitkBSpline, origin, [TARGET_MM] * 3,
        image.GetDirection(), 0.0, sitk.sitkFloat32,
    )  # fmt: skip
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    array = smooth(SHAPE, SPACING_MM)
    expected = smooth((256, 256, 160), (TARGET_MM,) * 3)
    inner = (slice(12, -12),) * 3  # away from the border, where the two continue differently
    seconds: dict[str, list[float]] = {"scipy": [], "simpleitk": []}
    for _ in range(arguments.runs):
        for name, run in (("scipy", with_scipy), ("simpleitk", with_simpleitk)):
            started = time.perf_counter()
            resampled = run(array)
            seconds[name].append(time.perf_counter() - started)
            error = np.abs(resampled[inner] - expected[inner]).max()
            print(f"{name}: {seconds[name][-1]:.2f} s, largest error {error:.4f} of 100")
    pairs = zip(seconds["simpleitk"], seconds["scipy"], strict=True)
    ratio = statistics.median(b / a for b, a in pairs)
    floor_bytes = array.nbytes + expected.nbytes
    print(f"SimpleITK's seconds over SciPy's, median of {arguments.runs} pairs: {ratio:.2f}")
    print(f"Floor: {floor_bytes / 1e6:.0f} MB read and written once.")
    if arguments.json:
        print(
            json.dumps(
                {
                    "name": "resample",
                    "ratios": {"simpleitk_seconds_over_scipy": ratio},
                    "floor": {"bytes": floor_bytes},
                    "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
                    "runs": arguments.runs,
                }
            )
        )


if __name__ == "__main__":
    main()
