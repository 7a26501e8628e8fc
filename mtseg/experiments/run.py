"""Training all experiments of a plan, one after the other.

A stopped run of experiments resumes where it was: finished ones are read, the others trained.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import keras

from mtseg.experiments.compare import compare_networks
from mtseg.experiments.plan import (
    COMPARISON,
    WRITE_REMEDY,
    Experiment,
    lock_experiments,
    plan_experiments,
)
from mtseg.experiments.results import Result, read_results
from mtseg.system import atomic_files
from mtseg.system.atomic_files import lock_folder, writing_to
from mtseg.system.progress import Progress
from mtseg.system.signals import catch_sigterm
from mtseg.training.config import TrainConfig
from mtseg.training.loop import train_and_evaluate


def run_experiments(config: TrainConfig, path: Path, command: str = "") -> list[Result] | None:
    """Trains and evaluates every network that is not finished yet.

    Args:
        config: of the network for all tasks.
        path: folder of the experiments; the same call again goes on where they were.
        command: the command line, kept with the figures.

    Returns:
        All results; None where a SIGTERM has ended the work before (it is saved).

    Raises:
        InputError: as `mtseg.training.loop.train_and_evaluate`, or if the folder holds other
            experiments.
    """
    experiments = plan_experiments(config)
    with contextlib.ExitStack() as held:
        with writing_to(path, WRITE_REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(
                lock_folder(path, f"{path}: another command runs experiments here. Wait for it.")
            )
        lock_experiments(path, config)
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
    with writing_to(path, WRITE_REMEDY):
        atomic_files.write_json(path / COMPARISON, compare_networks(results))
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
