"""Preparation: patches a second, scans a minute against nnU-Net's own, and memory.

    python benchmarks/prepare.py --manual-dir SCANS

SCANS is a folder of the MICCAI 2012 challenge. Patches a second are those of the whole command,
checks and shards included, with so many patches a scan that sampling dominates. Scans a minute are
those of the usual 1,000 patches of each class, against `nnUNetv2_plan_and_preprocess` on the same
scans and as many processes. nnU-Net may be in another environment: `--nnunet-python` names its
interpreter (`pip install nnunetv2`). Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import finish, seconds_of

from mtseg.sources.find import list_subjects
from mtseg.sources.subject import Subject
from mtseg.system.hardware import num_cores
from mtseg.tasks.label_space import parse_tasks


def grown_bytes(scans: Path, folder: Path) -> int:
    """What a process grows by while it prepares the largest scan; run in one of its own."""
    from mtseg.records import schema, staging
    from mtseg.sources.checks import SubjectReport, check_subject
    from mtseg.sources.find import find_subjects

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

    task = parse_tasks("brain:miccai2012").selections[0].task
    found = find_subjects(task, "miccai2012", scans)
    configs = tuple(
        schema.RecordConfig(name=f"miccai2012_{kind}", source="miccai2012", kind=kind)
        for kind in schema.KINDS
    )

    def check(subject: Subject) -> None:
        check_subject(task, found.labels, subject)

    def stage(subject: Subject) -> None:
        staging.stage(staging.Job(task, found.labels, configs, SubjectReport(subject, ()), folder))

    smallest, *_, largest = sorted(found.subjects, key=num_voxels)
    grown = []
    for run in (stage, check):  # different processes in the command
        run(smallest)  # What the libraries take once is taken.
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run(largest)
        grown.append(status("VmHWM") - before)
    return max(grown)


def num_voxels(subject: Subject) -> int:
    return int(np.prod(nib.load(subject.image_path).shape))


def prepare(scans: Path, folder: Path, per_class: int, processes: int) -> float:
    """Seconds of mtseg-prepare."""
    code = "import sys; from mtseg.cli.prepare import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "brain:miccai2012", "--manual-dir", str(scans)]
    command += ["--data-dir", str(folder / "data"), "--patches-per-class", str(per_class)]
    command += ["--num-processes", str(processes)]
    shutil.rmtree(folder / "data", ignore_errors=True)
    return seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def preprocess_with_nnunet(scans: Path, folder: Path, python: str, processes: int) -> float:
    """Seconds of nnU-Net's own preprocessing of the same scans."""
    task = parse_tasks("brain:miccai2012").selections[0].task
    raw = folder / "raw" / "Dataset001_Brain"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    subjects = list_subjects(task, "miccai2012", scans)
    for subject in subjects:
        image = nib.load(subject.image_path)
        nib.save(image, raw / "imagesTr" / f"{subject.name}_0000.nii.gz")
        labels = nib.load(subject.label_path)
        classes = task.map_labels(
            np.asarray(labels.dataobj), task.source("miccai2012"), subject.name
        )
        nib.save(
            nib.Nifti1Image(classes, image.affine), raw / "labelsTr" / f"{subject.name}.nii.gz"
        )
    dataset = {
        "channel_names": {"0": "T1"},
        "labels": {name: n for n, name in enumerate(task.class_names)},
        "numTraining": len(subjects),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    environment = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        environment[f"nnUNet_{name}"] = str(folder / name)
    code = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import "
        "plan_and_preprocess_entry as main; main()"
    )
    command = [python, "-c", code, "-d", "1", "-c", "3d_fullres", "-np", str(processes)]
    command += ["-npfp", str(processes), "--verify_dataset_integrity"]
    return seconds_of(
        lambda: subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    )


def print_scale(patch_bytes: float, volume_bytes: float, core_seconds: float) -> None:
    """What many such scans would take, by what one has taken."""
    print("    scans  patches TB  volumes TB  core hours  shards  volumes in memory GB")
    for count in (100, 10_000, 1_000_000):
        # In memory a voxel takes 2 bytes of intensity and up to 4 of where it is; on disk 5.
        print(
            f"{count:9,}  {count * patch_bytes / 1e12:10.3g}  {count * volume_bytes / 1e12:10.3g}  "
            f"{count * core_seconds / 3600:10.3g}  {count:6}  "
            f"{count * volume_bytes * 6 / 5e9:20.3g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manual-dir", type=Path, required=True, help="the challenge's scans")
    parser.add_argument("--per-class", type=int, default=5_000, help="patches (%(default)s)")
    parser.add_argument("--num-processes", type=int, default=num_cores(), help="(%(default)s)")
    parser.add_argument("--nnunet-python", default=sys.executable, help="interpreter with nnU-Net")
    parser.add_argument("--without-nnunet", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON line at the end")
    parser.add_argument("--grown-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grown_in:
        print(grown_bytes(arguments.manual_dir, arguments.grown_in))
        return
    processes = arguments.num_processes
    task = parse_tasks("brain:miccai2012").selections[0].task
    subjects = list_subjects(task, "miccai2012", arguments.manual_dir)
    largest = 4 * max(map(num_voxels, subjects))
    ratios = {}
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        seconds = prepare(arguments.manual_dir, folder, arguments.per_class, processes)
        infos = (folder / "data").glob("*/*_patches/*/dataset_info.json")
        written = sum(
            int(length)
            for info in infos
            for split in json.loads(info.read_text())["splits"]
            for length in split["shardLengths"]
        )
        size = sum(p.stat().st_size for p in (folder / "data").rglob("*.tfrecord*"))
        print(
            f"{written} patches, {size / 1e9:.1f} GB, in {seconds:.0f} s: "
            f"{written / seconds:.0f} patches/s, {size / seconds / 1e6:.0f} MB/s",
            flush=True,
        )
        ours = prepare(arguments.manual_dir, folder, 1000, processes)
        size, patches, volumes = (
            sum(p.stat().st_size for p in (folder / "data").rglob(f"*{kind}/*/*.tfrecord*"))
            for kind in ("", "_patches", "_volumes")
        )
        command = [sys.executable, __file__, "--manual-dir", str(arguments.manual_dir)]
        command += ["--grown-in", str(folder)]
        grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
        print(
            f"{len(subjects)} scans in {ours:.0f} s: {60 * len(subjects) / ours:.1f} a minute, "
            f"{size / len(subjects) / 1e6:.0f} MB each; a process grows by {grown / 1e6:.0f} MB, "
            f"the largest scan is {largest / 1e6:.0f} MB as float32",
            flush=True,
        )
        ratios["largest_scan_over_memory_growth"] = largest / grown
        if not arguments.without_nnunet:
            theirs = preprocess_with_nnunet(
                arguments.manual_dir, folder, arguments.nnunet_python, processes
            )
            print(f"nnU-Net: {60 * len(subjects) / theirs:.1f} scans a minute", flush=True)
            ratios["nnunet_seconds_over_ours"] = theirs / ours
    train = sum(subject.split == "train" for subject in subjects)
    print_scale(patches / train, volumes / len(subjects), ours / len(subjects) * processes)
    floor = {"patches_per_s": written / seconds, "scans_per_min": 60 * len(subjects) / ours}
    finish("prepare", ratios, floor, 1, arguments.json)


if __name__ == "__main__":
    main()
