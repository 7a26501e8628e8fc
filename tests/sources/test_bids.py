"""BIDS: a filter of entities chooses among runs, spaces and segmentations."""

import os
import shutil

import pytest

from mtseg.cli import check
from mtseg.sources.find import find_subjects
from mtseg.tasks.file_choice import with_entity_filter
from mtseg.tasks.label_space import filter_bids, parse_tasks
from tests.layout_files import subject, write, write_bids, write_task
from tests.sources.test_find import refused


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "renal.toml")


def write_runs(folder, participants=("a", "b", "c"), runs=("1", "2")):
    """Participants with several runs, each with its own label map."""
    for number, name in enumerate(participants):
        image, labels = subject(number)
        for run in runs:
            place = f"sub-{name}/anat/sub-{name}_run-{run}"
            write(folder / f"{place}_T1w.nii.gz", image)
            write(folder / f"derivatives/manual/{place}_dseg.nii.gz", labels)
    return folder


def write_spaces(folder):
    """One scan per participant, and the three segmentations that fMRIPrep writes."""
    for number, name in enumerate(("a", "b", "c")):
        image, labels = subject(number)
        write(folder / f"sub-{name}/anat/sub-{name}_T1w.nii.gz", image)
        for entities in ("", "_desc-aseg", "_space-MNI152NLin2009cAsym"):
            name_of_map = f"sub-{name}/anat/sub-{name}{entities}_dseg.nii.gz"
            write(folder / "derivatives/fmriprep" / name_of_map, labels)
    return folder


def names_used(task, folder, text):
    found = find_subjects(with_entity_filter(task, "bids", text), "bids", folder).require_sound()
    used = [(s.image_path.rsplit("/")[-1], s.label_path.rsplit("/")[-1]) for s in found.subjects]
    return sorted(used)


def test_runs_are_chosen_by_their_number_however_it_is_padded(task, tmp_path):
    folder = write_runs(tmp_path / "data", runs=("01", "02"))
    for text in ("run=2", "run=02", " run = 2 "):
        assert names_used(task, folder, text) == [
            (f"sub-{name}_run-02_T1w.nii.gz", f"sub-{name}_run-02_dseg.nii.gz") for name in "abc"
        ]


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("desc=aseg", "_desc-aseg"),
        ("space=MNI152NLin2009cAsym", "_space-MNI152NLin2009cAsym"),
        ("desc=,space=", ""),
    ],
)
def test_segmentations_are_chosen_and_an_empty_value_means_none(task, tmp_path, text, entities):
    folder = write_spaces(tmp_path / "data")
    assert names_used(task, folder, text) == [
        (f"sub-{name}_T1w.nii.gz", f"sub-{name}{entities}_dseg.nii.gz") for name in "abc"
    ]


def test_a_subject_without_the_entity_is_kept(task, tmp_path):
    folder = write_runs(tmp_path / "data")
    image, labels = subject(9)
    write(folder / "sub-d/anat/sub-d_T1w.nii.gz", image)
    write(folder / "derivatives/manual/sub-d/anat/sub-d_dseg.nii.gz", labels)
    used = names_used(task, folder, "run=1")
    assert len(used) == 4
    assert used[3] == ("sub-d_T1w.nii.gz", "sub-d_dseg.nii.gz")


def test_a_subject_without_the_wanted_run_is_named_as_unused(task, tmp_path):
    folder = write_runs(write_runs(tmp_path / "data"), participants=("z",), runs=("3",))
    found = find_subjects(with_entity_filter(task, "bids", "run=1"), "bids", folder)
    assert {s.name for s in found.subjects} == {"sub-a", "sub-b", "sub-c"}
    (issue,) = found.issues
    assert "sub-z_run-3_T1w" in issue.message


def test_sessions_are_chosen_too(task, tmp_path):
    folder = tmp_path / "data"
    for number, name in enumerate("ab"):
        for session in ("1", "2"):
            image, labels = subject(number)
            place = f"sub-{name}/ses-{session}/anat/sub-{name}_ses-{session}"
            write(folder / f"{place}_T1w.nii.gz", image)
            write(folder / f"derivatives/m/{place}_dseg.nii.gz", labels)
    found = find_subjects(with_entity_filter(task, "bids", "ses=2"), "bids", folder)
    assert sorted(s.name for s in found.require_sound().subjects) == ["sub-a_ses-2", "sub-b_ses-2"]


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("write_data", "words"),
    [
        (write_runs, ["run is 1 or 2", "--bids-filter run=1", 'filter = { run = "1" }']),
        (
            write_spaces,
            [
                "desc is aseg or absent",
                "MNI152NLin2009cAsym",
                'filter = { desc = "aseg", space = "" }',
                "--bids-filter desc=aseg,space= ",
            ],
        ),
    ],
)
def test_several_files_are_refused_with_the_choices(task, tmp_path, write_data, words):
    found = find_subjects(task, "bids", write_data(tmp_path / "data"))
    assert len(found.issues) == 3
    message = found.issues[0].message
    assert all(word in message for word in words), message
    # What the message proposes works.
    text = message.split("--bids-filter ")[1].split(" ")[0]
    chosen = with_entity_filter(task, "bids", text)
    assert len(find_subjects(chosen, "bids", tmp_path / "data").require_sound().subjects) == 3


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("of_scan", "of_map", "words"),
    [
        ("_run-1", "_run-2", "run is 2, not 1"),
        ("_acq-mprage_run-1", "_acq-space_run-01", "acq is space, not mprage"),
        ("_rec-a_echo-1", "_rec-b_echo-2", "rec is b, not a; echo is 2, not 1"),
    ],
)
def test_the_label_map_of_another_scan_is_not_paired(task, tmp_path, of_scan, of_map, words):
    folder = write_bids(tmp_path / "data")
    image, labels = subject(9)
    write(folder / f"sub-z/anat/sub-z{of_scan}_T1w.nii.gz", image)
    write(folder / f"derivatives/manual/sub-z/anat/sub-z{of_map}_desc-m_dseg.nii.gz", labels)
    found = find_subjects(task, "bids", folder)
    assert "sub-z" not in {s.name for s in found.subjects}
    (issue,) = found.issues
    assert issue.is_error
    assert issue.subject == "sub-z"
    for word in (f"sub-z{of_scan}_T1w", f"sub-z{of_map}_desc-m_dseg", words):
        assert word in issue.message


@pytest.mark.parametrize(
    ("of_scan", "of_map"),
    [("_run-1", "_run-01_desc-aseg"), ("_acq-mprage", ""), ("", "_run-2"), ("_desc-a", "_desc-b")],
)
def test_the_label_map_of_a_scan_may_leave_out_or_add_entities(task, tmp_path, of_scan, of_map):
    folder = write_bids(tmp_path / "data")
    image, labels = subject(9)
    write(folder / f"sub-z/anat/sub-z{of_scan}_T1w.nii.gz", image)
    write(folder / f"derivatives/manual/sub-z/anat/sub-z{of_map}_dseg.nii.gz", labels)
    found = find_subjects(task, "bids", folder).require_sound()
    assert "sub-z" in {s.name for s in found.subjects}


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rnu=1", ["entity rnu (did you mean run?)", "sub, run"]),
        ("run=7", ["run-7", "1, 2"]),
        ("run", ["cannot be read", "run=1,desc=aseg"]),
        ("run=1,run=2", ["cannot be read"]),
        ("run=1/2", ["'1/2'"]),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(task, tmp_path, text, words):
    folder = write_runs(tmp_path / "data")

    def find():
        return find_subjects(with_entity_filter(task, "bids", text), "bids", folder)

    message = refused(find)
    assert all(word in message for word in words), message


def test_the_task_file_may_hold_the_filter(tmp_path):
    text = '[sources.bids]\nfilter = { run = "2" }\n'
    task = write_task(tmp_path / "t.toml", text)
    found = find_subjects(task, "bids", write_runs(tmp_path / "data")).require_sound()
    assert all("run-2" in s.label_path for s in found.subjects)
    assert all("run-1" in label for _, label in names_used(task, tmp_path / "data", "run=1"))


def test_the_command_takes_the_filter(tmp_path, capsys):
    write_task(tmp_path / "renal.toml")
    folder = write_runs(tmp_path / "data")
    command = [f"{tmp_path}/renal.toml:bids", str(folder), "--num-processes", "1"]
    assert check.main(command) == 2
    assert "--bids-filter run=1" in capsys.readouterr().out
    assert check.main([*command, "--bids-filter", "run=1"]) == 0
    assert "3 subjects read: 0 errors" in capsys.readouterr().out
    assert "no source here" in refused(filter_bids, parse_tasks("brain:folder"), "run=1")


def test_linked_session_folders_are_followed(task, tmp_path):
    """A cohort whose session folders are links to where the scans are."""
    folder = tmp_path / "data"
    for number, name in enumerate("abc"):
        image, labels = subject(number)
        place = f"sub-{name}/ses-1/anat/sub-{name}_ses-1"
        write(folder / f"{place}_T1w.nii.gz", image)
        write(folder / f"derivatives/m/{place}_dseg.nii.gz", labels)
    for name in "abc":
        for part in ("", "derivatives/m/"):
            (tmp_path / "links" / f"{part}sub-{name}").mkdir(parents=True)
            link = tmp_path / "links" / f"{part}sub-{name}" / "ses-1"
            os.symlink(folder / f"{part}sub-{name}" / "ses-1", link)
    found = find_subjects(task, "bids", tmp_path / "links").require_sound()
    assert sorted(s.name for s in found.subjects) == [f"sub-{name}_ses-1" for name in "abc"]


def test_a_session_that_cannot_be_listed_is_not_left_out_silently(task, tmp_path):
    folder = write_bids(tmp_path / "data")
    anat = folder / "sub-a3" / "anat"
    shutil.rmtree(anat)
    anat.mkdir()
    listed = type(anat).iterdir

    def iterdir(path):
        if path == anat:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(anat), "iterdir", iterdir)
        message = refused(find_subjects, task, "bids", folder)
    assert message.startswith(f"{anat}: cannot be listed (Permission denied)")
