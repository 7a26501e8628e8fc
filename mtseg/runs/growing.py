"""Starting from a trained network, also for other tasks: the last layer grows or shrinks.

All layers but the last are the same in every network of this package. The last has one output for
each class, and one or several for the background. Outputs that both networks have are copied. So a
task or a class can be added to a trained network, or taken away, and the rest need not be learned
again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.provenance.fingerprint import Fingerprint
from mtseg.provenance.training_data import read_all_training_data
from mtseg.runs.config import TrainConfig
from mtseg.runs.manifest import locate_model
from mtseg.runs.weights import TrainedModel, load_trained
from mtseg.tasks.label_space import LabelSpace

LOGITS = "logits"
"""The name of the last layer, which has the outputs."""

SHARED = "shared"
"""Stands for the task of a background output that all tasks share."""


def load_initial(config: TrainConfig) -> TrainedModel | None:
    """Loads the network that `--init-from` names; None if it names none.

    Raises:
        InputError: if it is no trained network of this package.
    """
    if not config.init_from:
        return None
    try:
        return load_trained(locate_model(config.init_from))
    except InputError as error:
        raise InputError(f"--init-from: {error}") from error


def read_initial_data(name: str, config: TrainConfig) -> list[Fingerprint] | None:
    """What the network that `--init-from` names was trained on; None if not all of it is known.

    Args:
        name: of the network, or its folder.
        config: its own.
    """
    known, is_all = read_all_training_data(Path(locate_model(name)), config.init_from)
    return known if is_all else None


def start_from(
    trained: TrainedModel,
    model: keras.Model,
    label_space: LabelSpace,
    config: TrainConfig,
    logit_adjustment: npt.NDArray[np.float32] | float = 0.0,
) -> str:
    """Gives a new network the weights of a trained one.

    Args:
        trained: the trained network.
        model: the new one, from `mtseg.runs.building.build_model`; it is changed.
        label_space: its tasks.
        config: its configuration.
        logit_adjustment: float32 (logits,), what the weights of the trained network have had added
            to their bias and training adds at its end; see `mtseg.batches.logit_adjustment`. It is
            taken off outputs that are copied. 0 leaves them as they are, for a network that is not
            trained further.

    Returns:
        A line that says which classes begin at random.
    """
    given = name_outputs(trained.label_space, trained.config.backgrounds)
    wanted = name_outputs(label_space, config.backgrounds)
    old_kernel, old_bias = trained.model.get_layer(LOGITS).get_weights()
    kernel, bias = model.get_layer(LOGITS).get_weights()
    added = np.broadcast_to(logit_adjustment, bias.shape)
    new: list[str] = []
    for number, output in enumerate(wanted):
        source, shift = _find(output, given, len(trained.label_space.selections))
        if source.size == 0:
            new.append(output[1])
            continue
        kernel[..., number] = old_kernel[..., source].mean(axis=-1)
        bias[number] = old_bias[source].mean() + shift - added[number]
    for layer, old in zip(_inner_layers(model), _inner_layers(trained.model), strict=True):
        layer.set_weights(old.get_weights())
    model.get_layer(LOGITS).set_weights([kernel, bias])
    classes = [name for name in new if name != "background"]
    beginning = f"; at random: {', '.join(classes)}" if classes else ""
    return f"Starting from the trained network {trained.label_space.spec}{beginning}."


def name_outputs(label_space: LabelSpace, backgrounds: str) -> list[tuple[str, str]]:
    """The task and the class of each output of a network, in order.

    Example:
        >>> from mtseg.tasks.label_space import parse_tasks
        >>> name_outputs(parse_tasks("breast,cta"), "shared")[:2]
        [('shared', 'background'), ('breast', 'pectoral_muscle')]
    """
    tasks = [selection.task.name for selection in label_space.selections]
    with_background = tasks if backgrounds == "by-task" else [SHARED]
    named = zip(label_space.class_task[1:], label_space.class_names[1:], strict=True)
    return [(task, "background") for task in with_background] + [
        (str(task), name) for task, name in named
    ]


def _find(
    output: tuple[str, str], given: Sequence[tuple[str, str]], num_tasks: int
) -> tuple[npt.NDArray[np.int64], float]:
    """The outputs of the trained network that one starts from, and what to add to its bias.

    A background of a task starts from one that all tasks shared, with its share of the probability;
    a shared one from the average of those that tasks had.
    """
    task, name = output
    if output in given:
        return np.array([given.index(output)]), 0.0
    if name != "background":
        return np.array([], np.int64), 0.0
    if (SHARED, name) in given:
        return np.array([given.index((SHARED, name))]), -math.log(num_tasks)
    if task == SHARED:
        return np.flatnonzero([other == name for _, other in given]), 0.0
    return np.array([], np.int64), 0.0


def _inner_layers(model: keras.Model) -> list[Any]:
    """All layers with weights but the last."""
    return [layer for layer in model.layers if layer.weights and layer.name != LOGITS]
