"""Importing TensorFlow without its log lines."""

from __future__ import annotations

import os

from mtseg.errors import InputError
from mtseg.system.hardware import can_import


def require_package(name: str) -> None:
    """Refuses to go on without a package of TensorFlow's, before anything is begun.

    Raises:
        InputError: if it is not installed.
    """
    if not can_import(name):
        raise _explain_missing(name)


def _explain_missing(name: str | None) -> InputError:
    return InputError(
        f"{name} cannot be imported, and this command needs it. Install mtseg with all that it "
        "needs (pip install . in its checkout); mtseg-train can also compute with JAX "
        "(KERAS_BACKEND=jax)."
    )


def import_tensorflow() -> None:
    """Imports TensorFlow without its log lines, which would hide what a command prints.

    Keras will compute with it, whatever KERAS_BACKEND says: that is for training alone.

    Native code writes them before it reads any log level, so standard error is redirected during
    the import. Errors still arrive as exceptions. If the environment variable
    `TF_CPP_MIN_LOG_LEVEL` asks for information or warnings (0 or 1), the lines are shown.

    Raises:
        InputError: if it, or a package that it needs, is not installed.
    """
    require_package("tensorflow")
    if "KERAS_BACKEND" in os.environ:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
        return
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
    except ModuleNotFoundError as error:
        raise _explain_missing(error.name) from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
