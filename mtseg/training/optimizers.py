"""Optimisers: a configuration comes in, what moves the weights leaves.

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
"""Under Muon, Adam moves what is no kernel at this share of the learning rate (this project's
choice: 3e-3 where Muon's is 5e-3)."""


def make_optimizer(config: TrainConfig, learning_rate: Any) -> keras.optimizers.Optimizer:
    """The optimiser of a run.

    Args:
        config: of the run.
        learning_rate: a number, or one of Keras's schedules.
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
    """Keras's Muon, for the kernels of convolutions as well.

    A kernel (rows, columns, inputs, outputs) is taken as a matrix (rows * columns * inputs,
    outputs), whose update is brought near the orthogonal matrix of its singular directions. The
    first layer, with one input, the last, which gives the scores, and all that is no kernel are
    moved by Adam.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        is_kernel = len(variable.shape) >= 2 and variable.shape[-2] > 1
        return not is_kernel or "logits" in variable.path

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        lr = ops.cast(lr, variable.dtype)
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1 - self.momentum))
        ahead = ops.add(gradient, ops.multiply(m, self.momentum))  # Nesterov's
        matrix = ops.reshape(ahead, (-1, variable.shape[-1]))
        update = self.zeropower_via_newtonschulz5(matrix, self.ns_steps)
        # As long as Adam's steps (Liu et al., 2025). Keras's own scaling is of float32 alone.
        length = self.rms_rate * math.sqrt(max(matrix.shape))
        self.assign_sub(variable, ops.reshape(lr * length * update, variable.shape))
