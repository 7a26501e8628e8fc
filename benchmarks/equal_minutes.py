"""Runs of equal length of mtseg and of nnU-Net on the same scans, for `against_nnunet.py`.

`find_data` finds the scans, `OurSide` and `TheirSide` know how each trains and predicts, and
`run_length` does all of one run that is not done yet.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from comparison import mtseg_command
from nnunet_runs import NnUnet, run_logged

from mtseg.errors import InputError
from mtseg.evaluation.metrics import dice
from mtseg.prediction.results import label_path
from mtseg.scans.discovery import list_scans
from mtseg.scans.label_files import read_label_map
from mtseg.scans.volume import match_grid
from mtseg.sources.find import find_subjects
from mtseg.sources.reading import read_subject
from mtseg.sources.subject import Subject
from mtseg.system.atomic_files import parse_json, write_json
from mtseg.tasks.label_space import LabelSpace, parse_tasks
from mtseg.tasks.task import IGNORED, LabelSource, Task

PREDICTIONS = {"plain": False, "mirrored": True}
"""How nnU-Net predicts -> whether every window is mirrored, its default."""

TIMED_STEPS = 60
"""Mini-batches of ours that are timed first."""

TRAINED = "trained.json"
"""The file of a run whose training is finished."""

_TIME_OURS = """
import sys
from mtseg.system.quiet_tensorflow import import_tensorflow
import_tensorflow()
from mtseg.experiments.budget import measure_costs
from mtseg.runs.config import configure
preset, tasks, data_dir, count = sys.argv[1:]
print(measure_costs(configure(preset, tasks, data_dir), int(count)).minibatch_seconds)
"""

ClassDice = dict[str, float | None]
"""Name of a class -> its mean Dice over the test scans; None if no scan has it."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The scans that both train on and are scored on.

    Attributes:
        label_space: of the one task.
        labels: what the labels of the files mean.
        folder: of the scans.
        train: subjects for training.
        test: subjects for testing.
    """

    label_space: LabelSpace
    labels: LabelSource
    folder: Path
    train: tuple[Subject, ...]
    test: tuple[Subject, ...]

    @property
    def task(self) -> Task:
        """The task."""
        return self.label_space.selections[0].task


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        steps: mini-batches, or nnU-Net's iterations.
        minutes: of training, at the rate that was measured first.
        took: minutes from the first step to the last, with whatever else the machine did.
        dice: how it was predicted -> the figures of each class.
    """

    steps: int
    minutes: float
    took: float
    dice: dict[str, ClassDice]

    def mean(self, prediction: str) -> float:
        """Mean over the classes."""
        return statistics.fmean(d for d in self.dice[prediction].values() if d is not None)

    def best(self) -> float:
        """The mean of the better prediction."""
        return max(map(self.mean, self.dice))


def find_data(given: str) -> Data:
    """Finds the scans of a task that the command line names as TASK:SOURCE=FOLDER."""
    spec, equals, folder = given.rpartition("=")
    if not equals:
        raise InputError(f"{given}: give TASK:SOURCE=FOLDER, such as brain:miccai2012=SCANS.")
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder. Set MTSEG_REAL_DATA, or name TASK=FOLDER.")
    label_space = parse_tasks(spec)
    sources = [source for selection in label_space.selections for source in selection.sources]
    if len(sources) != 1:
        raise InputError(
            f"{spec}: give one task with one source; several TASKs are compared alone."
        )
    task = label_space.selections[0].task
    found = find_subjects(task, sources[0], Path(folder)).require_sound()
    train, test = (
        tuple(subject for subject in found.subjects if subject.split == split)
        for split in ("train", "test")
    )
    if not test:
        raise InputError(f"{folder}: no scan is held out for testing. Write a split.csv.")
    return Data(label_space, found.labels, Path(folder), train, test)


def score(data: Data, predicted: Callable[[Subject], Path], values: Sequence[int]) -> ClassDice:
    """Mean Dice of each class over the test scans, on their own grids.

    Args:
        data: the test scans.
        predicted: gives the predicted label file of a subject.
        values: the label of each class in these files, background first.
    """
    found: dict[str, list[float]] = {name: [] for name in data.task.class_names[1:]}
    for subject in data.test:
        image, label_map = read_subject(data.task, data.labels.name, subject)
        reference = data.task.map_labels(label_map.array, data.labels, str(subject.label_path))
        path = predicted(subject)
        labels = match_grid(image, read_label_map(path), str(subject.image_path), path).array
        for class_index, of_class in enumerate(found.values(), start=1):
            is_predicted = (labels == values[class_index]) & (reference != IGNORED)
            if (value := dice(reference == class_index, is_predicted)) is not None:
                of_class.append(value)
    return {name: statistics.fmean(d) if d else None for name, d in found.items()}


class Side(Protocol):
    """Who trains: mtseg or nnU-Net, on one data set.

    Attributes:
        name: of the folder of its runs.
        predictions: how it predicts, names in `PREDICTIONS`.
        start_seconds: what the first step takes more than others, estimated.
    """

    name: str
    start_seconds: float
    predictions: Sequence[str]

    def prepare(self) -> None:
        """Does what is needed before training, unless that is done."""

    def time_step(self) -> float:
        """Seconds of a step after the first one, measured."""

    def train(self, folder: Path, steps: int) -> float:
        """Trains a run in its folder; returns the seconds of training."""

    def score(self, folder: Path, prediction: str) -> ClassDice:
        """Segments the test scans with the network of a run, and scores them."""


class OurSide:
    """mtseg's runs on one data set.

    Args:
        data: the scans.
        preset: of mtseg-train.
        folder: where its records are prepared.
    """

    name = "mtseg"
    start_seconds = 10.0  # it compiles
    predictions: Sequence[str] = ("plain",)

    def __init__(self, data: Data, preset: str, folder: Path) -> None:
        self._data, self._preset, self._records = data, preset, folder / "mtseg_data"
        self._log = folder / "prepare.log"

    def prepare(self) -> None:
        """Prepares the records; mtseg-prepare itself finds out whether they are there."""
        arguments = [self._data.label_space.spec, "--manual-dir", str(self._data.folder)]
        arguments += ["--data-dir", str(self._records)]
        run_logged(mtseg_command("prepare", *arguments), self._log)

    def time_step(self) -> float:
        """Seconds of a mini-batch after the first one, measured."""
        arguments = [self._preset, self._data.label_space.spec, str(self._records)]
        command = [sys.executable, "-c", _TIME_OURS, *arguments, str(TIMED_STEPS)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout.split()[-1])

    def train(self, folder: Path, steps: int) -> float:
        """Trains, or resumes a run that was stopped; returns the seconds of training."""
        flags = {
            "preset": self._preset, "tasks": self._data.label_space.spec,
            "data-dir": self._records, "workdir": folder / "run",
            "minibatches-per-task": steps, "evaluate-every": steps,
        }  # fmt: skip
        arguments = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
        run_logged(mtseg_command("train", *arguments), folder / "train.log")
        (*_, point) = json.loads((folder / "run" / "learning_curve.json").read_text())
        return float(point["training_seconds"])

    def score(self, folder: Path, prediction: str) -> ClassDice:
        """Segments the test scans with the last weights of a run, and scores them."""
        model, out = folder / "model", folder / prediction
        shutil.rmtree(model, ignore_errors=True)
        export = mtseg_command("export", str(folder / "run"), str(model), "--format", "weights")
        run_logged(export, folder / "export.log")
        scans = [str(subject.image_path) for subject in self._data.test]
        command = mtseg_command("predict", *scans, "-o", str(out), "--model", str(model))
        run_logged([*command, "--overwrite"], folder / "predict.log")
        stems = {str(scan.path): scan.stem for scan in list_scans(map(Path, scans))}
        values = [0, *(entry.label for entry in self._data.label_space.label_table)]
        return score(self._data, lambda s: label_path(out / stems[str(s.image_path)]), values)


class TheirSide:
    """nnU-Net's runs on one data set.

    Args:
        data: the scans.
        nnunet: nnU-Net with these.
        timing_seconds: how long its iterations are timed.
        predictions: names in `PREDICTIONS`.
    """

    name = "nnunet"
    start_seconds = 0.0

    def __init__(
        self, data: Data, nnunet: NnUnet, timing_seconds: float, predictions: Sequence[str]
    ) -> None:
        self._data, self._nnunet, self.predictions = data, nnunet, predictions
        self._timing_seconds = timing_seconds

    def prepare(self) -> None:
        """Has nnU-Net plan and preprocess, unless that is done."""
        self._nnunet.prepare(self._data.task, self._data.labels, self._data.train + self._data.test)

    def time_step(self) -> float:
        """Seconds of an iteration after the first one, measured."""
        of_each = self._nnunet.train(self._nnunet.folder / "timing", 100_000, self._timing_seconds)
        return statistics.fmean(of_each[1:] or of_each)

    def train(self, folder: Path, steps: int) -> float:
        """Trains from the start; returns the seconds of training."""
        return sum(self._nnunet.train(folder / "network", steps))

    def score(self, folder: Path, prediction: str) -> ClassDice:
        """Segments the test scans with the network of a run, and scores them."""
        out = folder / prediction
        self._nnunet.predict(folder / "network", out, use_mirroring=PREDICTIONS[prediction])
        values = range(self._data.task.num_classes)
        return score(self._data, lambda s: out / f"{s.name}.nii.gz", values)


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast a side trains while nothing else runs.

    Attributes:
        start_seconds: what the first step takes more than others, estimated.
        step_seconds: of a step after the first one, measured.
    """

    start_seconds: float
    step_seconds: float

    def steps_in(self, minutes: float) -> int:
        """Number of steps of a run of so many minutes."""
        return max(1, round((60 * minutes - self.start_seconds) / self.step_seconds))

    def minutes_of(self, steps: int) -> float:
        """Minutes of a run of so many steps."""
        return (self.start_seconds + steps * self.step_seconds) / 60


def measure_rates(sides: Sequence[Side], folder: Path, rounds: int) -> dict[str, Rate]:
    """Times a few steps of each side, one after the other in every round; what is known is read.

    Args:
        sides: who trains.
        folder: where `rates.json` is kept.
        rounds: how often; the median counts.
    """
    path = folder / "rates.json"
    if not path.is_file():
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                seconds[side.name].append(side.time_step())
        write_json(path, seconds)
    seconds = parse_json(path.read_text())
    return {
        side.name: Rate(side.start_seconds, statistics.median(seconds[side.name])) for side in sides
    }


def run_length(side: Side, folder: Path, rate: Rate, minutes: float) -> Result:
    """Trains and scores one run; what is done is read.

    Args:
        side: who trains.
        folder: of this side; it has a folder for each length.
        rate: of this side.
        minutes: of training, at this rate.

    Raises:
        SystemExit: if one of its commands fails.
    """
    of_run = folder / f"{minutes:g}min"
    of_run.mkdir(parents=True, exist_ok=True)
    trained = of_run / TRAINED
    steps = rate.steps_in(minutes)
    if not trained.is_file():
        write_json(trained, {"steps": steps, "seconds": side.train(of_run, steps)})
    found: dict[str, ClassDice] = {}
    for prediction in side.predictions:
        path = of_run / f"dice_{prediction}.json"
        if not path.is_file():
            write_json(path, side.score(of_run, prediction))
        found[prediction] = parse_json(path.read_text())
    done = parse_json(trained.read_text())
    return Result(done["steps"], rate.minutes_of(done["steps"]), done["seconds"] / 60, found)
