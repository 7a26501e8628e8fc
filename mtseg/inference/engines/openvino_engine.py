"""Tiles computed by OpenVINO on the processor, without TensorFlow and Keras.

The graph is built from the folded weights. It has two parts: the convolutions with the choice of
foreground voxels, and the head. OpenVINO starts in a fraction of the time of TensorFlow, and in
bfloat16 its convolutions take about the same time. In int8 they take two thirds of that.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13 as ops

from mtseg.inference.dense import DenseNetwork
from mtseg.inference.engines.chunks import EXTENT_STEP, compute_tile
from mtseg.inference.engines.quantization import (
    LARGEST_FEATURE,
    QuantizedLayer,
    quantize_stack,
)
from mtseg.inference.engines.rounding import round_to_bfloat16, round_weights, split_images
from mtseg.inference.tile_cost import chunk_positions_for
from mtseg.network.architecture import NUM_FEATURES
from mtseg.network.folding import FoldedNetwork
from mtseg.system.hardware import has_bfloat16_instructions, num_cores


def open_folded(network: FoldedNetwork, precision: str) -> DenseNetwork:
    """Makes a network that computes tiles on the processor.

    Args:
        network: NumPy arrays, from `mtseg.runs.weights_file.read_folded`.
        precision: one of `mtseg.inference.engines.choice.PRECISIONS`.
    """
    runtime = OpenVinoRuntime(network, precision)
    return DenseNetwork(
        functools.partial(compute_tile, runtime),
        runtime.num_classes,
        precision,
        chunk_positions_for(precision),
        "openvino",
        extent_step=EXTENT_STEP,
    )


class OpenVinoRuntime:
    """The network's layers, compiled by OpenVINO: a `mtseg.inference.engines.chunks.LayerRuntime`.

    Several threads may use it at once.

    Args:
        network: NumPy arrays.
        precision: `float32` or `bfloat16`, of everything but the logits and the softmax; or `int8`,
            of all convolutions but the first. The rest is then in bfloat16 where the processor has
            instructions for it, else in float32.
    """

    def __init__(self, network: FoldedNetwork, precision: str) -> None:
        self.num_classes = len(network.logits[1]) - network.num_backgrounds + 1
        is_quantized = precision == "int8"
        self._is_rounded = precision == "bfloat16" or (is_quantized and has_bfloat16_instructions())
        # NumPy has no bfloat16. OpenVINO shows such numbers as float16 of the same bits, and they
        # are only passed on.
        self.feature_type: type[np.floating[Any]] = np.float16 if self._is_rounded else np.float32
        self._element_type = openvino.Type.bf16 if self._is_rounded else openvino.Type.f32
        quantized = quantize_stack(network) if is_quantized else ()
        if self._is_rounded:
            network = round_weights(network, np, round_to_bfloat16)
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._is_rounded else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_cores(),
            # Pinned threads of two processes would share one core while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        graphs = {
            "convolutions": _build_convolutions(network, self._element_type, quantized),
            "head": _build_head(network, self._element_type),
        }
        self._graphs = {
            name: core.compile_model(graph, "CPU", settings) for name, graph in graphs.items()
        }
        self._requests = threading.local()

    def convolve(
        self, images: npt.NDArray[np.float32], voxels: npt.NDArray[np.int32]
    ) -> npt.NDArray[Any]:
        """Runs the convolutions; see `mtseg.inference.engines.chunks.LayerRuntime`."""
        channels_second = images[:, np.newaxis]
        if self._is_rounded:
            channels_second = split_images(channels_second, np, round_to_bfloat16, axis=1)
        return self._infer("convolutions", [channels_second, voxels])

    def classify(self, *planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs the head; see `mtseg.inference.engines.chunks.LayerRuntime`."""
        shared = [
            openvino.Tensor(features, features.shape, self._element_type) for features in planes
        ]
        return self._infer("head", shared)

    def _infer(self, graph: str, inputs: list[Any]) -> npt.NDArray[Any]:
        """Runs a graph with one output, without copies. A thread has a request of its own."""
        request = getattr(self._requests, graph, None)
        if request is None:
            request = self._graphs[graph].create_infer_request()
            setattr(self._requests, graph, request)
        request.infer(inputs, share_inputs=True, share_outputs=True)
        output: npt.NDArray[Any] = request.get_output_tensor(0).data
        return output


def _build_convolutions(
    network: FoldedNetwork, element_type: openvino.Type, quantized: Sequence[QuantizedLayer]
) -> openvino.Model:
    """The graph of the 25 shared convolutions.

    Args:
        network: NumPy arrays; for bfloat16 those of `mtseg.inference.engines.rounding`.
        element_type: of the features.
        quantized: for int8 the convolutions after the first, else empty.

    Returns:
        From `images`, float32 (n, channels, rows + 50, columns + 50), and `voxels`, int32 (m,), to
        features (m, 32).
    """
    num_channels = network.stack[0][0].shape[2]
    images = ops.parameter([-1, num_channels, -1, -1], np.float32, name="images")
    voxels = ops.parameter([-1], np.int32, name="voxels")
    x = images
    for kernel, bias in network.stack[:1] if quantized else network.stack:
        x = _convolve(x, _kernel(kernel), bias)
    for highest, weights, scales, bias in quantized:
        lowest, highest, zero, largest = (
            ops.constant(np.float32(value)) for value in (-1, highest, 0, LARGEST_FEATURE)
        )
        x = ops.fake_quantize(x, lowest, highest, zero, largest, LARGEST_FEATURE + 1)
        scaled = ops.multiply(
            ops.convert(_kernel(weights), np.float32), ops.constant(scales.reshape(-1, 1, 1, 1))
        )
        x = _convolve(x, scaled, bias)
    x = ops.transpose(x, ops.constant(np.array([0, 2, 3, 1])))
    x = ops.reshape(x, ops.constant(np.array([-1, NUM_FEATURES])), False)
    x = ops.gather(x, voxels, ops.constant(np.int32(0)))
    return openvino.Model([ops.convert(x, element_type)], [images, voxels], "convolutions")


def _kernel(kernel: npt.NDArray[Any]) -> Any:
    """A kernel (rows, columns, features in, features out) as OpenVINO orders its axes."""
    return ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))


def _convolve(x: Any, kernel: Any, bias: npt.NDArray[np.float32]) -> Any:
    """A convolution without padding, with its bias and ELU."""
    x = ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.elu(ops.add(x, ops.constant(bias.reshape(1, -1, 1, 1))), 1.0)


def _build_head(network: FoldedNetwork, element_type: openvino.Type) -> openvino.Model:
    """The graph of the fully connected layers.

    Args:
        network: NumPy arrays.
        element_type: of the features and the two hidden layers.

    Returns:
        From the features of the three planes, (voxels, 32) each, to float32 (voxels, num_classes).
    """
    planes = [
        ops.parameter([-1, NUM_FEATURES], element_type, name=name)
        for name in ("axial", "coronal", "sagittal")
    ]
    x = ops.convert(ops.concat(planes, 1), np.float32)
    for kernel, bias in network.head:
        x = ops.elu(
            ops.add(ops.matmul(x, ops.constant(kernel), False, False), ops.constant(bias)), 1.0
        )
    kernel, bias = network.logits
    if element_type == openvino.Type.bf16:
        # The logits are computed in float32: their kernel is a sum of two bfloat16 numbers.
        high = round_to_bfloat16(kernel)
        both = np.concatenate([high, round_to_bfloat16(kernel - high)], axis=1)
        x = ops.matmul(x, ops.constant(both), False, False)
        x = ops.reduce_sum(
            ops.reshape(x, ops.constant(np.array([-1, 2, len(bias)])), False),
            ops.constant(np.array([1])),
        )
    else:
        x = ops.matmul(x, ops.constant(kernel), False, False)
    x = ops.softmax(ops.add(x, ops.constant(bias)), 1)
    if (count := network.num_backgrounds) > 1:
        background, others = ops.variadic_split(
            x, ops.constant(1), ops.constant(np.array([count, len(bias) - count]))
        ).outputs()
        total = ops.reduce_sum(background, ops.constant(np.array([1])), keep_dims=True)
        x = ops.concat([total, others], 1)
    return openvino.Model([x], planes, "head")
