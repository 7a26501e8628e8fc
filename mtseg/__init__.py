"""mtseg: one network that segments scans of different modalities and anatomies.

Importing the package is instant: TensorFlow is imported by the modules that compute with it.

Example:
    >>> import mtseg
    >>> model = mtseg.load("model")
    >>> model = mtseg.load("grpc://127.0.0.1:8500/mtseg")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtseg.models.loading import ExportedModel
    from mtseg.serving.address import ServerOptions

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    path: str | Path | None = None,
    precision: str | None = None,
    options: ServerOptions | None = None,
) -> ExportedModel:
    """Loads a model for `mtseg.prediction.pipeline.segment_files`, from a folder or a server.

    Args:
        path: a folder that `mtseg-export` wrote (its newest version is taken), one version of it,
            or a server's address. None is the model that comes with the package.
        precision: `float32` or `bfloat16`; None is the faster one on this machine, and float32 on
            a server.
        options: how a server is asked.

    Raises:
        mtseg.errors.InputError: if there is no model, or it is of another version of mtseg.
    """
    from mtseg.serving.address import is_address

    if path is not None and is_address(path):
        from mtseg.serving.remote_model import load_served

        return load_served(str(path), precision, options)
    from mtseg.models import loading

    return loading.load(path, precision)
