"""Which engine computes a model: the one that was named, or the fastest that is installed."""

from __future__ import annotations

from mtseg.errors import InputError
from mtseg.system.devices import num_cards
from mtseg.system.hardware import can_import

ENGINES = ("tensorflow", "openvino")
"""Names of the engines. TensorFlow is the reference, which computes every kind of model on every
device. OpenVINO computes a weights file on the processor."""

PRECISIONS = ("float32", "bfloat16", "int8")
"""Number types of the convolutions; OpenVINO alone computes in int8."""

TITLES = {"tensorflow": "TensorFlow", "openvino": "OpenVINO"}
"""How they are written."""

_PACKAGES = {"tensorflow": ("tensorflow", "keras"), "openvino": ("openvino", "h5py")}
"""What has to be installed for each."""


def choose_engine(
    wanted: str | None, form: str, devices: str | None = None, precision: str | None = None
) -> str:
    """Chooses an engine, without importing any.

    Args:
        wanted: one of `ENGINES`; None chooses the fastest that is installed: OpenVINO for a weights
            file where there is no GPU, else TensorFlow.
        form: of the model: `weights` for a weights file; a `SavedModel` or the folder of a training
            `run` are computed by TensorFlow alone.
        devices: the value of `--devices`; a GPU asks for TensorFlow.
        precision: one of `PRECISIONS`, if it was named; `int8` asks for OpenVINO.

    Raises:
        InputError: if it is not installed, or cannot compute that model, on that device or in that
            precision.
    """
    is_processor = devices is None or devices.strip() == "cpu"
    if wanted not in (None, *ENGINES):
        raise InputError(f"--engine {wanted}: is not an engine. Give one of {', '.join(ENGINES)}.")
    if precision == "int8":
        if wanted not in (None, "openvino") or not is_processor:
            raise InputError(
                "--precision int8: only OpenVINO computes in int8, on the processor. Leave out "
                "--engine and --devices, or give another precision."
            )
        if form != "weights":
            raise InputError(
                "--precision int8: is for models that were exported with --format weights; this "
                f"one is a {form}. Export it so, or give another precision."
            )
        wanted = "openvino"
    if wanted is not None:
        _require(wanted)
        if wanted != "tensorflow" and form != "weights":
            raise InputError(
                f"--engine {wanted}: computes models that were exported with --format weights; "
                f"this one is a {form}. Export it so, or use --engine tensorflow."
            )
        if wanted != "tensorflow" and not is_processor:
            raise InputError(
                f"--engine {wanted}: computes on the processor. Give --devices cpu, or leave it "
                "out."
            )
        return wanted
    if form == "weights" and is_processor and _is_installed("openvino"):
        has_gpu = devices is None and num_cards() > 0 and _is_installed("tensorflow")
        if not has_gpu:
            return "openvino"
    if _is_installed("tensorflow"):
        return "tensorflow"
    if form != "weights":
        raise InputError(
            f"the model is a {form}, which needs TensorFlow, and that is not installed. Export "
            "it with mtseg-export --format weights where TensorFlow is, or: pip install tensorflow"
        )
    raise InputError(
        "nothing that computes the network is installed. Install OpenVINO (pip install openvino "
        "h5py) or TensorFlow (pip install tensorflow)."
    )


def _require(engine: str) -> None:
    """Raises an InputError if an engine is not installed."""
    missing = [name for name in _PACKAGES[engine] if not can_import(name)]
    if missing:
        raise InputError(
            f"the engine {engine} needs packages that are not installed: pip install "
            f"{' '.join(missing)}"
        )


def _is_installed(engine: str) -> bool:
    return all(map(can_import, _PACKAGES[engine]))
