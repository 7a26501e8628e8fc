"""Draws a test scan of each task beside its reference and the labels of a trained network.

    python docs/make_picture.py mtseg_runs/demo docs/demo.png

This makes the picture in the README. The run's prepared records must still be there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mtseg.evaluation.pictures import PALETTE
from mtseg.evaluation.scoring import evaluate_model
from mtseg.inference.dense import make_dense_network
from mtseg.runs.weights import load_trained


def make_picture(workdir: Path, out: Path) -> None:
    """Evaluates a run and draws the first test scan of each task.

    Args:
        workdir: folder of the training run.
        out: file of the picture.
    """
    trained = load_trained(workdir)
    pictures: dict[str, npt.NDArray[np.uint8]] = {}
    evaluate_model(
        make_dense_network(trained.model),
        trained.label_space,
        trained.config.data_dir,
        on_picture=pictures.__setitem__,
    )
    figure = Figure(figsize=(7, 2.6 * len(pictures)))
    axes = figure.subplots(len(pictures), 1, squeeze=False)[:, 0]
    for axis, (task, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"{task}: scan, reference, prediction", fontsize=10)
        axis.axis("off")
    names = trained.label_space.class_names
    handles = [
        Patch(color=PALETTE[index] / 255, label=names[index]) for index in range(1, len(names))
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out, dpi=110)


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="folder of mtseg-train")
    parser.add_argument("out", type=Path, metavar="FILE", help="picture to write")
    arguments = parser.parse_args()
    make_picture(arguments.workdir, arguments.out)


if __name__ == "__main__":
    main()
