"""Whole preparations: the same records whoever writes them, and nothing prepared twice."""

import functools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtseg.batches.patch_records import open_patches
from mtseg.errors import InputError
from mtseg.records import WORKER_IMPORTS, staging, writing
from mtseg.records.prepared import prepared_dir, staging_dir
from mtseg.records.writing import prepare
from mtseg.system.processes import run_all
from tests.layout_files import NAMES, subject, write
from tests.records.encoded import encoded_records

KINDS = ("patches", "volumes")


@pytest.fixture
def prepare_scans(task, scans):
    """Prepares the five scans in this process: 4 for training, 1 for testing, 3 classes."""
    return functools.partial(prepare, task, "folder", manual_dir=scans, num_processes=1)


def shard_contents(data_dir):
    """Of prepared records; files of single subjects that are staged have other names."""
    return {path.name: path.read_bytes() for path in data_dir.rglob("*record-*")}


# The same records whoever writes them.


def test_processes_and_a_single_process_write_the_same_files(prepare_scans, whole, tmp_path):
    prepare_scans(tmp_path, num_processes=2, patches_per_class=20)
    assert [len(encoded_records(whole, kind)) for kind in KINDS] == [4 * 3 * 20, 5]
    assert shard_contents(tmp_path) == shard_contents(whole)


@pytest.mark.slow
def test_beam_workers_check_the_scans_and_write_the_same_files(
    prepare_scans, whole, scans, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise AssertionError("the first process reads a scan")

    for name in ("writing.check_files", "staging.check_subject", "staging.prepare_subject"):
        monkeypatch.setattr(f"mtseg.records.{name}", fail)  # workers are other processes
    settings = {
        "patches_per_class": 20, "beam_runner": "DirectRunner",
        "beam_options": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    }  # fmt: skip
    label_path = scans / "labels" / "a1.nii.gz"
    right = label_path.read_bytes()
    label_path.write_bytes(right[:100])
    with pytest.raises(InputError, match=r"a1\.nii\.gz: "):
        prepare_scans(tmp_path, **settings)
    assert not shard_contents(tmp_path)
    label_path.write_bytes(right)
    capsys.readouterr()
    prepare_scans(tmp_path, **settings)
    assert shard_contents(tmp_path) == shard_contents(whole)
    assert len(open_patches(tmp_path, "renal", "folder").class_index) == 4 * 3 * 20


def test_shards_are_as_many_as_asked_for_and_shuffled(prepare_scans, whole, tmp_path):
    prepare_scans(tmp_path, patches_per_class=20, num_shards=3)
    folder = prepared_dir(tmp_path, "renal", "folder", "patches")
    shards = sorted(path.name for path in folder.glob("*.tfrecord*"))
    assert shards == [f"mtseg_renal-train.tfrecord-0000{n}-of-00003" for n in range(3)]
    assert encoded_records(tmp_path, "patches") == encoded_records(whole, "patches")
    classes = open_patches(tmp_path, "renal", "folder").class_index[:80]
    assert np.bincount(classes).min() > 10  # The first shard has all classes.


def test_the_order_of_subjects_is_the_order_of_shards_and_changes_no_record(
    prepare_scans, scans, tmp_path
):
    def shards_of(order):
        lines = [f"{name},train" for name in order] + ["a5,test"]
        (scans / "split.csv").write_text("\n".join(["subject,split", *lines]))
        data_dir = tmp_path / "-".join(order)
        prepare_scans(data_dir, patches_per_class=5)
        folder = prepared_dir(data_dir, "renal", "folder", "patches")
        return [path.read_bytes() for path in sorted(folder.glob("*.tfrecord*"))]

    forwards, backwards = shards_of(["a1", "a2", "a3"]), shards_of(["a3", "a2", "a1"])
    assert len(set(forwards)) == 3
    assert forwards == backwards[::-1]


def test_tfds_reads_the_records(whole):
    patches, volumes = (
        tfds.builder_from_directory(prepared_dir(whole, "renal", "folder", kind)) for kind in KINDS
    )
    assert patches.info.splits["train"].num_examples == 240
    classes = [int(record["class_index"]) for record in patches.as_dataset(split="train")]
    assert np.bincount(classes).tolist() == [80, 80, 80]
    assert {k: v.num_examples for k, v in volumes.info.splits.items()} == {"train": 4, "test": 1}


# Records that exist already.


@pytest.mark.promise("refused input")
def test_a_scan_that_is_replaced_after_it_was_checked_is_not_prepared(
    prepare_scans, scans, tmp_path, monkeypatch
):
    """Nobody has checked the new one, nor looked whether it is on the other side of the split."""
    path = scans / "images" / "a1.nii.gz"
    refuse = writing._refuse_same_scans

    def replace(*arguments):
        path.write_bytes(path.read_bytes())
        refuse(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_refuse_same_scans", replace)
        with pytest.raises(InputError, match=r"a1\.nii\.gz: was changed since it was checked"):
            prepare_scans(tmp_path, patches_per_class=5)
    prepare_scans(tmp_path, patches_per_class=5)
    assert len(encoded_records(tmp_path, "volumes")) == 5


def test_records_with_other_settings_are_refused_or_replaced(prepare_scans, tmp_path):
    prepare_scans(tmp_path, patches_per_class=5)
    with pytest.raises(InputError, match=r"patches per class is 6, was 5.*--update.*--overwrite"):
        prepare_scans(tmp_path, patches_per_class=6)
    prepare_scans(tmp_path, patches_per_class=6, is_overwrite=True)
    assert len(open_patches(tmp_path, "renal", "folder").class_index) == 4 * 3 * 6


def test_a_kind_that_exists_is_named_once_while_the_other_is_prepared(
    prepare_scans, tmp_path, capsys
):
    prepare_scans(tmp_path, kinds=["volumes"])
    capsys.readouterr()
    prepare_scans(tmp_path, patches_per_class=5)
    assert capsys.readouterr().out.count("volumes already exist in") == 1


@pytest.mark.promise("refused input")
def test_scans_without_any_label_map_are_refused(prepare_scans, scans, tmp_path):
    """Not one subject is complete, so there is no scan to check."""
    for path in (scans / "labels").iterdir():
        path.unlink()
    (scans / "labels" / "b1.nii.gz").touch()
    with pytest.raises(InputError, match="must have one scan and one label map"):
        prepare_scans(tmp_path / "data")
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


@pytest.mark.promise("atomic outputs")
def test_records_stay_if_those_that_should_replace_them_are_refused(prepare_scans, scans, tmp_path):
    prepare_scans(tmp_path, patches_per_class=5)
    before = shard_contents(tmp_path)
    next((scans / "images").iterdir()).write_bytes(b"no scan")
    with pytest.raises(InputError, match="is damaged"):
        prepare_scans(tmp_path, patches_per_class=6, is_overwrite=True)
    assert shard_contents(tmp_path) == before


@pytest.mark.promise("one at a time")
def test_a_command_that_finds_its_records_leaves_another_command_alone(
    prepare_scans, tmp_path, capsys
):
    prepare_scans(tmp_path, patches_per_class=5)
    folder = staging_dir(tmp_path, "renal", "folder")
    with staging.lock_staging(folder):  # as a command with --overwrite does
        (folder / "a.done.json").touch()
        prepare_scans(tmp_path, patches_per_class=5)
        assert "already prepared" in capsys.readouterr().out
        assert (folder / "a.done.json").exists()
    prepare_scans(tmp_path, patches_per_class=5)
    assert not folder.exists()


@pytest.mark.promise("one at a time")
@pytest.mark.parametrize("patches_per_class", [5, 6])
def test_records_of_a_command_that_finishes_meanwhile_are_not_replaced(
    prepare_scans, tmp_path, monkeypatch, capsys, patches_per_class
):
    def lock_staging(folder):
        monkeypatch.setattr(writing, "lock_staging", staging.lock_staging)
        prepare_scans(tmp_path, patches_per_class=5)
        return staging.lock_staging(folder)

    monkeypatch.setattr(writing, "lock_staging", lock_staging)
    if patches_per_class == 5:
        prepare_scans(tmp_path, patches_per_class=5)
        assert "already prepared" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=r"patches per class is 6, was 5"):
            prepare_scans(tmp_path, patches_per_class=6)
    assert len(open_patches(tmp_path, "renal", "folder").class_index) == 4 * 3 * 5
    assert not staging_dir(tmp_path, "renal", "folder").exists()


# Preparations that were stopped.

KILLED = """
import os, signal, sys
from mtseg.records import staging, writing
from mtseg.tasks.task_file import read_task
task_file, data_dir, scans = sys.argv[1:]
done = []
def stage(job):
    done.append(staging.stage(job))
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return done[-1]
writing.stage = stage
writing.prepare(
    read_task(task_file), "folder", data_dir, manual_dir=scans, num_processes=1,
    patches_per_class=20,
)
"""


@pytest.mark.promise("goes on after a kill")
def test_a_killed_preparation_resumes(prepare_scans, scans, whole, tmp_path, monkeypatch):
    """With SIGKILL after two subjects. The others are prepared then, and only they."""
    data_dir = tmp_path / "data"
    command = [sys.executable, "-c", KILLED, tmp_path / "renal.toml", data_dir, scans]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = staging_dir(data_dir, "renal", "folder")
    before = {path.name.split(".")[0] for path in folder.glob("*.done.json")}
    assert len(before) == 2
    resumed = []

    def stage(job):
        resumed.append(job.report.subject.name)
        return staging.stage(job)

    monkeypatch.setattr(writing, "stage", stage)
    prepare_scans(data_dir, patches_per_class=20)
    assert sorted(resumed) == sorted(set(NAMES) - before)
    assert shard_contents(data_dir) == shard_contents(whole)
    assert not folder.exists()


@pytest.mark.promise("goes on after a kill")
@pytest.mark.parametrize("kind", KINDS)
def test_no_subject_is_prepared_again_if_only_shards_are_left_to_write(
    prepare_scans, tmp_path, monkeypatch, kind
):
    write_kind = writing._write_kind

    def stop(plan, config, folder):
        if config.kind == kind:
            raise KeyboardInterrupt
        return write_kind(plan, config, folder)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_write_kind", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_scans(tmp_path, patches_per_class=5)
    monkeypatch.setattr(writing, "stage", lambda job: pytest.fail("prepared again"))
    prepare_scans(tmp_path, patches_per_class=5)
    assert len(encoded_records(tmp_path, "volumes")) == 5


@pytest.mark.promise("goes on after a kill")
def test_a_kind_that_was_not_kept_up_to_date_is_prepared_again(
    prepare_scans, scans, tmp_path, monkeypatch
):
    def stop(*arguments):
        raise KeyboardInterrupt

    prepare_scans(tmp_path, patches_per_class=5)
    with monkeypatch.context() as patched:
        patched.setattr(writing, "_write_kind", stop)
        with pytest.raises(KeyboardInterrupt):  # Both kinds are staged,
            prepare_scans(tmp_path, is_overwrite=True, patches_per_class=5)
        shutil.rmtree(prepared_dir(tmp_path, "renal", "folder", "volumes"))
        write(next((scans / "images").iterdir()), subject(7)[0])
        with pytest.raises(KeyboardInterrupt):  # then a scan changes.
            prepare_scans(tmp_path, is_update=True, patches_per_class=5)
    prepare_scans(tmp_path, is_overwrite=True, patches_per_class=5)
    prepare_scans(tmp_path / "new", patches_per_class=5)
    assert encoded_records(tmp_path, "patches") == encoded_records(tmp_path / "new", "patches")


@pytest.mark.promise("goes on after a kill")
def test_half_removed_records_do_not_stop_the_next_command(prepare_scans, tmp_path):
    prepare_scans(tmp_path, patches_per_class=5)
    before = shard_contents(tmp_path)
    (prepared_dir(tmp_path, "renal", "folder", "patches") / "dataset_info.json").unlink()
    prepare_scans(tmp_path, patches_per_class=5)
    assert shard_contents(tmp_path) == before


@pytest.mark.promise("scarcity is one line")
def test_a_worker_that_is_killed_is_one_line():
    with pytest.raises(InputError, match="a worker process was killed"):
        list(run_all(os._exit, [9, 9, 9], 2, WORKER_IMPORTS))
