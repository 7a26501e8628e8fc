"""Trains and evaluates the networks of a plan, one after the other, or shared among several jobs.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from mtseg.errors import InputError
from mtseg.evaluation.held_out import choose_held_out
from mtseg.experiments.compare import compare_networks
from mtseg.experiments.plan import (
    COMPARISON,
    WRITE_REMEDY,
    Experiment,
    plan_experiments,
    write_plan,
)
from mtseg.experiments.results import Result, read_results
from mtseg.provenance.training_data import list_record_changes, read_training_data
from mtseg.records.reading import read_fingerprints, require_scans
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import lock_folder, write_json, writing_to
from mtseg.system.progress import Progress
from mtseg.system.signals import catch_sigterm
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.callbacks import Callback, RunStart
from mtseg.training.failures import DivergedError
from mtseg.training.loop import train_and_evaluate


def run_experiments(
    config: TrainConfig, path: Path, command: str = "", *, num_parts: int = 1, part_id: int = 0
) -> list[Result] | None:
    """Trains and evaluates every network that is not finished, and compares them.

    The same call again resumes: finished experiments are read, the others are trained.

    Args:
        config: configuration of the network for all tasks.
        path: folder of the experiments.
        command: the command line, stored with the results.
        num_parts: number of jobs that share the experiments, one a GPU or machine.
        part_id: number of this job, from 0.

    Returns:
        The results that there are; all, with the comparison written, unless other jobs are still at
        work. None if a SIGTERM stopped the work; what was done is saved.

    Raises:
        InputError: as `mtseg.training.loop.train_and_evaluate`, or if a task has no test scan, a
            network diverges, or the folder has experiments of another configuration or of other
            data, is in use by another command, or cannot be written.
    """
    label_space = parse_tasks(config.tasks)
    require_scans(config.data_dir, label_space, "test")  # networks are compared there
    # Before the first network is trained: the one for all tasks may not have scans for its curves.
    choose_held_out(config.data_dir, label_space, config.curves_on)
    experiments = plan_experiments(config)
    in_use = f"{path}: another command runs experiments here. Wait for it."
    with contextlib.ExitStack() as lock:
        with writing_to(path, WRITE_REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            # Jobs that share the experiments wait for each other here, not while they train.
            lock.enter_context(lock_folder(path, in_use if num_parts == 1 else None))
        write_plan(path, config)
        _refuse_other_data(experiments, path)
        if num_parts > 1:
            lock.close()
        if not _train_experiments(experiments, experiments[part_id::num_parts], path, command):
            return None
    with writing_to(path, WRITE_REMEDY), lock_folder(path):
        _refuse_other_data(experiments, path)  # they may have been prepared again meanwhile
        results = read_results(path)
        if len(results) == len(experiments):
            write_json(path / COMPARISON, compare_networks(results))
    return results


def _refuse_other_data(experiments: Sequence[Experiment], path: Path) -> None:
    """Refuses records other than those of the experiments so far, on any side of the split.

    Networks are compared scan by scan, so all must have learned from and be scored on the same.
    Runs of earlier versions do not say what they were made from, and are taken as they are.

    Raises:
        InputError: if so; the message names the experiments.
    """
    found: dict[str, list[str]] = {}
    for experiment in experiments:
        config = experiment.config
        stored = read_training_data(path / experiment.name)
        if stored is None:
            continue
        now, _ = read_fingerprints(config.data_dir, parse_tasks(config.tasks), config.records)
        for text in list_record_changes(stored, now, ["train", "validation", "test"]):
            found.setdefault(text, []).append(experiment.name)
    if found:
        names = dict.fromkeys(name for of_text in found.values() for name in of_text)
        raise InputError(
            f"{path}: has networks that were made from other data than that in "
            f"{experiments[0].config.data_dir}: {', '.join(names)} ({'; '.join(found)}). Networks "
            "are compared on the same data: prepare it as it was, or give another --out."
        )


def _train_experiments(
    experiments: Sequence[Experiment], own: Sequence[Experiment], path: Path, command: str
) -> bool:
    """Trains and evaluates those of this job that are not finished; False if it was stopped."""
    finished = {result.experiment.name for result in read_results(path)}
    total = sum(experiment.num_minibatches for experiment in own)
    title = "All experiments" if own == experiments else "Experiments of this part"
    with catch_sigterm() as stop, Progress(title, total, "mini-batches") as progress:
        for experiment in own:
            if experiment.name in finished:
                progress.skip(experiment.num_minibatches)
        for experiment in own:
            if experiment.name in finished:
                continue
            progress.say(f"Experiment {experiment.number} of {len(experiments)}: {experiment.name}")
            try:
                evaluation = train_and_evaluate(
                    experiment.config,
                    path / experiment.name,
                    command,
                    is_complete=True,
                    callbacks=[_StepCounter(progress)],
                )
            except DivergedError as error:
                raise InputError(
                    f"{path / experiment.name}: diverged at mini-batch {error.minibatch}. Networks "
                    "that are compared share their settings, so give a lower --learning-rate and "
                    "another --out."
                ) from error
            keras.backend.clear_session()
            if evaluation is None or stop.is_made:
                return False
    return True


class _StepCounter(Callback):
    """Adds the mini-batches of one run to the progress of all experiments.

    Those of an earlier run that it resumes do not count as done now.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._num_done = progress, 0

    def on_start(self, run: RunStart) -> None:
        """Skips what an earlier run did."""
        self._progress.skip(run.step)
        self._num_done = run.step

    def on_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Counts what was done since the last call."""
        self._progress.advance(step - self._num_done)
        self._num_done = step
