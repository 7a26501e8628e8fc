"""Class priors: how often classes are drawn and how often they occur; a shift of scores leaves.

Training draws every class equally often (section 3.2 of the paper), so the network believes that
they occur equally often and finds too much of the rare ones, most of all after short training.
Adding the logarithm of (natural share / drawn share) to the scores before the softmax undoes it by
Bayes' rule. The paper does not; `--class-priors natural` does.

The background is one class for all tasks, but its shares are each task's own: nearly all of a heart
scan and hardly any of a skull-stripped brain. Whatever a voxel may be, it is of one task, so the
shift has to be right between the background and the classes of that task. It therefore leaves the
background's score as it is, and shifts each other class by its task's ratio over that of the task's
background.
"""

from __future__ import annotations

import numpy as np

from mtseg.prepared import read_selection
from mtseg.task import IGNORED
from mtseg.tasks import LabelSpace, TaskSelection


def natural_shares(data_dir: str, selection: TaskSelection) -> np.ndarray:
    """Share of each of a task's own classes among the foreground voxels of its training scans.

    Scans with voxels of which it is not known what they are count only if there are no others: what
    is left of them does not have the classes in their shares.

    Returns:
        float64 (task.num_classes,). A class is taken to occur in at least one voxel.
    """
    num_classes = selection.task.num_classes
    of_known, of_partial = np.zeros((2, num_classes), np.int64)
    for subject in read_selection(data_dir, selection, "train"):
        classes = subject.class_index_map[subject.image > 0]
        is_known = classes != IGNORED
        counts = of_known if is_known.all() else of_partial
        counts += np.bincount(classes[is_known], minlength=num_classes)
    counts = np.maximum(of_known if of_known.any() else of_partial, 1)
    return counts / counts.sum()


def score_shift(data_dir: str, label_space: LabelSpace) -> np.ndarray:
    """What to add to the scores before the softmax, float32 (num_classes,); 0 for the background.

    A task's classes, its background among them, are drawn equally often, so only their natural
    shares matter.
    """
    shift = np.zeros(label_space.num_classes, np.float32)
    for selection in label_space.selections:
        shares = natural_shares(data_dir, selection)
        indices = list(label_space.class_indices(selection.task.name))
        shift[indices] = np.log(shares[1:] / shares[0])
    return shift
