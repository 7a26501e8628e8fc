"""Turns a budget of time into mini-batches per task, for `mtseg-experiments --minutes`.

`measure_costs` times training steps and evaluations on this machine, with the prepared data.
`fit_budget` computes how many mini-batches the time allows.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import keras
import numpy as np

from mtseg.batches.pipeline import open_balanced_samples
from mtseg.errors import InputError
from mtseg.evaluation.held_out import choose_held_out
from mtseg.evaluation.scoring import evaluate_task
from mtseg.experiments.plan import plan_experiments
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.records.reading import count_scans, read_selection, require_scans
from mtseg.runs.building import build_model
from mtseg.runs.config import TrainConfig
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.training.engines.tensorflow_engine import TensorFlowEngine
from mtseg.training.holding import hold_volumes

_NUM_EVALUATIONS = 4
"""Evaluations of each run, including the last one."""

_START_SECONDS = 10.0
"""Start of each run: opening its records and tracing its graphs. An estimate."""

_MIN_MINIBATCHES = 10
"""Mini-batches per task below which a budget is refused."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds that work takes on this machine.

    Attributes:
        minibatch_seconds: one training step.
        evaluation_seconds: task name -> a complete evaluation of all its scans of the learning
            curves, or of its test scans if these are more.
    """

    minibatch_seconds: float
    evaluation_seconds: dict[str, float]


def measure_costs(config: TrainConfig, num_steps: int = 10) -> Costs:
    """Times a few training steps, and the evaluation of one scan of each task.

    Args:
        config: configuration of the network for all tasks.
        num_steps: number of mini-batches to time, or a few more that fill the last call of the
            training step; after a first call, which compiles.

    Raises:
        InputError: if the data is not prepared, or a task has no test scan.
    """
    label_space = parse_tasks(config.tasks)
    require_scans(config.data_dir, label_space, "test")  # the experiments need some of each task
    costs = Costs(
        _time_minibatch(config, label_space, num_steps), _time_evaluations(config, label_space)
    )
    keras.backend.clear_session()
    return costs


def _time_minibatch(config: TrainConfig, label_space: LabelSpace, num_steps: int) -> float:
    """Seconds of a mini-batch, with reading and cutting its patches, in calls as the run's."""
    engine = TensorFlowEngine(config)
    samples = open_balanced_samples(
        config.data_dir,
        label_space,
        config.seed,
        kind=config.records,
        augmentations=config.augmentations,
        backgrounds=config.backgrounds,
        source_weights=config.source_weights,
        task_weights=config.task_weights,
    )
    engine.build(label_space)
    hold_volumes(config, engine, samples, Path(config.data_dir), say=lambda line: None)
    per_call = config.steps_per_call
    num_calls = math.ceil(num_steps / per_call)
    calls = [(n * per_call, (n + 1) * per_call) for n in range(num_calls + 1)]
    batches = engine.read_ahead(samples, calls)
    engine.train(next(batches), False)  # compiles
    started = time.monotonic()
    for batch in batches:
        engine.train(batch, False)
    return (time.monotonic() - started) / (num_calls * per_call)


def _time_evaluations(config: TrainConfig, label_space: LabelSpace) -> dict[str, float]:
    """Seconds of a complete evaluation of each task: those of its first scan, times scans."""
    network = make_dense_network(build_model(config, label_space))
    dense_probabilities(network, np.ones((8, 8, 8), np.float32))  # compiles
    held_out = choose_held_out(config.data_dir, label_space, config.curves_on)
    # Only descriptions are read of the test scans, unless the learning curves are theirs.
    counts = [count_scans(config.data_dir, label_space, s) for s in (held_out.curves, "test")]
    seconds = {}
    for selection in label_space.selections:
        scan = next(read_selection(config.data_dir, selection, held_out.curves))
        num_scans = max(of_split[selection.task.name] for of_split in counts)
        started = time.monotonic()
        evaluate_task(network, label_space, selection.task, [scan], is_complete=True)
        seconds[selection.task.name] = num_scans * (time.monotonic() - started)
    return seconds


def fit_budget(config: TrainConfig, minutes: float, costs: Costs) -> TrainConfig:
    """Sets the mini-batches per task that all experiments together have time for.

    Args:
        config: configuration of the network for all tasks.
        minutes: time for all experiments together.
        costs: from `measure_costs`.

    Returns:
        `config` with other `minibatches_per_task` and `evaluate_every`.

    Raises:
        InputError: if the time is too short for a few mini-batches; the message says how much is
            needed.
    """
    experiments = plan_experiments(config)
    fixed_seconds = sum(
        _START_SECONDS
        + _NUM_EVALUATIONS * sum(costs.evaluation_seconds[name] for name in experiment.task_names)
        for experiment in experiments
    )
    num_trained_tasks = sum(len(experiment.task_names) for experiment in experiments)
    seconds_per_count = num_trained_tasks * costs.minibatch_seconds
    count = math.floor((60 * minutes - fixed_seconds) / seconds_per_count)
    if count < _MIN_MINIBATCHES:
        needed_minutes = (fixed_seconds + _MIN_MINIBATCHES * seconds_per_count) / 60
        raise InputError(
            f"--minutes: {minutes:g} are not enough: the evaluations take "
            f"{fixed_seconds / 60:.0f}. Give at least {math.ceil(needed_minutes)}."
        )
    return dataclasses.replace(
        config,
        minibatches_per_task=count,
        evaluate_every=math.ceil(count / _NUM_EVALUATIONS),
    )
