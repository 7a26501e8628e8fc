"""Class priors: how often classes are drawn and how often they occur; a shift of scores leaves.

Training draws every class equally often (section 3.2 of the paper), so the network believes that
they occur equally often and finds too much of the rare ones, most of all after short training.
Adding the logarithm of (natural share / drawn share) to the scores before the softmax undoes it by
Bayes' rule. The paper does not; `--class-priors natural` does.
"""

from __future__ import annotations

import numpy as np

from mtseg.prepared import read_selection
from mtseg.task import IGNORED
from mtseg.tasks import LabelSpace


def drawn_shares(label_space: LabelSpace) -> np.ndarray:
    """Share of each combined class among the samples of training, float64 (num_classes,)."""
    shares = np.zeros(label_space.num_classes)
    for selection in label_space.selections:
        task = selection.task
        share = 1 / (len(label_space.selections) * task.num_classes)
        shares[label_space.to_combined(task.name)] += share
    return shares


def natural_shares(data_dir: str, label_space: LabelSpace) -> np.ndarray:
    """Share of each combined class among the foreground voxels of the training scans.

    Every task counts equally, whatever the size and number of its scans. Scans with voxels of which
    it is not known what they are count only if there are no others: what is left of them does not
    have the classes in their shares.

    Returns:
        float64 (num_classes,). A class is taken to occur in at least one voxel.
    """
    shares = np.zeros(label_space.num_classes)
    for selection in label_space.selections:
        task = selection.task
        of_known, of_partial = np.zeros((2, task.num_classes), np.int64)
        for subject in read_selection(data_dir, selection, "train"):
            classes = subject.class_index_map[subject.image > 0]
            is_known = classes != IGNORED
            counts = of_known if is_known.all() else of_partial
            counts += np.bincount(classes[is_known], minlength=task.num_classes)
        counts = np.maximum(of_known if of_known.any() else of_partial, 1)
        combined = label_space.to_combined(task.name)
        shares[combined] += counts / counts.sum() / len(label_space.selections)
    return shares


def score_shift(data_dir: str, label_space: LabelSpace) -> np.ndarray:
    """What to add to the scores before the softmax, float32 (num_classes,)."""
    ratio = natural_shares(data_dir, label_space) / drawn_shares(label_space)
    return np.log(ratio).astype(np.float32)
