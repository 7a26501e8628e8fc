"""mtseg: one network that segments scans of different modalities and anatomies.

The names below are the public interface; a module is imported when one of its names is first used.
`import mtseg` itself is instant and imports no TensorFlow.

- `load`: a model, from a folder or a server.
- `segment`: scan files to label files (`mtseg.prediction.pipeline.segment_files`).
- `TrainConfig`: the settings of a training run, with the paper's as defaults.
- `train`: a training run (`mtseg.training.loop.train_and_evaluate`).
- `Callback`: what derives from it is called while a run trains (`mtseg.training.callbacks`).
- `InputError`: raised if a scan, file, folder or setting cannot be used; its text says what to do.

Example:
    >>> import mtseg
    >>> model = mtseg.load("model")
    >>> model = mtseg.load("grpc://127.0.0.1:8500/mtseg")
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtseg.errors import InputError
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.pipeline import segment_files as segment
    from mtseg.runs.config import TrainConfig
    from mtseg.serving.address import ServerOptions
    from mtseg.training.callbacks import Callback
    from mtseg.training.loop import train_and_evaluate as train

__all__ = ["Callback", "InputError", "TrainConfig", "__version__", "load", "segment", "train"]

__version__ = "0.1.0"

_DEFINED_IN = {
    "Callback": "mtseg.training.callbacks:Callback",
    "InputError": "mtseg.errors:InputError",
    "TrainConfig": "mtseg.runs.config:TrainConfig",
    "segment": "mtseg.prediction.pipeline:segment_files",
    "train": "mtseg.training.loop:train_and_evaluate",
}
"""Public name -> the module and the name in it, imported at first use."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _DEFINED_IN[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    path: str | Path | None = None,
    precision: str | None = None,
    options: ServerOptions | None = None,
) -> ExportedModel:
    """Loads a model for `segment`, from a folder or a server.

    Args:
        path: folder that `mtseg-export` wrote (its newest version is loaded), one version in it,
            or the address of a server. None is the model that comes with the package.
        precision: `float32` or `bfloat16`. None is the faster one on this machine, and float32 on
            a server.
        options: how to send requests to a server; None uses the defaults.

    Returns:
        The model. From a server, only its description is loaded; the server computes.

    Raises:
        InputError: if there is no model, or it is of another version of mtseg.
    """
    from mtseg.serving.address import is_address

    if path is not None and is_address(path):
        from mtseg.serving.remote_model import load_served

        return load_served(str(path), precision, options)
    from mtseg.models import loading

    return loading.load(path, precision)
