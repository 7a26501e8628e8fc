"""The patch model that a configuration asks for, untrained.

It needs Keras only, so that every engine and the loading of weights can use it.
"""

from __future__ import annotations

import keras

from mtseg.network.model import build_patch_model
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.config import TrainConfig


def build_model(
    config: TrainConfig, label_space: LabelSpace, *, precision: str = "float32", replicas: int = 1
) -> keras.Model:
    """Builds the patch model of a configuration with random weights.

    Args:
        config: gives dropout, batch normalisation and backgrounds.
        label_space: gives the number of classes.
        precision: type of the convolutions, a dtype policy of Keras. The weights are always
            float32 (float64 for `float64`).
        replicas: number of devices that share a mini-batch; above 1, batch normalisation
            synchronises its statistics.
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
