"""Adam and Muon: Keras's optimisers, which update all weights of a device in a few operations.

Keras computes one weight after the other. The network has 83 weights, most of them small, so on a
GPU the time of an update is that of starting thousands of operations, and on any device building
the graph of a training step takes longer than the step. Here

- the kernels of one shape, which are nearly all kernels, are orthogonalised together by Muon;
- on TensorFlow each weight that Adam moves takes one operation. On JAX, XLA fuses its formulas.

The variables and their names are Keras's, so checkpoints are too.

Reference: Kingma and Ba, ICLR 2015 (Adam). Muon: Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/; Liu et al., 2025, arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

MUON_RULE = 2
"""Version of Muon's momentum rule, stored with checkpoints. Rule 1 added the gradient unscaled to
the average, and had almost no momentum."""


class _UpdatesTogether:
    """What the optimisers below share: on each device one update of all weights.

    Keras calls `_backend_update_step`, on TensorFlow with the gradients of one replica. They are
    summed over the replicas there, then `_distributed_tf_update_step` is called.
    """

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        if keras.backend.backend() == "tensorflow":
            super()._backend_update_step(grads, trainable_variables, learning_rate)  # type: ignore[misc]
        else:
            self.update_together(grads, trainable_variables, learning_rate)

    def _all_reduce_sum_gradients(
        self, grads_and_vars: list[tuple[Any, Any]]
    ) -> list[tuple[Any, Any]]:
        """The gradients as they are where there is one replica, which has nothing to sum.

        The sum has a gradient that TensorFlow registers and never forgets. With it, the graph of
        every training step of this process would stay in memory.
        """
        import tensorflow as tf

        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc,no-any-return]

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Sequence[tuple[Any, Any]], learning_rate: Any
    ) -> None:
        gradients, variables = zip(*grads_and_vars, strict=True)
        distribution.extended.update(
            variables[0],  # says on which devices
            lambda _, *of_device: self.update_together(*of_device),
            args=(gradients, variables, learning_rate),
            group=False,
        )

    def update_together(
        self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Updates the weights of one device.

        Args:
            gradients: of the loss, summed over all devices, one for each weight.
            variables: the weights.
            learning_rate: the schedule's.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable("mtseg")
class FusedAdam(_UpdatesTogether, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, on TensorFlow by one operation for each weight."""

    def update_together(
        self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Updates the weights of one device; see the class that this one is made from."""
        betas = self.beta_1, self.beta_2
        rate = _unbiased_rate(learning_rate, self.iterations, *betas)
        indices = [self._get_variable_index(variable) for variable in variables]
        averages = [self._momentums[index] for index in indices]
        squares = [self._velocities[index] for index in indices]
        weights = list(zip(gradients, variables, averages, squares, strict=True))
        _move_by_adam(weights, rate, betas, self.epsilon)


@keras.saving.register_keras_serializable("mtseg")
class KernelMuon(_UpdatesTogether, keras.optimizers.Muon):  # Keras's class has no types
    """Keras's Muon, also for the kernels of convolutions.

    A kernel (rows, columns, inputs, outputs) is treated as a matrix (rows * columns * inputs,
    outputs). Its update is replaced by a nearly orthogonal matrix with the same singular
    directions. Adam moves the first layer (one input), the last layer (logits) and all weights
    that are not kernels.

    As in Jordan's Muon: momentum 0.95, Nesterov's look-ahead over an average of the gradients, and
    five Newton-Schulz iterations with his coefficients. Otherwise than there: a step is
    0.2 * sqrt(max(rows, columns)) times the rate long, after Liu et al., where Jordan has
    sqrt(max(1, rows / columns)); so one rate serves kernels of all shapes. No weights decay.
    """

    def _should_use_adamw(self, variable: Any) -> bool:
        is_kernel = len(variable.shape) >= 2 and variable.shape[-2] > 1
        return not is_kernel or "logits" in variable.path

    def update_together(
        self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Updates the weights of one device; see the class that this one is made from."""
        betas = self.adam_beta_1, self.adam_beta_2
        rate = _unbiased_rate(learning_rate * self.adam_lr_ratio, self.iterations, *betas)
        by_adam = []
        by_shape: dict[tuple[int, ...], list[tuple[Any, Any, Any]]] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable)
            momentum, velocity = self.momentums[index], self.adam_velocities[index]
            if velocity is None:  # a kernel
                same = by_shape.setdefault(tuple(variable.shape), [])
                same.append((gradient, variable, momentum))
            else:
                by_adam.append((gradient, variable, momentum, velocity))
        if by_adam:
            _move_by_adam(by_adam, rate, betas, self.epsilon)
        for kernels in by_shape.values():
            self._move_kernels(kernels, learning_rate)

    def _move_kernels(self, kernels: Sequence[tuple[Any, Any, Any]], learning_rate: Any) -> None:
        """A step of Muon.

        Args:
            kernels: gradient, kernel, and the average of its gradients; all of one shape.
            learning_rate: the schedule's.
        """
        gradients, variables, momentums = zip(*kernels, strict=True)
        gradient = ops.stack(gradients)
        average = ops.stack([momentum.value for momentum in momentums])
        average += (gradient - average) * (1 - self.momentum)
        # Nesterov momentum over an average: both terms have the scale of one gradient.
        ahead = gradient * (1 - self.momentum) + average * self.momentum
        matrices = ops.reshape(ahead, (len(variables), -1, gradient.shape[-1]))
        directions = self.zeropower_via_newtonschulz5(matrices, self.ns_steps)
        # As long as Adam's steps (Liu et al., 2025). Keras's own scaling works in float32 only.
        length = self.rms_rate * math.sqrt(max(matrices.shape[1:]))
        steps = ops.cast(learning_rate, gradient.dtype) * length * directions
        steps = ops.unstack(ops.reshape(steps, gradient.shape))
        for variable, momentum, own_average, step in zip(
            variables, momentums, ops.unstack(average), steps, strict=True
        ):
            self.assign(momentum, own_average)
            self.assign_sub(variable, step)


def _unbiased_rate(learning_rate: Any, iterations: Any, beta_1: float, beta_2: float) -> Any:
    """The rate that makes up for moments that began at 0 (Kingma and Ba, section 2, at the end)."""
    rate = ops.convert_to_tensor(learning_rate)
    number = ops.cast(iterations + 1, rate.dtype)
    biases = [1 - ops.power(ops.cast(beta, rate.dtype), number) for beta in (beta_1, beta_2)]
    return rate * ops.sqrt(biases[1]) / biases[0]


def _move_by_adam(
    weights: Sequence[tuple[Any, Any, Any, Any]],
    rate: Any,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """A step of Adam.

    Args:
        weights: gradient, weight, and the averages of its gradients and of their squares; all of
            one type.
        rate: from `_unbiased_rate`.
        betas: shares of the averages that a step keeps.
        epsilon: added to the root of the average square.
    """
    if keras.backend.backend() != "tensorflow":
        for gradient, variable, average, squares in weights:
            average.assign_add((gradient - average) * (1 - betas[0]))
            squares.assign_add((ops.square(gradient) - squares) * (1 - betas[1]))
            variable.assign_sub(rate * average / (ops.sqrt(squares) + epsilon))
        return
    import tensorflow as tf

    zero, rate, beta_1, beta_2, epsilon = (
        tf.cast(value, weights[0][1].dtype) for value in (0, rate, *betas, epsilon)
    )
    for gradient, variable, average, squares in weights:
        var, m, v = (each.handle for each in (variable, average.value, squares.value))
        tf.raw_ops.ResourceApplyAdam(
            var=var,
            m=m,
            v=v,
            beta1_power=zero,  # they would correct the rate, which is corrected
            beta2_power=zero,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )
