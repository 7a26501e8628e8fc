"""Whole-volume inference against the machine's matrix products, PyTorch, and patch by patch.

Every figure is a ratio of two runs side by side, the median of several pairs. Nothing else should
run on the machine. PyTorch is compared where it is installed:

    pip install torch==2.13.0
    python benchmarks/dense.py --scan brain.nii.gz

`--torch-python` names another environment's interpreter that has it. Without a scan, the first of
the real brains in `MTSEG_REAL_DATA` is taken, or a synthetic one of its size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from comparison import MatrixProduct, Worker, finish, median_ratio, seconds_of

from mtseg.inference import tile_graph
from mtseg.inference.dense import PRECISIONS, make_dense_network
from mtseg.network.folding import fold
from mtseg.network.model import NUM_CONVOLUTIONS, build_patch_model
from mtseg.phantoms.scanner import make_phantom
from mtseg.scans.patches import PLANES, cut_patches, pad_volume
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.reading import read_scan
from mtseg.scans.volume import Volume

NUM_CLASSES = 7
NUM_PLANES, PLANE_SIZE = 4, 306
NUM_PATCHES = 105


def load_volume(path: str | None) -> tuple[str, np.ndarray]:
    """A prepared brain, (I, J, K)."""
    real = Path(os.environ.get("MTSEG_REAL_DATA", "../shared/data")) / "brain_miccai2012"
    if path is None and real.is_dir():
        path = str(real / "1000_SS.nii.gz")
    if path is not None:
        return Path(path).name, prepare_scan(read_scan(path)).volume.array
    phantom = make_phantom("brain", seed=0, size=214)
    scan = Volume(phantom.image, phantom.affine)
    return "synthetic brain", prepare_scan(scan).volume.array


def make_stack(patch_model: object, precision: str) -> object:
    """The shared convolutions on the planes that PyTorch gets."""
    network = fold(patch_model)
    if precision == "bfloat16":
        network = tile_graph._round_weights(network, tf.bfloat16)
    planes = tf.random.uniform((NUM_PLANES, PLANE_SIZE, PLANE_SIZE, 1))
    convolve = tf.function(
        lambda x: tile_graph.convolve(x, network, tf.as_dtype(precision)),
    )
    return lambda: float(tf.cast(convolve(planes)[0, 0, 0, 0], tf.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", help="NIfTI file of a brain")
    parser.add_argument("--pairs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON line at the end")
    arguments = parser.parse_args()
    name, volume = load_volume(arguments.scan)
    patch_model = build_patch_model(NUM_CLASSES)
    num_foreground = np.count_nonzero(volume)
    ratios, floor = {}, {}
    dense_seconds = {}
    for precision in PRECISIONS:
        network = make_dense_network(patch_model, precision)
        plan = network.plan(volume)

        def run(network: object = network, plan: object = plan) -> None:
            for tile in plan.tiles:
                network.run(volume, tile)

        product = MatrixProduct(precision)
        run()
        ours, products = [], []
        for _ in range(arguments.pairs):
            ours.append(plan.flop / seconds_of(run))
            products.append(product.flop_per_s())
        dense_seconds[precision] = plan.flop / statistics.median(ours)
        ratios[f"{precision}_rate_over_matrix_product"] = median_ratio(ours, products)
        print(
            f"{name} {volume.shape}, {num_foreground / volume.size:.0%} foreground, {precision}: "
            f"{plan.flop / 1e12:.2f} TFLOP in {dense_seconds[precision]:.1f} s, "
            f"{statistics.median(ours) / 1e9:.0f} GFLOP/s; matrix product "
            f"{statistics.median(products) / 1e9:.0f} GFLOP/s",
            flush=True,
        )
        floor[f"{precision}_tflop"] = plan.flop / 1e12
        floor[f"{precision}_matrix_product_gflop_per_s"] = statistics.median(products) / 1e9

    flop = (
        2
        * 9
        * 32
        * NUM_PLANES
        * sum(
            (1 if n == 1 else 32) * (PLANE_SIZE - 2 * n) ** 2
            for n in range(1, NUM_CONVOLUTIONS + 1)
        )
    )
    for precision in () if arguments.without_torch else PRECISIONS:
        stack = make_stack(patch_model, precision)
        stack(), stack()
        for how in ("eager", "compiled"):
            worker = str(Path(__file__).parent / "torch_worker.py")
            plane = (str(NUM_PLANES), str(PLANE_SIZE))
            command = (arguments.torch_python, worker, "stack", precision, how, *plane)
            with Worker(*command) as torch:
                torch.run()
                pairs = [
                    (min(torch.run() for _ in range(3)), min(seconds_of(stack) for _ in range(3)))
                    for _ in range(arguments.pairs)
                ]
            theirs, ours = zip(*pairs, strict=True)
            ratios[f"{precision}_torch_{how}_seconds_over_ours"] = median_ratio(theirs, ours)
            print(
                f"{NUM_PLANES} planes of {PLANE_SIZE}×{PLANE_SIZE}, {precision}: PyTorch {how} "
                f"{flop / statistics.median(theirs) / 1e9:.0f} GFLOP/s, ours "
                f"{flop / statistics.median(ours) / 1e9:.0f}",
                flush=True,
            )

    rng = np.random.default_rng(0)
    voxels = np.argwhere(volume != 0)
    voxels = voxels[rng.choice(len(voxels), NUM_PATCHES, replace=False)]
    patches = cut_patches(pad_volume(volume), voxels)
    planes = {plane: patches[:, p, :, :, None] for p, plane in enumerate(PLANES)}
    patch_model.predict_on_batch(planes)
    a_voxel = [
        seconds_of(lambda: patch_model.predict_on_batch(planes)) / NUM_PATCHES
        for _ in range(arguments.pairs)
    ]
    by_patch = statistics.median(a_voxel) * num_foreground
    for precision in PRECISIONS:
        ratios[f"patch_by_patch_seconds_over_{precision}"] = by_patch / dense_seconds[precision]
    print(
        f"Patch by patch (float32): {by_patch / 3600:.1f} h for the scan, extrapolated from "
        f"{NUM_PATCHES} of its {num_foreground} voxels."
    )
    finish("dense", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    main()
