"""Measures whole-volume inference against matrix products, PyTorch, and patch-by-patch inference.

    pip install torch==2.13.0
    python benchmarks/dense.py --scan brain.nii.gz

Without `--scan` it uses the first real brain in `MTSEG_REAL_DATA`, or a synthetic one of its size.
`--torch-python` names another interpreter that has PyTorch; `--without-torch` leaves it out.
Nothing else should run on the machine. About 15 minutes on 2 cores, 6 without PyTorch; smallest
form: `--size 48 --pairs 1 --without-torch`.

Ratios, for each precision:

    PRECISION_rate_over_matrix_product      operations per second, over those of the product of two
                                            4096 × 4096 matrices
    PRECISION_torch_HOW_seconds_over_ours   the shared convolutions on 4 planes, HOW is eager or
                                            compiled; the fastest of three runs on both sides
    patch_by_patch_seconds_over_PRECISION   patch by patch (float32, extrapolated from 105 voxels),
                                            over the whole volume at once
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from comparison import (
    MatrixProduct,
    Worker,
    add_pairs_option,
    finish,
    first_real_brain,
    make_parser,
    median_ratio,
    require_modules,
    run_benchmark,
    seconds_of,
)

from mtseg.inference import tile_graph
from mtseg.inference.dense import PRECISIONS, DenseNetwork, make_dense_network
from mtseg.inference.engines import rounding
from mtseg.inference.tiling import Plan
from mtseg.network.architecture import NUM_CONVOLUTIONS
from mtseg.network.folding import fold
from mtseg.network.model import build_patch_model
from mtseg.phantoms.scanner import make_phantom
from mtseg.scans.patches import PLANES, cut_patches, pad_volume
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.volume import Volume

NUM_CLASSES = 7
NUM_PLANES, PLANE_SIZE = 4, 306
NUM_PATCHES = 105

STACK_FLOP = (
    2
    * 9
    * 32
    * NUM_PLANES
    * sum((1 if n == 1 else 32) * (PLANE_SIZE - 2 * n) ** 2 for n in range(1, NUM_CONVOLUTIONS + 1))
)
"""Operations of the shared convolutions on the planes that PyTorch computes as well."""


def load_volume(path: Path | None, size: int) -> tuple[str, npt.NDArray[np.float32]]:
    """The name of a prepared brain and its intensities, float32 (I, J, K).

    Args:
        path: of a scan; None makes a phantom.
        size: largest extent of the phantom in voxels.
    """
    if path is not None:
        return path.name, prepare_scan(read_scan(path)).volume.array
    phantom = make_phantom("brain", seed=0, size=size)
    scan = Volume(phantom.image, phantom.affine)
    return "synthetic brain", prepare_scan(scan).volume.array


def make_stack(patch_model: keras.Model, precision: str) -> Callable[[], float]:
    """The shared convolutions on the planes that PyTorch computes as well."""
    network = fold(patch_model)
    if precision == "bfloat16":
        network = rounding.round_weights(network, keras.ops, tile_graph.round_to(tf.bfloat16))
    planes = tf.random.uniform((NUM_PLANES, PLANE_SIZE, PLANE_SIZE, 1))
    convolve = tf.function(
        lambda images: tile_graph.convolve(images, network, tf.as_dtype(precision)),
    )
    return lambda: float(tf.cast(convolve(planes)[0, 0, 0, 0], tf.float32))


def make_patch_run(
    patch_model: keras.Model, volume: npt.NDArray[np.float32]
) -> Callable[[], object]:
    """The patch model on `NUM_PATCHES` random voxels of the foreground."""
    rng = np.random.default_rng(0)
    voxels = np.argwhere(volume != 0)
    voxels = voxels[rng.choice(len(voxels), NUM_PATCHES, replace=False)]
    patches = cut_patches(pad_volume(volume), voxels)
    planes = {plane: patches[:, p, :, :, None] for p, plane in enumerate(PLANES)}
    return lambda: patch_model.predict_on_batch(planes)


def compute_volume(network: DenseNetwork, volume: npt.NDArray[np.float32], plan: Plan) -> None:
    """Computes all tiles of a volume; the probabilities are discarded."""
    for tile in plan.tiles:
        network.run(volume, tile)


def compare_volumes(
    name: str, volume: npt.NDArray[np.float32], patch_model: keras.Model, num_pairs: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios and floor of the whole volume in both precisions."""
    num_foreground = np.count_nonzero(volume)
    run_patches = make_patch_run(patch_model, volume)
    run_patches()
    ratios: dict[str, float] = {}
    floor: dict[str, float] = {}
    by_patch: list[float] = []
    for precision in PRECISIONS:
        network = make_dense_network(patch_model, precision)
        plan = network.plan(volume)
        run_volume = functools.partial(compute_volume, network, volume, plan)
        product = MatrixProduct(precision)
        run_volume()
        dense, patches, products = [], [], []
        for _ in range(num_pairs):
            dense.append(seconds_of(run_volume))
            patches.append(seconds_of(run_patches) / NUM_PATCHES * num_foreground)
            products.append(product.flop_per_s())
        by_patch += patches
        rates = [plan.flop / seconds for seconds in dense]
        ratios[f"{precision}_rate_over_matrix_product"] = median_ratio(rates, products)
        ratios[f"patch_by_patch_seconds_over_{precision}"] = median_ratio(patches, dense)
        floor[f"{precision}_tflop"] = plan.flop / 1e12
        floor[f"{precision}_matrix_product_gflop_per_s"] = statistics.median(products) / 1e9
        print(
            f"{name} {volume.shape}, {num_foreground / volume.size:.0%} foreground, {precision}: "
            f"{plan.flop / 1e12:.2f} TFLOP in {statistics.median(dense):.1f} s, "
            f"{statistics.median(rates) / 1e9:.0f} GFLOP/s; matrix product "
            f"{statistics.median(products) / 1e9:.0f} GFLOP/s",
            flush=True,
        )
    print(
        f"Patch by patch (float32): {statistics.median(by_patch) / 3600:.1f} h for the scan, "
        f"extrapolated from {NUM_PATCHES} of its {num_foreground} voxels."
    )
    return ratios, floor


def compare_with_torch(patch_model: keras.Model, python: str, num_pairs: int) -> dict[str, float]:
    """Ratios of the shared convolutions on some planes."""
    ratios = {}
    for precision in PRECISIONS:
        stack = make_stack(patch_model, precision)
        stack()
        stack()
        for how in ("eager", "compiled"):
            worker = str(Path(__file__).parent / "torch_worker.py")
            planes = (str(NUM_PLANES), str(PLANE_SIZE))
            with Worker(python, worker, "stack", precision, how, *planes) as torch:
                torch.run()
                theirs, ours = [], []
                for _ in range(num_pairs):
                    theirs.append(min(torch.run() for _ in range(3)))
                    ours.append(min(seconds_of(stack) for _ in range(3)))
            ratios[f"{precision}_torch_{how}_seconds_over_ours"] = median_ratio(theirs, ours)
            print(
                f"{NUM_PLANES} planes of {PLANE_SIZE}×{PLANE_SIZE}, {precision}: PyTorch {how} "
                f"{STACK_FLOP / statistics.median(theirs) / 1e9:.0f} GFLOP/s, ours "
                f"{STACK_FLOP / statistics.median(ours) / 1e9:.0f}",
                flush=True,
            )
    return ratios


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--scan", type=Path, help="file of a brain")
    parser.add_argument(
        "--size", type=int, metavar="N", help="use a synthetic brain of this many voxels instead"
    )
    add_pairs_option(parser)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--without-torch", action="store_true")
    arguments = parser.parse_args()
    if not arguments.without_torch:
        remedy = "Install it, name another --torch-python, or give --without-torch."
        require_modules(["torch"], remedy, arguments.torch_python)
    scan = None if arguments.size else arguments.scan or first_real_brain()
    name, volume = load_volume(scan, arguments.size or 214)
    patch_model = build_patch_model(NUM_CLASSES)
    ratios, floor = compare_volumes(name, volume, patch_model, arguments.pairs)
    if not arguments.without_torch:
        ratios |= compare_with_torch(patch_model, arguments.torch_python, arguments.pairs)
    finish("dense", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
