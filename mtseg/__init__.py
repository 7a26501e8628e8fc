"""mtseg: one network that segments scans of different modalities and anatomies.

The names below are the public interface; a module is imported when one of its names is first used.
`import mtseg` itself is instant and imports neither NumPy nor TensorFlow.

- `segment`: labels of scans in memory, from a file, a DICOM folder, an image or an array.
- `load`: a model, from a folder or a server; it segments scans, too.
- `Segmentation`: what `segment` returns.
- `TrainConfig`, `train`: the settings of a training run, with the paper's as defaults, and the run.
- `evaluate`, `evaluate_files`: scores of a network on prepared scans, and of label files.
- `Callback`: what derives from it is called while a run trains (`mtseg.training.callbacks`).
- `InputError`: raised if a scan, file, folder or setting cannot be used; its text says what to do.

Example:
    >>> import mtseg
    >>> seg = mtseg.segment("scan.nii.gz")
    >>> seg
    <Segmentation of scan.nii.gz: ...>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtseg.api.functions import evaluate, evaluate_files, load, segment, train
    from mtseg.errors import InputError
    from mtseg.prediction.outcome import Segmentation
    from mtseg.runs.config import TrainConfig
    from mtseg.training.callbacks import Callback

__all__ = [
    "Callback",
    "InputError",
    "Segmentation",
    "TrainConfig",
    "__version__",
    "evaluate",
    "evaluate_files",
    "load",
    "segment",
    "train",
]

__version__ = "0.1.0"

_DEFINED_IN = {
    "Callback": "mtseg.training.callbacks",
    "InputError": "mtseg.errors",
    "Segmentation": "mtseg.prediction.outcome",
    "TrainConfig": "mtseg.runs.config",
    "evaluate": "mtseg.api.functions",
    "evaluate_files": "mtseg.api.functions",
    "load": "mtseg.api.functions",
    "segment": "mtseg.api.functions",
    "train": "mtseg.api.functions",
}
"""Public name -> the module that defines it, imported at first use."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_DEFINED_IN[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
