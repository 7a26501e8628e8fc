"""Reads the event files of TensorBoard."""

import tensorflow as tf


def scalars_of(workdir, tag):
    """The points of a curve: number of mini-batches -> value."""
    values = {}
    for path in sorted((workdir / "tensorboard").glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == tag:
                    values[event.step] = float(tf.make_ndarray(value.tensor))
    return values
