"""The machine that figures are of: nothing comes in, its description leaves."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Processor, cores, instructions for bfloat16, and versions of what computes."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": sorted(set(text.split()) & {"avx512_bf16", "amx_bf16"}),
        "python": platform.python_version(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "mtseg": importlib.metadata.version("mtseg"),
    }


def format_machine(machine: dict[str, Any]) -> str:
    """The description as one line."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{' '.join(machine['bfloat16']) or 'no bfloat16'}; Python {machine['python']}, "
        f"TensorFlow {machine['tensorflow']}"
    )
