"""Which experiments there are, and the files in their folder.

With three tasks they are the paper's seven: each task alone, each pair, and all three. The first is
repeated with another seed, to show how much chance alone varies.

    FOLDER/plan.json             what is run
    FOLDER/brain+breast/ ...     one run each, as in `mtseg.training.workdir`
    FOLDER/comparison.json       single-task and multi-task networks, paired over scans

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

from mtseg.errors import InputError
from mtseg.system import atomic_files
from mtseg.system.atomic_files import writing_to
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.training.config import TrainConfig

PLAN = "plan.json"


COMPARISON = "comparison.json"


SCHEMA = 1


REPEATED = "again"
"""Ends the name of the repeat of the first experiment."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One network to be trained.

    Attributes:
        number: from 1, in the paper's order.
        name: the names of its tasks, joined by `+`; also of its folder.
        task_names: the tasks that it is trained for.
        config: its training run.
        is_repeat: whether it repeats another experiment with another seed.
    """

    number: int
    name: str
    task_names: tuple[str, ...]
    config: TrainConfig
    is_repeat: bool = False

    @property
    def num_minibatches(self) -> int:
        """Mini-batches of the whole run."""
        return self.config.minibatches_per_task * len(self.task_names)


def plan_experiments(config: TrainConfig) -> tuple[Experiment, ...]:
    """The experiments of a set of tasks: every subset, the smaller first, and a repeat.

    Args:
        config: of the network for all tasks; the others differ in their tasks, the repeat in its
            seed.

    Example:
        >>> from mtseg.training.config import configure
        >>> [e.name for e in plan_experiments(configure("fast", "breast,cta", "mtseg_data"))]
        ['breast', 'cta', 'breast+cta', 'breast_again']
    """
    selections = parse_tasks(config.tasks).selections
    subsets = [
        subset
        for count in range(1, len(selections) + 1)
        for subset in itertools.combinations(selections, count)
    ]
    experiments = []
    for number, subset in enumerate([*subsets, subsets[0]], start=1):
        task_names = tuple(selection.task.name for selection in subset)
        is_repeat = number > len(subsets)
        experiments.append(
            Experiment(
                number,
                "+".join(task_names) + (f"_{REPEATED}" if is_repeat else ""),
                task_names,
                dataclasses.replace(
                    config, tasks=LabelSpace(subset).spec, seed=config.seed + is_repeat
                ),
                is_repeat,
            )
        )
    names = [experiment.name for experiment in experiments]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"task {twice}: the repeat of an experiment is called so. Rename the task."
        )
    return tuple(experiments)


WRITE_REMEDY = "Make room or give another --out, and rerun the command to resume."
"""What to do if the folder of the experiments cannot be written."""


def lock_experiments(path: Path, config: TrainConfig, minutes: float | None = None) -> None:
    """Writes the plan into a new folder, or checks that an old one has the same.

    Args:
        path: of the experiments.
        config: of the network for all tasks.
        minutes: that were asked for, if the budget was one of time.

    Raises:
        InputError: if the folder has other experiments; the message says what differs.
    """
    stored = read_plan(path)
    if stored is None:
        plan = {"schema": SCHEMA, "minutes": minutes, "config": dataclasses.asdict(config)}
        with writing_to(path, WRITE_REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            atomic_files.write_json(path / PLAN, plan)
        return
    differences = stored[0].differences(config)
    if differences:
        raise InputError(
            f"{path}: has other experiments (there / now: {'; '.join(differences)}). Give the "
            "same flags to resume them, or another --out."
        )


def read_plan(path: Path) -> tuple[TrainConfig, float | None] | None:
    """The configuration and the minutes of the experiments in a folder; None if there are none.

    Raises:
        InputError: if the plan cannot be read.
    """
    file = path / PLAN
    try:
        stored = json.loads(file.read_text())
        return TrainConfig.from_json(json.dumps(stored["config"])), stored["minutes"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: cannot be read as a plan of this version of mtseg. Remove it, and give the "
            "flags that it was made with, or another --out."
        ) from error
