"""Muon: orthogonal steps for kernels, Adam for the rest."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.network.model import build_patch_model
from mtseg.training.config import configure
from mtseg.training.optimizers import KernelMuon, make_optimizer


def test_adam_is_the_papers():
    optimizer = make_optimizer(configure("paper", "breast", "data"), 1e-3)
    assert type(optimizer) is keras.optimizers.Adam


def muon(rate=0.01):
    return make_optimizer(configure("paper", "breast", "data", optimizer="muon"), rate)


def test_kernels_but_the_first_and_the_last_are_muons():
    model = build_patch_model(3)
    optimizer = muon()
    optimizer.build(model.trainable_variables)
    moved = [
        variable
        for variable, velocity in zip(
            model.trainable_variables, optimizer.adam_velocities, strict=True
        )
        if velocity is None
    ]
    assert len(moved) == 24 + 2  # convolutions after the first, and both fully connected layers
    assert all(len(variable.shape) == 4 for variable in moved)


def test_a_step_on_a_kernel_has_equal_singular_values():
    kernel = keras.Variable(np.zeros((3, 3, 8, 4), np.float32), name="kernel")
    optimizer = muon(0.01)
    gradient = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    optimizer.apply_gradients([(tf.constant(gradient), kernel)])
    step = -kernel.numpy().reshape(72, 4)
    values = np.linalg.svd(step, compute_uv=False)
    # As long as Adam's steps: 0.2 times the rate in each element, by root mean square.
    assert np.sqrt((step**2).mean()) == pytest.approx(0.2 * 0.01, rel=0.2)
    assert values.max() / values.min() < 1.8
    # Downhill.
    assert (step.ravel() * gradient.ravel()).sum() > 0


def test_a_bias_is_moved_by_adam():
    bias = keras.Variable(np.zeros(3, np.float32), name="bias")
    muon(0.01).apply_gradients([(tf.constant([1.0, -2.0, 0.5]), bias)])
    np.testing.assert_allclose(bias.numpy(), [-0.006, 0.006, -0.006], rtol=1e-4)


def test_it_comes_back_from_its_configuration():
    again = keras.optimizers.deserialize(keras.optimizers.serialize(muon()))
    assert isinstance(again, KernelMuon)
