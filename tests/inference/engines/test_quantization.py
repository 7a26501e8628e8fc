"""Whole numbers in place of weights and features: what they stand for is close to what was."""

import numpy as np
import pytest

from mtseg.inference.engines.quantization import (
    LARGEST_FEATURE,
    LARGEST_WEIGHT,
    quantize_stack,
)
from mtseg.runs.manifest import PACKAGED
from mtseg.runs.weights_file import read_folded


@pytest.fixture(scope="module")
def network():
    return read_folded(PACKAGED)[1]


def test_all_convolutions_but_the_first_become_whole_numbers(network):
    layers = quantize_stack(network)
    assert len(layers) == 24
    for layer in layers:
        assert layer.weights.dtype == np.int8
        # Each feature uses the whole range.
        np.testing.assert_array_equal(np.abs(layer.weights).max((0, 1, 2)), LARGEST_WEIGHT)


def test_the_nine_weights_of_a_window_keep_their_sum(network):
    """Features change slowly, so that the sum decides what a window gives."""
    for layer, (kernel, _) in zip(quantize_stack(network), network.stack[1:], strict=True):
        scales = np.abs(kernel).max((0, 1, 2)) / LARGEST_WEIGHT
        errors = (layer.weights - kernel / scales).sum((0, 1))
        assert np.mean(np.abs(errors) <= 0.5 + 1e-3) > 0.99  # the rest would need more than 127
        assert np.abs(errors).max() < 3


def test_a_convolution_gives_what_that_of_floats_gives(network):
    number = 12
    layer, (kernel, bias) = quantize_stack(network)[number - 1], network.stack[number]
    assert layer.highest == pytest.approx(network.highest[number - 1])
    # Features as they are after ELU: many at -1, few far above 0.
    rng = np.random.default_rng(0)
    normal = rng.normal(network.means[number - 1], 0.8, (2000, 3, 3, 32))
    features = np.clip(np.where(normal > 0, normal, np.expm1(normal)), -1, layer.highest)
    whole = np.rint((features + 1) / (layer.highest + 1) * LARGEST_FEATURE)
    sums = np.einsum("nrci,rcio->no", whole, layer.weights.astype(np.float64))
    computed = sums * layer.scales + layer.bias
    expected = np.einsum("nrci,rcio->no", features, kernel.astype(np.float64)) + bias
    errors = computed - expected
    assert errors.std() < 0.02 * expected.std()
    assert np.abs(errors.mean(0)).max() < 0.01 * expected.std()


def test_features_that_batch_normalisation_keeps_below_zero_are_computed(network):
    below = network._replace(highest=tuple(np.float32(-2.0) for _ in network.highest))
    assert all(layer.highest == 0 and np.isfinite(layer.scales).all() for layer in
               quantize_stack(below))  # fmt: skip


def test_a_feature_without_weights_is_its_bias(network):
    kernel, bias = network.stack[3]
    silent = kernel.copy()
    silent[..., 5] = 0
    stack = (*network.stack[:3], (silent, bias), *network.stack[4:])
    layer = quantize_stack(network._replace(stack=stack))[2]
    assert not layer.weights[..., 5].any()
    assert layer.bias[5] == pytest.approx(bias[5])
