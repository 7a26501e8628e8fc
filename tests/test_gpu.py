"""What only a GPU can show; run with `pytest -m gpu` on a machine that has one."""

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.placed_samples import PlacedSamples, Places
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.system.devices import describe_devices, gpu_bytes
from mtseg.training.engines.cutting import cut_from_buffer
from tests.batches.test_placed_samples import make_samples
from tests.inference.test_dense import make_patch_model, make_volume

pytestmark = pytest.mark.gpu


def test_the_memory_is_that_of_the_card_after_tensorflow_has_taken_it():
    before = gpu_bytes()
    tf.constant(np.ones((1000, 1000), np.float32)) @ tf.ones((1000, 1000))
    assert gpu_bytes() == before > 2 * 10**9
    assert describe_devices().startswith("1 GPU: ")


def test_patches_are_cut_on_the_gpu_bit_for_bit():
    samples = make_samples(("flip", "intensity"))
    placed = PlacedSamples(samples)
    patches, _ = samples.read_minibatch(0, 40)
    places, _ = placed.read_minibatch(0, 40)
    with tf.device("GPU:0"):
        volumes = tf.identity(placed.make_buffer())
        cut = tf.function(cut_from_buffer)(volumes, Places(*map(tf.constant, places)))
    assert "GPU:0" in volumes.device
    assert "GPU:0" in cut.device
    np.testing.assert_array_equal(cut.numpy().view(np.uint16), patches.view(np.uint16))


def test_a_gpu_and_a_processor_agree_in_float32():
    model, volume = make_patch_model(), make_volume((40, 30, 20))
    network = make_dense_network(model, "float32")
    on_gpu = dense_probabilities(network, volume)
    with tf.device("CPU:0"):
        on_processor = dense_probabilities(network, volume)
    np.testing.assert_allclose(on_gpu, on_processor, atol=1e-4)
