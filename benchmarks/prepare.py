"""Measures `mtseg-prepare`: patches per second, scans per minute against nnU-Net, and memory.

    pip install nnunetv2
    python benchmarks/prepare.py --manual-dir SCANS

SCANS is a folder of the MICCAI 2012 challenge. Patches per second are those of the whole command,
with its checks and shards, and with so many patches per scan that sampling dominates. Scans per
minute are with the default of 1,000 patches of each class, against `nnUNetv2_plan_and_preprocess`
on the same scans with as many processes. Every run starts without prepared files, after one that
is not timed. `--nnunet-python` names another interpreter that has nnU-Net; `--without-nnunet`
leaves it out. Nothing else should run on the machine. About 4 minutes on 2 cores, 2 without
nnU-Net; smallest form: `--per-class 10 --default-per-class 10 --pairs 1 --without-nnunet` with a
folder of a few scans.

    nnunet_seconds_over_ours          preprocessing of all scans
    largest_scan_over_memory_growth   the largest scan as float32, over what a process grows by
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import (
    add_pairs_option,
    finish,
    make_parser,
    median_ratio,
    peak_growth_bytes,
    require_modules,
    run_benchmark,
    seconds_of,
)

from mtseg.sources.find import list_subjects
from mtseg.sources.subject import Subject
from mtseg.system.hardware import num_cores
from mtseg.system.text_table import format_table
from mtseg.tasks.label_space import parse_tasks


def grown_bytes(scans: Path, folder: Path) -> int:
    """Bytes that a process grows by while it prepares the largest scan; runs in its own process."""
    from mtseg.records import builder, schema, staging
    from mtseg.sources.checks import SubjectReport, check_subject
    from mtseg.sources.find import find_subjects

    task = parse_tasks("brain:miccai2012").selections[0].task
    found = find_subjects(task, "miccai2012", scans)
    configs = tuple(
        builder.RecordConfig(name=f"miccai2012_{kind}", source="miccai2012", kind=kind)
        for kind in schema.KINDS
    )

    def check(subject: Subject) -> None:
        check_subject(task, found.labels, subject)

    def stage(subject: Subject) -> None:
        staging.stage(staging.Job(task, found.labels, configs, SubjectReport(subject, ()), folder))

    smallest, *_, largest = sorted(found.subjects, key=num_voxels)
    grown = []
    for run in (stage, check):  # the command runs them in different processes
        run(smallest)  # pays what the libraries take once
        grown.append(peak_growth_bytes(functools.partial(run, largest)))
    return max(grown)


def num_voxels(subject: Subject) -> int:
    """Voxels of a subject's scan."""
    return int(np.prod(nib.load(subject.image_path).shape))


def prepare(scans: Path, folder: Path, per_class: int, processes: int) -> float:
    """Seconds of `mtseg-prepare`; prepared files are removed before, or it would skip them."""
    code = "import sys; from mtseg.cli.prepare import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "brain:miccai2012", "--manual-dir", str(scans)]
    command += ["--data-dir", str(folder / "data"), "--kinds", "patches,volumes"]
    command += ["--patches-per-class", str(per_class)]
    command += ["--num-processes", str(processes)]
    shutil.rmtree(folder / "data", ignore_errors=True)
    return seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def write_nnunet_dataset(scans: Path, folder: Path) -> None:
    """Writes the scans as nnU-Net wants them, into `folder/raw`."""
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


def preprocess_with_nnunet(folder: Path, python: str, processes: int) -> float:
    """Seconds of nnU-Net's planning and preprocessing; earlier results are removed before."""
    for name in ("preprocessed", "results"):
        shutil.rmtree(folder / name, ignore_errors=True)
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


def scale_table(patch_bytes: float, volume_bytes: float, core_seconds: float) -> str:
    """What many scans would take, extrapolated.

    Args:
        patch_bytes: patch records of one scan.
        volume_bytes: volume record of one scan.
        core_seconds: time of a core for one scan.
    """
    rows = []
    for count in (100, 10_000, 1_000_000):
        # In memory a voxel takes 2 bytes of intensity and up to 4 of its index; on disk 5.
        rows.append(
            [
                f"{count:,}",
                f"{count * patch_bytes / 1e12:.3g}",
                f"{count * volume_bytes / 1e12:.3g}",
                f"{count * core_seconds / 3600:.3g}",
                f"{count}",
                f"{count * volume_bytes * 6 / 5e9:.3g}",
            ]
        )
    header = (
        "scans", "patches TB", "volumes TB", "core hours", "shards", "volumes in memory GB",
    )  # fmt: skip
    return format_table(header, rows)


def record_bytes(data_dir: Path, kind: str = "") -> int:
    """Size of the records in a folder of prepared data; `kind` is `_patches` or `_volumes`."""
    return sum(path.stat().st_size for path in data_dir.rglob(f"*{kind}/*/*record-*"))


def count_patches(data_dir: Path) -> int:
    """Number of patch records in a folder of prepared data."""
    return sum(
        int(length)
        for info in data_dir.glob("*/*_patches/*/dataset_info.json")
        for split in json.loads(info.read_text())["splits"]
        for length in split["shardLengths"]
    )


def measure_growth(scans: Path, folder: Path) -> int:
    """Result of `grown_bytes`, in another process."""
    command = [sys.executable, __file__, "--manual-dir", str(scans), "--grown-in", str(folder)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--manual-dir", type=Path, required=True, help="the challenge's scans")
    parser.add_argument("--per-class", type=int, default=5_000, help="patches (%(default)s)")
    parser.add_argument(
        "--default-per-class", type=int, default=1_000, help="for scans per minute (%(default)s)"
    )
    add_pairs_option(parser, default=3)
    parser.add_argument("--num-processes", type=int, default=num_cores(), help="(%(default)s)")
    parser.add_argument("--nnunet-python", default=sys.executable, help="interpreter with nnU-Net")
    parser.add_argument("--without-nnunet", action="store_true")
    parser.add_argument("--grown-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scans, processes = arguments.manual_dir, arguments.num_processes
    if arguments.grown_in:
        print(grown_bytes(scans, arguments.grown_in))
        return
    if not arguments.without_nnunet:
        remedy = "Install it, name another --nnunet-python, or give --without-nnunet."
        require_modules(["nnunetv2"], remedy, arguments.nnunet_python)
    task = parse_tasks("brain:miccai2012").selections[0].task
    subjects = list_subjects(task, "miccai2012", scans)
    num_scans = len(subjects)
    largest_bytes = 4 * max(map(num_voxels, subjects))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data_dir = folder / "data"
        prepare(scans, folder, 1, processes)  # reads scans and libraries from the disk
        seconds = prepare(scans, folder, arguments.per_class, processes)
        written, size = count_patches(data_dir), record_bytes(data_dir)
        print(
            f"{written} patches, {size / 1e9:.1f} GB, in {seconds:.0f} s: "
            f"{written / seconds:.0f} patches/s, {size / seconds / 1e6:.0f} MB/s",
            flush=True,
        )
        if not arguments.without_nnunet:
            write_nnunet_dataset(scans, folder)
            preprocess_with_nnunet(folder, arguments.nnunet_python, processes)  # first use
        ours, theirs = [], []
        for _ in range(arguments.pairs):
            ours.append(prepare(scans, folder, arguments.default_per_class, processes))
            if not arguments.without_nnunet:
                theirs.append(preprocess_with_nnunet(folder, arguments.nnunet_python, processes))
        size, patches, volumes = (
            record_bytes(data_dir, kind) for kind in ("", "_patches", "_volumes")
        )
        grown = measure_growth(scans, folder)
    our_seconds = statistics.median(ours)
    print(
        f"{num_scans} scans in {our_seconds:.0f} s: {60 * num_scans / our_seconds:.1f} per minute, "
        f"{size / num_scans / 1e6:.0f} MB each; a process grows by {grown / 1e6:.0f} MB, "
        f"the largest scan is {largest_bytes / 1e6:.0f} MB as float32"
    )
    ratios = {"largest_scan_over_memory_growth": largest_bytes / grown}
    if theirs:
        print(f"nnU-Net: {60 * num_scans / statistics.median(theirs):.1f} scans per minute")
        ratios["nnunet_seconds_over_ours"] = median_ratio(theirs, ours)
    num_train = sum(subject.split == "train" for subject in subjects)
    print(
        scale_table(
            patches / max(num_train, 1), volumes / num_scans, our_seconds / num_scans * processes
        )
    )
    floor = {"patches_per_s": written / seconds, "scans_per_min": 60 * num_scans / our_seconds}
    finish("prepare", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
