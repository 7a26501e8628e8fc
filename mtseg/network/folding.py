"""The trained weights with batch normalisation folded in, for whole volumes.

In inference, batch normalisation is a linear map per channel, so it becomes part of the convolution
before it. `mtseg.inference.tile_graph` and `mtseg.models.portable` compute with these weights.

Reference: Moeskops et al., MICCAI 2016, section 3.1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from mtseg.network.model import HEAD_LAYERS, NUM_CONVOLUTIONS, SHARED_STACK


class FoldedNetwork(NamedTuple):
    """The network's weights with batch normalisation folded in: float32 tensors.

    Attributes:
        stack: kernel (3, 3, features in, 32) and bias (32,) of every shared convolution.
        head: kernel (features in, 192) and bias (192,) of both fully connected layers. The first
            takes the features of the axial, coronal and sagittal plane in turn, 32 each.
        logits: kernel (192, scores) and bias (scores,) of the last layer.
        num_backgrounds: how many of the scores, the first ones, are the background's.
        means: (32,) for every shared convolution, of the features that it gives.
    """

    stack: tuple[tuple[Any, Any], ...]
    head: tuple[tuple[Any, Any], ...]
    logits: tuple[Any, Any]
    num_backgrounds: int
    means: tuple[Any, ...]


def fold(patch_model: keras.Model) -> FoldedNetwork:
    """Folds each batch normalisation into the convolution before it, as it acts at inference.

    Called inside a graph, it reads the model's variables there, so what the graph computes follows
    them.

    Args:
        patch_model: from `build_patch_model`, or loaded from a file of one.
    """

    def folded(convolution: keras.Layer, batch_norm: keras.Layer) -> tuple[Any, Any]:
        deviation = ops.sqrt(batch_norm.moving_variance + batch_norm.epsilon)
        scale = batch_norm.gamma / deviation
        return convolution.kernel * scale, batch_norm.beta - batch_norm.moving_mean * scale

    def mean_after_elu(batch_norm: keras.Layer) -> Any:
        # Normalised features are about normal, with mean beta and deviation gamma.
        mean, deviation = batch_norm.beta, ops.abs(batch_norm.gamma) + 1e-6
        below = _share_below(-mean / deviation)
        positive = mean * (1 - below) + deviation * _density(mean / deviation)
        far_below = _share_below(-mean / deviation - deviation)
        return positive + ops.exp(mean + deviation**2 / 2) * far_below - below

    def without_window(kernel: Any) -> Any:
        return ops.reshape(kernel, kernel.shape[2:])

    stack = patch_model.get_layer(SHARED_STACK)
    head = []
    for number in (1, 2):
        kernel, bias = folded(
            patch_model.get_layer(f"{HEAD_LAYERS}_{number}_convolution"),
            patch_model.get_layer(f"{HEAD_LAYERS}_{number}_batch_norm"),
        )
        head.append((without_window(kernel), bias))
    logits = patch_model.get_layer("logits")
    return FoldedNetwork(
        stack=tuple(
            folded(stack.get_layer(f"convolution_{n}"), stack.get_layer(f"batch_norm_{n}"))
            for n in range(1, NUM_CONVOLUTIONS + 1)
        ),
        head=tuple(head),
        logits=(without_window(ops.convert_to_tensor(logits.kernel)), logits.bias),
        num_backgrounds=logits.filters - patch_model.output.shape[-1] + 1,
        means=tuple(
            mean_after_elu(stack.get_layer(f"batch_norm_{n}"))
            for n in range(1, NUM_CONVOLUTIONS + 1)
        ),
    )


def _share_below(value: Any) -> Any:
    """Of a standard normal distribution."""
    return (1 + ops.erf(value / 2**0.5)) / 2


def _density(value: Any) -> Any:
    """Of a standard normal distribution."""
    return ops.exp(-(value**2) / 2) / (2 * math.pi) ** 0.5
