"""The compiled activation has the values and slopes of Keras's in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.network.layers import FastELU


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_slopes_are_those_of_float32(dtype):
    x = np.linspace(-6, 6, 17 * 17 * 4).reshape(1, 17, 17, 4)
    x[0, 0, 0, :2] = [0.0, -1e-3]

    def compute(layer, dtype):
        given = tf.Variable(tf.cast(rounded, dtype))
        with tf.GradientTape() as tape:
            y = layer(given)
        return y, tape.gradient(y, given, tf.cast(tf.fill(y.shape, 2.0), dtype))

    rounded = tf.cast(x, dtype)
    exact = compute(keras.layers.ELU(dtype="float32"), "float32")
    ours = compute(FastELU(dtype=dtype), dtype)
    digit = {"float32": 1e-6, "bfloat16": 2**-8}[dtype]  # half of the last one
    # The slope below 0 is 1 + exp(x) - 1, of which the latter is rounded; times 2 here.
    for own, expected, near_0 in zip(ours, exact, (0, 2 * digit), strict=True):
        assert own.dtype == dtype
        np.testing.assert_allclose(tf.cast(own, tf.float32), expected, rtol=digit, atol=near_0)


def test_it_is_saved_and_reloaded_in_safe_mode(tmp_path):
    model = keras.Sequential([keras.Input((4,)), FastELU()])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.array([[-2.0, -1.0, 0.0, 3.0]], np.float32)
    np.testing.assert_array_equal(reloaded(x), model(x))
