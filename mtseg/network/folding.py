"""The trained weights with batch normalisation folded in, for computing whole volumes.

At inference, batch normalisation multiplies each channel by a number and adds another. So it can be
made part of the kernel and the bias of the convolution before it, and half of the layers disappear.
`mtseg.inference.tile_graph`, `mtseg.inference.engines` and `mtseg.models.portable` compute with
these weights.

`fold` and `fold_to_arrays` take a Keras model. `fold_weights` takes the weights alone, also as
NumPy arrays where Keras is not installed.

Reference: Moeskops et al., MICCAI 2016, section 3.1 (the network); Jacob et al., CVPR 2018, section
3.2 (folding).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from mtseg.network.architecture import NUM_CONVOLUTIONS

if TYPE_CHECKING:
    import keras

_DEVIATIONS = 6.0
"""Standard deviations above its mean that a feature may have. Features are not quite normal. Of 5
to 10, this changed the fewest labels of training scans."""


class LayerWeights(NamedTuple):
    """The weights of a convolution without bias and of the batch normalisation after it.

    Attributes:
        kernel: (rows, columns, features in, features out).
        gamma: (features out,), the factor of the normalised features.
        beta: (features out,), what is added to them.
        moving_mean: (features out,).
        moving_variance: (features out,).
        epsilon: what is added to the variance.
    """

    kernel: Any
    gamma: Any
    beta: Any
    moving_mean: Any
    moving_variance: Any
    epsilon: float


class NetworkWeights(NamedTuple):
    """All weights of a trained network.

    Attributes:
        stack: the shared convolutions.
        head: the two fully connected layers, their kernels (1, 1, features in, 192).
        logits: kernel (1, 1, 192, logits) and bias (logits,) of the last layer.
        num_backgrounds: number of logits of the background; they are the first.
    """

    stack: tuple[LayerWeights, ...]
    head: tuple[LayerWeights, ...]
    logits: tuple[Any, Any]
    num_backgrounds: int


class FoldedNetwork(NamedTuple):
    """The network's weights with batch normalisation folded in: tensors or arrays, float32.

    Attributes:
        stack: for each shared convolution, kernel (3, 3, features in, 32) and bias (32,).
        head: for both fully connected layers, kernel (features in, 192) and bias (192,). The
            features that go into the first are those of the axial, the coronal and the sagittal
            plane, 32 each.
        logits: kernel (192, logits) and bias (logits,) of the last layer.
        num_backgrounds: number of logits of the background; they are the first.
        means: for each shared convolution, (32,), an estimate of the mean of each feature after
            its activation.
        highest: for each shared convolution, an estimate of the highest of its features.
    """

    stack: tuple[tuple[Any, Any], ...]
    head: tuple[tuple[Any, Any], ...]
    logits: tuple[Any, Any]
    num_backgrounds: int
    means: tuple[Any, ...]
    highest: tuple[Any, ...]


def fold(patch_model: keras.Model) -> FoldedNetwork:
    """Folds each batch normalisation, as it acts at inference, into the convolution before it.

    If it is called inside a graph, it reads the model's variables there, so the graph always
    computes with their present values.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`, or loaded from a file.
    """
    from keras import ops

    from mtseg.network.model import HEAD_LAYERS, SHARED_STACK

    def read(layers: Any, convolution: str, batch_norm: str) -> LayerWeights:
        norm = layers.get_layer(batch_norm)
        return LayerWeights(
            layers.get_layer(convolution).kernel,
            norm.gamma,
            norm.beta,
            norm.moving_mean,
            norm.moving_variance,
            norm.epsilon,
        )

    stack, logits = patch_model.get_layer(SHARED_STACK), patch_model.get_layer("logits")
    numbers = range(1, NUM_CONVOLUTIONS + 1)
    weights = NetworkWeights(
        stack=tuple(read(stack, f"convolution_{n}", f"batch_norm_{n}") for n in numbers),
        head=tuple(
            read(patch_model, f"{HEAD_LAYERS}_{n}_convolution", f"{HEAD_LAYERS}_{n}_batch_norm")
            for n in (1, 2)
        ),
        logits=(ops.convert_to_tensor(logits.kernel), logits.bias),
        num_backgrounds=logits.filters - patch_model.output.shape[-1] + 1,
    )
    return fold_weights(weights, ops)


def fold_to_arrays(patch_model: keras.Model) -> FoldedNetwork:
    """As `fold`, with the present weights as NumPy arrays."""
    import keras
    import numpy as np

    folded = fold(patch_model)
    arrays: FoldedNetwork = keras.tree.map_structure(np.asarray, folded)
    return arrays._replace(num_backgrounds=folded.num_backgrounds)


def fold_weights(weights: NetworkWeights, ops: Any) -> FoldedNetwork:
    """Folds the batch normalisation of a network of which only the weights are known.

    Args:
        weights: tensors or arrays.
        ops: functions that take them: `keras.ops`, or a namespace of NumPy's functions with the
            names `abs`, `erf`, `exp`, `max`, `minimum`, `reshape` and `sqrt`.
    """
    return FoldedNetwork(
        stack=tuple(_fold_layer(layer, ops) for layer in weights.stack),
        head=tuple(_fold_head(layer, ops) for layer in weights.head),
        logits=(_drop_window(weights.logits[0], ops), weights.logits[1]),
        num_backgrounds=weights.num_backgrounds,
        means=tuple(_mean_after_elu(layer, ops) for layer in weights.stack),
        highest=tuple(_highest_after_elu(layer, ops) for layer in weights.stack),
    )


def _fold_head(layer: LayerWeights, ops: Any) -> tuple[Any, Any]:
    kernel, bias = _fold_layer(layer, ops)
    return _drop_window(kernel, ops), bias


def _fold_layer(layer: LayerWeights, ops: Any) -> tuple[Any, Any]:
    """Kernel and bias of a convolution without bias and the normalisation after it."""
    deviation = ops.sqrt(layer.moving_variance + layer.epsilon)
    scale = layer.gamma / deviation
    return layer.kernel * scale, layer.beta - layer.moving_mean * scale


def _drop_window(kernel: Any, ops: Any) -> Any:
    """Makes a matrix (features in, features out) of a 1 × 1 kernel."""
    return ops.reshape(kernel, kernel.shape[2:])


def _mean_after_elu(layer: LayerWeights, ops: Any) -> Any:
    """The mean of ELU(x), if x is normal with mean beta and standard deviation |gamma|.

    Features are about normal after batch normalisation. With m and s for the two, Φ and φ for the
    standard normal distribution and its density, the mean is that of x where x > 0,
    m (1 - Φ(-m/s)) + s φ(m/s), and of exp(x) - 1 below, exp(m + s²/2) Φ(-m/s - s) - Φ(-m/s).
    """
    mean, deviation = layer.beta, ops.abs(layer.gamma) + 1e-6
    below = _normal_share_below(-mean / deviation, ops)
    positive = mean * (1 - below) + deviation * _normal_density(mean / deviation, ops)
    far_below = _normal_share_below(-mean / deviation - deviation, ops)
    # Where the exponent is higher, the share is 0 in float32, and infinity × 0 would be NaN.
    exponent = ops.minimum(mean + deviation**2 / 2, 80.0)
    return positive + ops.exp(exponent) * far_below - below


def _highest_after_elu(layer: LayerWeights, ops: Any) -> Any:
    """The highest of a layer's features, by the standard deviations that batch normalisation sets.

    If ELU changes it, it is negative, and so close to 0 that it does not matter.
    """
    return ops.max(layer.beta + _DEVIATIONS * ops.abs(layer.gamma))


def _normal_share_below(value: Any, ops: Any) -> Any:
    """Φ, the distribution function of the standard normal distribution."""
    return (1 + ops.erf(value / 2**0.5)) / 2


def _normal_density(value: Any, ops: Any) -> Any:
    """φ, the density of the standard normal distribution."""
    return ops.exp(-(value**2) / 2) / (2 * math.pi) ** 0.5
