"""How often each task and each of its sources is drawn, and how often the same sample.

Reference: Moeskops et al., MICCAI 2016, section 3.2: samples are drawn from all training images. So
by default a source is drawn in proportion to its scans, and mini-batches are balanced over tasks.
Weights are this project's option.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.tasks.label_space import LabelSpace


@dataclasses.dataclass(frozen=True, eq=False)
class SourceOrder:
    """The order in which sources give the samples of one class, or tasks those of a run.

    It repeats after as many samples as the weights have in sum, without their common divisor. What
    is said here of sources and the samples of a class is true of tasks and all samples.

    Attributes:
        source: int64 (cycle,), the source of each sample of the cycle.
        turn: int64 (cycle,), how many samples that source has given before in the cycle.
        per_cycle: int64 (sources,), samples of each source in a cycle.
    """

    source: npt.NDArray[np.int64]
    turn: npt.NDArray[np.int64]
    per_cycle: npt.NDArray[np.int64]

    def find(
        self, ordinal: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source of samples, and how many samples that source has given before in the run.

        Args:
            ordinal: (n,), how many samples of the class came before in the run.

        Returns:
            `(source, turn)`, int64 (n,) each.
        """
        cycle, position = np.divmod(ordinal, len(self.source))
        source = self.source[position]
        return source, cycle * self.per_cycle[source] + self.turn[position]


@functools.lru_cache(maxsize=1024)
def order_sources(weights: tuple[int, ...]) -> SourceOrder:
    """Spreads the samples of each source evenly over a cycle.

    Args:
        weights: of each source, whole numbers from 0. A source with 0 gives no sample; with all 0
            there is no sample, and the cycle is empty.

    Example:
        >>> order_sources((2, 0, 4)).source.tolist()
        [2, 0, 2]
    """
    per_cycle = np.array(weights, np.int64) // (math.gcd(*weights) or 1)
    source = np.repeat(np.arange(len(weights)), per_cycle)
    turn = np.concatenate([np.arange(count) for count in per_cycle])
    order = np.argsort((turn + 0.5) / per_cycle[source], kind="stable")
    return SourceOrder(source[order], turn[order], per_cycle)


def read_source_weights(text: str, label_space: LabelSpace) -> dict[tuple[str, str], int]:
    """Reads `--source-weights`.

    Args:
        text: such as `brain:miccai2012=1,brain:freesurfer=3`; empty for none.
        label_space: the tasks and their sources.

    Returns:
        `(task, source)` -> weight. A task has all of its sources or none.

    Raises:
        InputError: if the text is not of this form, names a source that is not trained on, or
            leaves out or repeats one of a task's sources.
    """
    weights: dict[tuple[str, str], int] = {}
    known = {(s.task.name, source) for s in label_space.selections for source in s.sources}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+):(\w+)=([1-9]\d{0,3})", part)
        if match is None or (match[1], match[2]) not in known:
            names = ", ".join(f"{task}:{source}" for task, source in sorted(known))
            raise InputError(
                f"source_weights: {part!r} is not TASK:SOURCE=N with a whole number from 1 to 9999 "
                f"and one of {names}."
            )
        if (match[1], match[2]) in weights:
            raise InputError(f"source_weights: {match[1]}:{match[2]} is named twice. Name it once.")
        weights[match[1], match[2]] = int(match[3])
    for task in {task for task, _ in weights}:
        missing = [source for name, source in sorted(known - set(weights)) if name == task]
        if missing:
            raise InputError(
                f"source_weights: gives no weight for {task}:{missing[0]}. Weigh all sources of "
                "the task, or none."
            )
    return weights


def read_task_weights(text: str, label_space: LabelSpace) -> tuple[int, ...]:
    """Reads `--task-weights`.

    Args:
        text: such as `hippocampus=3`; empty for equal weights.
        label_space: the tasks.

    Returns:
        A weight for each task, 1 if it is not named.

    Raises:
        InputError: if the text is not of this form, names another task, or names one twice.

    Example:
        >>> from mtseg.tasks.label_space import parse_tasks
        >>> read_task_weights("cta=3", parse_tasks("breast,cta"))
        (1, 3)
    """
    names = [selection.task.name for selection in label_space.selections]
    weights: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+)=([1-9]\d{0,3})", part)
        if match is None or match[1] not in names:
            raise InputError(
                f"task_weights: {part!r} is not TASK=N with a whole number from 1 to 9999 and one "
                f"of {', '.join(names)}."
            )
        if match[1] in weights:
            raise InputError(f"task_weights: {match[1]} is named twice. Name it once.")
        weights[match[1]] = int(match[2])
    return tuple(weights.get(name, 1) for name in names)


def describe_draws(
    class_names: Sequence[str],
    num_samples: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    num_draws: float,
    kind: str,
) -> str:
    """Says how often a run draws the samples of a task.

    Args:
        class_names: of the task, background first.
        num_samples: (sources, classes), the different samples that there are.
        shares: (sources, classes), the share of a class's samples that each source gives.
        num_draws: samples of the task in the whole run, equally many of each class.
        kind: `patches` or `volumes`.

    Returns:
        A sentence without the name of the task.

    Example:
        >>> names, counts, shares = ["background", "muscle"], np.array([[100, 20]]), np.ones((1, 2))
        >>> describe_draws(names, counts, shares, 1200.0, "patches")
        'each of 120 stored patches is drawn 10 times on average, of muscle 30 times'
    """
    of_class = num_draws / len(class_names)
    draws = of_class * shares / np.maximum(num_samples, 1)
    source, class_index = divmod(int(draws.argmax()), len(class_names))
    total = int(num_samples.sum())
    what = "stored patches" if kind == "patches" else "voxels above 0"
    return (
        f"each of {total:,} {what} is drawn {_times(num_draws / total)} on average, of "
        f"{class_names[class_index]} {_times(float(draws[source, class_index]))}"
    )


def _times(number: float) -> str:
    return f"{number:,.0f} times" if number >= 10 else f"{number:.2g} times"
