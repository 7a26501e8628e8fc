"""Parity: at every foreground voxel whole-volume inference gives what the patch model gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtseg import dense
from mtseg.dense import dense_probabilities, make_dense_function
from mtseg.model import HALO, PATCH_SIZE, build_dense_model, build_patch_model

NUM_CLASSES = 4
TOLERANCE = 1e-4


def make_patch_model(seed=0):
    """A network with weights and moving averages as random as those of a trained one."""
    keras.utils.set_random_seed(seed)
    model = build_patch_model(NUM_CLASSES)
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


@pytest.fixture(scope="module")
def patch_model():
    return make_patch_model()


@pytest.fixture(scope="module")
def dense_model(patch_model):
    return build_dense_model(patch_model)


@pytest.fixture(scope="module")
def dense_function(patch_model):
    return make_dense_function(patch_model)


@pytest.fixture(scope="module")
def reloaded(patch_model, dense_function, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("saved_model"))
    module = tf.Module()
    module.patch_model, module.dense = patch_model, dense_function
    tf.saved_model.save(module, path)
    return tf.saved_model.load(path)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", [(7, 9, 11), (60, 6, 5), (1, 1, 1)])
def test_patch_dense_divided_graph_and_reloaded_agree(
    shape, patch_model, dense_model, dense_function, reloaded, monkeypatch
):
    volume = make_volume(shape)
    voxels = some_foreground(volume)
    at = tuple(voxels.T)
    expected = patch_probabilities(patch_model, volume, voxels)
    assert len(voxels) < 5 or expected.std(axis=0).max() > 0.01  # Differences would be seen.

    assert_close(dense_model.predict_on_batch(volume[None, ..., None])[0][at], expected)
    whole = dense_probabilities(dense_model, volume)
    assert whole.shape == (*shape, NUM_CLASSES)
    assert whole.dtype == np.float32
    assert_close(whole[at], expected)
    assert_close(dense_function(volume), whole)
    assert_close(reloaded.dense(volume), whole)

    monkeypatch.setattr(dense, "BLOCK_FEATURE_BYTES", 1)
    blocks = []
    divided = dense_probabilities(
        dense_model, volume, on_progress=lambda done, total: blocks.append((done, total))
    )
    assert blocks == ([(1, 3), (2, 3), (3, 3)] if shape == (60, 6, 5) else [(1, 1)])
    assert_close(divided, whole)


@pytest.mark.parametrize("shape", [(7, 9, 11), (60, 6, 5)])
def test_blocks_cover_every_voxel_once(shape, monkeypatch):
    for limit in (1, 40_000, 130_000, 10**9):
        monkeypatch.setattr(dense, "BLOCK_FEATURE_BYTES", limit)
        box = tuple(slice(2, 2 + n) for n in shape)
        counts = np.zeros([n + 4 for n in shape], int)
        for block in dense._divide(box):
            counts[block] += 1
        assert (counts[box] == 1).all()
        assert counts.sum() == counts[box].size


def test_every_block_fits_in_its_memory(monkeypatch):
    monkeypatch.setattr(dense, "BLOCK_FEATURE_BYTES", 1_500_000_000)
    shape = (400, 380, 300)
    blocks = dense._divide(tuple(slice(0, n) for n in shape))
    assert len(blocks) > 1
    for block in blocks:
        with_halo = [
            min(s.stop + HALO, n) - max(s.start - HALO, 0)
            for s, n in zip(block, shape, strict=True)
        ]
        assert np.prod(with_halo) * 384 <= 1_500_000_000


def test_division_into_blocks_feeds_the_halo_by_hand(monkeypatch):
    # The "network" gives each voxel the sum of what it sees: 25 voxels to each side along i.
    def run(block):
        padded = np.pad(block, ((HALO, HALO), (0, 0), (0, 0)))
        seen = sum(padded[n : n + len(block)] for n in range(PATCH_SIZE))
        return np.stack([np.zeros_like(seen), seen], axis=-1)

    volume = np.arange(1, 121, dtype="float32").reshape(120, 1, 1)
    expected = [volume[max(i - 25, 0) : i + 26].sum() for i in range(120)]
    monkeypatch.setattr(dense, "BLOCK_FEATURE_BYTES", 1)
    totals = []
    result = dense_probabilities(run, volume, on_progress=lambda _, total: totals.append(total))
    assert totals == [5] * 5
    assert result[:, 0, 0, 1].tolist() == expected


def test_only_the_box_of_the_foreground_is_computed(dense_model, patch_model):
    volume = np.zeros((30, 8, 9), "float32")
    volume[11:14, 2:5, 4:8] = make_volume((3, 3, 4))
    shapes = []

    def run(block):
        shapes.append(block.shape)
        return dense_model.predict_on_batch(block[None, ..., None])[0]

    result = dense_probabilities(run, volume)
    assert shapes == [(3, 3, 4)]
    voxels = np.argwhere(volume != 0)[::7]
    assert_close(result[tuple(voxels.T)], patch_probabilities(patch_model, volume, voxels))


def test_background_is_certain_outside_the_foreground(dense_model, dense_function):
    volume = make_volume((7, 9, 11))
    for result in (dense_probabilities(dense_model, volume), dense_function(volume).numpy()):
        np.testing.assert_array_equal(result[volume == 0], [[1, 0, 0, 0]] * (volume == 0).sum())
        assert (result[volume != 0][:, 1:] > 0).all()
        np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)


def test_a_volume_without_foreground_is_background(dense_model, dense_function):
    volume = np.zeros((3, 4, 5), "float32")
    for result in (dense_probabilities(dense_model, volume), dense_function(volume).numpy()):
        assert result.shape == (3, 4, 5, NUM_CLASSES)
        assert (result == [1, 0, 0, 0]).all()


def test_directions_are_not_interchangeable(dense_model):
    volume = make_volume((7, 7, 7))
    straight = dense_probabilities(dense_model, volume)
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        turned = dense_probabilities(dense_model, volume.transpose(order))
        assert np.abs(turned.transpose((*order, 3)) - straight).max() > 10 * TOLERANCE


def test_an_export_archive_takes_the_function(patch_model, dense_function, dense_model, tmp_path):
    archive = keras.export.ExportArchive()
    archive.track(patch_model)
    archive.add_endpoint(
        "segment",
        lambda volume: {"probabilities": dense_function(volume)},
        input_signature=[tf.TensorSpec([None, None, None], tf.float32, name="volume")],
    )
    archive.write_out(str(tmp_path), verbose=False)
    volume = make_volume((5, 4, 6), seed=4)
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert_close(
        served(volume=tf.constant(volume))["probabilities"],
        dense_probabilities(dense_model, volume),
    )
