"""The optimisers: Adam as in the paper, and Muon as an option.

Reference: Moeskops et al., MICCAI 2016, section 3.2, for Adam. Muon: Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/; Liu et al., 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mtseg.training.config import TrainConfig

ADAM_SHARE_OF_RATE = 0.6
"""With Muon, the weights that are not kernels are moved by Adam at this share of the learning rate
(this project's choice: 3e-3 for Muon's 5e-3)."""


def make_optimizer(config: TrainConfig, learning_rate: Any) -> keras.optimizers.Optimizer:
    """The optimiser of a run.

    Args:
        config: configuration of the run.
        learning_rate: a number, or a schedule of Keras.
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
class KernelMuon(keras.optimizers.Muon):
    """Keras's Muon, also for the kernels of convolutions.

    A kernel (rows, columns, inputs, outputs) is treated as a matrix (rows * columns * inputs,
    outputs). Its update is replaced by a nearly orthogonal matrix with the same singular
    directions. Adam moves the first layer (one input), the last layer (logits) and all weights
    that are not kernels.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        is_kernel = len(variable.shape) >= 2 and variable.shape[-2] > 1
        return not is_kernel or "logits" in variable.path

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        lr = ops.cast(lr, variable.dtype)
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1 - self.momentum))
        ahead = ops.add(gradient, ops.multiply(m, self.momentum))  # Nesterov momentum
        matrix = ops.reshape(ahead, (-1, variable.shape[-1]))
        update = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        # As long as Adam's steps (Liu et al., 2025). Keras's own scaling works in float32 only.
        length = self.rms_rate * math.sqrt(max(matrix.shape))
        self.assign_sub(variable, ops.reshape(lr * length * update, variable.shape))
