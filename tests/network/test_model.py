"""The network: the paper's sizes, its inputs and outputs, training, saving and loading."""

import ast
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg.network import folding, layers
from mtseg.network import model as model_module
from mtseg.network.architecture import HALO, NUM_CONVOLUTIONS, PLANE_NORMALS
from mtseg.network.layers import FusedBatchNormalization
from mtseg.network.model import build_patch_model, patch_logits_model
from mtseg.scans.patches import PATCH_SIZE, PLANES


def random_planes(n, seed=0, size=PATCH_SIZE):
    rng = np.random.default_rng(seed)
    return {name: rng.random((n, size, size, 1), dtype="float32") for name in PLANES}


@pytest.fixture(scope="module")
def patch_model():
    keras.utils.set_random_seed(0)
    return build_patch_model(3)


@pytest.fixture
def shallow(monkeypatch):
    """Four shared convolutions, for what does not depend on the depth; patches have 9 voxels."""
    monkeypatch.setattr(model_module, "NUM_CONVOLUTIONS", 4)
    keras.utils.set_random_seed(0)


# The architecture.


def test_sizes_are_the_papers():
    assert (PATCH_SIZE, NUM_CONVOLUTIONS, HALO) == (51, 25, 25)
    assert PATCH_SIZE - 2 * NUM_CONVOLUTIONS == 1


def test_planes_are_in_their_order_and_perpendicular_to_the_third_axis():
    assert tuple(PLANE_NORMALS) == PLANES
    assert PLANE_NORMALS == {"axial": 2, "coronal": 1, "sagittal": 0}


@pytest.mark.parametrize("num_classes", [2, 9])
def test_parameters_counted_by_hand(num_classes):
    stack = 1 * 9 * 32 + 24 * 32 * 9 * 32 + 25 * 4 * 32
    head = (96 * 192 + 4 * 192) + (192 * 192 + 4 * 192)
    last = 192 * num_classes + num_classes
    assert build_patch_model(num_classes).count_params() == stack + head + last
    assert num_classes != 9 or stack + head + last == 283_241


def test_non_trainable_parameters_are_the_moving_averages(patch_model):
    sizes = [int(np.prod(w.shape)) for w in patch_model.non_trainable_weights]
    assert sum(sizes) == 25 * 2 * 32 + 2 * 2 * 192


def test_arguments_reach_the_layers():
    model = build_patch_model(2, dropout_rate=0.25, batch_norm_momentum=0.9, is_synchronized=True)
    layers = model._flatten_layers(include_self=False)
    norms = [x for x in layers if isinstance(x, FusedBatchNormalization)]
    assert len(norms) == 27
    assert {(norm.momentum, norm.synchronized) for norm in norms} == {(0.9, True)}
    rates = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.25, 0.25]


@pytest.mark.parametrize("module", [model_module, folding])
def test_the_architecture_needs_keras_and_numpy_alone(module):
    """So it runs on every backend; only `layers` has operations of TensorFlow."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names <= {"__future__", "math", "typing", "keras", "numpy", "mtseg"}


# Inputs and outputs.


def test_a_patch_gives_one_distribution_and_a_larger_one_gives_more(patch_model):
    probabilities = patch_model(random_planes(2)).numpy()
    assert probabilities.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    assert patch_model(random_planes(1, size=53)).shape == (1, 3, 3, 3)


@pytest.mark.usefixtures("shallow")
def test_backgrounds_of_several_tasks_are_one_class():
    model = build_patch_model(4, num_backgrounds=3)
    planes = random_planes(2, size=9)
    outputs = tf.nn.softmax(patch_logits_model(model)(planes)).numpy()
    assert outputs.shape == (2, 1, 1, 6)  # Three backgrounds, three tissues.
    probabilities = model(planes).numpy()
    np.testing.assert_allclose(probabilities[..., 0], outputs[..., :3].sum(-1), atol=1e-6)
    np.testing.assert_allclose(probabilities[..., 1:], outputs[..., 3:], atol=1e-6)


def test_the_softmax_of_the_logits_is_the_probability(patch_model):
    planes = random_planes(2)
    logits = patch_logits_model(patch_model)(planes)
    np.testing.assert_allclose(tf.nn.softmax(logits), patch_model(planes), atol=1e-6)


@pytest.mark.usefixtures("shallow")
def test_planes_share_one_set_of_batch_statistics():
    model = build_patch_model(2, batch_norm_momentum=0.0)
    planes = {name: a * (1 + n) for n, (name, a) in enumerate(random_planes(4, size=9).items())}
    model(planes, training=True)
    stack = model.get_layer("shared_convolutions")
    first = stack.layers[0](np.concatenate(list(planes.values()))).numpy()
    np.testing.assert_allclose(stack.layers[1].moving_mean, first.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(stack.layers[1].moving_variance, first.var((0, 1, 2)), rtol=1e-3)


def test_planes_are_not_interchangeable(patch_model):
    planes = random_planes(2)
    exchanged = {**planes, "axial": planes["sagittal"], "sagittal": planes["axial"]}
    assert np.abs(patch_model(planes) - patch_model(exchanged)).max() > 1e-4


def test_samples_of_a_batch_do_not_mix(patch_model):
    planes = random_planes(3)
    one = patch_model({name: array[1:2] for name, array in planes.items()})
    np.testing.assert_allclose(patch_model(planes)[1:2], one, atol=1e-5)


def test_mixed_precision_gives_float32_probabilities(monkeypatch):
    # Compiling the activation for 17 sizes takes seconds; its results are tested with the layers.
    monkeypatch.setattr(layers, "_FEWEST_COMPILED_VOXELS", PATCH_SIZE**2)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_patch_model(2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(random_planes(1)).dtype == "float32"
    assert {w.dtype for w in model.weights} == {"float32"}


# Training and saving.


@pytest.mark.usefixtures("shallow")
def test_one_training_step_moves_every_weight_and_training_lowers_the_loss():
    model = build_patch_model(2, dropout_rate=0.0)
    logits_model = patch_logits_model(model)
    planes, class_index = random_planes(6, size=9), np.array([0, 1] * 3)
    before = [w.numpy() for w in model.weights]
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = logits_model(planes, training=True)[:, 0, 0]
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(class_index, logits, from_logits=True)
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    losses = [float(step())]
    for weight, old in zip(model.weights, before, strict=True):
        assert np.abs(weight - old).max() > 0, weight.path
    losses += [float(step()) for _ in range(3)]
    assert losses[-1] < losses[0]


def test_saved_and_reloaded_in_safe_mode(patch_model, tmp_path):
    planes = random_planes(2)
    patch_model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(planes), patch_model(planes))
