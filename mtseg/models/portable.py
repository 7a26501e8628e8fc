"""Export to ONNX and LiteRT, for runtimes without TensorFlow.

    OUT/model.onnx      or OUT/model.tflite
    OUT/manifest.json

Input `tile`: float32 (I + 50, J + 50, K + 50), a block of a prepared scan with the 25 voxels around
it, with the intensities of `mtseg.scans.preprocessing.prepare_scan`, 0 outside the foreground.
Output `probabilities`: float32 (I, J, K, classes); its values at voxels that are 0 have no meaning.
Every feature map of the block is in memory at once, at least 384 bytes per voxel, so keep blocks
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.inference.decision import decide_in_graph
from mtseg.inference.tile_graph import classify, convolve
from mtseg.models.export import export_file
from mtseg.network.architecture import HALO, PLANE_NORMALS
from mtseg.network.folding import fold_to_arrays
from mtseg.runs.weights import TrainedModel

ONNX, LITERT = "model.onnx", "model.tflite"
"""The file of the network in each format."""

_OPSET = 18
"""Version of ONNX's set of operations."""


def make_portable_function(
    patch_model: keras.Model, thresholds: Sequence[float | None] | None = None
) -> tf.types.experimental.PolymorphicFunction:
    """Makes a graph that computes a tile without loops and conditions, for any runtime.

    Args:
        patch_model: from `mtseg.network.model.build_patch_model`. Its weights become constants.
        thresholds: for each combined class its operating point, or None; if they are given, the
            graph has labels too.

    Returns:
        A `tf.function` from `tile` to `probabilities`, whose shapes the module's docstring has, and
        with thresholds to `labels`, uint8 (I, J, K), 0 where the tile is 0.
    """
    network = fold_to_arrays(patch_model)

    def compute(tile: tf.Tensor) -> dict[str, tf.Tensor]:
        features = []
        for normal in PLANE_NORMALS.values():
            to_slices = [normal, *(axis for axis in range(3) if axis != normal)]
            within = [slice(HALO, -HALO) if axis == normal else slice(None) for axis in range(3)]
            images = tf.transpose(tile[tuple(within)], to_slices)
            of_slices = convolve(tf.expand_dims(images, -1), network, tf.float32)
            back = [to_slices.index(axis) for axis in range(3)]
            features.append(tf.transpose(of_slices, [*back, 3]))
        joined = tf.concat(features, axis=-1)
        rows = classify(tf.reshape(joined, [-1, joined.shape[-1]]), network)
        shape = tf.concat([tf.shape(joined)[:3], [rows.shape[-1]]], axis=0)
        outputs = {"probabilities": tf.reshape(rows, shape)}
        if thresholds is not None:
            labels = tf.reshape(decide_in_graph(rows, thresholds), shape[:3])
            interior = tile[HALO:-HALO, HALO:-HALO, HALO:-HALO]
            outputs["labels"] = tf.where(interior != 0, labels, tf.zeros_like(labels))
        return outputs

    tile_spec = tf.TensorSpec([None] * 3, tf.float32, name="tile")
    return tf.function(compute, input_signature=[tile_spec])


def export_portable(
    workdir: str | Path, out: str | Path, file_format: str, which: str = "last"
) -> Path:
    """Writes a network as a file for ONNX's or LiteRT's runtimes, and its manifest.

    Args:
        workdir: folder of a training run that has been evaluated.
        out: folder of the model: missing, empty, or with a model of the same format, which is
            replaced.
        file_format: `onnx` or `litert`.
        which: `last` or `best` weights.

    Returns:
        The folder.

    Raises:
        InputError: as `mtseg.models.export.export_file` does, and if the converter is not
            installed.
    """
    name, convert = {"onnx": (ONNX, convert_to_onnx), "litert": (LITERT, _to_litert)}[file_format]

    def write(trained: TrainedModel, path: Path) -> None:
        path.write_bytes(convert(make_portable_function(trained.model)))

    return export_file(workdir, out, which, name, write)


def convert_to_onnx(function: tf.types.experimental.PolymorphicFunction) -> bytes:
    """The content of an ONNX file that computes a graph.

    Raises:
        InputError: if the converter is not installed.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise InputError(
            "ONNX needs a package that is not installed: pip install 'mtseg[onnx]'"
        ) from error
    model, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=_OPSET
    )
    content: bytes = model.SerializeToString()
    return content


def _to_litert(function: tf.types.experimental.PolymorphicFunction) -> bytes:
    concrete = function.get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function).convert()
    return content
