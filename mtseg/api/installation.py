"""What is installed here and what it can do: `mtseg info`.

It imports none of the heavy libraries, so it answers at once: versions are those of the installed
packages, and NVIDIA's driver is asked for the cards.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

from mtseg import __version__
from mtseg.runs.manifest import MANIFEST, packaged_models
from mtseg.system.devices import list_cards
from mtseg.system.hardware import (
    free_bytes,
    has_bfloat16_instructions,
    num_cores,
    processor_name,
    total_bytes,
)

LIBRARIES = ("tensorflow", "keras", "jax", "onnxruntime", "openvino", "numpy", "scipy", "nibabel")
"""Packages whose versions matter for what is computed."""

EXTRAS = {
    "itk": ("SimpleITK",),
    "dicom": ("pydicom", "highdicom"),
    "gateway": ("pydicom", "highdicom", "pynetdicom"),
    "beam": ("apache_beam",),
    "onnx": ("tf2onnx", "onnx"),
    "openvino": ("openvino", "h5py"),
    "jax": ("jax",),
    "client": ("grpc",),
    "serving": ("tensorflow_serving", "grpc"),
    "report": ("matplotlib",),
}
"""Name of an extra -> the modules that it installs."""

_NEWEST_CAPABILITY = (9, 0)
"""Compute capability of the newest NVIDIA GPUs that TensorFlow's wheels are built for (Hopper)."""


def describe_installation() -> dict[str, Any]:
    """Versions, devices, models, extras and advice, as plain values."""
    versions = {name: _version(name) for name in LIBRARIES}
    cards = [
        {
            "name": card.name,
            "memory_gb": round(card.num_bytes / 1e9, 1),
            "compute_capability": ".".join(map(str, card.capability)),
            "bfloat16": card.capability >= (8, 0),
        }
        for card in list_cards()
    ]
    extras = {
        extra: all(importlib.util.find_spec(module) is not None for module in modules)
        for extra, modules in EXTRAS.items()
    }
    return {
        "mtseg": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version for name, version in versions.items() if version is not None},
        "processor": {
            "name": processor_name(),
            "cores": num_cores(),
            "memory_gb": round(total_bytes() / 1e9, 1),
            "free_gb": round(free_bytes() / 1e9, 1),
            "bfloat16": has_bfloat16_instructions(),
        },
        "gpus": cards,
        "models": {name: _describe_model(path) for name, path in packaged_models().items()},
        "extras": extras,
        "advice": _advise(versions, cards, extras),
    }


def format_installation(found: dict[str, Any]) -> str:
    """The result of `describe_installation` as text."""
    processor = found["processor"]
    lines = [
        f"mtseg {found['mtseg']}, Python {found['python']}, {found['system']}",
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "",
        f"Processor: {processor['name']}, {processor['cores']} cores, "
        f"{'with' if processor['bfloat16'] else 'without'} bfloat16 instructions; "
        f"{processor['free_gb']} of {processor['memory_gb']} GB free",
    ]
    lines += [
        f"GPU {number}: {card['name']}, {card['memory_gb']} GB, compute capability "
        f"{card['compute_capability']}, {'with' if card['bfloat16'] else 'without'} bfloat16"
        for number, card in enumerate(found["gpus"])
    ]
    if not found["gpus"]:
        lines.append("GPU: NVIDIA's driver shows none")
    for name, model in found["models"].items():
        lines += ["", f"Model {name}: {model['path']}"]
        lines += [f"  {task}: {', '.join(of)}" for task, of in model["tasks"].items()]
    installed = [extra for extra, is_there in found["extras"].items() if is_there]
    missing = [extra for extra, is_there in found["extras"].items() if not is_there]
    lines += ["", f"Extras installed: {', '.join(installed) or 'none'}"]
    if missing:
        lines.append(f"Not installed: {', '.join(missing)} (pip install 'mtseg[NAME]')")
    lines += [f"Advice: {text}" for text in found["advice"]]
    return "\n".join(lines)


def _describe_model(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / MANIFEST).read_text())
    dice = manifest.get("mean_dice_on_test_scans", {})
    tasks: dict[str, list[str]] = {}
    for name in dice:
        task, _, class_name = name.partition("/")
        tasks.setdefault(task, []).append(class_name)
    return {"path": str(path), "model_id": manifest.get("model_id"), "tasks": tasks}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _advise(
    versions: dict[str, str | None], cards: list[dict[str, Any]], extras: dict[str, bool]
) -> list[str]:
    """What the user may want to do about this machine."""
    advice = []
    if versions["tensorflow"] is None:
        if not extras["openvino"]:
            advice.append("To segment scans without TensorFlow: pip install openvino h5py")
        advice.append(
            "TensorFlow is not installed, and training and evaluation need it: pip "
            "install tensorflow"
        )
    newer = [
        card["name"]
        for card in cards
        if tuple(map(int, card["compute_capability"].split("."))) > _NEWEST_CAPABILITY
    ]
    if newer:
        advice.append(
            f"{', '.join(newer)}: TensorFlow's packages are not built for it. Train with JAX: pip "
            "install 'mtseg[jax]' 'jax[cuda12]', then KERAS_BACKEND=jax mtseg-train"
        )
    elif cards and not importlib.util.find_spec("nvidia"):
        advice.append(
            "TensorFlow needs CUDA's libraries for the GPU: pip install 'tensorflow[and-cuda]'"
        )
    if not extras["dicom"]:
        advice.append("To read DICOM series: pip install 'mtseg[dicom]'")
    if not extras["report"]:
        advice.append("To draw previews and reports: pip install 'mtseg[report]'")
    return advice
