"""The trained weights with batch normalisation folded in, for computing whole volumes.

At inference, batch normalisation multiplies each channel by a number and adds another. So it can be
made part of the kernel and the bias of the convolution before it, and half of the layers disappear.
`mtseg.inference.tile_graph` and `mtseg.models.portable` compute with these weights.

Reference: Moeskops et al., MICCAI 2016, section 3.1 (the network); Jacob et al., CVPR 2018, section
3.2 (folding).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from mtseg.network.model import HEAD_LAYERS, NUM_CONVOLUTIONS, SHARED_STACK


class FoldedNetwork(NamedTuple):
    """The network's weights with batch normalisation folded in: tensors, float32.

    Attributes:
        stack: for each shared convolution, kernel (3, 3, features in, 32) and bias (32,).
        head: for both fully connected layers, kernel (features in, 192) and bias (192,). The
            features that go into the first are those of the axial, the coronal and the sagittal
            plane, 32 each.
        logits: kernel (192, logits) and bias (logits,) of the last layer.
        num_backgrounds: number of logits of the background; they are the first.
        means: for each shared convolution, (32,), an estimate of the mean of each feature after
            its activation.
    """

    stack: tuple[tuple[Any, Any], ...]
    head: tuple[tuple[Any, Any], ...]
    logits: tuple[Any, Any]
    num_backgrounds: int
    means: tuple[Any, ...]


def fold(patch_model: keras.Model) -> FoldedNetwork:
    """Folds each batch normalisation, as it acts at inference, into the convolution before it.

    If it is called inside a graph, it reads the model's variables there, so the graph always
    computes with their present values.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`, or loaded from a file.
    """
    stack = patch_model.get_layer(SHARED_STACK)
    convolutions = [stack.get_layer(f"convolution_{n + 1}") for n in range(NUM_CONVOLUTIONS)]
    batch_norms = [stack.get_layer(f"batch_norm_{n + 1}") for n in range(NUM_CONVOLUTIONS)]
    logits = patch_model.get_layer("logits")
    return FoldedNetwork(
        stack=tuple(map(_fold_layer, convolutions, batch_norms)),
        head=tuple(_fold_head(patch_model, number) for number in (1, 2)),
        logits=(_drop_window(ops.convert_to_tensor(logits.kernel)), logits.bias),
        num_backgrounds=logits.filters - patch_model.output.shape[-1] + 1,
        means=tuple(map(_mean_after_elu, batch_norms)),
    )


def _fold_head(patch_model: keras.Model, number: int) -> tuple[Any, Any]:
    kernel, bias = _fold_layer(
        patch_model.get_layer(f"{HEAD_LAYERS}_{number}_convolution"),
        patch_model.get_layer(f"{HEAD_LAYERS}_{number}_batch_norm"),
    )
    return _drop_window(kernel), bias


def _fold_layer(convolution: keras.Layer, batch_norm: keras.Layer) -> tuple[Any, Any]:
    """Kernel and bias of a convolution without bias and the normalisation after it."""
    deviation = ops.sqrt(batch_norm.moving_variance + batch_norm.epsilon)
    scale = batch_norm.gamma / deviation
    return convolution.kernel * scale, batch_norm.beta - batch_norm.moving_mean * scale


def _drop_window(kernel: Any) -> Any:
    """Makes a matrix (features in, features out) of a 1 × 1 kernel."""
    return ops.reshape(kernel, kernel.shape[2:])


def _mean_after_elu(batch_norm: keras.Layer) -> Any:
    """The mean of ELU(x), if x is normal with mean beta and standard deviation |gamma|.

    Features are about normal after batch normalisation. With m and s for the two, Φ and φ for the
    standard normal distribution and its density, the mean is that of x where x > 0,
    m (1 - Φ(-m/s)) + s φ(m/s), and of exp(x) - 1 below, exp(m + s²/2) Φ(-m/s - s) - Φ(-m/s).
    """
    mean, deviation = batch_norm.beta, ops.abs(batch_norm.gamma) + 1e-6
    below = _normal_share_below(-mean / deviation)
    positive = mean * (1 - below) + deviation * _normal_density(mean / deviation)
    far_below = _normal_share_below(-mean / deviation - deviation)
    return positive + ops.exp(mean + deviation**2 / 2) * far_below - below


def _normal_share_below(value: Any) -> Any:
    """Φ, the distribution function of the standard normal distribution."""
    return (1 + ops.erf(value / 2**0.5)) / 2


def _normal_density(value: Any) -> Any:
    """φ, the density of the standard normal distribution."""
    return ops.exp(-(value**2) / 2) / (2 * math.pi) ** 0.5
