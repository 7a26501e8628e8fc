"""A folded network computes what the patch model computes, with half of its layers."""

import numpy as np
import pytest
import tensorflow as tf

from mtseg.network import folding, model
from mtseg.network.folding import fold
from mtseg.network.model import build_patch_model
from mtseg.scans.patches import PLANES


@pytest.fixture
def patch_model(monkeypatch):
    """Four convolutions and two backgrounds; all weights and moving averages are random."""
    for module in (model, folding):
        monkeypatch.setattr(module, "NUM_CONVOLUTIONS", 4)
    patch_model = build_patch_model(3, num_backgrounds=2)
    rng = np.random.default_rng(0)
    for weight in patch_model.weights:
        if "norm" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "bias" in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return patch_model


def compute_folded(network, planes):
    """The folded network on patches, from its definition: convolution, bias, ELU."""
    features = []
    for name in PLANES:
        x = planes[name]
        for kernel, bias in network.stack:
            x = tf.nn.elu(tf.nn.conv2d(x, kernel, 1, "VALID") + bias)
        features.append(x)
    x = tf.concat(features, axis=-1)
    for kernel, bias in network.head:
        x = tf.nn.elu(x @ kernel + bias)
    kernel, bias = network.logits
    return tf.nn.softmax(x @ kernel + bias).numpy()


def test_a_folded_network_gives_the_same_probabilities(patch_model):
    rng = np.random.default_rng(1)
    planes = {name: rng.random((2, 11, 9, 1), dtype="float32") for name in PLANES}
    network = fold(patch_model)
    outputs = compute_folded(network, planes)
    assert (outputs.shape, network.num_backgrounds) == ((2, 3, 1, 4), 2)
    expected = patch_model(planes).numpy()
    np.testing.assert_allclose(outputs[..., :2].sum(-1), expected[..., 0], atol=1e-5)
    np.testing.assert_allclose(outputs[..., 2:], expected[..., 1:], atol=1e-5)


def test_a_channel_folded_by_hand(patch_model):
    """Mean 2, variance 9 and gamma 6 double the kernel; beta 1 gives the bias 1 - 2 × 2."""
    stack = patch_model.get_layer(model.SHARED_STACK)
    norm = stack.get_layer("batch_norm_1")
    for weight, value in (
        (norm.moving_mean, 2), (norm.moving_variance, 9 - norm.epsilon), (norm.gamma, 6),
        (norm.beta, 1),
    ):  # fmt: skip
        weight.assign(np.full(32, value))
    (kernel, bias), *_ = fold(patch_model).stack
    np.testing.assert_allclose(kernel, 2 * stack.get_layer("convolution_1").kernel, rtol=1e-5)
    np.testing.assert_allclose(bias, np.full(32, -3), rtol=1e-5)


def test_estimates_of_features_that_vary_widely_are_finite(patch_model):
    """The mean of ELU(x) is -0.5, of half of the values, and that of the others is 0.4 × 20."""
    norm = patch_model.get_layer(model.SHARED_STACK).get_layer("batch_norm_1")
    norm.gamma.assign(np.full(32, 20))
    norm.beta.assign(np.zeros(32))
    network = fold(patch_model)
    np.testing.assert_allclose(network.means[0], np.full(32, 7.48), atol=0.03)
    assert network.highest[0] == 120


def test_a_graph_follows_the_weights(patch_model):
    bias = tf.function(lambda: fold(patch_model).logits[1])
    before = bias().numpy()
    patch_model.get_layer("logits").bias.assign_add(np.ones(4))
    np.testing.assert_allclose(bias(), before + 1, rtol=1e-6)
