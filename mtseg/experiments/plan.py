"""Which networks the experiments train, and the plan file in their folder.

Three tasks give the paper's seven experiments: a network for each task, for each pair, and for all
three. The first is repeated with another seed, to show how much chance alone varies; that is this
project's addition.

    FOLDER/plan.json             the configuration
    FOLDER/brain+breast/ ...     a training run each (files: see `mtseg.runs.workdir`)
    FOLDER/comparison.json       single-task and multi-task networks, paired over scans
    FOLDER/unlabelled.json       what was computed for scans without labels, if there were some

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from mtseg.batches.draws import read_source_weights, read_task_weights
from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import parse_json, write_json, writing_to
from mtseg.tasks.label_space import LabelSpace, parse_tasks

PLAN = "plan.json"
COMPARISON = "comparison.json"

SCHEMA = 1
"""Version of the format of both files."""

REPEAT_SUFFIX = "_again"
"""Ends the name of the repeat of the first experiment."""

WRITE_REMEDY = "Make room or give another --out, and rerun the command to resume."
"""What to do if the folder of the experiments cannot be written."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One network to train.

    Attributes:
        number: its place in the plan, from 1, in the paper's order.
        name: names of its tasks, joined by `+`; also the name of its folder.
        task_names: the tasks that it is trained for.
        config: configuration of its training run.
        is_repeat: whether it repeats the first experiment with another seed.
    """

    number: int
    name: str
    task_names: tuple[str, ...]
    config: TrainConfig
    is_repeat: bool = False

    @property
    def num_minibatches(self) -> int:
        """Mini-batches of the whole run, over all of its tasks."""
        return self.config.minibatches_per_task * len(self.task_names)


def label_of(name: str) -> str:
    """The name of an experiment for readers, such as `brain + breast` or `brain (repeat)`."""
    label = name.removesuffix(REPEAT_SUFFIX).replace("+", " + ")
    return f"{label} (repeat)" if name.endswith(REPEAT_SUFFIX) else label


def plan_experiments(config: TrainConfig) -> tuple[Experiment, ...]:
    """Plans one experiment for each subset of the tasks, smaller subsets first, and a repeat.

    Args:
        config: configuration of the network for all tasks. The other networks differ from it in
            their tasks and have the weights of these and of their sources, the repeat differs in
            its seed.

    Raises:
        InputError: if the tasks cannot be used, one of them has the name of the repeat, or a weight
            is of a task or source that no network has.

    Example:
        >>> from mtseg.runs.config import configure
        >>> [e.name for e in plan_experiments(configure("fast", "breast,cta", "mtseg_data"))]
        ['breast', 'cta', 'breast+cta', 'breast_again']
    """
    label_space = parse_tasks(config.tasks)
    read_task_weights(config.task_weights, label_space)  # refuses what no network could use
    read_source_weights(config.source_weights, label_space)
    selections = label_space.selections
    subsets = [
        subset
        for size in range(1, len(selections) + 1)
        for subset in itertools.combinations(selections, size)
    ]
    experiments = []
    for number, subset in enumerate([*subsets, subsets[0]], start=1):
        task_names = tuple(selection.task.name for selection in subset)
        is_repeat = number > len(subsets)
        experiments.append(
            Experiment(
                number,
                "+".join(task_names) + (REPEAT_SUFFIX if is_repeat else ""),
                task_names,
                dataclasses.replace(
                    config,
                    tasks=LabelSpace(subset).spec,
                    seed=config.seed + is_repeat,
                    task_weights=_select_weights(config.task_weights, task_names),
                    source_weights=_select_weights(config.source_weights, task_names),
                ),
                is_repeat,
            )
        )
    names = [experiment.name for experiment in experiments]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"task {twice}: the repeat of the first experiment has the same name. Rename the task."
        )
    return tuple(experiments)


def _select_weights(text: str, task_names: Sequence[str]) -> str:
    """The weights of some tasks, from `TASK=N` or `TASK:SOURCE=N` with commas.

    Example:
        >>> _select_weights("breast=2, cta=3", ["cta"])
        'cta=3'
    """
    entries = [entry.strip() for entry in text.split(",")]
    return ",".join(entry for entry in entries if re.split("[:=]", entry)[0] in task_names)


def write_plan(path: Path, config: TrainConfig, minutes: float | None = None) -> None:
    """Writes the plan into a new folder, or checks that the folder has the same plan.

    Args:
        path: folder of the experiments.
        config: configuration of the network for all tasks.
        minutes: the budget, if it was given as time.

    Raises:
        InputError: if the folder has experiments of another configuration (the message says what
            differs), or cannot be written.
    """
    stored = read_plan(path)
    if stored is None:
        plan = {"schema": SCHEMA, "minutes": minutes, "config": dataclasses.asdict(config)}
        with writing_to(path, WRITE_REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / PLAN, plan)
        return
    differences = stored[0].differences(config)
    if differences:
        raise InputError(
            f"{path}: has experiments of another configuration (there / now: "
            f"{'; '.join(differences)}). Give the same flags to resume them, or another --out."
        )


def read_plan(path: Path) -> tuple[TrainConfig, float | None] | None:
    """Reads the plan of a folder.

    Returns:
        The configuration of the network for all tasks, and the budget in minutes (None if it was
        given in mini-batches). None if the folder has no plan.

    Raises:
        InputError: if the plan cannot be read.
    """
    file = path / PLAN
    try:
        stored = parse_json(file.read_text())
        return TrainConfig.from_json(json.dumps(stored["config"])), stored["minutes"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: cannot be read as a plan of this version of mtseg. Remove it and give the "
            "flags of the first run, or give another --out."
        ) from error
