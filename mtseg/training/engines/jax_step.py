"""One training step on JAX: forward, backward, update, on one or several devices of a machine.

The network and the optimiser are those of the TensorFlow engine, by Keras's functions without
state. A mini-batch is divided among the devices, and XLA computes as if there were only one: batch
normalisation and dropout work on the whole mini-batch.

Reference: Moeskops et al., MICCAI 2016, section 3.2.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtseg.batches.placed_samples import Places
from mtseg.network.model import patch_logits_model
from mtseg.runs.building import build_model, make_learning_rate, make_optimizer
from mtseg.runs.config import TrainConfig
from mtseg.scans.patches import PLANES
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.engines.cutting import cut_from_buffer

SLOW_IN_LOOPS = ("cpu",)
"""Where several mini-batches are not compiled as a loop: XLA computes convolutions within loops on
one core of a processor, which takes many times longer, and a call costs nothing there."""


class State(NamedTuple):
    """All that a training step changes: lists of arrays, in the order of Keras's variables.

    Attributes:
        trainable: the weights.
        others: moving statistics, and how many masks dropout has drawn.
        optimizer: moments, and the number of steps.
    """

    trainable: list[Any]
    others: list[Any]
    optimizer: list[Any]


class TrainingStep:
    """Network, optimiser and the compiled step that trains them.

    Args:
        config: what to train.
        label_space: its tasks and classes.
        devices: what computes. Each takes equally many samples of a mini-batch.

    Attributes:
        model: the patch model.
        optimizer: the configuration's optimiser.
        schedule: its learning rate: a number, or Keras's schedule.
    """

    def __init__(
        self, config: TrainConfig, label_space: LabelSpace, devices: Sequence[jax.Device]
    ) -> None:
        is_slow = devices[0].platform in SLOW_IN_LOOPS
        self._per_program = 1 if is_slow else config.steps_per_call
        mesh = Mesh(np.array(devices), ("samples",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._divided = NamedSharding(mesh, PartitionSpec(None, "samples"))
        # Keras draws the seeds of initial weights and dropout from Python's generator. Its own
        # function for this would also import TensorFlow.
        random.seed(config.seed)
        total = config.minibatches_per_task * len(label_space.selections)
        self.schedule = make_learning_rate(config, total)
        self.model = build_model(config, label_space, precision=config.precision)
        self._logits = patch_logits_model(self.model)
        self.optimizer = make_optimizer(config, self.schedule)
        self.optimizer.build(self._logits.trainable_variables)
        self._state: State | None = None
        self._volumes: jax.Array | None = None
        self._num_done = 0
        # The state is an argument that each call gives back, and the volumes are an argument: as
        # constants they would be compiled in.
        self._compute = jax.jit(
            self._compute_call, donate_argnums=0, out_shardings=(self._everywhere, self._everywhere)
        )

    def learning_rate(self) -> float:
        """The learning rate of the next mini-batch."""
        rate = self.schedule
        return rate if isinstance(rate, float) else float(rate(self._num_done))

    def set_learning_rate(self) -> None:
        """Gives a constant learning rate the configuration's value, in place of a checkpoint's."""
        if isinstance(self.schedule, float):
            self.variables()
            self.optimizer.learning_rate = self.schedule

    def variables(self) -> State:
        """Keras's variables, with the values after the last mini-batch. They may be changed."""
        variables = State(
            self._logits.trainable_variables,
            self._logits.non_trainable_variables,
            self.optimizer.variables,
        )
        if self._state is not None:
            for group, values in zip(variables, self._state, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(np.asarray(value))
            # The next call takes them from Keras again.
            self._state = None
        return variables

    def hold_volumes(self, buffer: npt.NDArray[np.float16]) -> None:
        """Copies volumes to each device, which then cuts patches from them.

        Args:
            buffer: float16 (voxels,), from `mtseg.batches.placed_samples.PlacedSamples`.
        """
        # Waiting shows here whether the memory is large enough.
        self._volumes = jax.block_until_ready(jax.device_put(buffer, self._everywhere))

    def move(
        self, patches: npt.NDArray[np.float16] | Places, score_index: npt.NDArray[np.int32]
    ) -> tuple[jax.Array | Places, jax.Array]:
        """Moves the mini-batches of a call to the devices, each its share."""
        if isinstance(patches, Places):  # they fit: a buffer has less than 2**31 voxels
            patches = patches._replace(steps=patches.steps.astype(np.int32))
        moved: tuple[Any, jax.Array] = jax.device_put((patches, score_index), self._divided)
        return moved

    def __call__(
        self, patches: jax.Array | Places, score_index: jax.Array
    ) -> npt.NDArray[np.float32]:
        """Trains on the mini-batches of one call.

        On a GPU a call of full length is one program. A shorter one is computed mini-batch by
        mini-batch, so that not every length has to be compiled.

        Args:
            patches: float16 (mini-batches, samples, 3, 51, 51), from `move`; or their places after
                `hold_volumes`.
            score_index: int32 (mini-batches, samples), the output that should be the most probable.

        Returns:
            The mean cross-entropy of each mini-batch, float32 (mini-batches,).
        """
        if self._state is None:
            # Copies, because the state is given away: Keras's variables must keep theirs.
            values = [[np.array(variable) for variable in group] for group in self.variables()]
            self._num_done = int(np.asarray(self.optimizer.iterations))
            self._state = State(*jax.device_put(values, self._everywhere))
        count = len(score_index)
        size = count if count == self._per_program else 1
        losses = []
        for start in range(0, count, size):
            part = slice(start, start + size)
            batch = jax.tree.map(lambda array, part=part: array[part], (patches, score_index))
            self._state, loss = self._compute(self._state, self._volumes, batch)
            losses.append(loss)
        self._num_done += count
        return np.concatenate([np.asarray(loss) for loss in losses])

    def _compute_call(
        self, state: State, volumes: jax.Array | None, batch: tuple[Any, jax.Array]
    ) -> tuple[State, jax.Array]:
        def compute(state: State, batch: tuple[Any, jax.Array]) -> tuple[State, jax.Array]:
            patches, score_index = batch
            if volumes is not None:
                patches = cut_from_buffer(volumes, patches)
            return self._compute_minibatch(state, patches, score_index)

        if len(batch[1]) == 1:  # a loop would be compiled otherwise than what it contains
            state, loss = compute(state, jax.tree.map(lambda array: array[0], batch))
            return state, loss[jnp.newaxis]
        state, losses = jax.lax.scan(compute, state, batch)
        return state, losses

    def _compute_minibatch(
        self, state: State, patches: jax.Array, score_index: jax.Array
    ) -> tuple[State, jax.Array]:
        """Forward, backward, update; returns the new state and the mean cross-entropy."""
        (loss, others), gradients = self.loss_and_gradients(state, patches, score_index)
        trainable, optimizer = self.optimizer.stateless_apply(
            state.optimizer, gradients, state.trainable
        )
        return State(list(trainable), list(others), list(optimizer)), loss

    def loss_and_gradients(self, state: State, patches: jax.Array, score_index: jax.Array) -> Any:
        """The loss of a mini-batch and its gradients.

        Args:
            state: weights and statistics.
            patches: float16 (n, 3, 51, 51).
            score_index: int32 (n,).

        Returns:
            `((loss, others), gradients)`: the mean cross-entropy, what becomes of `state.others`,
            and the gradient of each of `state.trainable`.
        """

        def compute(trainable: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
            values = patches.astype("float32")[..., jnp.newaxis]
            planes = {name: values[:, p] for p, name in enumerate(PLANES)}
            logits, others = self._logits.stateless_call(
                trainable, state.others, planes, training=True
            )
            losses = keras.losses.sparse_categorical_crossentropy(
                score_index, logits[:, 0, 0, :], from_logits=True
            )
            return jnp.mean(losses), others

        return jax.value_and_grad(compute, has_aux=True)(state.trainable)
