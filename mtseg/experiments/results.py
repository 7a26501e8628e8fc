"""Finished experiments, as the report and the comparison read them, and their values as CSV.

An experiment counts as finished if its run holds a complete evaluation after the last mini-batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.experiments.plan import Experiment, plan_experiments, read_plan
from mtseg.provenance.training_data import list_record_changes, read_training_data
from mtseg.records.reading import read_fingerprints
from mtseg.runs.workdir import read_config, read_curve, read_evaluation, read_labels
from mtseg.sources.subject import PreparedSubject
from mtseg.system.text_table import format_csv
from mtseg.tasks.label_space import LabelSpace, parse_tasks


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished experiment.

    Attributes:
        experiment: which one.
        workdir: folder of its training run.
        evaluation: the complete evaluation after its last mini-batch.
        curve: points of its learning curve, as in `learning_curve.json`.
    """

    experiment: Experiment
    workdir: Path
    evaluation: Evaluation
    curve: list[dict[str, Any]]

    @functools.cached_property
    def label_space(self) -> LabelSpace:
        """The network's classes, read from the folder of the run."""
        return read_config(self.workdir)[1]


def read_results(path: Path, data_dir: str | None = None) -> list[Result]:
    """Reads the finished experiments of a folder, in the order of the plan.

    Args:
        path: folder of the experiments.
        data_dir: folder of the prepared records, if it was moved after the experiments.

    Raises:
        InputError: if the folder has no experiments, or a file of a run is damaged.
    """
    plan = read_plan(path)
    if plan is None:
        raise InputError(f"{path}: has no experiments. Give the --out of mtseg-experiments.")
    results = []
    config = plan[0] if data_dir is None else dataclasses.replace(plan[0], data_dir=data_dir)
    for experiment in plan_experiments(config):
        workdir = path / experiment.name
        stored = read_evaluation(workdir)
        if stored is None or stored["minibatch"] != experiment.num_minibatches:
            continue
        evaluation = Evaluation.from_json(stored)
        curve = read_curve(workdir)
        # The evaluation is written before the curve. A run that was killed between them resumes.
        has_last_point = any(point["minibatch"] == experiment.num_minibatches for point in curve)
        if evaluation.is_complete and has_last_point:
            results.append(Result(experiment, workdir, evaluation, curve))
    return results


def read_labels_of(result: Result, task: str, scan: PreparedSubject) -> npt.NDArray[np.uint8]:
    """Reads the labels that a network gave a test scan, which its records still must have.

    Args:
        result: of the network.
        task: name of the scan's task.
        scan: the scan, from the records as they are.

    Returns:
        uint8, on the grid of the scan, the network's combined class indices.

    Raises:
        InputError: if the label map is missing or damaged, or the scan was prepared otherwise
            since.
    """
    config = result.experiment.config
    stored = read_training_data(result.workdir)
    now, _ = read_fingerprints(config.data_dir, parse_tasks(config.tasks), config.records)
    # Runs and records of earlier versions do not say what they were made from.
    known = [print_ for print_ in stored or () if print_.task["name"] == task]
    specs = {print_.spec for print_ in known}
    texts = list_record_changes(known, [print_ for print_ in now if print_.spec in specs], ["test"])
    labels = read_labels(result.workdir, task, scan.name)
    if labels.shape != scan.image.shape:
        texts.append(f"{scan.name} has another size")
    if texts:
        raise InputError(
            f"{config.data_dir}: test scans were prepared again after the experiments in "
            f"{result.workdir.parent}: {'; '.join(texts)}. Prepare them as they were, give the "
            "--data-dir of before, or run the experiments again."
        )
    return labels


def largest_network(results: Sequence[Result]) -> Result:
    """The result of the network with most tasks; the first of several.

    Raises:
        ValueError: if there is no result.
    """
    return max(results, key=lambda result: len(result.experiment.task_names))


def to_csv(results: Sequence[Result]) -> str:
    """All values of all networks as CSV text; an undefined value is an empty field.

    Returns:
        A line per value. `minibatch` is empty for values after the last mini-batch. Lines of
        earlier evaluations hold mean Dice over the scans; their `subject` is `all`, and their
        `metric` is `dice`, or `validation_dice` if they scored other scans than the last one.
    """
    rows = []
    for result in results:
        name, scored = result.experiment.name, result.evaluation.split
        *earlier, last = result.curve
        for point in result.curve if last.get("split", "test") != scored else earlier:
            split = point.get("split", "test")
            metric = "dice" if split == scored else f"{split}_dice"
            for key, value in point["dice"].items():
                task, class_name = key.split("/")
                rows.append(
                    (name, point["minibatch"], task, class_name, "all", metric, _csv_field(value))
                )
        for row in result.evaluation.rows:
            value = _csv_field(row.value)
            rows.append((name, "", row.task, row.class_name, row.subject, row.metric, value))
    header = ("network", "minibatch", "task", "class", "subject", "metric", "value")
    return format_csv(header, rows)


def _csv_field(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
