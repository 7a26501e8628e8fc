"""Scores of label files against reference label files, without a network.

`mtseg.evaluate_files` and `mtseg evaluate PREDICTIONS REFERENCES` use it. It needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.evaluation.surfaces import mask_figures
from mtseg.scans.formats.nifti import NIFTI_ENDINGS
from mtseg.scans.label_files import read_label_map
from mtseg.scans.reading import ENDINGS
from mtseg.scans.volume import Volume, match_grid
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table, to_labels
from mtseg.tasks.task import IGNORED, LabelSource, Task, first_ten

LABELS_ENDING = "_labels"
"""What `mtseg-predict` adds to the name of a scan; left out when names are compared."""

_MOST_LABELS = 255
"""More different labels than this are not those of a label map of classes."""


@dataclasses.dataclass(frozen=True)
class FilePair:
    """A label file and its reference."""

    subject: str
    predicted: Path
    reference: Path


def pair_files(
    predictions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    references: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    prediction_ending: str = "",
    reference_ending: str = "",
) -> list[FilePair]:
    """Finds out which prediction belongs to which reference.

    Args:
        predictions: a label file, a folder of them, or a list of files.
        references: likewise. Two lists have the same order; two folders the same names, without the
            endings.
        prediction_ending: in a folder, the end of the names of label files, such as
            `_SS_labels.nii.gz`; files without it are left out. Empty stands for the ending of any
            format, with or without `_labels` before it.
        reference_ending: likewise of the references.

    Raises:
        InputError: if a file is missing or has no counterpart, or an ending is given for files.
    """
    if not isinstance(predictions, str | os.PathLike) or not isinstance(
        references, str | os.PathLike
    ):
        if isinstance(predictions, str | os.PathLike) or isinstance(references, str | os.PathLike):
            raise InputError(
                "predictions and references: give two lists, two files or two folders."
            )
        if len(predictions) != len(references):
            raise InputError(
                f"{len(predictions)} predictions and {len(references)} references: give one "
                "reference for each prediction, in the same order."
            )
        if not predictions:
            raise InputError("predictions and references: are empty lists. Give label files.")
        _refuse_endings(prediction_ending, reference_ending)
        files = [Path(each) for each in predictions], [Path(each) for each in references]
        names = [_stem(path) for path in files[0]]
        if len(set(names)) < len(names):  # such as s1/labels.nii.gz and s2/labels.nii.gz
            names = [str(path) for path in files[0]]
        pairs = [FilePair(*pair) for pair in zip(names, *files, strict=True)]
    else:
        predictions, references = Path(predictions), Path(references)
        for path in (predictions, references):
            if not path.exists():
                raise InputError(f"{path}: no such file or folder. Give label files.")
        if predictions.is_dir() != references.is_dir():
            raise InputError(
                f"{predictions} and {references}: one is a folder, the other a file. Give two of "
                "the same."
            )
        if not predictions.is_dir():
            _refuse_endings(prediction_ending, reference_ending)
            return [FilePair(_stem(predictions), predictions, references)]
        pairs = _pair_folders(predictions, references, prediction_ending, reference_ending)
    for pair in pairs:
        for path in (pair.predicted, pair.reference):
            if not path.is_file():
                raise InputError(f"{path}: no such file. Give a label file.")
    return pairs


def _refuse_endings(prediction_ending: str, reference_ending: str) -> None:
    """Refuses ends of names where files are given, where they would do nothing."""
    for which, ending in (("prediction", prediction_ending), ("reference", reference_ending)):
        if ending:
            raise InputError(f"--{which}-ending {ending}: is for folders. Leave it out.")


def _pair_folders(
    predictions: Path, references: Path, prediction_ending: str, reference_ending: str
) -> list[FilePair]:
    of_predictions = _label_files(predictions, prediction_ending)
    of_references = _label_files(references, reference_ending)
    if without := sorted(set(of_predictions) - set(of_references)):
        raise InputError(
            f"{references}: has no reference for {first_ten(without)} of {predictions}; its names "
            f"without their endings: {first_ten(sorted(of_references)) or 'none'}. Rename files, "
            "or give the ends of the names (--prediction-ending, --reference-ending)."
        )
    return [FilePair(name, path, of_references[name]) for name, path in of_predictions.items()]


def _label_files(folder: Path, ending: str) -> dict[str, Path]:
    """Name without its ending -> label file, of the files in a folder, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        is_label_file = (
            path.name.endswith(ending) if ending else path.name.lower().endswith(ENDINGS)
        )
        if path.name.startswith(".") or not is_label_file or path.is_dir():
            continue
        # Beside label files, `mtseg-predict` writes probabilities, which are no label map.
        if not ending and path.name.endswith("_probabilities.nii.gz"):
            continue
        name = path.name.removesuffix(ending) if ending else _stem(path)
        if name in found:
            raise InputError(
                f"{path}: has the same name as {found[name]}, without their endings. Give the ends "
                "of the names of the label files (--prediction-ending, --reference-ending)."
            )
        found[name] = path
    if not found:
        raise InputError(
            f"{folder}: has no label file ({ending or ', '.join(ENDINGS)}). Give another folder."
        )
    return found


def _stem(path: Path) -> str:
    name = path.name
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    return name.removesuffix(LABELS_ENDING)


def score_files(
    pairs: Sequence[FilePair],
    task: str | None = None,
    names: Mapping[int, str] | None = None,
    on_scan: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Scores label files.

    Args:
        pairs: from `pair_files`.
        task: name or file of a task, whose classes are scored. With a source, such as
            `brain:miccai2012`, the references have the labels of that source. The predictions have
            the labels that their headers give to these classes: without a number in the task file,
            a class has another one in a network of other tasks.
        names: label -> name of its class, in place of a task. None takes the names in the header of
            the first prediction, as `mtseg-predict` writes them.
        on_scan: called with the name of each pair when it has been scored.

    Returns:
        For each pair and class the metrics of a complete evaluation; a figure that is undefined is
        None. Without a task, the classes are those that a prediction or a reference has.

    Raises:
        InputError: if a file cannot be read, two are not on the same grid, both a task and names
            are given, or a prediction has classes of other tasks alone.
    """
    of_task: Task | None = None
    source: LabelSource | None = None
    if task is None:
        classes = dict(names or {})
    elif names is None:
        of_task, classes, source = _read_task(task)
    else:
        raise InputError("names: are in place of a task. Give one of them.")
    rows: list[Row] = []
    scored: dict[int, str] = dict(classes) if task is not None else {}
    figures: dict[tuple[int, int], dict[str, float | None]] = {}
    for number, pair in enumerate(pairs):
        reference, is_known = _read_reference(pair.reference, of_task, source)
        predicted = read_label_map(pair.predicted)
        if of_task is not None:
            array = _in_labels_of_task(predicted.array, pair.predicted, of_task, classes)
            predicted = dataclasses.replace(predicted, array=array)
        predicted = match_grid(reference, predicted, pair.reference, pair.predicted)
        if number == 0 and task is None and names is None:  # now the file is known to be sound
            classes = _names_in_header(pair.predicted)
        found = np.union1d(np.unique(reference.array), np.unique(predicted.array))
        if len(found) > _MOST_LABELS:
            raise InputError(
                f"{pair.predicted} and {pair.reference}: have {len(found)} different labels. Give "
                "label maps."
            )
        if task is None:
            scored |= {int(v): classes.get(int(v), f"label {v}") for v in found if v}
        for label in scored if task is not None else (int(value) for value in found if value):
            figures[number, label] = mask_figures(
                reference.array == label,
                predicted.array == label,
                reference.spacing_mm,
                reference.voxel_ml,
                is_known,
            )
        on_scan(pair.subject)
    none = mask_figures(np.zeros((1, 1, 1), bool), np.zeros((1, 1, 1), bool), (1, 1, 1), 1)
    shown = "labels" if of_task is None else of_task.name
    for label, name in sorted(scored.items()):
        for number, pair in enumerate(pairs):
            for metric, value in figures.get((number, label), none).items():
                rows.append(Row(shown, name, pair.subject, metric, value))
    return Evaluation(tuple(rows), {}, split="files", points_from="")


def _read_task(text: str) -> tuple[Task, dict[int, str], LabelSource | None]:
    """A task, its labels and their names, and its source if one is named."""
    label_space = parse_tasks(text)
    if len(label_space.selections) != 1 or len(label_space.selections[0].sources) != 1:
        raise InputError(f"--task {text}: names several tasks or sources. Give one.")
    (selection,) = label_space.selections
    classes = {entry.label: entry.name for entry in label_space.label_table}
    if selection.is_default:
        return selection.task, classes, None
    (source,) = selection.sources
    found = [each for each in selection.task.sources if each.name == source]
    values = [v for each in found for _, labels in each.values or () for v in labels]
    values += [v for each in found for v in (*each.background, *each.ignore)]
    if not values or not all(isinstance(value, int) for value in values):
        raise InputError(
            f"--task {text}: the task file does not list the numbers of this source's labels. "
            f"Leave out :{source} and give references with the labels of the task."
        )
    return selection.task, classes, found[0]


def _read_reference(
    path: Path, task: Task | None, source: LabelSource | None
) -> tuple[Volume, npt.NDArray[np.bool_] | None]:
    """A reference with the labels of the predictions, and where its class is known."""
    label_map = read_label_map(path)
    if task is None or source is None:
        return label_map, None
    own = task.map_labels(label_map.array, source, str(path))
    lookup = np.zeros(256, np.uint8)
    of_classes = to_labels(make_label_table((task.name, tissue) for tissue in task.classes))
    lookup[: len(of_classes)] = of_classes
    return dataclasses.replace(label_map, array=lookup[own]), own != IGNORED


def _in_labels_of_task(
    array: npt.NDArray[Any], path: Path, task: Task, classes: Mapping[int, str]
) -> npt.NDArray[Any]:
    """A prediction with the labels that its task has on its own; 0 for classes of other tasks.

    Args:
        array: its labels.
        path: of the prediction. Without names in its header, it has the labels of the task.
        task: the task.
        classes: label -> name, of the task on its own.
    """
    names = _names_in_header(path)
    if not names or names.items() >= classes.items():
        return array
    if not set(names.values()) & set(classes.values()):
        raise InputError(
            f"{path}: has the classes {first_ten(sorted(names.values()))}, none of the task "
            f"{task.name}. Give the task of its classes."
        )
    own = {name: label for label, name in classes.items()}
    found = np.zeros_like(array)
    for label, name in names.items():
        found[array == label] = own.get(name, 0)
    return found


def _names_in_header(path: Path) -> dict[int, str]:
    """Label -> name, from the label table in a NIfTI file's header; empty if there is no sound one.

    Args:
        path: of a file that has been read, so that its header is sound.
    """
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        return {}
    try:
        extensions: Any = getattr(nib.load(path).header, "extensions", ())
        for extension in extensions:
            if b"<LabelTable>" in extension.content:
                table = ElementTree.fromstring(extension.content).iter("Label")
                return {int(e.get("Key", "")): e.text or "" for e in table}
    except (OSError, ValueError, LookupError, ElementTree.ParseError):  # Lookup: of an encoding
        return {}
    return {}
