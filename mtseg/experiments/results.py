"""Finished experiments, read from their folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.experiments.plan import Experiment, plan_experiments, read_plan
from mtseg.tasks.label_space import LabelSpace
from mtseg.training import workdir as workdir_files


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
        return workdir_files.read_config(self.workdir)[1]


def read_results(path: Path, data_dir: str | None = None) -> list[Result]:
    """The experiments of a folder that are finished, in the paper's order.

    Args:
        path: the folder.
        data_dir: where the prepared records are, if they have moved since.

    Raises:
        InputError: if the folder has no experiments.
    """
    plan = read_plan(path)
    if plan is None:
        raise InputError(f"{path}: has no experiments. Run: mtseg-experiments --out {path}")
    results = []
    config = plan[0] if data_dir is None else dataclasses.replace(plan[0], data_dir=data_dir)
    for experiment in plan_experiments(config):
        workdir = path / experiment.name
        stored = workdir_files.read_evaluation(workdir)
        if stored is None or stored["minibatch"] != experiment.num_minibatches:
            continue
        evaluation = Evaluation.from_json(stored)
        curve = workdir_files.read_curve(workdir)
        # A run that was killed between the two files goes on to write the second.
        is_whole = any(point["minibatch"] == experiment.num_minibatches for point in curve)
        if evaluation.is_complete and is_whole:
            results.append(Result(experiment, workdir, evaluation, curve))
    return results
