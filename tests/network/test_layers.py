"""The network's layers have the results of Keras's, and dropout does not depend on replicas."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.network import layers, model
from mtseg.network.layers import FastELU, FusedBatchNormalization, MinibatchDropout

# Activation.


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


def test_an_activation_is_saved_and_reloaded_in_safe_mode(tmp_path):
    model = keras.Sequential([keras.Input((4,)), FastELU()])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.array([[-2.0, -1.0, 0.0, 3.0]], np.float32)
    np.testing.assert_array_equal(reloaded(x), model(x))


# Batch normalisation.

SHAPE = (3, 4, 5, 6)


def random_maps(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return (rng.normal(2.0, 3.0, shape) * np.arange(1, shape[-1] + 1)).astype("float32")


def make_pair(shape=SHAPE, **arguments):
    """A fused layer and Keras's, with the same random weights."""
    pair = FusedBatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    for layer in pair:
        layer.build(shape)
    rng = np.random.default_rng(1)
    weights = [rng.uniform(0.5, 2.0, w.shape).astype("float32") for w in pair[1].weights]
    for layer in pair:
        layer.set_weights(weights)
    return pair


def run(layer, inputs, *, training):
    """Outputs, gradients with respect to inputs, gamma and beta, and the averages afterwards."""
    weighting = tf.constant(random_maps(2, inputs.shape))
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * weighting) / weighting.shape[-1]
    wanted = [inputs, *(w.value for w in layer.trainable_weights)]
    return [outputs, *tape.gradient(loss, wanted), *layer.non_trainable_weights]


def assert_same(results, expected, tolerance=1e-5):
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        wanted = tf.cast(tf.convert_to_tensor(wanted), "float32").numpy()
        result = tf.cast(tf.convert_to_tensor(result), "float32").numpy()
        scale = max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(result / scale, wanted / scale, rtol=0, atol=tolerance)


@pytest.fixture
def fused_calls(monkeypatch):
    """Counts the calls that reach the fused operation."""
    calls = []
    original = FusedBatchNormalization._call_fused

    def counting(self, inputs, is_training):
        calls.append(is_training)
        return original(self, inputs, is_training)

    monkeypatch.setattr(FusedBatchNormalization, "_call_fused", counting)
    return calls


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"momentum": 0.9, "epsilon": 1e-2, "axis": 3}])
def test_results_gradients_and_averages_are_kerass(training, arguments, fused_calls):
    fused, plain = make_pair(**arguments)
    maps = random_maps()
    assert_same(run(fused, maps, training=training), run(plain, maps, training=training))
    assert fused_calls == [training]


def test_averages_stay_kerass_over_several_steps():
    fused, plain = make_pair(momentum=0.8)
    for seed in range(5):
        fused(random_maps(seed), training=True)
        plain(random_maps(seed), training=True)
    assert_same(fused.weights, plain.weights)


def test_the_moving_variance_is_the_one_over_n_by_hand():
    layer = FusedBatchNormalization(momentum=0.0)
    layer(np.array([1.0, 3.0], "float32").reshape(1, 1, 2, 1), training=True)
    assert layer.moving_mean.numpy() == pytest.approx([2.0])
    assert layer.moving_variance.numpy() == pytest.approx([1.0])  # Over n - 1 it would be 2.


def test_a_single_value_has_no_variance():
    fused, plain = make_pair((1, 1, 1, 2))
    value = np.array([3.0, -4.0], "float32").reshape(1, 1, 1, 2)
    assert_same(run(fused, value, training=True), run(plain, value, training=True))


def test_without_scale_and_without_centre():
    for arguments in ({"scale": False}, {"center": False}):
        fused, plain = make_pair(**arguments)
        assert_same(
            run(fused, random_maps(), training=True), run(plain, random_maps(), training=True)
        )


def test_a_frozen_layer_uses_its_averages_in_training():
    fused, plain = make_pair()
    fused.trainable = plain.trainable = False
    assert_same(run(fused, random_maps(), training=True), run(plain, random_maps(), training=True))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", [True, False])
def test_mixed_precision_keeps_statistics_in_float32(policy, training, fused_calls):
    fused, plain = make_pair(dtype=policy)
    maps = random_maps()
    results, expected = run(fused, maps, training=training), run(plain, maps, training=training)
    assert results[0].dtype == policy.removeprefix("mixed_")
    assert {w.dtype for w in fused.weights} == {"float32"}
    assert_same(results[:1], expected[:1], 1e-2)
    assert_same(results[-2:], expected[-2:], 1e-5)
    assert fused_calls == [training]


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"axis": 1}, SHAPE),
        ({}, (8, 6)),
        ({}, (2, 3, 4, 5, 6)),
        ({"epsilon": 1e-6}, SHAPE),
        ({"dtype": "float64"}, SHAPE),
        ({"synchronized": True}, SHAPE),
    ],
)
def test_what_the_operation_cannot_do_is_kerass(arguments, shape, fused_calls):
    fused, plain = make_pair(shape, **arguments)
    maps = random_maps(shape=shape)
    np.testing.assert_allclose(
        fused(maps, training=True), plain(maps, training=True), rtol=0, atol=1e-5
    )
    assert_same(fused.weights, plain.weights)
    assert fused_calls == []


def test_a_mask_is_obeyed(fused_calls):
    fused, plain = make_pair()
    maps = random_maps()
    mask = np.arange(60).reshape(SHAPE[:-1]) % 3 == 0
    assert_same(
        [fused(maps, training=True, mask=mask), *fused.weights],
        [plain(maps, training=True, mask=mask), *plain.weights],
    )
    assert fused_calls == []


def test_weights_go_both_ways():
    fused, plain = make_pair()
    maps = random_maps()
    assert [w.name for w in fused.weights] == [w.name for w in plain.weights]
    for source, target in ((fused, plain), (plain, fused)):
        source(maps, training=True)
        target.set_weights(source.get_weights())
        assert_same([target(maps), *target.weights], [source(maps), *source.weights])


def test_a_normalisation_is_saved_and_reloaded_in_safe_mode(tmp_path):
    layer, _ = make_pair(momentum=0.7)
    model = keras.Sequential([keras.Input((None, None, 6)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    (loaded_layer,) = loaded.layers
    assert type(loaded_layer) is FusedBatchNormalization
    assert loaded_layer.momentum == 0.7
    maps = random_maps()
    np.testing.assert_array_equal(loaded(maps), model(maps))


def normalised(maps, num_replicas):
    """Outputs of a synchronised layer in training, and its weights afterwards."""
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(num_replicas)])
    with strategy.scope():
        layer = FusedBatchNormalization(synchronized=True)
        layer.build((None, *maps.shape[1:]))
    parts = np.split(maps, num_replicas)
    given = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )
    run = tf.function(lambda: strategy.run(lambda x: layer(x, training=True), (given,)))
    outputs = np.concatenate(strategy.experimental_local_results(run()))
    return [outputs, *layer.get_weights()]


def test_two_replicas_normalise_and_average_as_one():
    maps = random_maps(shape=(4, 5, 3, 6))
    maps[2:] += 10  # so that neither half has the mean of both
    for one, two in zip(normalised(maps, 1), normalised(maps, 2), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


# Dropout.


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


@pytest.mark.parametrize("module", [layers, model])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)
