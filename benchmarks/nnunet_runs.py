"""nnU-Net's side of `against_nnunet.py`: its dataset, plan, training and predictions.

nnU-Net runs in processes of the interpreter that the user names, with its own commands and
configuration `3d_fullres`, on the processor. `nnunet_trainer/timed_trainer.py` sets the length of a
run.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mtseg.errors import InputError
from mtseg.sources.reading import read_subject
from mtseg.sources.subject import Subject
from mtseg.system.atomic_files import write_json
from mtseg.system.hardware import num_cores
from mtseg.tasks.task import IGNORED, LabelSource, Task

TRAINER = "TimedTrainer"
CONFIGURATION = "3d_fullres"
DATASET_ID = "1"

NUM_WORKERS = "nnUNet_n_proc_DA"
"""nnU-Net's environment variable for the number of its augmentation processes."""

_ENTRY_POINTS = {
    "plan": "experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry",
    "train": "run.run_training import run_training_entry",
    "predict": "inference.predict_from_raw_data import predict_entry_point",
}
_NIFTI = ".nii.gz"

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""


def run_logged(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Runs a command whose output goes to a file; if it fails, one line names that file.

    If this process is killed, so is the command: it would disturb the next run, or write into it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: {log} says why this command failed: {shlex.join(command)}")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class NnUnet:
    """nnU-Net with one data set.

    Attributes:
        python: the interpreter that has it.
        folder: where the data set is, as nnU-Net wants it and preprocessed.
        name: of the data set.
        precision: `float32`, which is what nnU-Net computes in on processors, or `bfloat16`.
    """

    python: str
    folder: Path
    name: str
    precision: str = "float32"

    def prepare(self, task: Task, source: LabelSource, subjects: Sequence[Subject]) -> None:
        """Writes the data set, and has nnU-Net plan and preprocess it, unless that is done.

        Args:
            task: its classes are the labels, in their order.
            source: what the labels of the files mean.
            subjects: for training and testing. Only the former's label maps are written.

        Raises:
            InputError: if a scan is no .nii.gz file, or cannot be used.
        """
        done = self.folder / "planned.json"
        if done.is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        raw = self.folder / "raw" / f"Dataset001_{self.name}"
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            (raw / name).mkdir(parents=True)
        have_unknown = [_write_subject(task, source, subject, raw) for subject in subjects]
        labels = {name: number for number, name in enumerate(task.class_names)}
        if any(have_unknown):
            labels["ignore"] = task.num_classes
        dataset = {
            "channel_names": {"0": task.modality},
            "labels": labels,
            "numTraining": sum(subject.split == "train" for subject in subjects),
            "file_ending": _NIFTI,
        }
        write_json(raw / "dataset.json", dataset)
        processes = str(num_cores())
        arguments = ["-d", DATASET_ID, "-c", CONFIGURATION, "--verify_dataset_integrity"]
        arguments += ["-np", processes, "-npfp", processes]
        self._run("plan", arguments, self.folder / "plan.log")
        (plans,) = self.folder.glob("preprocessed/*/nnUNetPlans.json")
        plan = json.loads(plans.read_text())["configurations"][CONFIGURATION]
        write_json(done, {name: plan[name] for name in ("patch_size", "batch_size", "spacing")})

    def describe(self) -> str:
        """The versions, and what nnU-Net has planned."""
        plan = json.loads((self.folder / "planned.json").read_text())
        patch = "×".join(map(str, plan["patch_size"]))
        code = "import importlib.metadata as m; print(m.version('nnunetv2'), m.version('torch'))"
        command = [self.python, "-c", code]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        nnunet, torch = done.stdout.split()
        return (
            f"nnU-Net {nnunet} on PyTorch {torch}: {CONFIGURATION}, patches of {patch}, "
            f"{plan['batch_size']} per mini-batch"
        )

    def train(self, results: Path, iterations: int, timing_seconds: float = 0.0) -> list[float]:
        """Trains from the start on all training scans.

        Args:
            results: a folder for the network; what is there is removed.
            iterations: length of the run; the learning rate reaches zero there.
            timing_seconds: stop after so many seconds; 0 does not.

        Returns:
            Seconds of each iteration.
        """
        shutil.rmtree(results, ignore_errors=True)
        settings = {"MTSEG_ITERATIONS": str(iterations), "MTSEG_PRECISION": self.precision}
        if timing_seconds:
            settings["MTSEG_TIMING_SECONDS"] = str(timing_seconds)
        arguments = [DATASET_ID, CONFIGURATION, "all", "-tr", TRAINER, "-device", "cpu"]
        self._run("train", arguments, results / "train.log", settings, results)
        (path,) = results.glob("*/*/fold_all/seconds.json")
        return [float(seconds) for seconds in json.loads(path.read_text())["of_each"]]

    def predict(self, results: Path, out: Path, *, use_mirroring: bool) -> None:
        """Segments the test scans.

        Args:
            results: the folder of a network that `train` has trained.
            out: a folder for label files, SUBJECT.nii.gz; what is there is removed.
            use_mirroring: whether each window is computed eight times, mirrored along all axes,
                which is nnU-Net's default.
        """
        shutil.rmtree(out, ignore_errors=True)
        scans = self.folder / "raw" / f"Dataset001_{self.name}" / "imagesTs"
        arguments = ["-i", str(scans), "-o", str(out), "-d", DATASET_ID, "-c", CONFIGURATION]
        arguments += ["-f", "all", "-tr", TRAINER, "-device", "cpu", "-npp", "1", "-nps", "1"]
        if not use_mirroring:
            arguments.append("--disable_tta")
        self._run("predict", arguments, out.with_suffix(".log"), {}, results)

    def _run(
        self,
        what: str,
        arguments: Sequence[str],
        log: Path,
        settings: Mapping[str, str] | None = None,
        results: Path | None = None,
    ) -> None:
        """Runs one of nnU-Net's commands."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for name in ("raw", "preprocessed"):
            environment[f"nnUNet_{name}"] = str((self.folder / name).absolute())
        environment["nnUNet_results"] = str((results or self.folder / "results").absolute())
        environment["nnUNet_extTrainer"] = str(Path(__file__).parent.absolute() / "nnunet_trainer")
        entry_point = _ENTRY_POINTS[what]
        code = f"from nnunetv2.{entry_point} as main; main()"
        run_logged([self.python, "-c", code, *arguments], log, environment | dict(settings or {}))


def _write_subject(task: Task, source: LabelSource, subject: Subject, raw: Path) -> bool:
    """Copies a scan, and writes the label map of a training scan in the task's class indices.

    Returns:
        Whether the class of some voxels is unknown.
    """
    assert subject.image_path is not None
    if not subject.image_path.endswith(_NIFTI):
        raise InputError(f"{subject.image_path}: this benchmark takes {_NIFTI} files alone.")
    folder = raw / ("imagesTr" if subject.split == "train" else "imagesTs")
    shutil.copyfile(subject.image_path, folder / f"{subject.name}_0000{_NIFTI}")
    if subject.split != "train":
        return False
    _, label_map = read_subject(task, source.name, subject)
    classes = task.map_labels(label_map.array, source, subject.label_path or subject.name)
    is_unknown = classes == IGNORED
    classes[is_unknown] = task.num_classes  # nnU-Net wants the value after the last class
    header = nib.load(subject.image_path).header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    image = nib.Nifti1Image(classes, None, header)
    nib.save(image, raw / "labelsTr" / f"{subject.name}{_NIFTI}")
    return bool(is_unknown.any())
