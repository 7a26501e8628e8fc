"""Parity: at every foreground voxel whole-volume inference gives what the patch model gives."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.errors import DeviceMemoryError
from mtseg.evaluation.metrics import dice
from mtseg.inference import tile_cost, tile_graph
from mtseg.inference.dense import (
    PRECISIONS,
    dense_probabilities,
    make_dense_network,
)
from mtseg.inference.engines import rounding, tensorflow_engine
from mtseg.inference.engines.tensorflow_engine import exact_float32, open_function
from mtseg.inference.tile_graph import make_tile_function, make_volume_function
from mtseg.network.architecture import HALO
from mtseg.network.folding import fold
from mtseg.network.model import build_patch_model
from mtseg.phantoms.scanner import make_phantom
from mtseg.runs.manifest import PACKAGED
from mtseg.runs.weights import load_trained
from mtseg.scans.patches import PATCH_SIZE
from mtseg.scans.preprocessing import prepare_label_map, prepare_scan
from mtseg.scans.volume import Volume
from mtseg.system.hardware import has_bfloat16_instructions
from tests.processors import assert_same_but_for_order, has_avx512

NUM_CLASSES = 4
TOLERANCE = 1e-4


def make_patch_model(seed=0, num_backgrounds=1):
    """A network with weights and moving averages as random as those of a trained one."""
    keras.utils.set_random_seed(seed)
    model = build_patch_model(NUM_CLASSES, num_backgrounds=num_backgrounds)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "moving_mean", "bias"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
    return model


def make_volume(shape, seed=0):
    """Random intensities in an irregular foreground that touches borders."""
    rng = np.random.default_rng(seed)
    volume = rng.uniform(0.1, 1.0, shape).astype("float32")
    volume[rng.random(shape) < 0.2] = 0
    volume[-2:, :2] = 0
    volume[0, 0, 0] = volume[-1, -1, -1] = 0.7
    return volume


def patch_probabilities(model, volume, voxels):
    """The patch model at some voxels, its patches cut here in the plainest way."""
    padded = np.pad(volume, HALO)
    planes = {"axial": [], "coronal": [], "sagittal": []}
    for i, j, k in voxels:
        cube = padded[i : i + PATCH_SIZE, j : j + PATCH_SIZE, k : k + PATCH_SIZE]
        planes["axial"].append(cube[:, :, HALO])
        planes["coronal"].append(cube[:, HALO, :])
        planes["sagittal"].append(cube[HALO, :, :])
    stacked = {name: np.stack(patches)[..., None] for name, patches in planes.items()}
    return model(stacked).numpy()[:, 0, 0]


def some_foreground(volume, n=8, seed=3):
    voxels = np.argwhere(volume != 0)
    chosen = np.random.default_rng(seed).choice(len(voxels), min(n, len(voxels)), replace=False)
    return np.vstack([voxels[chosen], [[0, 0, 0]], [np.array(volume.shape) - 1]])


def whole_volume_function(patch_model):
    compute_tile = make_tile_function(patch_model, "float32")
    compute = make_volume_function(compute_tile, patch_model.output.shape[-1], 60_000)
    return tf.function(
        lambda volume: compute(volume)["probabilities"],
        input_signature=[tf.TensorSpec([None] * 3, tf.float32)],
    )


@pytest.fixture(scope="module")
def patch_model():
    return make_patch_model()


@pytest.fixture(scope="module")
def networks(patch_model):
    return {precision: make_dense_network(patch_model, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def volume_function(patch_model):
    return whole_volume_function(patch_model)


def assert_close(actual, expected, atol=TOLERANCE):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


SHAPES = [(7, 9, 11), (60, 6, 5), (1, 1, 1), (3, 200, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_patch_and_dense_agree(shape, patch_model, networks, volume_function):
    volume = make_volume(shape)
    voxels = some_foreground(volume)
    at = tuple(voxels.T)
    expected = patch_probabilities(patch_model, volume, voxels)
    assert len(voxels) < 5 or expected.std(axis=0).max() > 0.01  # Differences would be seen.
    whole = dense_probabilities(networks["float32"], volume)
    assert whole.shape == (*shape, NUM_CLASSES)
    assert whole.dtype == np.float32
    assert_close(whole[at], expected)
    assert_close(volume_function(volume), whole)
    # Random weights and random scans are the hardest case: 25 layers of 8 binary digits each.
    # Without instructions for it, sums are rounded too.
    atol = 0.1 if has_bfloat16_instructions() else 0.2
    assert_close(dense_probabilities(networks["bfloat16"], volume)[at], expected, atol=atol)


def test_backgrounds_of_several_tasks_are_one_class():
    model, volume = make_patch_model(num_backgrounds=3), make_volume((6, 5, 7))
    voxels = some_foreground(volume)
    probabilities = dense_probabilities(make_dense_network(model, "float32"), volume)
    assert probabilities.shape == (6, 5, 7, NUM_CLASSES)
    assert_close(probabilities[tuple(voxels.T)], patch_probabilities(model, volume, voxels))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(20, 40, 24), (60, 6, 5), (3, 200, 2)])
def test_division_does_not_show(shape, precision, networks, monkeypatch):
    """Chunks of two slices or of all, tiles of any size: the same."""
    network, volume = networks[precision], make_volume(shape, seed=1)
    whole = dense_probabilities(network, volume)
    slices = dataclasses.replace(network, chunk_positions=1)
    assert_same_but_for_order(dense_probabilities(slices, volume), whole)
    monkeypatch.setattr(tile_cost, "_FIXED_BYTES", 0)
    memory_bytes = 0.7 * network.plan(volume).tile_bytes
    assert len(network.plan(volume, memory_bytes).tiles) > 1
    assert_same_but_for_order(dense_probabilities(network, volume, memory_bytes), whole)


def test_foregrounds_apart_and_at_every_border(patch_model, networks):
    volume = np.zeros((70, 12, 64), np.float32)
    parts = [np.s_[:3, :4, :5], np.s_[-2:, 5:, -3:], np.s_[30:34, 2:6, 30:37], np.s_[0, 11, 63]]
    rng = np.random.default_rng(5)
    for part in parts:
        volume[part] = rng.uniform(0.1, 1, volume[part].shape)
    result = dense_probabilities(networks["float32"], volume)
    voxels = np.argwhere(volume > 0)
    voxels = np.vstack([voxels[::9], voxels[-1:], [[0, 11, 63]]])
    assert_close(result[tuple(voxels.T)], patch_probabilities(patch_model, volume, voxels))


def test_a_whole_volume_in_one_graph_is_divided_too(networks, patch_model, monkeypatch):
    monkeypatch.setattr(tile_graph, "VOLUME_TILE_EDGE", 7)
    volume = make_volume((9, 8, 15))
    divided = whole_volume_function(patch_model)(volume)
    atol = 1e-6 if has_avx512() else 1e-5
    assert_close(divided, dense_probabilities(networks["float32"], volume), atol=atol)


def test_a_reloaded_graph_gives_the_same(patch_model, volume_function, networks, tmp_path):
    module = tf.Module()
    module.patch_model, module.dense = patch_model, volume_function
    tf.saved_model.save(module, str(tmp_path))
    volume = make_volume((7, 9, 11), seed=4)
    reloaded = tf.saved_model.load(str(tmp_path))
    computed = dense_probabilities(networks["float32"], volume)
    assert_close(reloaded.dense(volume), computed, atol=1e-6)


def test_background_is_certain_outside_the_foreground(networks, volume_function):
    volume = make_volume((7, 9, 11))
    for result in (
        dense_probabilities(networks["float32"], volume),
        volume_function(volume).numpy(),
    ):
        np.testing.assert_array_equal(result[volume == 0], [[1, 0, 0, 0]] * (volume == 0).sum())
        assert (result[volume != 0][:, 1:] > 0).all()
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_a_volume_without_foreground_is_background(networks, volume_function):
    volume = np.zeros((3, 4, 5), "float32")
    for result in (
        dense_probabilities(networks["float32"], volume),
        volume_function(volume).numpy(),
    ):
        assert result.shape == (3, 4, 5, NUM_CLASSES)
        assert (result == [1, 0, 0, 0]).all()


def test_directions_are_not_interchangeable(networks):
    volume = make_volume((7, 7, 7))
    straight = dense_probabilities(networks["float32"], volume)
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        turned = dense_probabilities(networks["float32"], volume.transpose(order))
        assert np.abs(turned.transpose((*order, 3)) - straight).max() > 10 * TOLERANCE


def test_the_network_follows_the_patch_models_training():
    model = make_patch_model(seed=2)
    network = make_dense_network(model, "float32")
    volume = np.ones((1, 1, 2), "float32")
    before = dense_probabilities(network, volume)
    bias = model.get_layer("logits").bias
    bias.assign(bias + np.array([1.0, 0, 0, 0], "float32"))
    assert (dense_probabilities(network, volume)[..., 0] > before[..., 0]).all()


def test_rounding_keeps_what_every_convolution_gives_on_average(patch_model):
    """Where features are level, the nine weights to each of them act by their sum."""
    folded = fold(patch_model)
    rounded = rounding.round_weights(folded, keras.ops, tile_graph.round_to(tf.bfloat16))

    def as_bfloat16(values):
        return tf.cast(tf.cast(values, tf.bfloat16), tf.float32)

    for layer, ((kernel, bias), (new, new_bias)) in enumerate(
        zip(folded.stack[1:], rounded.stack[1:], strict=True)
    ):
        np.testing.assert_array_equal(new, as_bfloat16(new))
        np.testing.assert_array_equal(new_bias, as_bfloat16(new_bias))
        np.testing.assert_allclose(new, kernel, rtol=0.02, atol=0.01)
        level = folded.means[layer]

        def given(kernel, bias, level=level):
            return tf.linalg.matvec(tf.reduce_sum(kernel, axis=[0, 1]), level, True) + bias

        exact = given(kernel, bias)
        plain = np.abs(given(as_bfloat16(kernel), as_bfloat16(bias)) - exact).mean()
        assert np.abs(given(new, new_bias) - exact).mean() < plain / 4


def test_means_of_features_are_those_of_a_normal_distribution(patch_model):
    norm = patch_model.get_layer("shared_convolutions").get_layer("batch_norm_3")
    samples = np.random.default_rng(0).normal(norm.beta, norm.gamma, (200_000, 32))
    expected = np.where(samples > 0, samples, np.expm1(np.minimum(samples, 0))).mean(axis=0)
    np.testing.assert_allclose(fold(patch_model).means[2], expected, atol=0.01)


def test_a_product_of_two_halves_by_hand():
    high, low, again = rounding._split(
        np.array([1 + 2**-9], np.float32), rounding.round_to_bfloat16
    )
    assert float(high[0]) == float(again[0]) == 1
    assert float(low[0]) == 2**-9


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("task", "name"),
    [("breast", "pectoral_muscle"), ("cta", "coronary_arteries")],
)
def test_a_trained_networks_labels_hardly_depend_on_the_precision(capsys, task, name):
    """At least 999 in 1000 foreground voxels keep their label, and Dice its third digit."""
    trained = load_trained(PACKAGED)
    networks = [make_dense_network(trained.model, precision) for precision in PRECISIONS]
    class_index = trained.label_space.class_names.index(name)
    phantom = make_phantom(task, seed=70, size=80)
    scan = prepare_scan(Volume(phantom.image, phantom.affine))
    reference = prepare_label_map(Volume(phantom.label_map, phantom.affine), scan) == 1
    image = scan.volume.array
    exact, fast = (dense_probabilities(n, image).argmax(axis=-1) for n in networks)
    agreement = (exact == fast)[image > 0].mean()
    exact_dice, fast_dice = (dice(reference, x == class_index) for x in (exact, fast))
    with capsys.disabled():
        print(
            f"\nbfloat16 gives {agreement:.3%} of a synthetic {task}'s voxels float32's label; "
            f"Dice {exact_dice:.4f} becomes {fast_dice:.4f}."
        )
    assert exact_dice > 0.7
    assert agreement >= 0.999
    assert fast_dice == pytest.approx(exact_dice, abs=0.001)


def test_a_chunk_is_not_filled_up_beyond_the_slices_of_the_tile(patch_model, monkeypatch):
    """With the chunk of a GPU, which has room for thousands of small slices."""
    shapes, convolve = [], tile_graph.convolve

    def record(images, *others):
        def keep(shape):
            shapes.append(shape.tolist())
            return images.dtype.as_numpy_dtype(0)

        zero = tf.numpy_function(keep, [tf.shape(images)], images.dtype)
        return convolve(images + zero, *others)

    monkeypatch.setattr(tile_graph, "convolve", record)
    network = make_dense_network(patch_model, "float32")
    volume = make_volume((9, 5, 20))
    small = dense_probabilities(dataclasses.replace(network, chunk_positions=1), volume)
    shapes.clear()
    large = dense_probabilities(dataclasses.replace(network, chunk_positions=10**9), volume)
    assert sorted(slices for slices, *_ in shapes) == [5, 9, 20]
    np.testing.assert_allclose(small, large, atol=1e-5)


def one_tile(network):
    volume = make_volume((4, 5, 6))
    (tile,) = network.plan(volume, 1e9).tiles
    return network.run(volume, tile)


@pytest.mark.parametrize(("precision", "is_on"), [("float32", False), ("bfloat16", True)])
def test_tensor_float_32_is_off_while_a_float32_tile_is_computed(precision, is_on):
    is_enabled = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []

    def compute(tile, chunk_positions):
        seen.append(is_enabled())
        return tf.zeros([1, NUM_CLASSES])

    assert is_enabled()
    one_tile(open_function(compute, NUM_CLASSES, precision))
    assert seen == [is_on]
    assert is_enabled()  # training may use it


def test_the_first_of_two_threads_does_not_turn_tensor_float_32_on_for_the_second():
    is_enabled = tf.config.experimental.tensor_float_32_execution_enabled
    with exact_float32:
        with exact_float32:
            pass
        assert not is_enabled()
    assert is_enabled()


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), MemoryError()]
)
def test_a_device_without_enough_memory_is_said_so(error):
    def compute(tile, chunk_positions):
        raise error

    with pytest.raises(DeviceMemoryError, match="memory of the device is too small"):
        one_tile(open_function(compute, NUM_CLASSES, "float32"))
    assert tf.config.experimental.tensor_float_32_execution_enabled()


def test_a_gpus_memory_bounds_tiles_and_chunks(monkeypatch):
    monkeypatch.setattr(tensorflow_engine, "gpu_bytes", lambda: 8_000_000_000)
    assert tensorflow_engine.device_chunk_positions("float32") == 8_000_000_000 // 32 // (32 * 4)
    assert tensorflow_engine._device_bytes() == pytest.approx(6.4e9)
    # A large card is bounded by what 32 bits count.
    monkeypatch.setattr(tensorflow_engine, "gpu_bytes", lambda: 141_000_000_000)
    assert tensorflow_engine.device_chunk_positions("bfloat16") * 192 < 2**31
