"""Class priors: how often classes are drawn and how often they occur; a shift of scores leaves.

Training draws every class equally often (section 3.2 of the paper), so the network believes that
they occur equally often and finds too much of the rare ones, most of all after short training.
Adding the logarithm of (natural share / drawn share) to the scores before the softmax undoes it by
Bayes' rule. The paper does not; `--class-priors natural` does.
"""

from __future__ import annotations

import numpy as np

from mtseg.prepared import read_volumes
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

    Every task counts equally, whatever the size and number of its scans.

    Returns:
        float64 (num_classes,). A class is taken to occur in at least one voxel.
    """
    shares = np.zeros(label_space.num_classes)
    for selection in label_space.selections:
        task = selection.task
        counts = np.zeros(task.num_classes, np.int64)
        for subject in read_volumes(data_dir, task.name, selection.source, "train"):
            classes = subject.class_index_map[subject.image > 0]
            counts += np.bincount(classes, minlength=task.num_classes)
        counts = np.maximum(counts, 1)
        combined = label_space.to_combined(task.name)
        shares[combined] += counts / counts.sum() / len(label_space.selections)
    return shares


def score_shift(data_dir: str, label_space: LabelSpace) -> np.ndarray:
    """What to add to the scores before the softmax, float32 (num_classes,)."""
    ratio = natural_shares(data_dir, label_space) / drawn_shares(label_space)
    return np.log(ratio).astype(np.float32)
