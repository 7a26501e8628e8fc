"""What only a GPU can show; run with `pytest -m gpu` on a machine that has one."""

import numpy as np
import pytest
import tensorflow as tf

from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.system.devices import describe_devices, gpu_bytes
from tests.inference.test_dense import make_patch_model, make_volume

pytestmark = pytest.mark.gpu


def test_the_memory_is_that_of_the_card_after_tensorflow_has_taken_it():
    before = gpu_bytes()
    tf.constant(np.ones((1000, 1000), np.float32)) @ tf.ones((1000, 1000))
    assert gpu_bytes() == before > 2 * 10**9
    assert describe_devices().startswith("1 GPU: ")


def test_a_gpu_and_a_processor_agree_in_float32():
    model, volume = make_patch_model(), make_volume((40, 30, 20))
    network = make_dense_network(model, "float32")
    on_gpu = dense_probabilities(network, volume)
    with tf.device("CPU:0"):
        on_processor = dense_probabilities(network, volume)
    np.testing.assert_allclose(on_gpu, on_processor, atol=1e-4)
