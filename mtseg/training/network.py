"""A training run's folder: what is in it, and how a trained model comes back out of it.

config.json               the configuration
label_space.json          tasks and classes, so that the task files are not needed again
checkpoints/              what resuming needs: weights, optimiser, step
last.weights.h5           weights after the latest evaluation
best.weights.h5           weights with the highest mean Dice on the test scans
learning_curve.json       Dice of every evaluation
evaluation.json           the latest evaluation in full, with the operating points
best_evaluation.json      the evaluation that the best weights had
labels/                   label maps of the test scans, after a complete evaluation
tensorboard/              event files
"""

from __future__ import annotations

import keras

from mtseg.network.model import build_patch_model
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.config import TrainConfig


def build_model(
    config: TrainConfig, label_space: LabelSpace, *, precision: str = "float32", replicas: int = 1
) -> keras.Model:
    """The patch model of a configuration, with random weights.

    Its weights are float32 whatever the precision, which is that of the convolutions. Only
    training uses another than float32.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build_patch_model(
            label_space.num_classes,
            num_backgrounds=label_space.num_backgrounds(config.backgrounds),
            dropout_rate=config.dropout_rate,
            batch_norm_momentum=config.batch_norm_momentum,
            is_synchronized=replicas > 1,
        )
    finally:
        keras.config.set_dtype_policy(before)
