"""The activation: features come in, the same through an exponential linear unit leave.

TensorFlow's own operation takes the exponential of 16-bit numbers one at a time on processors, so
that a quarter of a bfloat16 training step went there. Compiled by XLA it is a fast loop. That is
the one place where XLA gained: convolutions are slower with it.

Reference: Moeskops et al., MICCAI 2016, section 3.1; Clevert et al., ICLR 2016.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import keras

_SMALL = 17**2
"""Of the 25 layers' maps of a patch, the ten below this hold a thirtieth of all voxels."""


@keras.saving.register_keras_serializable(package="mtseg")
class FastELU(keras.layers.ELU):
    """`keras.layers.ELU`, faster for bfloat16 on processors.

    Elsewhere it is Keras's layer. Results are those of float32, rounded to bfloat16.
    """

    def call(self, inputs: Any) -> Any:
        """Returns x where x > 0, else exp(x) - 1; `inputs` are of any shape."""
        is_compiled = (
            keras.backend.backend() == "tensorflow"
            and keras.backend.standardize_dtype(inputs.dtype) == "bfloat16"
            and self.alpha == 1
            and not _is_small(inputs.shape[1:3])
            and not _has_gpu()
        )
        return _compiled_elu()(inputs) if is_compiled else super().call(inputs)


def _is_small(size: tuple[int | None, ...]) -> bool:
    """Whether compiling for maps of that size would take longer than it saves in minutes."""
    return None not in size and math.prod(size) < _SMALL


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def _compiled_elu() -> Any:
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def forward(x: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(x, tf.float32)
        return tf.cast(tf.where(wide > 0, wide, tf.exp(wide) - 1), x.dtype)

    @tf.function(jit_compile=True)
    def backward(gradient: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        # The slope is 1 above 0 and exp(x) = y + 1 below.
        slope = tf.minimum(tf.cast(y, tf.float32), 0) + 1
        return tf.cast(tf.cast(gradient, tf.float32) * slope, gradient.dtype)

    @tf.custom_gradient
    def elu(x: tf.Tensor) -> Any:
        y = forward(x)
        return y, lambda gradient: backward(gradient, y)

    return elu
