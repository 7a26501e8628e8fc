"""One subject's files: kept while nothing has changed, and replaced as a whole."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mtseg.errors import InputError
from mtseg.records import staging, writing
from mtseg.records.builder import RecordConfig
from mtseg.records.prepared import staging_dir
from mtseg.records.writing import prepare
from mtseg.sources.checks import SubjectReport
from mtseg.sources.find import find_subjects
from tests.layout_files import subject, write


@pytest.fixture
def job(task, scans, tmp_path):
    """The first subject, as a volume; its folder is empty."""
    found = find_subjects(task, "folder", scans)
    config = RecordConfig(name="folder_volumes", source="folder", kind="volumes")
    folder = tmp_path / "staged"
    folder.mkdir()
    report = SubjectReport(found.subjects[0], (), "x", (1, 2, 3))
    return staging.Job(task, found.labels, (config,), report, folder)


def change_scan(job):
    write(staging.Path(job.report.subject.image_path), subject(7)[0])


def test_a_staged_subject_is_known_until_its_scan_changes(job):
    assert staging.staged_report(job.folder, job.report.subject, job.configs) is None
    assert staging.stage(job) == job.report.subject.name
    assert staging.staged_report(job.folder, job.report.subject, job.configs) == job.report
    change_scan(job)
    assert staging.staged_report(job.folder, job.report.subject, job.configs) is None


def test_what_beam_found_in_an_earlier_call_is_not_said_of_a_subject_that_is_staged(
    job, monkeypatch
):
    """Its label map was damaged, has been restored, and was taken from the records since."""
    staging.stage(job)
    name = job.report.subject.name
    issue = {"kind": "unreadable", "subject": name, "message": "Damaged.", "is_error": True}
    found = {"issues": [issue], "checksum": None, "num_voxels": []}
    (job.folder / f"{name}.checked.json").write_text(json.dumps(found))
    (report,) = [staging.checked_report(job.folder, job.report.subject)]
    assert report.issues
    monkeypatch.setattr(writing, "run_on_beam", lambda *_: None)
    plan = SimpleNamespace(
        task=job.task,
        configs=job.configs,
        folder=job.folder,
        found=SimpleNamespace(subjects=(job.report.subject,), labels=job.labels),
        request=SimpleNamespace(manual_dir=None),
    )
    assert writing._check_and_stage_on_beam(plan, "DirectRunner", []) == [job.report]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_mark_makes_a_subject_unstaged(job, content):
    staging.stage(job)
    (job.folder / f"{job.report.subject.name}.done.json").write_text(content)
    assert staging.staged_report(job.folder, job.report.subject, job.configs) is None


@pytest.mark.promise("atomic outputs")
def test_a_shard_is_not_changed_when_its_subject_is_staged_again(job, tmp_path):
    """A shard is a hard link to the staged file."""
    staging.stage(job)
    shard = tmp_path / "shard"
    shard.hardlink_to(staging.records_path(job.folder, job.report.subject.name, "volumes"))
    before = shard.read_bytes()
    change_scan(job)
    staging.stage(job)
    assert shard.read_bytes() == before


@pytest.mark.promise("refused input")
def test_a_scan_that_disappears_meanwhile_is_named(job):
    staging.stage(job)
    path = staging.Path(job.report.subject.image_path)
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: can no longer be read"):
        staging.staged_report(job.folder, job.report.subject, job.configs)


def test_a_subject_whose_split_needs_other_records_now_is_staged_again(job):
    """A stopped preparation had it as a test subject, of which there are no patches."""
    patches = RecordConfig(name="folder_patches", source="folder", kind="patches")
    configs = (*job.configs, patches)
    as_test = replace(job.report.subject, split="test")
    as_train = replace(job.report.subject, split="train")
    staging.stage(replace(job, configs=configs, report=replace(job.report, subject=as_test)))
    assert staging.staged_report(job.folder, as_test, configs) is not None
    assert staging.staged_report(job.folder, as_train, job.configs) is not None
    assert staging.staged_report(job.folder, as_train, configs) is None
    staging.stage(replace(job, configs=configs, report=replace(job.report, subject=as_train)))
    assert staging.staged_report(job.folder, as_train, configs) is not None
    # Staged as a test subject of another scan, it has no patches of the earlier one.
    change_scan(job)
    staging.stage(replace(job, configs=configs, report=replace(job.report, subject=as_test)))
    assert staging.staged_report(job.folder, as_train, configs) is None


# The staging folder.

PATCHES, VOLUMES = {"seed": 0}, {"size": None}
BOTH = {"patches": PATCHES, "volumes": VOLUMES}


@pytest.mark.parametrize(
    ("shared", "kinds", "is_kept"),
    [
        ({"version": "1"}, BOTH, True),
        ({"version": "1"}, {"volumes": VOLUMES}, True),
        ({"version": "2"}, BOTH, False),
        ({"version": "1"}, {"patches": {"seed": 1}, "volumes": VOLUMES}, False),
    ],
)
def test_what_was_staged_with_the_same_settings_is_kept(tmp_path, shared, kinds, is_kept):
    staging.keep_matching(tmp_path, {"version": "1"}, BOTH)
    (tmp_path / "a1.done.json").touch()
    staging.keep_matching(tmp_path, shared, kinds)
    assert (tmp_path / "a1.done.json").exists() == is_kept


def test_a_kind_that_was_left_out_is_staged_again(tmp_path):
    """A subject that changed meanwhile has new volumes, but old patches."""
    for kinds in (BOTH, {"volumes": VOLUMES}):
        staging.keep_matching(tmp_path, {"version": "1"}, kinds)
        (tmp_path / "a1.done.json").touch()
    staging.keep_matching(tmp_path, {"version": "1"}, BOTH)
    assert not (tmp_path / "a1.done.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_damaged_settings_empty_the_folder(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    (tmp_path / "a1.done.json").touch()
    staging.keep_matching(tmp_path, {"version": "1"}, BOTH)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_folder_in_which_no_subject_is_done_is_removed(tmp_path):
    folder = tmp_path / "staged"
    with staging.lock_staging(folder):
        (folder / "a1.patches.tfrecord").touch()
    assert not folder.exists()
    with staging.lock_staging(folder):
        (folder / "a1.done.json").touch()
    assert [path.name for path in folder.iterdir()] == ["a1.done.json"]


@pytest.mark.promise("one at a time")
def test_a_second_command_on_the_same_source_is_refused(task, scans, tmp_path):
    with (
        staging.lock_staging(staging_dir(tmp_path / "data", "renal", "folder")),
        pytest.raises(InputError, match="another command"),
    ):
        prepare(task, "folder", tmp_path / "data", manual_dir=scans, num_processes=1)
