"""A mask for the mini-batch, whatever the number of replicas."""

import numpy as np
import pytest
import tensorflow as tf

from mtseg.network.layers import MinibatchDropout


def dropped(rows, num_replicas):
    devices = [f"CPU:{n}" for n in range(num_replicas)]
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        layer = MinibatchDropout(0.5, seed=3)
    share = rows // num_replicas
    run = tf.function(lambda: strategy.run(lambda: layer(tf.ones((share, 20)), training=True)))
    masks = [np.concatenate(strategy.experimental_local_results(run())) for _ in range(3)]
    return np.stack(masks)


def test_two_replicas_leave_out_what_one_does():
    one, two = dropped(6, 1), dropped(6, 2)
    np.testing.assert_array_equal(one, two)
    assert (one[0] != one[1]).any()


def test_the_rest_is_scaled_so_that_the_mean_stays():
    x = np.full((100, 50), 3.0, np.float32)
    y = MinibatchDropout(0.25, seed=0)(x, training=True).numpy()
    assert set(y.ravel().tolist()) == {0.0, 4.0}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_nothing_is_left_out_outside_of_training_or_at_rate_0(rate, training):
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(MinibatchDropout(rate)(x, training=training), x)
