"""TensorBoard summaries of an evaluation: figures come in, events leave by the default writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.pr_curve import summary as pr_curve

from mtseg.evaluate import Evaluation
from mtseg.metrics import THRESHOLDS, precision_recall


def write_evaluation(evaluation: Evaluation) -> None:
    """Writes Dice of every class, and precision-recall curves, at the default writer's step."""
    for name, value in evaluation.mean_dice().items():
        if value is not None:
            tf.summary.scalar(f"dice/{name}", value)
    tasks = dict((class_name, task) for task, class_name in evaluation.classes)
    for class_name, curve in evaluation.curves.items():
        if curve["num_reference"]:
            task = tasks[class_name]
            num_voxels = int(np.sum(evaluation.confusion[task]))
            _write_curve(f"precision_recall/{task}/{class_name}", num_voxels, **curve)


def _write_curve(tag: str, num_voxels: int, **curve: Any) -> None:
    precision, recall = precision_recall(**curve)
    positives, right = np.array(curve["num_predicted"]), np.array(curve["num_overlap"])
    missed = curve["num_reference"] - right
    message = pr_curve.raw_data_pb(
        name=tag,
        true_positive_counts=right,
        false_positive_counts=positives - right,
        true_negative_counts=num_voxels - positives - missed,
        false_negative_counts=missed,
        precision=precision,
        recall=recall,
        num_thresholds=len(THRESHOLDS),
    )
    (value,) = message.value
    # TensorFlow 2 writes a tensor with its plugin's name; the message is TensorFlow 1's.
    metadata = tf.compat.v1.SummaryMetadata.FromString(value.metadata.SerializeToString())
    tf.summary.write(tag, tf.make_ndarray(value.tensor), metadata=metadata)
