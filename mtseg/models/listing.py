"""The models that come with the package, described for people and programs: `mtseg models`.

A folder of such a model has, beside what `mtseg.models.export.export_weights` writes, its card
(`README.md`) and `about.json`: a summary, how it was trained, a caution and the licence, a line
each. All else is read from its manifest. No weights are read, and TensorFlow is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtseg.runs.manifest import (
    PACKAGED,
    WEIGHTS,
    locate_model,
    packaged_models,
    read_manifest,
)
from mtseg.system.atomic_files import parse_json
from mtseg.system.text_table import format_table
from mtseg.tasks.label_space import LabelSpace
from mtseg.tasks.task_file import GENERATED

ABOUT, CARD = "about.json", "README.md"


def describe_packaged() -> list[dict[str, Any]]:
    """What is packaged, the default first, as plain values for JSON."""
    return [_describe(name, folder) for name, folder in packaged_models().items()]


def read_about(folder: Path) -> dict[str, str]:
    """The texts on a packaged model: `summary`, `training`, `caution` and `licence`."""
    about: dict[str, str] = parse_json((folder / ABOUT).read_text(encoding="utf-8"))
    return about


def describe_choice(model: str | None) -> str:
    """A line on the model of a command, if it comes with the package; else empty.

    Args:
        model: its folder or name; None is the default.
    """
    if model is None:
        said = "No model given: using the one that comes with mtseg."
        return f"{said} {read_about(PACKAGED)['caution']}"
    folder = locate_model(model)
    for name, packaged in packaged_models().items():
        if folder == packaged:
            return f"The model {name} comes with mtseg. {read_about(folder)['caution']}"
    return ""


def _describe(name: str, folder: Path) -> dict[str, Any]:
    manifest, about = read_manifest(folder), read_about(folder)
    label_space = LabelSpace.from_json(manifest["label_space"])
    dice = manifest.get("mean_dice_on_test_scans", {})
    labels = {entry.name: entry.label for entry in label_space.label_table}
    tasks = [
        {
            "name": task.name,
            "title": task.title,
            "sources": list(selection.sources),
            "is_synthetic": selection.sources == (GENERATED,),
            "classes": [
                {
                    "name": tissue.name,
                    "label": labels[tissue.name],
                    "mean_dice_on_test_scans": dice.get(f"{task.name}/{tissue.name}"),
                }
                for tissue in task.classes
            ],
        }
        for selection in label_space.selections
        for task in [selection.task]
    ]
    return {
        "name": name,
        "is_default": folder == PACKAGED,
        "summary": about["summary"],
        "caution": about["caution"],
        "licence": about["licence"],
        "model_id": manifest.get("model_id"),
        "size_bytes": (folder / WEIGHTS).stat().st_size,
        "path": str(folder),
        "card": str(folder / CARD),
        "tasks": tasks,
        "training": about["training"],
        "settings": manifest["training"],
    }


def format_packaged(found: list[dict[str, Any]]) -> str:
    """The result of `describe_packaged` as text."""
    return "\n\n".join(map(_format, found))


def _format(model: dict[str, Any]) -> str:
    rows = []
    for task in model["tasks"]:
        for place, tissue in enumerate(task["classes"]):
            scans = "synthetic" if task["is_synthetic"] else "real"
            dice = tissue["mean_dice_on_test_scans"]
            rows.append(
                [
                    *([task["name"], scans] if place == 0 else ["", ""]),
                    *(tissue["name"], str(tissue["label"])),
                    "" if dice is None else f"{dice:.3f}",
                ]
            )
    header = ("task", "scans", "class", "label", "Dice on test scans")
    return "\n".join(
        [
            f"{model['name']}{' (the default)' if model['is_default'] else ''}, "
            f"{model['size_bytes'] / 1e6:.1f} MB: {model['summary']}",
            "",
            format_table(header, rows, left=("task", "scans", "class")),
            "",
            f"Training: {model['training']}",
            f"Licence: {model['licence']}",
            f"Caution: {model['caution']}",
            f"Card: {model['card']}",
        ]
    )
