"""The network as a patch model: three patches in, class probabilities of their centre voxel out.

This model is trained, saved and loaded. Whole volumes are computed from its weights (see
`mtseg.network.folding`).

Volumes are RAS+ with axes (i, j, k). Planes are always in the order axial, coronal, sagittal. An
axial patch has rows i and columns j, a coronal one i and k, a sagittal one j and k.

Reference: Moeskops et al., MICCAI 2016, section 3.1.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from mtseg.network.layers import FastELU, FusedBatchNormalization, MinibatchDropout
from mtseg.scans.patches import PATCH_SIZE

NUM_CONVOLUTIONS = 25
"""Layers of the shared stack. Each takes a voxel off every side: 51 - 2 * 25 = 1."""


NUM_FEATURES = 32
"""Kernels of every layer of the stack, and features that it gives for each plane."""


KERNEL_SIZE = 3
"""Voxels along each side of the stack's kernels."""


NUM_HEAD_UNITS = 192
"""Nodes of each of the two fully connected layers."""


DROPOUT_RATE = 0.5
"""Share of the fully connected layers' outputs that a training step leaves out."""


HALO = PATCH_SIZE // 2
"""Voxels that a patch reaches beyond its centre, in each direction of its plane."""


KERNEL_INITIALIZER = "he_normal"
"""Variance 2 / inputs, for activations that pass their positive half. The paper is silent: this is
the project's choice."""


PLANE_NORMALS = {"axial": 2, "coronal": 1, "sagittal": 0}
"""For each plane the axis of a volume (I, J, K) that it is perpendicular to."""


HEAD_LAYERS = "head"


SHARED_STACK = "shared_convolutions"


def build_patch_model(
    num_classes: int,
    *,
    num_backgrounds: int = 1,
    dropout_rate: float = DROPOUT_RATE,
    batch_norm_momentum: float = 0.99,
    is_synchronized: bool = False,
) -> keras.Model:
    """Builds the network that is trained: three patches give a voxel's class probabilities.

    Args:
        num_classes: classes of all tasks together, the one shared background included.
        num_backgrounds: scores that the background has. The paper's is 1; with one for each task
            the network also learns whose background a voxel is, and their probabilities are summed.
        dropout_rate: share of outputs left out after each fully connected layer in training.
        batch_norm_momentum: share of a moving average that a training step keeps. The default is
            Keras's.
        is_synchronized: whether the statistics of a mini-batch are taken over all replicas.

    Returns:
        A functional model. It takes a dictionary of `axial`, `coronal` and `sagittal`, each float32
        (batch, rows, columns, 1), intensities as prepared and zero beyond the scan's border. It
        gives float32 probabilities (batch, rows - 50, columns - 50, num_classes), so
        (batch, 1, 1, num_classes) for patches of 51 × 51. The layer `logits` holds what goes into
        the softmax: the backgrounds' scores, then those of the other classes. With 9 classes and
        one background there are 283,241 parameters.

    Example:
        >>> model = build_patch_model(9)
        >>> patch = np.zeros((4, 51, 51, 1), "float32")
        >>> model({"axial": patch, "coronal": patch, "sagittal": patch}).shape
        TensorShape([4, 1, 1, 9])
    """
    batch_norm = {"momentum": batch_norm_momentum, "synchronized": is_synchronized}

    # === Inputs ===
    inputs = {name: keras.Input((None, None, 1), name=name) for name in PLANE_NORMALS}

    # === The convolutions that the three planes share ===
    # One call for the three planes, so that one set of batch statistics serves them all: three
    # calls would normalise each plane by its own in training, but by a pooled average afterwards.
    planes = layers.Concatenate(axis=0, name="planes")(list(inputs.values()))
    features = _build_shared_convolutions(batch_norm)(planes)
    features = ops.split(features, len(inputs), axis=0)
    x = layers.Concatenate(axis=-1, name="features")(features)

    # === Head: fully connected layers as 1×1 convolutions ===
    for number in (1, 2):
        for layer in _head_layers(number, batch_norm, dropout_rate):
            x = layer(x)
    # Under a mixed precision policy the scores and the softmax stay float32.
    full = keras.config.dtype_policy().variable_dtype
    x = layers.Conv2D(num_backgrounds + num_classes - 1, 1, dtype=full, name="logits")(x)
    outputs = layers.Softmax(dtype=full, name="probabilities")(x)
    if num_backgrounds > 1:
        outputs = sum_backgrounds(outputs, num_backgrounds)
    return keras.Model(inputs, outputs, name="patch_model")


def sum_backgrounds(probabilities: Any, num_backgrounds: int) -> Any:
    """Makes one background of several: (..., backgrounds + others) to (..., 1 + others)."""
    background = ops.sum(probabilities[..., :num_backgrounds], axis=-1, keepdims=True)
    return ops.concatenate([background, probabilities[..., num_backgrounds:]], axis=-1)


def _build_shared_convolutions(batch_norm: dict[str, Any]) -> keras.Sequential:
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
    """The same layers up to what goes into the softmax, for a loss that wants logits.

    Args:
        patch_model: from `build_patch_model`.

    Returns:
        A model with the same inputs; it gives float32 (batch, rows - 50, columns - 50, classes).
    """
    return keras.Model(
        patch_model.input, patch_model.get_layer("logits").output, name="patch_logits_model"
    )
