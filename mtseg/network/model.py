"""The network as it is trained: three patches give the class probabilities of their centre voxel.

Read this to see the architecture. Training, saving and loading use this model. Whole volumes are
computed from the same weights in another form (see `mtseg.network.folding`).

The three planes are always in the order axial, coronal, sagittal. Volumes are RAS+ with axes
(i, j, k): an axial patch has rows i and columns j, a coronal patch i and k, a sagittal patch j
and k.

`mtseg.network.architecture` has the sizes, which are the paper's (section 3.1). What the paper does
not say is said in comments.

Reference: Moeskops et al., "Deep Learning for Multi-Task Medical Image Segmentation in Multiple
Modalities", MICCAI 2016, section 3.1.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from mtseg.network.architecture import (
    BATCH_NORM_EPSILON,
    KERNEL_SIZE,
    NUM_CONVOLUTIONS,
    NUM_FEATURES,
    NUM_HEAD_UNITS,
    PLANE_NORMALS,
)
from mtseg.network.layers import FastELU, FusedBatchNormalization, MinibatchDropout

DROPOUT_RATE = 0.5
"""Share of the outputs of the fully connected layers that a training step sets to 0."""

KERNEL_INITIALIZER = "he_normal"
"""Random weights with variance 2 / inputs, for activations that pass positive values unchanged (He
et al., ICCV 2015). The paper does not say how its weights begin: this is the project's choice."""

SHARED_STACK = "shared_convolutions"
"""Name of the layer that contains the shared convolutions. Weights files have it."""

HEAD_LAYERS = "head"
"""What the names of the fully connected layers begin with. Weights files have it."""


def build_patch_model(
    num_classes: int,
    *,
    num_backgrounds: int = 1,
    dropout_rate: float = DROPOUT_RATE,
    batch_norm_momentum: float = 0.99,
    is_synchronized: bool = False,
) -> keras.Model:
    """Builds the network that is trained.

    Args:
        num_classes: number of classes of all tasks together; background counts once.
        num_backgrounds: number of outputs for background. The paper has 1. With one for each task,
            the network also learns whose background a voxel is, and their probabilities are added.
        dropout_rate: share of outputs that are set to 0 after each fully connected layer, in
            training.
        batch_norm_momentum: share of a moving average that a training step keeps. The default is
            Keras's; the paper does not say.
        is_synchronized: whether batch normalisation takes the mean and variance of a mini-batch
            over all replicas.

    Returns:
        A functional model. Its input is a dictionary of `axial`, `coronal` and `sagittal`, each
        float32 (batch, rows, columns, 1): prepared intensities, 0 outside the foreground and
        beyond the scan's border. Its output is float32 probabilities
        (batch, rows - 50, columns - 50, num_classes), so (batch, 1, 1, num_classes) for patches of
        51 × 51. The layer `logits` is the input of the softmax: the logits of the backgrounds,
        then those of the other classes. With 9 classes and one background, the model has 283,241
        parameters.

    Example:
        >>> model = build_patch_model(9)
        >>> patch = ops.zeros((4, 51, 51, 1))
        >>> model({"axial": patch, "coronal": patch, "sagittal": patch}).shape
        TensorShape([4, 1, 1, 9])
    """
    batch_norm = {
        "momentum": batch_norm_momentum,
        "epsilon": BATCH_NORM_EPSILON,
        "synchronized": is_synchronized,
    }

    # === Shared convolutions ===
    # The planes pass as one batch, so that batch normalisation uses the same mean and variance for
    # all three. If they passed one after the other, training would normalise each plane by its own
    # statistics, but inference would use an average over the planes.
    inputs = {name: keras.Input((None, None, 1), name=name) for name in PLANE_NORMALS}
    planes = layers.Concatenate(axis=0, name="planes")(list(inputs.values()))
    features = _build_shared_convolutions(batch_norm)(planes)
    features = ops.split(features, len(inputs), axis=0)
    x = layers.Concatenate(axis=-1, name="features")(features)

    # === Head ===
    # The fully connected layers are 1 × 1 convolutions, so that larger inputs give more voxels.
    for number in (1, 2):
        for layer in _head_layers(number, batch_norm, dropout_rate):
            x = layer(x)

    # === Logits and probabilities ===
    # With mixed precision, these stay float32.
    full = keras.config.dtype_policy().variable_dtype
    x = layers.Conv2D(num_backgrounds + num_classes - 1, 1, dtype=full, name="logits")(x)
    outputs = layers.Softmax(dtype=full, name="probabilities")(x)
    if num_backgrounds > 1:
        outputs = sum_backgrounds(outputs, num_backgrounds)
    return keras.Model(inputs, outputs, name="patch_model")


def sum_backgrounds(probabilities: Any, num_backgrounds: int) -> Any:
    """Adds the probabilities of several backgrounds.

    Args:
        probabilities: (..., num_backgrounds + other classes); the backgrounds come first.
        num_backgrounds: how many they are.

    Returns:
        (..., 1 + other classes).
    """
    background = ops.sum(probabilities[..., :num_backgrounds], axis=-1, keepdims=True)
    return ops.concatenate([background, probabilities[..., num_backgrounds:]], axis=-1)


def _build_shared_convolutions(batch_norm: dict[str, Any]) -> keras.Sequential:
    """Convolution, batch normalisation and ELU, 25 times. No bias: normalisation removes it."""
    stack = keras.Sequential(name=SHARED_STACK)
    for number in range(1, NUM_CONVOLUTIONS + 1):
        stack.add(
            layers.Conv2D(
                NUM_FEATURES,
                KERNEL_SIZE,
                use_bias=False,
                kernel_initializer=KERNEL_INITIALIZER,
                name=f"convolution_{number}",
            )
        )
        stack.add(FusedBatchNormalization(name=f"batch_norm_{number}", **batch_norm))
        stack.add(FastELU(name=f"elu_{number}"))
    return stack


def _head_layers(number: int, batch_norm: dict[str, Any], dropout_rate: float) -> list[keras.Layer]:
    """The layers of fully connected layer 1 or 2. No bias: normalisation removes it."""
    return [
        layers.Conv2D(
            NUM_HEAD_UNITS,
            1,
            use_bias=False,
            kernel_initializer=KERNEL_INITIALIZER,
            name=f"{HEAD_LAYERS}_{number}_convolution",
        ),
        FusedBatchNormalization(name=f"{HEAD_LAYERS}_{number}_batch_norm", **batch_norm),
        FastELU(name=f"{HEAD_LAYERS}_{number}_elu"),
        MinibatchDropout(dropout_rate, name=f"{HEAD_LAYERS}_{number}_dropout"),
    ]


def patch_logits_model(patch_model: keras.Model) -> keras.Model:
    """Makes a model of the same layers, without the softmax, for losses that take logits.

    Args:
        patch_model: from `build_patch_model`.

    Returns:
        A model with the same inputs and weights. Its output is float32
        (batch, rows - 50, columns - 50, logits); each background has a logit of its own.
    """
    return keras.Model(
        patch_model.input, patch_model.get_layer("logits").output, name="patch_logits_model"
    )
