"""The experiments: some tasks and a budget come in, a network for every set of them leaves.

With three tasks these are the seven experiments of the paper, each task alone, each pair and all
three, and the first of them repeated with other random numbers, to show what chance alone makes.

    FOLDER/plan.json             what is run
    FOLDER/brain+breast/ ...     a run each, as `mtseg.workdir` says
    FOLDER/comparison.json       single-task networks against the others, paired over scans

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from mtseg import workdir as folder
from mtseg.aside import hold
from mtseg.comparisons import CONFIDENCE, MARGIN, compare, mean_over_classes
from mtseg.config import TrainConfig
from mtseg.errors import InputError
from mtseg.evaluate import Evaluation
from mtseg.progress import Progress
from mtseg.stopping import catch_sigterm
from mtseg.tasks import LabelSpace, parse_tasks
from mtseg.train import train_and_evaluate

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
        >>> from mtseg.config import configure
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong with the folder of the experiments into a line that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Make room or give another --out; the "
            "same command goes on from there."
        ) from error


def claim_folder(path: Path, config: TrainConfig, minutes: float | None = None) -> None:
    """Writes the plan into a new folder, or checks that an old one has the same.

    Args:
        path: of the experiments.
        config: of the network for all tasks.
        minutes: that were asked for, if the budget was one of time.

    Raises:
        InputError: if the folder holds other experiments; the message says what differs.
    """
    stored = read_plan(path)
    if stored is None:
        plan = {"schema": SCHEMA, "minutes": minutes, "config": dataclasses.asdict(config)}
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            folder.write_json(path / PLAN, plan)
        return
    differences = stored[0].differences(config)
    if differences:
        raise InputError(
            f"{path}: holds other experiments (there / now: {'; '.join(differences)}). Give the "
            "same flags to go on with them, or another --out."
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


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished experiment.

    Attributes:
        experiment: which.
        workdir: its folder.
        evaluation: after its last mini-batch, complete.
        curve: the points of its learning curve, as `learning_curve.json` has them.
    """

    experiment: Experiment
    workdir: Path
    evaluation: Evaluation
    curve: list[dict[str, Any]]

    @property
    def label_space(self) -> LabelSpace:
        """The network's classes."""
        return folder.read_config(self.workdir)[1]


def read_results(path: Path, data_dir: str | None = None) -> list[Result]:
    """The experiments of a folder that are finished, in the paper's order.

    Args:
        path: the folder.
        data_dir: where the prepared records are, if they have moved since.

    Raises:
        InputError: if the folder holds no experiments.
    """
    plan = read_plan(path)
    if plan is None:
        raise InputError(f"{path}: holds no experiments. Run: mtseg-experiments --out {path}")
    results = []
    config = plan[0] if data_dir is None else dataclasses.replace(plan[0], data_dir=data_dir)
    for experiment in plan_experiments(config):
        workdir = path / experiment.name
        stored = folder.read_evaluation(workdir)
        if stored is None or stored["minibatch"] != experiment.num_minibatches:
            continue
        evaluation = Evaluation.from_json(stored)
        curve = folder.read_curve(workdir)
        # A run that was killed between the two files goes on to write the second.
        is_whole = any(point["minibatch"] == experiment.num_minibatches for point in curve)
        if evaluation.is_complete and is_whole:
            results.append(Result(experiment, workdir, evaluation, curve))
    return results


def run_experiments(config: TrainConfig, path: Path, command: str = "") -> list[Result] | None:
    """Trains and evaluates every network that is not finished yet.

    Args:
        config: of the network for all tasks.
        path: folder of the experiments; the same call again goes on where they were.
        command: the command line, kept with the figures.

    Returns:
        All results; None where a SIGTERM has ended the work before (it is saved).

    Raises:
        InputError: as `mtseg.train.train_and_evaluate`, or if the folder holds other experiments.
    """
    experiments = plan_experiments(config)
    with contextlib.ExitStack() as held:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(
                hold(path, f"{path}: another command runs experiments here. Wait for it.")
            )
        claim_folder(path, config)
        return _run_experiments(experiments, path, command)


def _run_experiments(
    experiments: Sequence[Experiment], path: Path, command: str
) -> list[Result] | None:
    finished = {result.experiment.name for result in read_results(path)}
    total = sum(e.num_minibatches for e in experiments)
    with catch_sigterm() as stop, Progress("All experiments", total, "mini-batches") as progress:
        for experiment in experiments:
            if experiment.name in finished:
                progress.skip(experiment.num_minibatches)
        for experiment in experiments:
            if experiment.name in finished:
                continue
            progress.say(f"Experiment {experiment.number} of {len(experiments)}: {experiment.name}")
            evaluation = train_and_evaluate(
                experiment.config,
                path / experiment.name,
                command,
                is_complete=True,
                on_step=_Steps(progress),
            )
            keras.backend.clear_session()
            if evaluation is None or stop.is_made:
                return None
    results = read_results(path)
    with writing(path):
        folder.write_json(path / COMPARISON, compare_networks(results))
    return results


class _Steps:
    """Turns the mini-batches that one run has seen into progress of all."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seen: int | None = None

    def __call__(self, step: int) -> None:
        if self._seen is None:
            self._progress.skip(step)
        else:
            self._progress.advance(step - self._seen)
        self._seen = step


def compare_networks(results: Sequence[Result]) -> dict[str, Any]:
    """Compares, for every task and class, its own network with each other one for that task.

    Args:
        results: finished experiments.

    Returns:
        One JSON object: `margin`, `confidence`, and `rows` of `task`, `class` (`all` is the mean
        over a task's classes), `network` (the experiment compared with the task's own), the mean
        Dice of both, `difference`, `interval` and `verdict` as in `mtseg.comparisons.Comparison`.
    """
    rows = []
    own = {r.experiment.name: r for r in results if len(r.experiment.task_names) == 1}
    for single in own.values():
        if single.experiment.is_repeat:
            continue
        (task,) = single.experiment.task_names
        others = [r for r in results if task in r.experiment.task_names and r is not single]
        for other in others:
            names = [name for of, name in single.evaluation.classes if of == task]
            first, second = (
                [r.evaluation.values(task, name, "dice") for name in names] for r in (single, other)
            )
            pairs = [*zip(names, first, second, strict=True)]
            pairs.append(("all", mean_over_classes(first), mean_over_classes(second)))
            for name, a, b in pairs:
                comparison = dataclasses.asdict(compare(a, b))
                rows.append(
                    {"task": task, "class": name, "network": other.experiment.name}
                    | {"single": _mean(a), "multiple": _mean(b)}
                    | comparison
                )
    return {"schema": SCHEMA, "margin": MARGIN, "confidence": CONFIDENCE, "rows": rows}


def _mean(values: dict[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else None


def comparison_table(comparison: dict[str, Any]) -> str:
    """The comparison for people."""
    lines = [
        f"{'task':<9}{'class':<24}{'network':<20}{'alone':>7}{'here':>7}"
        f"{'difference, 95 % interval':>30}  verdict"
    ]
    for row in comparison["rows"]:
        lines.append(
            f"{row['task']:<9}{row['class']:<24}{row['network']:<20}"
            f"{_figure(row['single'])}{_figure(row['multiple'])}"
            f"{format_difference(row):>30}  {row['verdict']}"
        )
    return "\n".join(lines)


def format_difference(row: dict[str, Any]) -> str:
    """A row's difference and interval, such as `+0.004 (-0.002 to +0.010)`."""
    if row["difference"] is None:
        return "–"
    text = f"{row['difference']:+.3f}"
    if row["interval"] is not None:
        text += " ({:+.3f} to {:+.3f})".format(*row["interval"])
    return text


def _figure(value: float | None) -> str:
    return f"{'–':>7}" if value is None else f"{value:>7.3f}"
