"""Preparation: the same examples whoever writes them, nothing twice, and room asked for first."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mtseg.batches.stores import open_patches
from mtseg.errors import InputError
from mtseg.records import WORKER_IMPORTS, staging, writing
from mtseg.records.reading import prepared_dir, read_volumes
from mtseg.records.writing import prepare
from mtseg.sources.checks import SubjectReport
from mtseg.sources.find import find_subjects
from mtseg.system.processes import run_all
from mtseg.tasks.label_space import parse_tasks
from tests.layout_files import NAMES, subject, write, write_folder, write_task


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


@pytest.fixture
def scans(tmp_path):
    return write_folder(tmp_path / "scans")


def examples(data_dir, kind, task="renal", source="folder"):
    """Every example of a kind, as bytes, sorted."""
    folder = prepared_dir(data_dir, task, source, kind)
    shards = sorted(str(p) for p in folder.glob("*.tfrecord*"))
    return sorted(e.numpy() for e in tf.data.TFRecordDataset(shards))


def test_one_process_and_four_write_the_same(task, scans, tmp_path):
    for count in (1, 4):
        prepare(
            task, "folder", tmp_path / str(count), manual_dir=scans, num_processes=count,
            patches_per_class=20,
        )  # fmt: skip
    for kind, number in (("patches", 4 * 3 * 20), ("volumes", 5)):
        one, four = (examples(tmp_path / str(count), kind) for count in (1, 4))
        assert len(one) == number
        assert one == four
    first, second = (
        [p.read_bytes() for p in sorted((tmp_path / c).rglob("*.tfrecord*"))] for c in ("1", "4")
    )
    assert first == second  # even in the same order


@pytest.mark.slow
def test_beam_workers_write_the_same(task, scans, tmp_path):
    prepare(
        task, "folder", tmp_path / "one", manual_dir=scans, num_processes=1, patches_per_class=20
    )
    prepare(
        task, "folder", tmp_path / "beam", manual_dir=scans, num_processes=1, patches_per_class=20,
        beam_runner="DirectRunner",
        beam_options=["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    )  # fmt: skip
    for kind in ("patches", "volumes"):
        assert examples(tmp_path / "beam", kind) == examples(tmp_path / "one", kind)
    assert len(open_patches(tmp_path / "beam", "renal", "folder").class_index) == 4 * 3 * 20


def test_shards_are_as_many_as_asked_for_and_shuffled(task, scans, tmp_path):
    prepare(
        task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1,
        patches_per_class=20, num_shards=3,
    )  # fmt: skip
    folder = prepared_dir(tmp_path / "data", "renal", "folder", "patches")
    shards = sorted(p.name for p in folder.glob("*.tfrecord*"))
    assert shards == [f"mtseg_renal-train.tfrecord-0000{n}-of-00003" for n in range(3)]
    classes = open_patches(tmp_path / "data", "renal", "folder").class_index[:80]
    assert np.bincount(classes).min() > 10  # the first shard has all classes


@pytest.mark.promise("goes on after a kill")
def test_a_killed_preparation_goes_on(task, scans, tmp_path):
    """With SIGKILL after two subjects; the others are then prepared, and only they."""
    code = f"""
import os, signal, sys
from mtseg.records import staging, writing
from mtseg.tasks.task_file import read_task
done = []
def stage(job, stage=staging.stage):
    name = stage(job)
    done.append(name)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return name
writing.stage = stage
writing.prepare(
    read_task({str(tmp_path / "renal.toml")!r}), "folder", {str(tmp_path / "data")!r},
    manual_dir={str(scans)!r}, num_processes=1, patches_per_class=20,
)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    staged = tmp_path / "data" / "mtseg_renal" / ".preparing_folder"
    before = {p.name: p.stat().st_mtime_ns for p in staged.glob("*.done.json")}
    assert len(before) == 2
    prepared_again = []

    def stage(job):
        prepared_again.append(job.report.subject.name)
        return staging.stage(job)

    original, writing.stage = writing.stage, stage
    try:
        prepare(
            task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1,
            patches_per_class=20,
        )  # fmt: skip
    finally:
        writing.stage = original
    assert sorted(prepared_again) == sorted(n for n in NAMES if f"{n}.done.json" not in before)
    prepare(
        task, "folder", tmp_path / "whole", manual_dir=scans, num_processes=1, patches_per_class=20
    )
    for kind in ("patches", "volumes"):
        assert examples(tmp_path / "data", kind) == examples(tmp_path / "whole", kind)
    assert not staged.exists()


def test_a_scan_that_has_changed_is_prepared_again(task, scans, tmp_path):
    found = find_subjects(task, "folder", scans)
    folder = tmp_path / "staged"
    folder.mkdir()
    config = writing.RecordConfig(name="folder_volumes", source="folder", kind="volumes")
    reading = SubjectReport(found.subjects[0], (), "x", (1, 2, 3))
    staging.stage(staging.Job(task, found.labels, (config,), reading, folder))
    assert staging.staged_report(folder, found.subjects[0]).checksum == "x"
    write(scans / "images" / f"{found.subjects[0].name}.nii.gz", subject(7)[0])
    assert staging.staged_report(folder, found.subjects[0]) is None


def test_other_settings_begin_anew(task, scans, tmp_path):
    data_dir = tmp_path / "data"
    flags = {"manual_dir": scans, "num_processes": 1}
    prepare(task, "folder", data_dir, patches_per_class=5, **flags)
    with pytest.raises(InputError, match="patches_per_class: 5 / 6"):
        prepare(task, "folder", data_dir, patches_per_class=6, **flags)
    prepare(task, "folder", data_dir, patches_per_class=6, is_overwrite=True, **flags)
    assert len(open_patches(data_dir, "renal", "folder").class_index) == 4 * 3 * 6


@pytest.mark.promise("atomic outputs")
def test_records_stay_where_what_should_replace_them_is_refused(task, scans, tmp_path):
    data_dir = tmp_path / "data"
    flags = {"manual_dir": scans, "num_processes": 1}
    prepare(task, "folder", data_dir, patches_per_class=5, **flags)
    before = examples(data_dir, "patches"), examples(data_dir, "volumes")
    next((scans / "images").iterdir()).write_bytes(b"no scan")
    with pytest.raises(InputError, match="is damaged"):
        prepare(task, "folder", data_dir, patches_per_class=6, is_overwrite=True, **flags)
    assert (examples(data_dir, "patches"), examples(data_dir, "volumes")) == before


@pytest.mark.promise("one at a time")
def test_records_that_are_there_leave_another_command_alone(task, scans, tmp_path, capsys):
    flags = {"manual_dir": scans, "num_processes": 1, "patches_per_class": 5}
    prepare(task, "folder", tmp_path, **flags)
    folder = tmp_path / "mtseg_renal" / ".preparing_folder"
    with staging.lock_staging(folder):  # as one with --overwrite does
        (folder / "a.done.json").touch()
        prepare(task, "folder", tmp_path, **flags)
        assert "are there already" in capsys.readouterr().out
        assert (folder / "a.done.json").exists()
    prepare(task, "folder", tmp_path, **flags)
    assert not folder.exists()


@pytest.mark.promise("one at a time")
@pytest.mark.parametrize("patches_per_class", [5, 6])
def test_a_command_that_finishes_meanwhile_is_not_replaced(
    task, scans, tmp_path, monkeypatch, capsys, patches_per_class
):
    flags = {"manual_dir": scans, "num_processes": 1}

    def lock_staging(folder):
        monkeypatch.setattr(writing, "lock_staging", staging.lock_staging)
        prepare(task, "folder", tmp_path, patches_per_class=5, **flags)
        return staging.lock_staging(folder)

    monkeypatch.setattr(writing, "lock_staging", lock_staging)
    if patches_per_class == 5:
        prepare(task, "folder", tmp_path, patches_per_class=5, **flags)
        assert "volumes are there already" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match="patches_per_class: 5 / 6"):
            prepare(task, "folder", tmp_path, patches_per_class=6, **flags)
    assert len(open_patches(tmp_path, "renal", "folder").class_index) == 4 * 3 * 5
    assert not (tmp_path / "mtseg_renal" / ".preparing_folder").exists()


@pytest.mark.promise("goes on after a kill")
def test_no_subject_is_prepared_again_for_the_kind_that_is_left(
    task, scans, tmp_path, monkeypatch, capsys
):
    flags = {"manual_dir": scans, "num_processes": 1, "patches_per_class": 5}
    placed = []

    def stop_at_the_second(path):
        placed.append(path)
        if len(placed) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_remove_records", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare(task, "folder", tmp_path, **flags)
    monkeypatch.setattr(writing, "stage", lambda job: pytest.fail("prepared again"))
    prepare(task, "folder", tmp_path, **flags)
    assert "patches are there already" in capsys.readouterr().out
    assert len(examples(tmp_path, "volumes")) == 5


@pytest.mark.promise("goes on after a kill")
def test_a_kind_that_was_not_kept_up_to_date_is_prepared_again(task, scans, tmp_path, monkeypatch):
    flags = {"manual_dir": scans, "num_processes": 1, "patches_per_class": 5}

    def stop(path):
        raise KeyboardInterrupt

    prepare(task, "folder", tmp_path, **flags)
    volumes = prepared_dir(tmp_path, "renal", "folder", "volumes")
    with monkeypatch.context() as patched:
        patched.setattr(writing, "_remove_records", stop)
        with pytest.raises(KeyboardInterrupt):  # with both kinds staged
            prepare(task, "folder", tmp_path, is_overwrite=True, **flags)
        shutil.rmtree(volumes)
        write(next((scans / "images").iterdir()), subject(7)[0])
        with pytest.raises(KeyboardInterrupt):  # with volumes alone of the scan that has changed
            prepare(task, "folder", tmp_path, **flags)
    prepare(task, "folder", tmp_path, is_overwrite=True, **flags)
    prepare(task, "folder", tmp_path / "anew", **flags)
    assert examples(tmp_path, "patches") == examples(tmp_path / "anew", "patches")


@pytest.mark.promise("atomic outputs")
def test_a_shard_is_not_changed_by_what_is_staged_anew(task, scans, tmp_path):
    found = find_subjects(task, "folder", scans)
    config = writing.RecordConfig(name="folder_volumes", source="folder", kind="volumes")
    job = staging.Job(
        task, found.labels, (config,), SubjectReport(found.subjects[0], (), "x", (1, 2, 3)),
        tmp_path,
    )  # fmt: skip
    staging.stage(job)
    shard = tmp_path / "shard"
    shard.hardlink_to(staging.records_path(tmp_path, found.subjects[0].name, "volumes"))
    before = shard.read_bytes()
    write(scans / "images" / f"{found.subjects[0].name}.nii.gz", subject(7)[0])
    staging.stage(job)
    assert shard.read_bytes() == before


@pytest.mark.promise("refused input")
def test_a_scan_that_disappears_meanwhile_is_named(task, scans, tmp_path):
    found = find_subjects(task, "folder", scans)
    (tmp_path / f"{found.subjects[0].name}.done.json").write_text('{"files": []}')
    path = scans / "images" / f"{found.subjects[0].name}.nii.gz"
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: can no longer be read"):
        staging.staged_report(tmp_path, found.subjects[0])


@pytest.mark.promise("scarcity is one line")
def test_a_worker_that_is_killed_is_one_line():
    with pytest.raises(InputError, match="a worker process was killed"):
        list(run_all(os._exit, [9, 9, 9], 2, WORKER_IMPORTS))


@pytest.mark.promise("goes on after a kill")
def test_half_removed_records_do_not_stop_the_next_command(task, scans, tmp_path):
    flags = {"manual_dir": scans, "num_processes": 1, "patches_per_class": 5}
    prepare(task, "folder", tmp_path, **flags)
    before = examples(tmp_path, "patches")
    (prepared_dir(tmp_path, "renal", "folder", "patches") / "dataset_info.json").unlink()
    prepare(task, "folder", tmp_path, **flags)
    assert examples(tmp_path, "patches") == before


@pytest.mark.promise("scarcity is one line")
def test_a_disk_without_room_is_refused_before_anything_is_written(
    task, scans, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="Make room"):
        prepare(task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]


def test_the_estimate_is_near_what_is_written(task, scans, tmp_path, capsys):
    prepare(
        task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1, patches_per_class=100
    )
    line = next(x for x in capsys.readouterr().out.splitlines() if "up to" in x)
    estimate = float(line.split("up to ")[1].split(" MB")[0])
    written = sum(p.stat().st_size for p in (tmp_path / "data").rglob("*.tfrecord*")) / 1e6
    assert written == pytest.approx(estimate, rel=0.1)


@pytest.mark.promise("one at a time")
def test_a_second_command_on_the_same_source_is_refused(task, scans, tmp_path):
    with (
        staging.lock_staging(tmp_path / "data" / "mtseg_renal" / ".preparing_folder"),
        pytest.raises(InputError, match="another command"),
    ):
        prepare(task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1)


def test_tfds_reads_what_was_put_together(task, scans, tmp_path):
    import tensorflow_datasets as tfds

    data_dir = tmp_path / "data"
    prepare(task, "folder", data_dir, manual_dir=scans, num_processes=1, patches_per_class=20)
    patches, volumes = (
        tfds.builder_from_directory(prepared_dir(data_dir, "renal", "folder", kind))
        for kind in ("patches", "volumes")
    )
    assert patches.info.splits["train"].num_examples == 240
    classes = [int(e["class_index"]) for e in patches.as_dataset(split="train")]
    assert np.bincount(classes).tolist() == [80, 80, 80]
    assert {k: v.num_examples for k, v in volumes.info.splits.items()} == {"train": 4, "test": 1}


# Partial labels and several sources.

SOURCES = """
[sources.whole]
layout = "folder"
[sources.whole.labels]
background = [0]
kidney = [1]
cyst = [2]

[sources.partial]
layout = "folder"
not_annotated = ["cyst"]
[sources.partial.labels]
background = [0]
kidney = [1]
ignore = [2]
"""


@pytest.fixture
def two_sources(tmp_path):
    """A task with a source of all classes and one that leaves out cysts."""
    path = tmp_path / "renal.toml"
    write_task(path, SOURCES)
    command = f"{path}:whole+partial"
    (selection,) = parse_tasks(command).selections
    for number, source in enumerate(selection.sources):
        names = [f"{source}{n}" for n in range(5)]
        scans = write_folder(tmp_path / source, names, first=10 * number)
        prepare(
            selection.task, source, tmp_path / "data", manual_dir=scans, num_processes=1,
            patches_per_class=50, seed=number,
        )  # fmt: skip
    return tmp_path / "data", command


@pytest.mark.parametrize("kind", ["patches", "volumes"])
def test_what_is_not_annotated_is_never_drawn(two_sources, kind):
    """Ten thousand samples: background and cysts from one source, kidneys from both in turn."""
    from mtseg.batches.pipeline import open_balanced_samples
    from mtseg.scans.patches import cut_patches, pad_volume

    data_dir, command = two_sources
    label_space = parse_tasks(command)
    samples = open_balanced_samples(str(data_dir), label_space, 0, kind=kind)
    origin = {}  # the centre's patch tells which scan and voxel it is
    for source in ("whole", "partial"):
        for volume in read_volumes(data_dir, "renal", source, "train"):
            index = np.argwhere(volume.image > 0)
            patches = cut_patches(pad_volume(volume.image.astype(np.float16)), index)
            for patch, voxel in zip(patches, index, strict=True):
                value = int(volume.class_index_map[tuple(voxel)])
                origin[patch.tobytes()] = origin.get(patch.tobytes(), set()) | {(source, value)}
    counts = {}
    for n in range(100):
        patches, classes = samples.read_minibatch(n, 100)
        for patch, class_index in zip(patches, classes.tolist(), strict=True):
            ((source, value),) = {o for o in origin[patch.tobytes()] if o[1] == class_index}
            assert value == class_index
            counts[source, class_index] = counts.get((source, class_index), 0) + 1
    assert sum(counts.values()) == 10_000
    assert set(counts) == {("whole", 0), ("whole", 1), ("whole", 2), ("partial", 1)}
    assert abs(counts["whole", 1] - counts["partial", 1]) <= 1


@pytest.mark.promise("defined numerics")
def test_what_is_not_known_is_not_scored(two_sources):
    from mtseg.evaluation.scoring import evaluate_model
    from mtseg.inference.dense import make_dense_network
    from mtseg.network.model import build_patch_model

    data_dir, command = two_sources
    label_space = parse_tasks(command)
    network = make_dense_network(build_patch_model(label_space.num_classes))
    evaluation = evaluate_model(network, label_space, str(data_dir))
    cysts = {r.subject: r.value for r in evaluation.rows if r.class_name == "cyst"}
    assert {name.split("/")[0] for name in cysts} == {"whole", "partial"}
    for name, value in cysts.items():
        assert (value is None) == name.startswith("partial")


def test_two_sources_train_one_network(two_sources, tmp_path):
    from mtseg.cli import train

    data_dir, command = two_sources
    code = train.main(
        ["--preset", "demo", "--tasks", command, "--data-dir", str(data_dir),
         "--workdir", str(tmp_path / "run"), "--minibatches-per-task", "2",
         "--global-batch-size", "6"]
    )  # fmt: skip
    assert code == 0
