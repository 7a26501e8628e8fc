"""Signatures of the SavedModel: names, shapes, units, and the results of the trained model."""

import json

import numpy as np
import pytest
import tensorflow as tf

from mtseg.inference.decision import decide
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.models.signatures import _tile_function, apply_intensity_rule
from mtseg.network.architecture import HALO
from mtseg.scans.patches import PLANES, cut_patches, pad_volume
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.volume import Volume

pytestmark = pytest.mark.slow


def make_scan(shape, seed=0, is_ct=False):
    """A scan's own intensities in an irregular foreground: of MR, or in Hounsfield units."""
    rng = np.random.default_rng(seed)
    scan = rng.uniform(20, 900, shape).astype(np.float32)
    scan[rng.random(shape) < 0.3] = 0
    scan.flat[0] = 300  # as CT -724 HU, below the air of clipped scans
    return scan - 1024 if is_ct else scan


@pytest.fixture(scope="module")
def saved_model(serving_folder):
    return tf.saved_model.load(str(serving_folder / "mtseg" / "1"))


@pytest.fixture(scope="module")
def network(random_run):
    return make_dense_network(random_run[1], "float32")


THRESHOLDS = (None,) * 7 + (0.1, 0.2)
SHAPES = [(7, 9, 11), (1, 1, 1), (3, 30, 2)]


@pytest.mark.parametrize("is_ct", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (31, 8, 17)])
def test_intensities_in_the_graph_are_those_of_a_prepared_scan(shape, is_ct):
    scan = make_scan(shape, is_ct=is_ct)
    prepared = prepare_scan(Volume(scan, np.eye(4))).volume.array
    np.testing.assert_array_equal(apply_intensity_rule(tf.constant(scan)), prepared)


def test_a_tile_is_computed_in_the_models_own_chunks_unless_the_request_says_otherwise():
    asked = []

    def compute_tile(tile, chunk_positions):
        asked.append(int(chunk_positions))
        return tf.ones((1, 2)) / 2

    segment_tile = _tile_function(compute_tile, 750, (None, None))
    tile = tf.pad(tf.ones((1, 1, 1)), [[HALO, HALO]] * 3)[tf.newaxis]
    for positions in (0, 40):
        segment_tile(tile, tf.ones(1), tf.constant([positions]))
    assert asked == [750, 40]


def test_a_volume_without_foreground_stays_empty():
    assert not apply_intensity_rule(tf.zeros((2, 3, 4))).numpy().any()


def test_names_types_and_axes_of_all_signatures(saved_model):
    def described(specs):
        return {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()}

    signatures = saved_model.signatures
    default = signatures["serving_default"]
    assert described(default.structured_input_signature[1]) == {
        "volume": ("float32", [1, None, None, None])
    }
    assert described(default.structured_outputs) == {
        "labels": ("uint8", [1, None, None, None]),
        "labels_argmax": ("uint8", [1, None, None, None]),
        "probabilities": ("float16", [1, None, None, None, 9]),
    }
    assert set(signatures) == {
        "serving_default",
        *("segment", "segment_int16", "segment_bfloat16"),
        *("segment_tile", "segment_tile_bfloat16", "classify_patches", "describe"),
        *("segment_labels", "segment_labels_bfloat16"),
        *("tile_probabilities", "tile_probabilities_bfloat16"),
    }


@pytest.mark.parametrize("is_ct", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_volume_gives_the_result_of_the_local_network(saved_model, network, shape, is_ct):
    scan = make_scan(shape, 1, is_ct)
    prepared = prepare_scan(Volume(scan, np.eye(4))).volume.array
    expected = dense_probabilities(network, prepared)
    served = saved_model.signatures["segment"](volume=tf.constant(scan[np.newaxis]))
    np.testing.assert_allclose(served["probabilities"][0], expected, atol=1e-3)
    of_class = np.moveaxis(expected, -1, 0)
    np.testing.assert_array_equal(served["labels"][0], decide(of_class, THRESHOLDS))
    np.testing.assert_array_equal(served["labels_argmax"][0], expected.argmax(axis=-1))


def test_int16_intensities_give_the_same_result(saved_model):
    scan = make_scan((5, 6, 7), is_ct=True).round()[np.newaxis]
    signatures = saved_model.signatures
    wide, narrow = (
        signatures[name](volume=tf.constant(scan.astype(dtype)))
        for name, dtype in (("segment", np.float32), ("segment_int16", np.int16))
    )
    for name, value in wide.items():
        np.testing.assert_array_equal(value, narrow[name])


def test_bfloat16_is_close_to_float32(saved_model):
    scan = tf.constant(make_scan((5, 6, 7))[np.newaxis])
    exact, fast = (
        saved_model.signatures[name](volume=scan)["probabilities"].numpy().astype(np.float32)
        for name in ("segment", "segment_bfloat16")
    )
    assert not np.array_equal(exact, fast)
    np.testing.assert_allclose(fast, exact, atol=0.1)


@pytest.mark.parametrize("chunk_positions", [0, 5000])
def test_a_tile_with_its_halo_gives_its_interior(saved_model, network, chunk_positions):
    scan = make_scan((6, 9, 8), 2)
    scale = np.float32(np.percentile(scan[scan > 0], 99))
    expected = dense_probabilities(network, scan / scale)[1:5, 2:9, 3:7]
    tile = np.pad(scan, HALO)[1 : 5 + 2 * HALO, 2 : 9 + 2 * HALO, 3 : 7 + 2 * HALO]
    served = saved_model.signatures["segment_tile"](
        tile=tf.constant(tile[np.newaxis]),
        intensity_scale=tf.constant([scale]),
        chunk_positions=tf.constant([chunk_positions]),
    )
    mask = scan[1:5, 2:9, 3:7] > 0
    np.testing.assert_allclose(served["probabilities"][0], expected[mask], atol=1e-5)
    labels = np.where(mask, decide(np.moveaxis(expected, -1, 0), THRESHOLDS), 0)
    np.testing.assert_array_equal(served["labels"][0], labels)


def test_what_is_asked_for_most_has_signatures_without_anything_else(saved_model):
    volume = tf.constant(make_scan((5, 6, 7))[np.newaxis])
    tile = {
        "tile": tf.constant(np.pad(make_scan((2, 3, 4)), HALO)[np.newaxis]),
        "intensity_scale": tf.constant([900.0]),
        "chunk_positions": tf.constant([0]),
    }
    for precision in ("", "_bfloat16"):
        whole = saved_model.signatures[f"segment{precision}"](volume=volume)
        ((name, labels),) = saved_model.signatures[f"segment_labels{precision}"](
            volume=volume
        ).items()
        assert name == "labels"
        np.testing.assert_array_equal(labels, whole["labels"])
        whole = saved_model.signatures[f"segment_tile{precision}"](**tile)
        ((name, rows),) = saved_model.signatures[f"tile_probabilities{precision}"](**tile).items()
        assert name == "probabilities"
        np.testing.assert_array_equal(rows, whole["probabilities"])


def test_a_scale_of_zero_is_a_tile_without_foreground(saved_model):
    tile = np.ones((1, *(2 + 2 * HALO,) * 3), np.float32)
    served = saved_model.signatures["segment_tile"](
        tile=tf.constant(tile), intensity_scale=tf.zeros(1), chunk_positions=tf.constant([0])
    )
    assert served["probabilities"].shape == (1, 0, 9)
    assert not served["labels"].numpy().any()


def test_patches_give_the_result_of_the_patch_model(saved_model, random_run, network):
    volume = make_scan((6, 9, 8), 3) / 900
    voxels = np.argwhere(volume > 0)[::40]
    patches = cut_patches(pad_volume(volume), voxels)
    planes = {name: tf.constant(patches[:, p, :, :, None]) for p, name in enumerate(PLANES)}
    served = saved_model.signatures["classify_patches"](**planes)["probabilities"]
    expected = random_run[1](planes, training=False)[:, 0, 0]
    np.testing.assert_allclose(served, expected, atol=1e-6)
    dense = dense_probabilities(network, volume)[tuple(voxels.T)]
    np.testing.assert_allclose(served, dense, atol=1e-4)


def test_the_model_returns_its_manifest(saved_model, serving_folder):
    (text,) = saved_model.signatures["describe"](schema=tf.constant([2]))["manifest"].numpy()
    stored = (serving_folder / "mtseg" / "1" / "manifest.json").read_text()
    assert json.loads(text) == json.loads(stored)
    names = set(saved_model.signatures) - {"serving_default"}
    assert set(json.loads(stored)["signatures"]) == names
