"""What finished experiments keep of their test scans: scan, reference, labels of every network.

A run keeps the labels of its test scans, and the prepared records have the scans and the reference,
all on the grid of the task. So nothing is computed, and no model is loaded. `mtseg-view` shows
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.tables import known_values
from mtseg.experiments.plan import label_of
from mtseg.experiments.results import Result, read_labels_of, read_results
from mtseg.scans.volume import Volume
from mtseg.tasks.label_space import LabelSpace, TaskSelection, parse_tasks
from mtseg.tasks.task import IGNORED


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkLabels:
    """What a network makes of a test scan.

    Attributes:
        number: of its experiment.
        title: the network for readers.
        labels: uint8, in the labels of `StoredExperiments.label_table`.
        dice: class name -> Dice of this scan; None if it is undefined.
    """

    number: int
    title: str
    labels: Volume
    dice: dict[str, float | None]


@dataclasses.dataclass(frozen=True, eq=False)
class ShownScan:
    """A test scan as it was prepared, with its labels, all on one grid.

    Attributes:
        image: float32, intensities as prepared.
        reference: uint8, in the labels of `StoredExperiments.label_table`.
        networks: those for its task; that for most tasks first, repeats last.
    """

    image: Volume
    reference: Volume
    networks: list[NetworkLabels]


class StoredExperiments:
    """The finished experiments of a folder.

    Args:
        path: the folder.
        data_dir: folder of the prepared records, if it was moved after the experiments.

    Attributes:
        label_table: labels and colours of the classes of all tasks.

    Raises:
        InputError: if no experiment is finished, or a file of one is damaged.
    """

    def __init__(self, path: Path, data_dir: str | None = None) -> None:
        self._results = read_results(path, data_dir)
        if not self._results:
            raise InputError(
                f"{path}: no experiment is finished. Rerun the mtseg-experiments command that made "
                "it."
            )
        selections: dict[str, TaskSelection] = {}
        for result in self._results:
            for selection in parse_tasks(result.experiment.config.tasks).selections:
                selections.setdefault(selection.task.name, selection)
        self._label_space = LabelSpace(tuple(selections.values()))
        self.label_table = self._label_space.label_table

    def describe(self) -> dict[str, Any]:
        """The tasks, as `name` and `title`, and the networks: `title`, and `dice` by task.

        Dice is the mean over the classes and test scans of a task; None if it is undefined.
        """
        tasks = [selection.task for selection in self._label_space.selections]
        networks = []
        for result in self._results:
            dice = {
                task.name: _mean(
                    value
                    for of_task, name in result.evaluation.classes
                    if of_task == task.name
                    for value in known_values(result.evaluation, of_task, name, "dice")
                )
                for task in tasks
                if task.name in result.experiment.task_names
            }
            networks.append({"title": label_of(result.experiment.name), "dice": dice})
        return {
            "tasks": [{"name": task.name, "title": task.title} for task in tasks],
            "networks": networks,
        }

    def scans(self) -> list[tuple[str, str, float | None]]:
        """The test scans: task, name, and mean Dice of the network for most tasks."""
        scans = []
        for selection in self._label_space.selections:
            task = selection.task.name
            evaluation = self._networks(task)[0].evaluation
            classes = [name for of_task, name in evaluation.classes if of_task == task]
            dice = [evaluation.values(task, name, "dice") for name in classes]
            for subject in dict.fromkeys(subject for of_class in dice for subject in of_class):
                known = [v for of_class in dice if (v := of_class.get(subject)) is not None]
                scans.append((task, subject, _mean(known)))
        return scans

    def read(self, task: str, subject: str) -> ShownScan:
        """Reads a test scan, its reference and the labels of every network for its task.

        Args:
            task: name of its task.
            subject: its name.

        Raises:
            InputError: if its record or a label map is missing or damaged, or it was prepared
                otherwise since.
        """
        from mtseg.records.reading import read_selection

        networks = self._networks(task)
        selection = next(s for s in self._label_space.selections if s.task.name == task)
        data_dir = networks[0].experiment.config.data_dir
        subjects = read_selection(data_dir, selection, "test")
        scan = next((each for each in subjects if each.name == subject), None)
        if scan is None:
            raise InputError(
                f"{data_dir}: has no test scan {subject} of {task}. The task was prepared again "
                "after the experiments; give the --data-dir of before."
            )
        reference = self._own_labels(selection)[scan.class_index_map]
        return ShownScan(
            Volume(scan.image, scan.affine),
            Volume(reference, scan.affine),
            [
                NetworkLabels(
                    result.experiment.number,
                    label_of(result.experiment.name),
                    Volume(
                        self._labels_of(result)[read_labels_of(result, task, scan)],
                        scan.affine,
                    ),
                    {
                        name: result.evaluation.values(task, name, "dice").get(subject)
                        for of_task, name in result.evaluation.classes
                        if of_task == task
                    },
                )
                for result in networks
            ],
        )

    def _networks(self, task: str) -> list[Result]:
        """The networks for a task, that for most tasks first and repeats last."""
        networks = [r.experiment for r in self._results if task in r.experiment.task_names]
        of_name = {result.experiment.name: result for result in self._results}
        networks.sort(key=lambda each: (each.is_repeat, -len(each.task_names)))
        return [of_name[experiment.name] for experiment in networks]

    def _own_labels(self, selection: TaskSelection) -> npt.NDArray[np.uint8]:
        """A table from a task's own class indices to labels; what is ignored is background."""
        label_of_class = {entry.name: entry.label for entry in self.label_table}
        lookup = np.zeros(IGNORED + 1, np.uint8)
        for index, name in enumerate(selection.task.class_names[1:], start=1):
            lookup[index] = label_of_class[name]
        return lookup

    def _labels_of(self, result: Result) -> npt.NDArray[np.uint8]:
        """A table from the combined class indices of a network to labels."""
        label_of_class = {entry.name: entry.label for entry in self.label_table}
        names = result.label_space.class_names[1:]
        return np.array([0, *(label_of_class[name] for name in names)], np.uint8)


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(np.mean(known)) if known else None
