"""What computes a training run: TensorFlow, or JAX where `KERAS_BACKEND=jax` is set.

Begin with `engine.Engine`, all that the training loop asks of either. `tensorflow_engine` computes
on the devices of `strategies` by the graph of `tensorflow_step`; `jax_engine` by the function of
`jax_step`, with what `jax_report` writes.
"""
