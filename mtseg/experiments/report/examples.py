"""The report's section of example segmentations: a picture, and a viewer to scroll through."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mtseg.evaluation.pictures import most_labelled_slice
from mtseg.experiments.plan import label_of
from mtseg.experiments.report.figures import segmentations
from mtseg.experiments.report.page import Block, Heading, Interactive, Picture
from mtseg.experiments.report.slice_viewer import slice_viewer, viewer_script
from mtseg.experiments.results import Result, read_labels_of
from mtseg.records.reading import read_selection
from mtseg.tasks.label_space import TaskSelection
from mtseg.tasks.task import IGNORED

_VIEWER_BYTES = 1_600_000
"""Of the pictures of all viewers together. Figures take less than 1.4 MB more."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A test scan of a task, and the labels that networks give it.

    Attributes:
        task: name of the task.
        subject: name of the scan.
        image: float32 (I, J, K), intensities as prepared.
        reference: uint8 (I, J, K), combined class indices of the largest network.
        predicted: name of each experiment and its label map, like `reference`.
    """

    task: str
    subject: str
    image: npt.NDArray[np.float32]
    reference: npt.NDArray[np.uint8]
    predicted: list[tuple[str, npt.NDArray[np.uint8]]]


def read_example(results: Sequence[Result], largest: Result, selection: TaskSelection) -> Example:
    """Reads the first test scan of a task, and the labels of every network for that task.

    The repeat is left out. While experiments are missing, so are networks with a task that the
    largest network does not have: their classes have no colour.

    Raises:
        InputError: if the records or a label map are missing or damaged, or the scan was prepared
            otherwise since.
    """
    task = selection.task.name
    subject = next(read_selection(largest.experiment.config.data_dir, selection, "test"))
    # Background where a voxel has the ignore label.
    to_combined = np.zeros(IGNORED + 1, np.uint8)
    own_classes = largest.label_space.to_combined(task)
    to_combined[: len(own_classes)] = own_classes
    to_combined[IGNORED] = 0
    names = largest.label_space.class_names
    predicted = []
    for result in results:
        tasks = set(result.experiment.task_names)
        is_shown = task in tasks and tasks <= set(largest.experiment.task_names)
        # The repeat alone: where nothing else is finished yet.
        if is_shown and (result is largest or not result.experiment.is_repeat):
            labels = read_labels_of(result, task, subject)
            places = [names.index(name) for name in result.label_space.class_names]
            predicted.append((result.experiment.name, np.array(places, np.uint8)[labels]))
    return Example(
        task, subject.name, subject.image, to_combined[subject.class_index_map], predicted
    )


def example_section(examples: Sequence[Example], largest: Result) -> list[Block]:
    """One slice of each example for every network, and a viewer of all slices for the last one."""
    return [
        Heading("Example segmentations"),
        Picture(
            "segmentations",
            _draw_slices(examples, largest),
            "One axial slice of a test scan of each task: the scan, its reference, and the labels "
            "that each network gives it.",
            "The first test scan of each task, laid out as Fig. 3 of the paper.",
        ),
        _viewers(examples, largest),
    ]


def _draw_slices(examples: Sequence[Example], largest: Result) -> Figure:
    rows = []
    for example in examples:
        k = most_labelled_slice(example.reference)
        layers = [("reference", example.reference), *example.predicted]
        rows.append(
            (
                example.task,
                example.image[..., k],
                [(label_of(name), labels[..., k]) for name, labels in layers],
            )
        )
    return segmentations(rows, largest.label_space.class_names)


def _viewers(examples: Sequence[Example], largest: Result) -> Interactive:
    parts = [
        "<p>The slices of each scan: turn the wheel over them, or use the slider. The subject's "
        "left is on the left.</p>"
    ]
    for example in examples:
        network, labels = example.predicted[-1]
        name = f"{example.task}, test scan {example.subject}"
        parts.append(f"<h3>{html.escape(name)}</h3>")
        layers = [("reference", example.reference), (label_of(network), labels)]
        parts.append(
            slice_viewer(
                name,
                example.image,
                layers,
                largest.label_space.class_names,
                _VIEWER_BYTES // len(examples),
            )
        )
    return Interactive("\n".join([*parts, viewer_script()]))
