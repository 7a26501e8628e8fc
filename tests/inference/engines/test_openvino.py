"""Parity: OpenVINO gives the labels that TensorFlow gives."""

import dataclasses
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.inference import dense, tile_graph
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.inference.engines import openvino_engine, rounding
from mtseg.inference.engines.choice import PRECISIONS
from mtseg.inference.engines.openvino_engine import open_folded
from mtseg.inference.tiling import Tile
from mtseg.network.folding import fold
from mtseg.phantoms.scanner import make_phantom
from mtseg.runs.manifest import PACKAGED
from mtseg.runs.weights import load_trained
from mtseg.runs.weights_file import read_folded
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.volume import Volume


@pytest.fixture(scope="module")
def patch_model():
    return load_trained(PACKAGED).model


@pytest.fixture(scope="module")
def folded():
    return read_folded(PACKAGED)[1]


@pytest.fixture(scope="module")
def networks(folded):
    return {precision: open_folded(folded, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def by_tensorflow(patch_model):
    return {name: make_dense_network(patch_model, name) for name in dense.PRECISIONS}


def make_volume(shape, seed=0):
    """Random intensities in an irregular foreground."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.8, rng.uniform(0.1, 1, shape), 0).astype(np.float32)


def block_of_phantom(task):
    """A prepared phantom, and a tile of it where its last class is."""
    phantom = make_phantom(task, seed=70, size=80)
    volume = prepare_scan(Volume(phantom.image, phantom.affine)).volume.array
    voxels = np.argwhere(phantom.label_map == phantom.label_map.max())
    low = np.maximum(voxels[len(voxels) // 2] - 8, 0)
    block = tuple(slice(int(n), int(n) + 16) for n in low)
    return volume, Tile(block, block, 0)


def test_weights_read_without_keras_are_those_of_keras(patch_model, folded):
    expected = fold(patch_model)
    assert folded.num_backgrounds == expected.num_backgrounds == 4
    for read, by_keras in zip(tf.nest.flatten(folded), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(read, by_keras, rtol=0, atol=1e-6)


def test_rounding_is_the_same_in_numpy_as_in_tensorflow(folded):
    in_numpy = rounding.round_weights(folded, np, rounding.round_to_bfloat16)
    as_tensors = tf.nest.map_structure(tf.constant, folded)
    in_graph = rounding.round_weights(as_tensors, keras.ops, tile_graph.round_to(tf.bfloat16))
    for (kernel, bias), (other, other_bias) in zip(in_numpy.stack, in_graph.stack, strict=True):
        # The means differ in the seventh digit, and with them a weight in a million.
        assert np.mean(np.asarray(other) != kernel) < 1e-3
        np.testing.assert_array_equal(bias, other_bias)


def test_numbers_are_rounded_as_tensorflow_does():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values[:3] = 0, 1 + 2**-8, 1 + 3 * 2**-8  # halves
    expected = tf.cast(tf.cast(values, tf.bfloat16), tf.float32)
    np.testing.assert_array_equal(rounding.round_to_bfloat16(values), expected)


@pytest.mark.parametrize("task", ["brain", "breast", "cta"])
def test_labels_are_those_of_tensorflow(task, by_tensorflow, networks):
    """In float32 all of them; in bfloat16 sums are rounded in another order."""
    volume, tile = block_of_phantom(task)
    for precision, atol, share in (("float32", 2e-5, 0.0), ("bfloat16", 0.1, 5e-3)):
        expected = by_tensorflow[precision].run(volume, tile)
        computed = networks[precision].run(volume, tile)
        np.testing.assert_allclose(computed, expected, rtol=0, atol=atol)
        labels, expected = computed.argmax(-1), expected.argmax(-1)
        assert len(np.unique(expected)) > 1
        assert np.mean(labels != expected) <= share


@pytest.mark.parametrize("task", ["brain", "cta"])
def test_int8_changes_few_labels(task, networks):
    volume, tile = block_of_phantom(task)
    labels = {name: networks[name].run(volume, tile).argmax(-1) for name in PRECISIONS}
    assert len(np.unique(labels["float32"])) > 1
    assert np.mean(labels["int8"] != labels["float32"]) <= 1e-2


def test_int8_without_bfloat16_instructions_is_beside_float32(folded, networks, monkeypatch):
    monkeypatch.setattr(openvino_engine, "has_bfloat16_instructions", lambda: False)
    network = open_folded(folded, "int8")
    assert network.function.args[0].feature_type == np.float32
    volume, tile = block_of_phantom("brain")
    labels = [each.run(volume, tile).argmax(-1) for each in (network, networks["float32"])]
    assert np.mean(labels[0] != labels[1]) <= 1e-2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_division_does_not_show(precision, networks):
    """Chunks of two slices or of all, one tile or two: the same probabilities, to the bit."""
    network, volume = networks[precision], make_volume((9, 20, 6))
    block = (slice(0, 9), slice(0, 20), slice(0, 6))
    whole = Tile(block, block, 0)
    expected = network.run(volume, whole)
    thin = dataclasses.replace(network, chunk_positions=1)
    np.testing.assert_array_equal(thin.run(volume, whole), expected)
    blocks = [(part, *block[1:]) for part in (slice(0, 4), slice(4, 9))]
    halves = [network.run(volume, Tile(block, block, 0)) for block in blocks]
    np.testing.assert_array_equal(np.concatenate(halves), expected)


def test_backgrounds_of_several_tasks_are_one_class(folded, networks):
    """The packaged network has one for each of four tasks: their probabilities are added."""
    volume = make_volume((6, 5, 4))
    joined = dense_probabilities(networks["float32"], volume)
    network = open_folded(folded._replace(num_backgrounds=1), "float32")
    separate = dense_probabilities(network, volume)
    assert separate.shape[-1] == joined.shape[-1] + 3 == 14
    np.testing.assert_allclose(joined[..., 0], separate[..., :4].sum(-1), atol=1e-6)
    np.testing.assert_allclose(joined[..., 1:], separate[..., 4:], atol=1e-6)


def test_two_threads_may_use_a_network_at_once(networks):
    """The next scan is recognised while one is computed."""
    network = networks["float32"]
    volumes = [make_volume((5, 6, 7), seed) for seed in (1, 2)]
    expected = [dense_probabilities(network, volume) for volume in volumes]
    found = [None, None]

    def compute(number):
        found[number] = dense_probabilities(network, volumes[number])

    threads = [threading.Thread(target=compute, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for computed, alone in zip(found, expected, strict=True):
        np.testing.assert_array_equal(computed, alone)


def test_a_foreground_in_two_corners_is_computed(by_tensorflow, networks):
    """Slices and chunks between them have none."""
    volume = np.zeros((40, 12, 34), np.float32)
    volume[:2, :3, :2] = volume[-2:, -2:, -3:] = 0.5
    expected = dense_probabilities(by_tensorflow["float32"], volume)
    computed = dense_probabilities(networks["float32"], volume)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=2e-5)


def test_openvino_reports_its_use_to_nobody():
    code = (
        "import os, sys\n"
        "forks = []\n"
        "os.register_at_fork(before=lambda: forks.append(1))\n"
        "import mtseg.inference.engines.openvino_engine\n"
        "assert not forks\n"
        "assert not [n for n in sys.modules if n.startswith('openvino_telemetry.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
