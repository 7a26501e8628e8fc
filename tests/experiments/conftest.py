"""Recorded results of finished experiments, so that nothing is trained here."""

import dataclasses

import numpy as np
import pytest

from mtseg.evaluation.results import Evaluation, Row
from mtseg.experiments.plan import plan_experiments, write_plan
from mtseg.runs import workdir as workdir_files
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import write_json
from mtseg.tasks.label_space import parse_tasks


def make_evaluation(label_space, subjects, *, loss=0.0):
    """A complete evaluation as a network of these tasks could have it.

    Args:
        label_space: its classes.
        subjects: task name -> names of its test scans.
        loss: subtracted from every Dice.
    """
    rows, points, curves, confusion = [], {}, {}, {}
    num_classes = label_space.num_classes
    for selection in label_space.selections:
        task = selection.task
        counts = np.zeros((num_classes, num_classes), int)
        counts[0, 0] = 9000
        for index in label_space.class_indices(task.name):
            name = label_space.class_names[index]
            counts[index, index] = 1000
            for number, subject in enumerate(subjects[task.name]):
                values = {
                    "dice": 0.9 - 0.01 * number - loss, "precision": 0.91, "recall": 0.89,
                    "hd95_mm": 1.5, "surface_dice": 0.95, "volume_reference_ml": 40.0,
                    "volume_predicted_ml": 41.0,
                }  # fmt: skip
                if task.decision == "operating_point":
                    values |= {"dice_argmax": 0.85 - loss, "operating_point": 0.4}
                rows += [Row(task.name, name, subject, *item) for item in values.items()]
            if task.decision == "operating_point":
                points[name] = 0.5
                falling = np.linspace(2000, 100, 101).astype(int).tolist()
                curves[name] = {
                    "num_predicted": falling,
                    "num_overlap": [min(count, 900) for count in falling],
                    "num_reference": 1000,
                }
        others = label_space.indices_of_other_tasks(task.name)
        if others:
            counts[0, others[0]] = 3
        for subject in subjects[task.name]:
            share = 3 / counts.sum() if others else 0.0
            rows.append(Row(task.name, "all", subject, "alien_share", share))
        confusion[task.name] = counts.tolist()
    return Evaluation(tuple(rows), points, curves, confusion)


def record_run(experiment, workdir, scans):
    """Writes the files of a finished run.

    Args:
        experiment: of the plan.
        workdir: folder of the run.
        scans: task name -> its prepared test scans.
    """
    label_space = parse_tasks(experiment.config.tasks)
    workdir_files.write_config(workdir, experiment.config, label_space)
    subjects = {task: [scan.name for scan in of_task] for task, of_task in scans.items()}
    loss = 0.008 * (len(experiment.task_names) - 1) + 0.005 * experiment.is_repeat
    evaluation = make_evaluation(label_space, subjects, loss=loss)
    last = experiment.num_minibatches
    machine = {
        "processor": "a processor", "cores": 2, "bfloat16": [], "python": "3", "tensorflow": "2",
    }  # fmt: skip
    stored = evaluation.to_json(model=str(workdir), command="mtseg-experiments --preset demo")
    stored |= {"minibatch": last, "machine": machine}
    write_json(workdir / workdir_files.EVALUATION, stored)
    points = [
        {
            "minibatch": last * quarter // 4,
            "training_seconds": 30.0 * quarter,
            "mean_dice": quarter / 4,
            "dice": {name: quarter / 4 * dice for name, dice in evaluation.mean_dice().items()},
        }
        for quarter in (1, 2, 3, 4)
    ]
    write_json(workdir / workdir_files.LEARNING_CURVE, points)
    for task in experiment.task_names:
        to_combined = label_space.to_combined(task)
        for scan in scans[task]:
            labels = to_combined[np.where(scan.class_index_map == 255, 0, scan.class_index_map)]
            workdir_files.write_labels(workdir, task, scan.name, labels)


@pytest.fixture(scope="session")
def recorded(tiny_data, tmp_path_factory):
    """A folder of finished experiments for three tasks, and the configuration of their plan."""
    from mtseg.records.reading import read_selection

    path = tmp_path_factory.mktemp("recorded") / "out"
    config = TrainConfig(
        tiny_data.tasks, str(tiny_data.data_dir), minibatches_per_task=40, evaluate_every=10
    )
    scans = {
        selection.task.name: list(read_selection(tiny_data.data_dir, selection, "test"))
        for selection in tiny_data.label_space.selections
    }
    scans |= {
        task: [
            dataclasses.replace(of_task[0], name=f"{of_task[0].name}{number or ''}")
            for number in range(3)
        ]
        for task, of_task in scans.items()
    }
    write_plan(path, config, minutes=30.0)
    for experiment in plan_experiments(config):
        (path / experiment.name).mkdir()
        record_run(experiment, path / experiment.name, scans)
    return path, config
