"""Logit adjustment: correcting a network that was trained on balanced classes for real scans.

Training draws every class equally often (section 3.2 of the paper), but in a scan some classes are
rare. A network trained on balanced samples learns to expect all classes equally often, so it finds
too much of the rare ones, above all after a short training. By Bayes' rule, probabilities for
classes with other frequencies are proportional to

    probability from balanced training × (frequency in scans / frequency in training).

For logits, which are logarithms up to a constant, this is an addition: the log of that ratio of
class frequencies (class priors) is added to each logit. It needs no training. The paper does not do
it; `--class-priors natural` does, `--class-priors drawn` leaves the logits as the paper has them.

A background output that several tasks share is a problem: background is nearly all of a heart scan,
and hardly any of a skull-stripped brain, and the output does not say whose background a voxel may
be. No addition is exact for all tasks then. So the background's logit stays as it is, and each
other class is adjusted by its ratio over its own task's ratio for background. This is right between
the background and the classes of each task. The price: classes of a task with little background
are found too often in the background of other tasks. With one background output for each task
(`--backgrounds by-task`), each is adjusted with its own task's frequencies, and the correction is
exact. Tasks that were drawn more often than others (`--task-weights`) are then made equally
probable again; with a shared background, only the frequencies within a task are adjusted.

Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021: their post-hoc logit
adjustment. They train on imbalanced data and want balanced classes, so they subtract the log of
the class priors; here it is added. The rule for a shared background is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mtseg.records.reading import read_selection
from mtseg.tasks.label_space import LabelSpace, TaskSelection
from mtseg.tasks.task import IGNORED


def compute_class_priors(data_dir: str, selection: TaskSelection) -> npt.NDArray[np.float64]:
    """Computes how frequent each class of a task is in its training scans.

    Scans with the ignore label count only if the others lack a class that they have: their
    annotated part does not have the classes in their natural frequencies.

    Args:
        data_dir: folder of prepared records.
        selection: the task and its sources.

    Returns:
        float64 (task.num_classes,), the share of each of the task's own classes among the
        foreground voxels; the sum is 1. A class without any voxel counts as having one, so that its
        logarithm is finite.

    Raises:
        InputError: if the data is not prepared, or damaged.
    """
    num_classes = selection.task.num_classes
    of_complete, of_partial = np.zeros((2, num_classes), np.int64)
    for subject in read_selection(data_dir, selection, "train"):
        classes = subject.class_index_map[subject.image > 0]
        is_known = classes != IGNORED
        counts = of_complete if is_known.all() else of_partial
        counts += np.bincount(classes[is_known], minlength=num_classes)
    if (of_partial[of_complete == 0] > 0).any():
        of_complete += of_partial
    counts = np.maximum(of_complete, 1)
    priors: npt.NDArray[np.float64] = counts / counts.sum()
    return priors


def compute_logit_adjustment(
    data_dir: str,
    label_space: LabelSpace,
    backgrounds: str,
    task_weights: tuple[int, ...] | None = None,
) -> npt.NDArray[np.float32]:
    """Computes what to add to the logits so that the classes have their natural frequencies.

    Args:
        data_dir: folder of prepared records.
        label_space: the network's tasks. The classes of a task are drawn equally often in training,
            its background among them.
        backgrounds: `shared` or `by-task` (see `mtseg.runs.config.TrainConfig`).
        task_weights: how often each task was drawn; None for equally often.

    Returns:
        float32 (logits,): the background's logits first, then those of the other combined classes.
        0 for a shared background.

    Raises:
        InputError: if the data of a task is not prepared, or damaged.
    """
    priors = {
        selection.task.name: compute_class_priors(data_dir, selection)
        for selection in label_space.selections
    }
    return adjust_to_priors(priors, label_space, backgrounds, task_weights)


def adjust_to_priors(
    priors: Mapping[str, npt.NDArray[np.float64]],
    label_space: LabelSpace,
    backgrounds: str,
    task_weights: tuple[int, ...] | None = None,
) -> npt.NDArray[np.float32]:
    """Computes the same from class priors that are known already.

    Args:
        priors: name of a task -> float64 (task.num_classes,), as from `compute_class_priors`.
        label_space: as for `compute_logit_adjustment`.
        backgrounds: likewise.
        task_weights: likewise.

    Returns:
        float32 (logits,), as from `compute_logit_adjustment`.

    Example:
        >>> from mtseg.tasks.label_space import parse_tasks
        >>> natural = {"breast": np.array([0.5, 0.5]), "cta": np.array([0.25, 0.75])}
        >>> adjust_to_priors(natural, parse_tasks("breast,cta"), "by-task").round(2).tolist()
        [0.0, -0.69, 0.0, 0.41]
    """
    num_backgrounds = label_space.num_backgrounds(backgrounds)
    adjustment = np.zeros(num_backgrounds + label_space.num_classes - 1, np.float32)
    weights = task_weights or (1,) * len(label_space.selections)
    for selection, weight in zip(label_space.selections, weights, strict=True):
        of_task = priors[selection.task.name]
        # Over those in training: the task's share, and of it 1 / number of classes each.
        ratio = of_task * len(of_task) * sum(weights) / (weight * len(weights))
        logits = label_space.to_scores(selection.task.name, backgrounds)
        adjustment[logits] = np.log(ratio if num_backgrounds > 1 else ratio / ratio[0])
    return adjustment
