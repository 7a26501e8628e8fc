"""What TensorBoard shows of a run: curves, pictures, configuration and hyperparameters.

The files are written without TensorFlow, so runs on JAX have them too.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as image_plugin
from tensorboard.plugins.pr_curve import metadata as pr_plugin
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from mtseg.evaluation.metrics import THRESHOLDS, precision_recall
from mtseg.evaluation.results import Evaluation
from mtseg.runs.config import MAY_CHANGE, TrainConfig, settings
from mtseg.runs.presets import PRESETS
from mtseg.training.callbacks import Callback, RunStart
from mtseg.training.failures import writing_run

FOLDER = "tensorboard"
"""Where the files are in the folder of a run."""

_ALWAYS_SHOWN = (
    "preset",
    "tasks",
    "minibatches_per_task",
    "global_batch_size",
    "learning_rate",
    "optimizer",
    "precision",
    "seed",
)
"""Settings that are hyperparameters of every run, whatever its preset says."""


class EventFile:
    """A file of TensorBoard's curves, as TensorFlow would write it.

    Args:
        folder: where it is; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, *summaries: Any) -> None:
        """Writes summaries, such as `scalar_pb` makes them.

        Args:
            step: number of mini-batches done.
            *summaries: protocol buffers of the type Summary.
        """
        now = time.time()
        self._append(*(Event(wall_time=now, step=step, summary=each) for each in summaries))

    def _append(self, *events: Any) -> None:
        with self._path.open("ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())


class TensorBoard(Callback):
    """Writes the figures of a run for TensorBoard, each at once, so that it may be watched.

    Args:
        config: configuration of the run.
        workdir: its folder.

    Raises:
        InputError: if the folder cannot be written; so does every event.
    """

    def __init__(self, config: TrainConfig, workdir: Path) -> None:
        self._config, self._workdir = config, workdir
        with writing_run(workdir):
            self._events = EventFile(workdir / FOLDER)

    def on_start(self, run: RunStart) -> None:
        """Writes the configuration, as a text and as hyperparameters, if the run is new."""
        if run.step == 0:
            self._write(
                0,
                text_pb("configuration", f"```\n{run.config.to_json()}```"),
                hparams_pb(hyperparameters(run.config), trial_id=str(run.workdir)),
            )

    def on_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes a point of each curve."""
        self._write(step, *(scalar_pb(name, value) for name, value in figures.items()))

    def on_evaluation(
        self, step: int, evaluation: Evaluation, pictures: Mapping[str, npt.NDArray[np.uint8]]
    ) -> None:
        """Writes Dice, precision-recall curves and pictures.

        Names of figures say of which scans they are, except where test scans are scored throughout
        the run, as in the paper.
        """
        split = evaluation.split
        is_papers_way = split == "test" == self._config.curves_on
        self._write(step, *summarise(evaluation, "" if is_papers_way else f"{split}/"))
        of_split = "" if is_papers_way else f", {split}"
        for task, picture in pictures.items():
            self._write(step, _picture(f"{task}{of_split}: scan, reference, prediction", picture))

    def _write(self, step: int, *summaries: Any) -> None:
        with writing_run(self._workdir):
            self._events.write(step, *summaries)


def hyperparameters(config: TrainConfig) -> dict[str, str | float | bool]:
    """The settings that TensorBoard compares runs by.

    Args:
        config: configuration of the run.

    Returns:
        Name -> value, of the main settings, and of the others that determine what is computed if
        they differ from the preset.

    Example:
        >>> from mtseg.runs.config import configure
        >>> config = configure("demo", "brain", "data", dropout_rate=0.3, precision="float32")
        >>> list(hyperparameters(config))[-1]
        'dropout_rate'
    """
    preset = PRESETS[config.preset]
    changed = [
        name
        for name, setting in settings().items()
        if name not in (*_ALWAYS_SHOWN, *MAY_CHANGE, "data_dir")
        and preset.get(name, setting.default) not in ("auto", getattr(config, name))
    ]
    # `auto` is not replaced by what it chose; of the others, `patches` alone has other samples.
    changed += ["input"] * (config.input == "patches")
    return {name: getattr(config, name) for name in (*_ALWAYS_SHOWN, *changed)}


def summarise(evaluation: Evaluation, prefix: str = "") -> list[Any]:
    """The figures of an evaluation, as protocol buffers of the type Summary.

    Args:
        evaluation: the figures.
        prefix: begins the name of each figure, such as `validation/`.

    Returns:
        `dice/TASK/CLASS`, the mean over the scans that have the class; `mean_dice/TASK` and
        `mean_dice/all_tasks`, the means of these over classes; and `precision_recall/TASK/CLASS`. A
        figure that is undefined is left out.
    """
    dice = {name: value for name, value in evaluation.mean_dice().items() if value is not None}
    found = [scalar_pb(f"dice/{prefix}{name}", value) for name, value in dice.items()]
    for task in dict.fromkeys(task for task, _ in evaluation.classes):
        of_task = [value for name, value in dice.items() if name.startswith(f"{task}/")]
        if of_task:
            found.append(scalar_pb(f"mean_dice/{prefix}{task}", np.mean(of_task)))
    if dice:
        found.append(scalar_pb(f"mean_dice/{prefix}all_tasks", evaluation.overall_dice()))
    tasks = dict((class_name, task) for task, class_name in evaluation.classes)
    for class_name, curve in evaluation.curves.items():
        if curve["num_reference"]:
            task = tasks[class_name]
            num_voxels = int(np.sum(evaluation.confusion[task]))
            name = f"precision_recall/{prefix}{task}/{class_name}"
            found.append(_precision_recall(name, num_voxels, curve))
    return found


def _precision_recall(tag: str, num_voxels: int, curve: Mapping[str, Any]) -> Any:
    """A curve for TensorBoard's plugin of precision-recall curves."""
    precision, recall = precision_recall(**curve)
    positives, right = np.array(curve["num_predicted"]), np.array(curve["num_overlap"])
    missed = curve["num_reference"] - right
    # The order in which the plugin reads them.
    rows = (
        right,
        positives - right,
        num_voxels - positives - missed,
        missed,
        precision,
        recall,
    )
    metadata = pr_plugin.create_summary_metadata(
        display_name="", description="", num_thresholds=len(THRESHOLDS)
    )
    return _summary(tag, make_tensor_proto(np.stack(rows).astype(np.float32)), metadata)


def _picture(tag: str, picture: npt.NDArray[np.uint8]) -> Any:
    """A picture, uint8 RGB (rows, columns, 3), for TensorBoard's plugin of images."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    rows, columns, _ = picture.shape
    values = [str(columns).encode(), str(rows).encode(), png.getvalue()]
    metadata = image_plugin.create_summary_metadata(display_name="", description="")
    return _summary(tag, make_tensor_proto(values, shape=(3,)), metadata)


def _summary(tag: str, tensor: Any, metadata: Any) -> Any:
    return Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])
