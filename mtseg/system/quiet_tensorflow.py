"""Start-up: TensorFlow is imported, without burying what a command says."""

from __future__ import annotations

import os


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes, which would bury what the command says.

    They are written by native code before any log level is looked at, so the standard error
    stream itself is closed to them for that moment. Errors still arrive as exceptions. A
    `TF_CPP_MIN_LOG_LEVEL` of one's own shows them.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow as tf
        from absl import logging

        tf.config.list_physical_devices()
        logging.set_verbosity(logging.ERROR)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
