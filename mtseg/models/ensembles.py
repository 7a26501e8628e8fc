"""Several models as one: the mean of their probabilities.

`load_ensemble` loads them; `require_same_classes` says whether networks may be averaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.inference.engines.averaging import MeanNetwork
from mtseg.models.loading import ExportedModel, find_engine, load
from mtseg.runs.manifest import locate_model
from mtseg.tasks.task import Task

Folder = str | os.PathLike[str]


def find_engine_of(
    model: Folder | Sequence[Folder] | None,
    engine: str | None = None,
    devices: str | None = None,
    precision: str | None = None,
) -> str:
    """The engine that will compute a model or all models of an ensemble, found without starting it.

    Args:
        model: folder of a model, or several; None is the one that comes with the package.
        engine: as for `mtseg.models.loading.find_engine`.
        devices: likewise.
        precision: likewise.

    Raises:
        InputError: as `find_engine`, or if several are one.
    """
    if model is None or isinstance(model, str | os.PathLike):
        folder = None if model is None else locate_model(model)
        return find_engine(folder, engine, devices, precision)
    require_several(model)
    found = {find_engine(locate_model(path), engine, devices, precision) for path in model}
    return found.pop() if len(found) == 1 else "tensorflow"  # it computes every kind of model


def load_models(
    model: Folder | Sequence[Folder] | None, precision: str | None = None, engine: str | None = None
) -> ExportedModel:
    """Loads a model, or several as an ensemble.

    Args:
        model: as for `find_engine_of`.
        precision: as for `mtseg.models.loading.load`.
        engine: likewise.

    Raises:
        InputError: as `mtseg.models.loading.load` and `load_ensemble`.
    """
    if model is None or isinstance(model, str | os.PathLike):
        return load(None if model is None else locate_model(model), precision, engine)
    return load_ensemble(model, precision, engine)


def require_several(paths: Sequence[Folder]) -> None:
    """Refuses an ensemble of one model.

    Raises:
        InputError: if there are fewer than two.
    """
    if len(paths) < 2:
        raise InputError("an ensemble has two models or more. Give another one, or no ensemble.")


def load_ensemble(
    paths: Sequence[Folder], precision: str | None = None, engine: str | None = None
) -> ExportedModel:
    """Loads models of the same classes as one, whose probabilities are the mean of theirs.

    A class has the mean of their operating points. The ensemble has no out-of-distribution check:
    those of the models are of their own probabilities, which differ from the mean.

    Args:
        paths: folders, as for `mtseg.models.loading.load`.
        precision: likewise.
        engine: likewise.

    Returns:
        The ensemble. It has the tasks and labels of the first model, but flips are allowed only
        where all allow them, and typical voxel sizes are the median of theirs.

    Raises:
        InputError: as `mtseg.models.loading.load`, or if there is only one model, or one has other
            classes than the first.
    """
    engine = find_engine_of(paths, engine, None, precision)
    models = [load(locate_model(path), precision, engine) for path in paths]
    first = models[0]
    for model in models[1:]:
        require_same_classes(first.path, first.tasks, model.path, model.tasks)
    of_classes = zip(*(model.thresholds for model in models), strict=True)
    of_tasks = zip(*(model.tasks for model in models), strict=True)
    return dataclasses.replace(
        first,
        path=" + ".join(str(model.path) for model in models),
        network=MeanNetwork(tuple(model.network for model in models)),
        thresholds=tuple(mean_point(points) for points in of_classes),
        kept_alive=[model.kept_alive for model in models],
        tasks=tuple(
            dataclasses.replace(same[0], is_symmetric=all(task.is_symmetric for task in same))
            for same in of_tasks
        ),
        trained_spacing_mm=_join_spacings(models),
        model_id=_join_identifiers(models),
        out_of_distribution_check=None,
    )


def mean_point(points: Sequence[float | None]) -> float | None:
    """The mean of the operating points of a class; None if no model has one.

    It is rounded to a hundredth, the steps in which operating points are chosen.
    """
    known = [point for point in points if point is not None]
    return round(statistics.fmean(known), 2) if known else None


def _join_spacings(models: Sequence[ExportedModel]) -> dict[str, float]:
    """Name of a task -> the median over the models that know its typical voxel size, in mm."""
    known: dict[str, list[float]] = {}
    for model in models:
        for name, spacing_mm in model.trained_spacing_mm.items():
            known.setdefault(name, []).append(spacing_mm)
    return {name: statistics.median(spacings) for name, spacings in known.items()}


def _join_identifiers(models: Sequence[ExportedModel]) -> str | None:
    """Identifies the set of models; None if one of them cannot be told from others."""
    identifiers = [model.model_id for model in models]
    if any(identifier is None for identifier in identifiers):
        return None
    return hashlib.sha256(" ".join(sorted(map(str, identifiers))).encode()).hexdigest()[:16]


def require_same_classes(
    first: Path | str, first_tasks: Sequence[Task], other: Path | str, other_tasks: Sequence[Task]
) -> None:
    """Refuses to average networks whose outputs mean different things.

    Args:
        first: where the first network is from, for the message.
        first_tasks: its tasks, in order.
        other: where the other is from.
        other_tasks: its tasks.

    Raises:
        InputError: if tasks, classes, their labels, decisions, voxel sizes or post-processing
            differ.
    """
    here, there = (list(map(_meaning, tasks)) for tasks in (first_tasks, other_tasks))
    if here == there:
        return
    names = [", ".join(task.name for task in tasks) for tasks in (first_tasks, other_tasks)]
    what = (
        f"has the tasks {names[1]}, and {first} has {names[0]}"
        if names[0] != names[1]
        else f"has other classes, labels, decisions, voxel sizes or post-processing in {names[0]} "
        f"than {first}"
    )
    raise InputError(
        f"{other}: {what}. Models of an ensemble have the same tasks in the same order."
    )


def _meaning(task: Task) -> dict[str, Any]:
    """What the outputs of a network for a task mean, without texts for readers."""
    return {
        "name": task.name,
        "is_ct": task.is_ct,
        "classes": [
            (of_class.name, of_class.label, of_class.largest_component, of_class.fill_holes)
            for of_class in task.classes
        ],
        "spacing": (task.spacing_rule, task.spacing_mm),
        "decision": task.decision,
    }
