"""One training step on TensorFlow: forward, backward, update, on one or several devices.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mtseg.network.model import patch_logits_model
from mtseg.runs.building import build_model, make_learning_rate, make_optimizer
from mtseg.runs.config import TrainConfig
from mtseg.scans.patches import PLANES
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.engines.cutting import cut_from_buffer
from mtseg.training.engines.strategies import Replicas


class TrainingStep:
    """Network, optimiser and the graph that trains them on the replicas of a run.

    Args:
        config: what to train.
        label_space: its tasks and classes.
        replicas: the devices.

    Attributes:
        model: the patch model.
        optimizer: the configuration's optimiser, with a scaled loss for float16.
    """

    def __init__(self, config: TrainConfig, label_space: LabelSpace, replicas: Replicas) -> None:
        self._config, self._strategy, self._replicas = config, replicas.strategy, replicas
        self._dtype = "float64" if config.precision == "float64" else "float32"
        keras.utils.set_random_seed(config.seed)
        total = config.minibatches_per_task * len(label_space.selections)
        self._learning_rate = make_learning_rate(config, total)
        with self._strategy.scope():
            self.model = build_model(
                config, label_space, precision=config.precision, replicas=replicas.num_replicas
            )
            self._logits = patch_logits_model(self.model)
            optimizer = make_optimizer(config, self._learning_rate)
            if config.precision == "mixed_float16":
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            self.optimizer = optimizer
            self.optimizer.build(self.model.trainable_variables)
        self._volumes: Any = None
        self._compute = tf.function(self._compute_call)

    def hold_volumes(self, buffer: npt.NDArray[np.float16]) -> None:
        """Copies volumes to each replica, which then cuts patches from them.

        Args:
            buffer: float16 (voxels,), from `mtseg.batches.placed_samples.PlacedSamples`.
        """

        def copy(device: str) -> tf.Tensor:
            # Were it in the host's memory, every call would copy it.
            with tf.device(device):
                return tf.identity(buffer)

        if self._replicas.num_replicas == 1:
            gpus = tf.config.list_logical_devices("GPU")
            self._volumes = copy("GPU:0" if gpus else "CPU:0")
            return
        devices = self._strategy.extended.worker_devices
        self._volumes = self._strategy.experimental_distribute_values_from_function(
            lambda context: copy(devices[context.replica_id_in_sync_group])
        )

    def state(self) -> dict[str, Any]:
        """Everything that is needed to resume, by name."""
        # The number of masks that dropout has drawn is not a weight, so Keras does not save it.
        weights = {weight.path for weight in self.model.weights}
        dropout = [v.value for v in self.model.variables if v.path not in weights]
        return {"model": self.model, "optimizer": self.optimizer, "dropout": dropout}

    def set_learning_rate(self) -> None:
        """Gives a constant learning rate the configuration's value, in place of a checkpoint's."""
        if isinstance(self._learning_rate, float):
            self.optimizer.learning_rate = self._learning_rate

    def is_finite(self) -> bool:
        """Whether all weights, moving statistics and moments of the optimiser are finite."""
        values = [*self.model.variables, *self.optimizer.variables]
        checks = [
            tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable)))
            for variable in values
            if "float" in variable.dtype
        ]
        return bool(tf.reduce_all(tf.stack(checks)))

    def __call__(
        self, patches: Any, score_index: Any, is_stopping: bool = False
    ) -> tuple[tf.Tensor, bool]:
        """Trains on the mini-batches of one call.

        Args:
            patches: from `mtseg.batches.pipeline.make_dataset`, shared among the replicas: the
                patches, or their places after `hold_volumes`.
            score_index: likewise, the output that should be the most probable.
            is_stopping: whether this process has been asked to stop.

        Returns:
            The mean cross-entropy of each mini-batch, float32 (mini-batches,), and whether any of
            the processes has been asked to stop.
        """
        # The volumes are an argument, never a constant of the graph.
        losses, stopping = self._compute(
            self._volumes, patches, score_index, tf.constant(float(is_stopping))
        )
        return losses, bool(stopping > 0)

    def _compute_call(
        self, volumes: Any, patches: Any, score_index: Any, is_stopping: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self._config.steps_per_call == 1:
            loss, stopping = self._compute_minibatch(volumes, patches, score_index, 0, is_stopping)
            return loss[tf.newaxis], stopping
        (own_score_index, *_) = self._strategy.experimental_local_results(score_index)
        count = tf.shape(own_score_index)[0]
        losses = tf.TensorArray(tf.float32, count)
        stopping = tf.constant(0.0)
        for number in tf.range(count):
            loss, stopping = self._compute_minibatch(
                volumes, patches, score_index, number, is_stopping
            )
            losses = losses.write(number, loss)
        return losses.stack(), stopping

    def _compute_minibatch(
        self,
        volumes: Any,
        patches: Any,
        score_index: Any,
        number: Any,
        is_stopping: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def compute(volumes: Any, patches: Any, score_index: tf.Tensor) -> tf.Tensor:
            of_minibatch = tf.nest.map_structure(lambda part: part[number], patches)
            if volumes is not None:
                of_minibatch = cut_from_buffer(volumes, of_minibatch)
            loss = self._compute_share(of_minibatch, score_index[number])
            return tf.stack([loss, is_stopping])

        both = self._strategy.run(compute, args=(volumes, patches, score_index))
        loss, stopping = tf.unstack(
            self._strategy.reduce(tf.distribute.ReduceOp.SUM, both, axis=None)
        )
        return loss, stopping

    def _compute_share(self, patches: tf.Tensor, score_index: tf.Tensor) -> tf.Tensor:
        """One replica's share of a mini-batch: forward, backward, update.

        Args:
            patches: float16 (n, 3, 51, 51).
            score_index: int32 (n,), the output that should be the most probable.

        Returns:
            Its part of the mini-batch's mean cross-entropy.
        """
        loss, gradients = self.loss_and_gradients(patches, score_index)
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.cast(loss, tf.float32)

    def loss_and_gradients(
        self, patches: tf.Tensor, score_index: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One replica's part of the loss of a mini-batch, and its gradients.

        Args:
            patches: float16 (n, 3, 51, 51).
            score_index: int32 (n,).

        Returns:
            Its part of the mean cross-entropy, and the gradient of each of the model's trainable
            variables, scaled for float16.
        """
        patches = tf.cast(patches, self._dtype)[..., tf.newaxis]
        planes = {name: patches[:, p] for p, name in enumerate(PLANES)}
        with tf.GradientTape() as tape:
            logits = self._logits(planes, training=True)[:, 0, 0, :]
            losses = keras.losses.sparse_categorical_crossentropy(
                score_index, logits, from_logits=True
            )
            # Divided by the global size, so that summing over replicas gives the mean.
            loss = tf.reduce_sum(losses) / self._config.global_batch_size
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, self.model.trainable_variables)
