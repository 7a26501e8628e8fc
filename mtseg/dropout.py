"""Dropout: features come in, the same with some left out leave, alike on any number of replicas.

Keras's layer draws a mask for each replica by itself, so a run on two devices is another run than
the one on one device. Here the mask is drawn for the whole mini-batch, and each replica takes its
rows of it. It costs next to nothing: the layers that use it have 192 features a sample.

Reference: Moeskops et al., MICCAI 2016, section 3.1, for where dropout is used.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="mtseg")
class MinibatchDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with a mask that does not depend on the number of replicas.

    Replica r of n holds the rows r, r + 1, … of n equal shares of the mini-batch, as
    `mtseg.strategies` deals them out. On other backends than TensorFlow it is Keras's layer.

    Example:
        >>> layer = MinibatchDropout(0.5, seed=1)
        >>> sorted(set(layer(np.ones((1, 100)), training=True).numpy().ravel().tolist()))
        [0.0, 2.0]
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Leaves features out.

        Args:
            inputs: (batch, ...).
            training: False returns the inputs as they are.
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
