"""Draws a test scan of each task beside its reference and a trained network's labels.

Example: python docs/make_picture.py mtseg_runs/demo docs/demo.png
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mtseg.evaluation.pictures import PALETTE
from mtseg.evaluation.scoring import evaluate_model
from mtseg.inference.dense import make_dense_network
from mtseg.models.weights import load_trained


def main(workdir: str, out: str) -> None:
    trained = load_trained(Path(workdir))
    pictures = {}
    evaluate_model(
        make_dense_network(trained.model),
        trained.label_space,
        trained.config.data_dir,
        on_picture=pictures.__setitem__,
    )
    figure, axes = plt.subplots(len(pictures), 1, figsize=(7, 2.6 * len(pictures)))
    for axis, (task, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"{task}: scan, reference, prediction", fontsize=10)
        axis.axis("off")
    names = trained.label_space.class_names
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", color=PALETTE[c] / 255, label=names[c])
        for c in range(1, len(names))
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
