"""The Keras objects that a configuration asks for: network, learning-rate schedule, optimiser.

They need Keras only, so that every engine and the loading of weights can use them.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import keras

from mtseg.network.model import build_patch_model
from mtseg.runs.config import TrainConfig
from mtseg.runs.optimizers import FusedAdam, KernelMuon
from mtseg.tasks.label_space import LabelSpace

ADAM_SHARE_OF_RATE = 0.6
"""With Muon, the weights that are not kernels are moved by Adam at this share of the learning rate
(this project's choice: 3e-3 for Muon's 5e-3)."""


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
        return FusedAdam(learning_rate, beta_2=config.adam_beta_2)
    return KernelMuon(
        learning_rate,
        adam_beta_2=config.adam_beta_2,
        adam_lr_ratio=ADAM_SHARE_OF_RATE,
        weight_decay=None,
        adam_weight_decay=None,
    )
