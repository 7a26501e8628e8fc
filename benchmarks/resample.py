"""Measures resampling of a brain-size scan with SciPy, which mtseg uses, against SimpleITK.

    pip install 'mtseg[itk]'
    python benchmarks/resample.py

It prints seconds, peak memory, and the error on a smooth function of which every value is known.
The floor is how long the machine takes to copy the bytes that must be read and written. Linux only.
Nothing else should run on the machine. About 1 minute on 2 cores; smallest form:
`--size 64 --pairs 1`.

    simpleitk_seconds_over_scipy
    simpleitk_peak_memory_over_scipy
    simpleitk_error_over_scipy
    floor_seconds_over_scipy           1 would be as fast as copying
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from comparison import (
    add_pairs_option,
    finish,
    make_parser,
    median_ratio,
    peak_growth_bytes,
    require_modules,
    run_benchmark,
    seconds_of,
)

from mtseg.scans.resampling import CUBIC, resample
from mtseg.scans.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

SPACING_MM, TARGET_MM = (1.0, 1.0, 1.25), 1.0

INNER = (slice(12, -12),) * 3
"""Away from the border, beyond which nothing is known and each library continues in its own way."""

Array = npt.NDArray[np.float32]


def smooth(shape: Sequence[int], spacing_mm: Sequence[float]) -> Array:
    """Waves around the centre of the field of view; those along the slices are 12.6 mm long."""
    i, j, k = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True))
    waves = (
        np.sin(i / 4)[:, None, None] + np.cos(j / 5)[None, :, None] + np.sin(k / 2)[None, None, :]
    )
    return (100 + 20 * waves).astype(np.float32)


def target_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Voxels of the resampled array."""
    return tuple(round(n * s / TARGET_MM) for n, s in zip(shape, SPACING_MM, strict=True))


def with_scipy(array: Array) -> Array:
    """Resamples as mtseg does."""
    return resample(Volume(array, np.diag([*SPACING_MM, 1.0])), TARGET_MM, CUBIC).array


def with_simpleitk(array: Array) -> Array:
    """Resamples to the same grid with SimpleITK's cubic B-splines."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(SPACING_MM)
    centre = [(n - 1) / 2 * s for n, s in zip(array.shape, SPACING_MM, strict=True)]
    new_shape = target_shape(array.shape)
    origin = [c - (n - 1) / 2 * TARGET_MM for c, n in zip(centre, new_shape, strict=True)]
    resampled = sitk.Resample(
        image, new_shape, sitk.Transform(), sitk.sitkBSpline, origin, [TARGET_MM] * 3,
        image.GetDirection(), 0.0, sitk.sitkFloat32, True,
    )  # fmt: skip
    found: Array = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
    return found


def measure(run: Callable[[Array], Array], array: Array) -> tuple[float, int, Array]:
    """Seconds, peak bytes above those held before, and the result."""
    results: list[Array] = []
    seconds: list[float] = []
    peak_bytes = peak_growth_bytes(
        lambda: seconds.append(seconds_of(lambda: results.append(run(array))))
    )
    return seconds[0], peak_bytes, results[0]


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    add_pairs_option(parser)
    parser.add_argument("--size", type=int, default=256, help="voxels of a slice (%(default)s)")
    arguments = parser.parse_args()
    require_modules(["SimpleITK"], "Run: pip install 'mtseg[itk]'")
    shape = (arguments.size, arguments.size, arguments.size // 2)
    array, expected = smooth(shape, SPACING_MM), smooth(target_shape(shape), (TARGET_MM,) * 3)
    libraries = {"scipy": with_scipy, "simpleitk": with_simpleitk}
    for run in libraries.values():  # the first use loads code
        run(array[:32, :32, :32])
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    peaks: dict[str, list[float]] = {name: [] for name in libraries}
    errors: dict[str, float] = {}
    copying: list[float] = []
    for pair in range(arguments.pairs):
        results = {}
        # The first one meets the machine as the run before has left it, so they take turns.
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
        print(f"difference: {apart[INNER].max():.5f} of 100, {apart.max():.2f} at the border")
        copying.append(seconds_of(lambda: (array.copy(), expected.copy())))
    ratios = {
        "simpleitk_seconds_over_scipy": median_ratio(seconds["simpleitk"], seconds["scipy"]),
        "simpleitk_peak_memory_over_scipy": median_ratio(peaks["simpleitk"], peaks["scipy"]),
        "simpleitk_error_over_scipy": errors["simpleitk"] / errors["scipy"],
        "floor_seconds_over_scipy": median_ratio(copying, seconds["scipy"]),
    }
    floor = {"bytes": array.nbytes + expected.nbytes, "seconds": statistics.median(copying)}
    print(f"Floor: {floor['bytes'] / 1e6:.0f} MB read and written, {floor['seconds']:.3f} s.")
    finish("resample", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
