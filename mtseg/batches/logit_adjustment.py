"""Logit adjustment: from how often classes were drawn to how often they occur.

Training draws every class equally often (section 3.2 of the paper). The network therefore expects
all classes equally often and finds too much of the rare ones, above all after a short training.
Adding log(natural share / drawn share) to the logits corrects this by Bayes' rule (Menon et al.,
ICLR 2021). The paper does not; `--class-priors natural` does.

The background's share differs between tasks: nearly all of a heart scan, hardly any of a
skull-stripped brain. With one background output per task (`--backgrounds by-task`) each is adjusted
by its own task's shares, and the correction is exact. The paper's shared output does not say whose
background a voxel may be, so no adjustment is exact for all tasks. Then the background's output
stays as it is, and each other class is adjusted by its task's ratio over that of the task's
background. This is right between the background and the classes of each task; the price is that
classes of a task with little background are found too often in the background of other tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtseg.records.reading import read_selection
from mtseg.tasks.label_space import LabelSpace, TaskSelection
from mtseg.tasks.task import IGNORED


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
    shares: npt.NDArray[np.float64] = counts / counts.sum()
    return shares


def logit_adjustment(data_dir: str, label_space: LabelSpace, backgrounds: str) -> np.ndarray:
    """What to add to the scores before the softmax, float32 (scores,); 0 for a shared background.

    Tasks are drawn equally often, and so are a task's classes, its background among them.

    Args:
        data_dir: the folder of prepared records.
        label_space: the network's tasks.
        backgrounds: `shared` or `by-task` (see `mtseg.training.config.TrainConfig`).
    """
    num_backgrounds = label_space.num_backgrounds(backgrounds)
    shift = np.zeros(num_backgrounds + label_space.num_classes - 1, np.float32)
    for selection in label_space.selections:
        shares = natural_shares(data_dir, selection)
        scores = label_space.to_scores(selection.task.name, backgrounds)
        of_drawn = shares * len(shares)
        shift[scores] = np.log(of_drawn if num_backgrounds > 1 else of_drawn / of_drawn[0])
    return shift
