"""Activation, batch normalisation and dropout: Keras's layers, changed for TensorFlow.

Each has the weights and the meaning of Keras's layer. What differs is speed, and dropout on several
devices. On other backends than TensorFlow they are Keras's layers.

- `FastELU`: on processors TensorFlow computes the exponential of bfloat16 numbers one by one, which
  took a quarter of a training step. Compiled by XLA it is a fast loop.
- `FusedBatchNormalization`: Keras computes it by many elementwise operations, which took a third of
  a training step on processors. TensorFlow has a single fused operation.
- `MinibatchDropout`: Keras draws a mask for each replica, so two devices would train a network that
  differs from that of one device. Here the mask is drawn for the whole mini-batch, and each replica
  takes its rows.

Reference: Moeskops et al., MICCAI 2016, section 3.1 (which layers the network has); Clevert et al.,
ICLR 2016 (ELU); Ioffe and Szegedy, ICML 2015 (batch normalisation); Srivastava et al., JMLR 2014
(dropout).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import keras

_FEWEST_COMPILED_VOXELS = 17**2
"""Smaller feature maps are not compiled. In a patch these are those of the last eight layers, which
have a thirtieth of the voxels of all 25."""


@keras.saving.register_keras_serializable(package="mtseg")
class FastELU(keras.layers.ELU):
    """`keras.layers.ELU`, faster for bfloat16 on processors.

    There, values and gradients are computed in float32 and rounded to bfloat16. For other types,
    devices and backends it is Keras's layer.
    """

    def call(self, inputs: Any) -> Any:
        """Computes the activation.

        Args:
            inputs: (batch, rows, columns, channels), or any other shape.

        Returns:
            x where x > 0, else alpha × (exp(x) - 1); same shape and type.
        """
        is_compiled = (
            keras.backend.backend() == "tensorflow"
            and keras.backend.standardize_dtype(inputs.dtype) == "bfloat16"
            and self.alpha == 1
            and not _is_small(inputs.shape[1:3])
            and not _has_gpu()
        )
        return _compiled_elu()(inputs) if is_compiled else super().call(inputs)


def _is_small(size: tuple[int | None, ...]) -> bool:
    """Whether compiling for feature maps of this size takes longer than it saves in minutes.

    A size that is not known yet (None) counts as large.
    """
    known = [length for length in size if length is not None]
    return len(known) == len(size) and math.prod(known) < _FEWEST_COMPILED_VOXELS


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def _compiled_elu() -> Any:
    """ELU with alpha 1, and its gradient, as two functions that XLA compiles."""
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

    # TensorFlow keeps what a gradient is defined in for ever: here one graph for each shape, in
    # place of every training step of the process.
    return tf.function(elu, autograph=False)


_FUSED_DTYPES = ("float16", "bfloat16", "float32")
"""Types of feature maps that the fused operation takes. Its means and variances are float32."""

_SMALLEST_FUSED_EPSILON = 1.001e-5
"""cuDNN refuses smaller ones."""


@keras.saving.register_keras_serializable(package="mtseg")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` as a single operation on TensorFlow.

    Arguments, weights, their names and results are those of Keras's layer, so the weights of one
    can be given to the other with `get_weights` and `set_weights`. (Weights files cannot be
    exchanged: they name a layer after its class.) The fused operation is used for 4-D feature maps
    with the channels last. With a mask or renormalisation, and on other backends, Keras's own
    computation runs.

    With `synchronized=True` the mean and variance over all replicas are computed here in another
    way than in Keras. Keras subtracts the squared mean from the mean square. If the mean is much
    larger than the standard deviation, this loses half of the digits of float32, and the error
    grows through 25 layers.

    Example:
        >>> layer = FusedBatchNormalization(momentum=0.9)
        >>> layer(keras.ops.zeros((2, 5, 5, 32)), training=True).shape
        TensorShape([2, 5, 5, 32])
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises feature maps.

        Args:
            inputs: (batch, rows, columns, channels).
            training: True normalises by the mean and variance of this mini-batch and updates the
                moving averages; False normalises by the moving averages. A layer that is not
                trainable always does the latter.
            mask: as for Keras's layer.

        Returns:
            The normalised maps, of the same shape, in the layer's compute type.
        """
        if mask is None and self._is_fusable(inputs):
            is_training = bool(training) and self.trainable
            if is_training and self.synchronized:
                return self._call_synchronized(inputs)
            return self._call_fused(inputs, is_training)
        return super().call(inputs, training=training, mask=mask)

    def _is_fusable(self, inputs: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not getattr(self, "renorm", False)  # Some releases of Keras do not have it.
            and keras.backend.standardize_dtype(inputs.dtype) in _FUSED_DTYPES
            and self.variable_dtype == "float32"
            and self.epsilon >= _SMALLEST_FUSED_EPSILON
        )

    def _call_fused(self, inputs: Any, is_training: bool) -> Any:
        import tensorflow as tf

        moving_mean = tf.convert_to_tensor(self.moving_mean)
        moving_variance = tf.convert_to_tensor(self.moving_variance)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones_like(moving_mean),
            offset=self.beta if self.center else tf.zeros_like(moving_mean),
            # In training the operation takes no averages. They are updated below, as in Keras.
            mean=tf.zeros([0]) if is_training else moving_mean,
            variance=tf.zeros([0]) if is_training else moving_variance,
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            # The operation normalises by the variance with divisor n, but returns the one with
            # divisor n - 1. Keras averages the former.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
            variance *= tf.maximum(count - 1.0, 1.0) / count
            self._update_averages(mean, variance)
        return tf.cast(outputs, self.compute_dtype)

    def _call_synchronized(self, inputs: Any) -> Any:
        import tensorflow as tf

        def mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, value)

        replica = tf.distribute.get_replica_context()
        values = tf.cast(inputs, tf.float32)
        own_mean, own_variance = tf.nn.moments(values, [0, 1, 2])
        mean = mean_over_replicas(own_mean)
        variance = mean_over_replicas(own_variance + tf.square(own_mean - mean))
        self._update_averages(mean, variance)
        gamma = self.gamma if self.scale else tf.ones_like(mean)
        beta = self.beta if self.center else tf.zeros_like(mean)
        outputs = (values - mean) * (gamma * tf.math.rsqrt(variance + self.epsilon)) + beta
        return tf.cast(outputs, self.compute_dtype)

    def _update_averages(self, mean: Any, variance: Any) -> None:
        kept, new = self.momentum, 1.0 - self.momentum
        self.moving_mean.assign(self.moving_mean * kept + mean * new)
        self.moving_variance.assign(self.moving_variance * kept + variance * new)


@keras.saving.register_keras_serializable(package="mtseg")
class MinibatchDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with a mask that does not depend on the number of replicas.

    The mini-batch must be divided into equal consecutive shares, the first for replica 0 and so on,
    as `mtseg.training.engines.strategies` does. On other backends than TensorFlow it is Keras's
    layer.

    Example:
        >>> layer = MinibatchDropout(0.5, seed=1)
        >>> sorted(set(layer(keras.ops.ones((1, 100)), training=True).numpy().ravel().tolist()))
        [0.0, 2.0]
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Sets random values to 0 and scales the others, so that the mean stays the same.

        Args:
            inputs: (batch, ...), this replica's share of the mini-batch.
            training: False returns the inputs unchanged.
        """
        if not training or not self.rate:
            return inputs
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        share = tf.shape(inputs)[0]
        shape = tf.concat([[share * replica.num_replicas_in_sync], tf.shape(inputs)[1:]], 0)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        drawn = tf.random.stateless_uniform(shape, seed, alg="philox")
        start = share * replica.replica_id_in_sync_group
        is_kept = drawn[start : start + share] >= self.rate
        return tf.where(is_kept, inputs / (1 - self.rate), tf.zeros_like(inputs))
