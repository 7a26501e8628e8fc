"""The optimisers of a run: Adam against Keras's, and Muon against a reference in NumPy."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.network.model import build_patch_model
from mtseg.runs.building import build_model, make_optimizer
from mtseg.runs.config import configure
from mtseg.runs.optimizers import KernelMuon
from mtseg.scans.patches import PLANES
from mtseg.tasks.label_space import parse_tasks

MOMENTUM = 0.95


def muon(rate=0.01):
    return make_optimizer(configure("paper", "breast", "data", optimizer="muon"), rate)


def orthogonalised(matrix):
    """Five Newton-Schulz iterations with the coefficients of Jordan et al., in float64."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def direction(average, gradient):
    """Jordan's momentum rule: what is orthogonalised, given the average after this gradient."""
    return (1 - MOMENTUM) * gradient + MOMENTUM * average


def reference_run(start, gradients, rate):
    """The kernel after a step of Muon for each gradient, float64 in the shape of `start`."""
    kernel = start.astype(np.float64).reshape(-1, start.shape[-1])
    average = np.zeros_like(kernel)
    for gradient in gradients.astype(np.float64).reshape(len(gradients), *kernel.shape):
        average += (1 - MOMENTUM) * (gradient - average)
        length = 0.2 * np.sqrt(max(kernel.shape))  # as long as a step of Adam
        kernel = kernel - rate * length * orthogonalised(direction(average, gradient))
    return kernel.reshape(start.shape)


def noisy_gradients(shape, count, seed=0):
    """A constant direction under noise three times its size, as mini-batches give it."""
    rng = np.random.default_rng(seed)
    signal, noise = rng.normal(size=shape), rng.normal(size=(count, *shape))
    return (signal + 3 * noise).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_is_kerass(dtype):
    """Twenty steps on a kernel and a bias whose gradients differ by a factor of a million."""
    shapes, scales = [(3, 3, 2, 4), (4,)], [1.0, 1e-6]

    def weights_after(optimizer):
        rng = np.random.default_rng(0)
        weights = [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in shapes]
        for _ in range(20):
            pairs = list(zip(shapes, scales, strict=True))
            gradients = [tf.constant(scale * rng.normal(size=n), dtype) for n, scale in pairs]
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return [weight.numpy() for weight in weights]

    found = weights_after(make_optimizer(configure("paper", "breast", "data"), 1e-3))
    expected = weights_after(keras.optimizers.Adam(1e-3))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_state_of_adam_is_kerass():
    """So a run that was begun with Keras's optimiser can be resumed."""
    optimizers = make_optimizer(configure("paper", "breast", "data"), 1e-3), keras.optimizers.Adam()
    weights = [keras.Variable(np.zeros((3, 2)), name="kernel")]
    for optimizer in optimizers:
        optimizer.build(weights)
    found, expected = ([v.path.split("/")[1:] for v in each.variables] for each in optimizers)
    assert found == expected


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_an_update_of_all_weights_takes_few_operations(kind):
    """Each is built before the first step. Weight after weight they would be several times as
    many."""
    model = build_patch_model(3)
    optimizer = make_optimizer(configure("paper", "breast", "data", optimizer=kind), 1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function
    def update():
        gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    operations = update.get_concrete_function().graph.get_operations()
    assert len(operations) < 12 * len(model.trainable_variables)


@pytest.mark.promise("bounded memory")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_graph_of_a_training_step_goes_with_its_run(precision):
    """TensorFlow keeps every gradient that a graph defines, and with it the graph."""

    def traced():
        model = build_model(
            configure("paper", "breast", "data"), parse_tasks("breast"), precision=precision
        )
        optimizer = make_optimizer(configure("paper", "breast", "data"), 1e-3)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step():
            planes = {plane: tf.ones((2, 51, 51, 1)) for plane in PLANES}
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(planes, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        return weakref.ref(step.get_concrete_function().graph)

    graph = traced()
    gc.collect()
    assert graph() is None


@pytest.mark.parametrize("shape", [(3, 3, 8, 4), (1, 1, 6, 10)])
def test_sixty_noisy_steps_of_muon_are_those_of_the_reference(shape):
    """Many steps: the first one has no momentum yet, so it says nothing of the momentum rule."""
    start = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    gradients = noisy_gradients(shape, 60)
    kernel, optimizer = keras.Variable(start, name="kernel"), muon(0.01)
    for number, gradient in enumerate(gradients, start=1):
        optimizer.apply_gradients([(tf.constant(gradient), kernel)])
        if number in (1, 2, 60):
            expected = reference_run(start, gradients[:number], 0.01)
            np.testing.assert_allclose(kernel.numpy(), expected, atol=1e-4)
    moved = np.abs(kernel.numpy() - start).max()
    assert moved > 0.05  # five hundred times the tolerance


def test_the_reference_tells_momentum_rules_apart(monkeypatch):
    """Adding the unscaled gradient takes another path, by far more than the tolerance."""
    shape = (3, 3, 8, 4)
    start, gradients = np.zeros(shape), noisy_gradients(shape, 60)
    jordans = reference_run(start, gradients, 0.01)

    def unscaled(average, gradient):
        return gradient + MOMENTUM * average

    monkeypatch.setitem(globals(), "direction", unscaled)
    assert np.abs(reference_run(start, gradients, 0.01) - jordans).max() > 0.01


def test_momentum_averages_the_noise_of_mini_batches_away():
    """The sixtieth step is along the signal, although one gradient is mostly noise."""
    shape = (3, 3, 8, 4)
    gradients = noisy_gradients(shape, 60)
    signal = np.random.default_rng(0).normal(size=shape)  # as `noisy_gradients` draws it
    kernel, optimizer = keras.Variable(np.zeros(shape, np.float32), name="kernel"), muon(0.01)
    last = kernel.numpy()
    for gradient in gradients:
        last = kernel.numpy()
        optimizer.apply_gradients([(tf.constant(gradient), kernel)])
    step = last - kernel.numpy()
    cosine = (step * signal).sum() / np.linalg.norm(step) / np.linalg.norm(signal)
    without = orthogonalised(gradients[-1].reshape(72, 4).astype(np.float64)).reshape(shape)
    alone = (without * signal).sum() / np.linalg.norm(without) / np.linalg.norm(signal)
    assert cosine > 0.8
    assert alone < 0.4


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


def test_a_step_on_a_kernel_has_nearly_equal_singular_values():
    kernel = keras.Variable(np.zeros((3, 3, 8, 4), np.float32), name="kernel")
    gradient = noisy_gradients(kernel.shape, 1)[0]
    muon(0.01).apply_gradients([(tf.constant(gradient), kernel)])
    step = -kernel.numpy().reshape(72, 4)
    values = np.linalg.svd(step, compute_uv=False)
    # As long as Adam's steps: 0.2 times the rate in each element, by root mean square.
    assert np.sqrt((step**2).mean()) == pytest.approx(0.2 * 0.01, rel=0.2)
    assert values.max() / values.min() < 1.8
    # Downhill.
    assert (step.ravel() * gradient.ravel()).sum() > 0


def test_a_bias_is_moved_by_adam_at_a_share_of_the_rate():
    bias = keras.Variable(np.zeros(3, np.float32), name="bias")
    muon(0.01).apply_gradients([(tf.constant([1.0, -2.0, 0.5]), bias)])
    np.testing.assert_allclose(bias.numpy(), [-0.006, 0.006, -0.006], rtol=1e-4)


def test_muon_can_be_saved_and_restored_by_keras():
    again = keras.optimizers.deserialize(keras.optimizers.serialize(muon()))
    assert isinstance(again, KernelMuon)
