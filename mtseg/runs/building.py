"""The Keras objects that a configuration asks for: network, learning-rate schedule, optimiser.

They need Keras only, so that every engine and the loading of weights can use them. Look here for
how Muon treats the kernels of convolutions.

Reference: Moeskops et al., MICCAI 2016, section 3.2, for Adam. Muon: Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/; Liu et al., 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mtseg.network.model import build_patch_model
from mtseg.runs.config import TrainConfig
from mtseg.tasks.label_space import LabelSpace

ADAM_SHARE_OF_RATE = 0.6
"""With Muon, the weights that are not kernels are moved by Adam at this share of the learning rate
(this project's choice: 3e-3 for Muon's 5e-3)."""

MUON_RULE = 2
"""Version of Muon's momentum rule, stored with checkpoints. Rule 1 added the gradient unscaled to
the average, and had almost no momentum."""


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


def make_learning_rate(
    config: TrainConfig, num_minibatches: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of a run.

    Args:
        config: gives the highest rate, the schedule and the warm-up.
        num_minibatches: length of the run, over all tasks.

    Returns:
        A number if it is constant. Otherwise a schedule: linear from zero during the warm-up, then
        constant or a cosine to zero at the end of the run.
    """
    warmup = config.warmup_minibatches
    if config.schedule == "constant" and not warmup:
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(num_minibatches - warmup, 1),
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(
    config: TrainConfig,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
) -> keras.optimizers.Optimizer:
    """The optimiser of a run.

    Args:
        config: gives the kind of optimiser and the decay of Adam's second moment.
        learning_rate: from `make_learning_rate`.
    """
    if config.optimizer == "adam":
        return keras.optimizers.Adam(learning_rate, beta_2=config.adam_beta_2)
    return KernelMuon(
        learning_rate,
        adam_beta_2=config.adam_beta_2,
        adam_lr_ratio=ADAM_SHARE_OF_RATE,
        weight_decay=None,
        adam_weight_decay=None,
    )


@keras.saving.register_keras_serializable("mtseg")
class KernelMuon(keras.optimizers.Muon):  # Keras's class has no types
    """Keras's Muon, also for the kernels of convolutions.

    A kernel (rows, columns, inputs, outputs) is treated as a matrix (rows * columns * inputs,
    outputs). Its update is replaced by a nearly orthogonal matrix with the same singular
    directions. Adam moves the first layer (one input), the last layer (logits) and all weights
    that are not kernels.

    As in Jordan's Muon: momentum 0.95, Nesterov's look-ahead over an average of the gradients, and
    five Newton-Schulz iterations with his coefficients. Otherwise than there: a step is
    0.2 * sqrt(max(rows, columns)) times the rate long, after Liu et al., where Jordan has
    sqrt(max(1, rows / columns)); so one rate serves kernels of all shapes. No weights decay.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        is_kernel = len(variable.shape) >= 2 and variable.shape[-2] > 1
        return not is_kernel or "logits" in variable.path

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        lr = ops.cast(lr, variable.dtype)
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1 - self.momentum))
        # Nesterov momentum over an average: both terms have the scale of one gradient.
        fresh = ops.multiply(gradient, 1 - self.momentum)
        ahead = ops.add(fresh, ops.multiply(m, self.momentum))
        matrix = ops.reshape(ahead, (-1, variable.shape[-1]))
        update = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        # As long as Adam's steps (Liu et al., 2025). Keras's own scaling works in float32 only.
        length = self.rms_rate * math.sqrt(max(matrix.shape))
        self.assign_sub(variable, ops.reshape(lr * length * update, variable.shape))
