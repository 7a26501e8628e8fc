"""Records brought up to date: what changed is named, and only what changed is read."""

import functools
import os
import shutil

import pytest

from mtseg.errors import InputError
from mtseg.provenance.fingerprint import FINGERPRINT, PREPARATION, read_fingerprint
from mtseg.records import writing
from mtseg.records.prepared import prepared_dir, records_dir
from mtseg.records.reading import read_volumes
from mtseg.records.writing import prepare
from mtseg.system import replacing
from mtseg.tasks.task_file import read_task
from tests.changed_data import (
    CHANGES,
    LABELS,
    TASK_CHANGES,
    change_split,
    remove_subject,
    replace_scan_keeping_size_and_time,
    split_of,
    write_junk,
)
from tests.layout_files import TASK, subject, write, write_folder, write_task
from tests.records.test_writing import shard_contents


@pytest.fixture
def scans(tmp_path):
    folder = write_folder(tmp_path / "scans")
    split_of(folder, train="a1 a2 a3 a4", test="a5")
    return folder


@pytest.fixture
def run(task, scans, tmp_path):
    """Prepares the scans in this process; the fields of a test's own come first."""

    def run(data_dir=None, task=task, **settings):
        settings = {"manual_dir": scans, "patches_per_class": 5, "num_processes": 1, **settings}
        prepare(task, "folder", data_dir or tmp_path / "data", **settings)

    return run


@pytest.fixture
def read_subjects(monkeypatch):
    """The names of subjects in the order in which their scans were read, or prepared."""
    names = {"check_subject": [], "stage": []}

    def check_subject(task, labels, subject, original=writing.check_files):
        names["check_subject"].append(subject.name)
        return original(task, labels, subject)

    def stage(job, original=writing.stage):
        names["stage"].append(job.report.subject.name)
        return original(job)

    monkeypatch.setattr(writing, "check_files", check_subject)
    monkeypatch.setattr(writing, "stage", stage)
    return names


# What is noticed. Each change is of a data set that has been prepared.


@pytest.mark.parametrize(
    "change", [*CHANGES, replace_scan_keeping_size_and_time, write_junk], ids=lambda c: c.__name__
)
def test_a_change_of_the_data_is_named(run, scans, tmp_path, change):
    run()
    before = shard_contents(tmp_path / "data")
    text = change(scans)
    with pytest.raises(InputError) as caught:
        run()
    assert f"settings: {text}. Rerun mtseg-prepare with --update" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert shard_contents(tmp_path / "data") == before


def test_another_folder_is_named(run, tmp_path):
    run()
    other = write_folder(tmp_path / "other", first=20)
    split_of(other, train="a1 a2 a3 a4", test="a5")
    text = rf"another folder: {other}, was {tmp_path}/scans; scan of a1, .* label map of a1,"
    with pytest.raises(InputError, match=text):
        run(manual_dir=other)


@pytest.mark.parametrize("name", TASK_CHANGES)
def test_a_change_of_the_task_is_named(run, tmp_path, name):
    change, text = TASK_CHANGES[name]
    file = tmp_path / "task.toml"
    run(task=write_task(file, LABELS))
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError, match=text):
        run(task=read_task(file))


def test_the_same_is_not_prepared_again(run, read_subjects, capsys):
    run()
    read_subjects["stage"].clear(), read_subjects["check_subject"].clear()
    run()
    assert read_subjects == {"stage": [], "check_subject": []}
    assert "renal:folder: already prepared in" in capsys.readouterr().out


def test_the_same_files_elsewhere_are_the_same_and_remembered(run, scans, tmp_path, monkeypatch):
    run()
    shutil.copytree(scans, tmp_path / "copy", copy_function=shutil.copyfile)
    run(manual_dir=tmp_path / "copy")
    folder = prepared_dir(tmp_path / "data", "renal", "folder", "volumes")
    assert read_fingerprint(folder).source["folder"] == str(tmp_path / "copy")
    monkeypatch.setattr(
        "mtseg.provenance.file_state.file_checksum", lambda path: pytest.fail("read again")
    )
    run(manual_dir=tmp_path / "copy")


def test_a_missing_file_is_not_a_subject_that_was_removed(run, scans):
    run()
    (scans / "labels" / "a2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"subject a2 must have one scan and one label map"):
        run()


def test_without_the_folder_of_scans_task_and_settings_are_compared(run, capsys):
    run()
    run(manual_dir=None)
    assert "The scans were not compared: their folder was not given." in capsys.readouterr().out
    with pytest.raises(InputError, match="patches per class is 6, was 5"):
        run(manual_dir=None, patches_per_class=6)


def test_without_the_folder_of_scans_an_outdated_preparation_is_named(run, monkeypatch):
    monkeypatch.setattr("mtseg.provenance.fingerprint.PREPARATION", PREPARATION - 1)
    run()
    monkeypatch.undo()
    text = f"version of preparation is {PREPARATION}, was {PREPARATION - 1}"
    with pytest.raises(InputError, match=text):
        run(manual_dir=None)


def test_records_without_a_fingerprint_are_kept_and_said_to_have_none(run, tmp_path, capsys):
    run()
    for path in (tmp_path / "data").rglob(FINGERPRINT):
        path.unlink()
    before = shard_contents(tmp_path / "data")
    run()
    assert "carry no fingerprint, so they cannot be compared" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"patches_per_class: 5 / 6"):
        run(patches_per_class=6)
    assert len(list(read_volumes(tmp_path / "data", "renal", "folder", "train"))) == 4
    run(is_update=True)
    assert shard_contents(tmp_path / "data") == before
    assert len(list((tmp_path / "data").rglob(FINGERPRINT))) == 2


# Updates.


@pytest.mark.parametrize("num_shards", [None, 3])
@pytest.mark.parametrize(
    ("change", "num_read"),
    # The other side's subjects: a5 has no patches yet; of a1 the volume is there.
    [*((c, 1) for c in CHANGES if c is not remove_subject), (remove_subject, 0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_update_reads_what_changed_and_equals_a_fresh_preparation(
    run, scans, tmp_path, read_subjects, change, num_read, num_shards
):
    run(num_shards=num_shards)
    change(scans)
    for names in read_subjects.values():
        names.clear()
    run(is_update=True, num_shards=num_shards)
    assert [len(names) for names in read_subjects.values()] == [num_read, num_read]
    run(tmp_path / "fresh", num_shards=num_shards)
    updated, fresh = (tmp_path / name / "mtseg_renal" for name in ("data", "fresh"))
    assert shard_contents(updated) == shard_contents(fresh)
    assert sorted(p.name for p in updated.iterdir()) == sorted(p.name for p in fresh.iterdir())
    for path in updated.rglob("*.json"):
        assert path.read_text() == (fresh / path.relative_to(updated)).read_text()
    run(num_shards=num_shards)  # nothing is left to do


def test_an_update_of_the_number_of_shards_reads_no_scan(run, tmp_path, read_subjects):
    run()
    read_subjects["stage"].clear()
    run(is_update=True, num_shards=2)
    run(is_update=True, num_shards=3)
    run(tmp_path / "fresh", num_shards=3)
    assert read_subjects["stage"] == ["a1", "a2", "a3", "a4", "a5"]  # those of `fresh`
    assert shard_contents(tmp_path / "data") == shard_contents(tmp_path / "fresh")


def test_an_update_of_the_task_reads_all(run, tmp_path, read_subjects):
    file = tmp_path / "task.toml"
    run(task=write_task(file, LABELS))
    read_subjects["stage"].clear()
    file.write_text(
        file.read_text().replace("kidney = [1]\ncyst = [2]", "kidney = [2]\ncyst = [1]")
    )
    run(task=read_task(file), is_update=True)
    assert len(read_subjects["stage"]) == 5


def test_an_update_with_junk_leaves_the_old_records(run, scans, tmp_path):
    run()
    before = shard_contents(tmp_path / "data")
    write_junk(scans)
    with pytest.raises(InputError, match=r"labels/a3\.nii\.gz: is damaged"):
        run(is_update=True)
    assert shard_contents(tmp_path / "data") == before


def test_an_update_of_phantoms_makes_the_new_ones(tmp_path, read_subjects):
    from mtseg.tasks.task_file import shipped_path

    make = functools.partial(
        prepare, read_task(shipped_path("breast")), "phantom", tmp_path / "data",
        num_processes=1, size=32, num_test=1, patches_per_class=4,
    )  # fmt: skip
    make(num_train=1)
    with pytest.raises(InputError, match="subject phantom001 added"):
        make(num_train=2)
    make(num_train=2, is_update=True)
    assert read_subjects["stage"] == ["phantom000", "phantom1000", "phantom001"]


# Stopped updates.


def usable_records(data_dir):
    """The shards of both kinds, found as a training run finds them, and the subjects in them."""
    found = [prepared_dir(data_dir, "renal", "folder", kind) for kind in ("patches", "volumes")]
    names = [
        v.name for s in ("train", "test") for v in read_volumes(data_dir, "renal", "folder", s)
    ]
    return names, [shard_contents(folder) for folder in found]


def update_and_stop(run, scans, monkeypatch, count):
    """Stops an update after so many changes on disk while it replaces the old records."""
    change_split(scans)
    left = iter(range(count))

    def stop(change):
        def changed(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return change(*arguments)

        return changed

    def replace_together(plan, moves):
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", stop(os.replace))
            patched.setattr(replacing, "remove_path", stop(replacing.remove_path))
            replacing.replace_together(plan, moves)

    monkeypatch.setattr(writing, "replace_together", replace_together)
    with pytest.raises(KeyboardInterrupt):
        run(is_update=True)
    monkeypatch.undo()


@pytest.mark.promise("goes on after a kill")
@pytest.mark.parametrize("count", range(5))
def test_records_of_both_kinds_are_replaced_together(run, scans, tmp_path, monkeypatch, count):
    """Stopped before the plan is written, the old ones stay; later, whoever opens them finishes."""
    run()
    old = usable_records(tmp_path / "data")
    update_and_stop(run, scans, monkeypatch, count)
    state = usable_records(tmp_path / "data")
    run(tmp_path / "fresh")
    assert state == (usable_records(tmp_path / "fresh") if count else old)


@pytest.mark.promise("goes on after a kill")
def test_records_whose_replacing_was_stopped_count_as_prepared(run, scans, monkeypatch, capsys):
    """So the folder of scans, which was given before, is not asked for."""
    run()
    update_and_stop(run, scans, monkeypatch, 2)  # old patches are removed, and new ones not there
    run(manual_dir=None)
    assert "renal:folder: already prepared in" in capsys.readouterr().out


# Several sources, and tasks of the same name.


@pytest.fixture
def two_folders(tmp_path):
    """A task with two sources; each has five scans of its own."""
    sources = "".join(f'\n[sources.{name}]\nlayout = "folder"\n' for name in ("north", "south"))
    task = write_task(tmp_path / "two.toml", sources)
    folders = {}
    for number, name in enumerate(("north", "south")):
        folders[name] = write_folder(tmp_path / name, first=10 * number)
        split_of(folders[name], train="a1 a2 a3 a4", test="a5")

    def run(source, **settings):
        settings = {"num_processes": 1, "patches_per_class": 5, **settings}
        prepare(task, source, tmp_path / "data", manual_dir=folders[source], **settings)

    return run, folders


def test_a_scan_on_the_other_side_in_another_source_is_refused_by_name(two_folders, tmp_path):
    run, folders = two_folders
    run("north")
    image, _ = subject(4)  # a5, the test scan of the other source
    write(folders["south"] / "images" / "a2.nii", image)
    (folders["south"] / "images" / "a2.nii.gz").unlink()
    with pytest.raises(InputError) as caught:
        run("south")
    assert "a5 (test in renal:north) and a2 (train in renal:south)" in str(caught.value)
    assert not records_dir(tmp_path / "data", "renal", "south", "volumes").exists()
    # A source that the same command prepares next is not searched: it may change as well.
    run("south", also=["north"])


def test_two_tasks_of_the_same_name_do_not_share_a_folder(run, tmp_path):
    run()
    other = TASK.replace("kidney", "bladder")
    (tmp_path / "other.toml").write_text(other + '\n[sources.mine]\nlayout = "folder"\n')
    task = read_task(tmp_path / "other.toml")
    with pytest.raises(InputError, match=r"another task that is called renal: .*/renal\.toml"):
        prepare(task, "mine", tmp_path / "data", manual_dir=tmp_path / "scans", num_processes=1)
    with pytest.raises(InputError, match=r"another task of the same name: .*/other\.toml, was"):
        run(task=task)


def test_nothing_is_left_in_the_folder_for_temporary_files(run, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    run()
    run(is_update=True, patches_per_class=6)
    assert list((tmp_path / "tmp").iterdir()) == []
