"""From minutes to mini-batches: how long the experiments may train within a budget of time.

The speed of steps and evaluations is measured on this machine, with the prepared data, before
anything is trained.
"""

from __future__ import annotations

import dataclasses
import math
import time

import keras
import numpy as np

from mtseg.batches.pipeline import make_dataset, open_balanced_samples
from mtseg.errors import InputError
from mtseg.evaluation.scoring import evaluate_task
from mtseg.experiments.plan import plan_experiments
from mtseg.inference.dense import dense_probabilities, make_dense_network
from mtseg.records.reading import count_test_scans, read_selection
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.training.building import build_model
from mtseg.training.config import TrainConfig
from mtseg.training.strategies import configure_devices, make_replicas
from mtseg.training.tensorflow_step import TrainingStep

_EVALUATIONS = 4
"""Evaluations of a run whose length follows from a budget of time, the last one included."""


_STARTING_SECONDS = 10.0
"""Of each run: opening its records, tracing its graphs."""


_FEWEST_MINIBATCHES = 10


@dataclasses.dataclass(frozen=True)
class Costs:
    """What work takes on this machine.

    Attributes:
        minibatch_seconds: of one training step.
        evaluation_seconds: task name -> a complete evaluation of its test scans.
    """

    minibatch_seconds: float
    evaluation_seconds: dict[str, float]


def measure_costs(config: TrainConfig, num_steps: int = 10) -> Costs:
    """Times a few training steps, and the evaluation of one test scan of each task.

    Args:
        config: of the network for all tasks.
        num_steps: steps that are timed, after a first one that compiles.

    Raises:
        InputError: if the data is not prepared.
    """
    configure_devices(config.is_deterministic, config.num_threads)
    replicas = make_replicas(config.strategy)
    label_space = parse_tasks(config.tasks)
    samples = open_balanced_samples(
        config.data_dir,
        label_space,
        config.seed,
        kind=config.input,
        augmentations=config.augmentations,
    )
    batches = replicas.distribute(
        lambda shares: make_dataset(
            samples,
            config.global_batch_size,
            [(n, n + 1) for n in range(num_steps + 1)],
            shares=shares,
        ),
        config.global_batch_size,
    )
    step = TrainingStep(dataclasses.replace(config, steps_per_call=1), label_space, replicas)
    step(*next(batches))
    started = time.monotonic()
    for _ in range(num_steps):
        losses, _ = step(*next(batches))
        losses.numpy()
    minibatch_seconds = (time.monotonic() - started) / num_steps
    network = make_dense_network(build_model(config, label_space))
    dense_probabilities(network, np.ones((8, 8, 8), np.float32))  # compiles
    evaluation_seconds = {}
    for selection in label_space.selections:
        scan = next(read_selection(config.data_dir, selection, "test"))
        count = count_test_scans(config.data_dir, LabelSpace((selection,)))
        started = time.monotonic()
        evaluate_task(network, label_space, selection.task, [scan], is_complete=True)
        evaluation_seconds[selection.task.name] = count * (time.monotonic() - started)
    keras.backend.clear_session()
    return Costs(minibatch_seconds, evaluation_seconds)


def fit_budget(config: TrainConfig, minutes: float, costs: Costs) -> TrainConfig:
    """The configuration with as many mini-batches per task as all experiments have time for.

    Args:
        config: of the network for all tasks.
        minutes: for all experiments together.
        costs: from `measure_costs`.

    Raises:
        InputError: if the time does not suffice for a few mini-batches; the message says how much
            would.
    """
    experiments = plan_experiments(config)
    fixed = 0.0
    for experiment in experiments:
        of_tasks = sum(costs.evaluation_seconds[name] for name in experiment.task_names)
        fixed += _STARTING_SECONDS + _EVALUATIONS * of_tasks
    trained = sum(len(experiment.task_names) for experiment in experiments)
    count = math.floor((60 * minutes - fixed) / (trained * costs.minibatch_seconds))
    if count < _FEWEST_MINIBATCHES:
        least = (fixed + _FEWEST_MINIBATCHES * trained * costs.minibatch_seconds) / 60
        raise InputError(
            f"--minutes: {minutes:g} are not enough: the evaluations take {fixed / 60:.0f}. Give "
            f"at least {math.ceil(least)}."
        )
    return dataclasses.replace(
        config,
        minibatches_per_task=count,
        evaluate_every=math.ceil(count / _EVALUATIONS),
    )
