"""What is missing, and whether memory and disk are enough for it."""

import math
import shutil

import nibabel as nib
import pytest

from mtseg.errors import InputError
from mtseg.records import planning
from mtseg.records.builder import RecordConfig
from mtseg.records.estimates import estimate_memory
from mtseg.records.planning import Plan, Request, choose_num_processes, make_plan
from mtseg.records.writing import prepare
from mtseg.sources.find import find_subjects
from mtseg.tasks.task_file import read_task, shipped_path


def configs(**settings):
    return [
        RecordConfig(name=f"folder_{kind}", source="folder", kind=kind, **settings)
        for kind in ("patches", "volumes")
    ]


@pytest.fixture
def request_for(whole):
    """What a command asks for, of the scans that `whole` was made from."""

    def make(task=None, data_dir=whole, patches_per_class=20, **fields):
        task = task or read_task(whole.parent / "renal.toml")
        scans = whole.parent / "scans"
        found = find_subjects(task, "folder", scans)
        wanted = tuple(configs(patches_per_class=patches_per_class))
        return Request(task, "folder", found, scans, data_dir, wanted, **fields)

    return make


def test_only_what_does_not_exist_is_missing(request_for, tmp_path):
    request = request_for(data_dir=tmp_path)
    plan = make_plan(request)
    assert (plan.configs, plan.kept) == (request.configs, ())
    plan = make_plan(request_for())
    assert plan.configs == ()
    assert "renal:folder: already prepared in" in plan.kept[0]
    request = request_for(is_overwrite=True)
    assert make_plan(request).configs == request.configs


def test_records_with_other_settings_are_refused(request_for):
    with pytest.raises(InputError, match=r"patches per class is 6, was 20.*--update.*--overwrite"):
        make_plan(request_for(patches_per_class=6))
    with pytest.raises(InputError, match="number of shards is 3, was the default"):
        make_plan(request_for(num_shards=3))


def test_records_with_other_classes_are_refused(whole, request_for, tmp_path):
    """The task file was edited after its records were prepared."""
    text = (whole.parent / "renal.toml").read_text()
    (tmp_path / "renal.toml").write_text(text.replace('"cyst"', '"tumour"'))
    task = read_task(tmp_path / "renal.toml")
    with pytest.raises(InputError, match="class 2 is tumour, was cyst"):
        make_plan(request_for(task))
    assert len(make_plan(request_for(task, is_overwrite=True)).configs) == 2
    assert len(make_plan(request_for(task, is_update=True)).configs) == 2


@pytest.mark.parametrize(
    ("free_gb", "expected"),
    [(100, 8), (10, 3), (0.1, 1)],  # cores; 0.7 × 10 / 2; never none
)
def test_processes_fit_in_the_memory(task, scans, tmp_path, monkeypatch, free_gb, expected):
    monkeypatch.setattr(planning, "num_cores", lambda: 8)
    monkeypatch.setattr(planning, "free_bytes", lambda: free_gb * 1e9)
    monkeypatch.setattr(planning, "estimate_memory", lambda task, subject, configs: 1.8e9)
    found = find_subjects(task, "folder", scans)
    request = Request(task, "folder", found, scans, tmp_path, tuple(configs()))
    plan = Plan(request, request.configs)
    assert choose_num_processes(plan) == expected


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
    assert written_mb(tmp_path / "data") == pytest.approx(estimated_mb(capsys), rel=0.1)


def written_mb(data_dir):
    return sum(p.stat().st_size for p in data_dir.rglob("*record-*")) / 1e6


def estimated_mb(capsys):
    line = next(x for x in capsys.readouterr().out.splitlines() if "MB of records" in x)
    return float(line.split("up to ")[1].split(" MB")[0])


@pytest.mark.parametrize("kinds", [("volumes",), ("patches", "volumes")])
def test_the_estimate_covers_the_volumes_of_phantoms(tmp_path, capsys, kinds):
    prepare(
        read_task(shipped_path("cta")), "phantom", tmp_path, kinds=kinds, size=80, num_train=2,
        num_test=3, patches_per_class=20, num_processes=1,
    )  # fmt: skip
    assert written_mb(tmp_path) == pytest.approx(estimated_mb(capsys), rel=0.1)


@pytest.mark.parametrize(("name", "measured_mb"), [("brain", 197), ("breast", 163), ("cta", 1323)])
def test_memory_is_estimated_for_phantoms_too(name, measured_mb):
    """What a process grew by while it prepared a volume of the size of the paper's."""
    task = read_task(shipped_path(name))
    subject = find_subjects(task, "phantom", None, num_train=2, num_test=1).subjects[1]
    volumes = RecordConfig(name="phantom_volumes", kind="volumes")
    estimate = estimate_memory(task, subject, (volumes,)) / 1e6
    assert measured_mb == pytest.approx(estimate, rel=0.2)


def test_memory_is_estimated_for_the_check_and_the_records(task, scans):
    """Scans of the task's voxel size: the check or the patches take most."""
    subject = next(s for s in find_subjects(task, "folder", scans).subjects if s.split == "train")
    num_voxels = math.prod(nib.load(subject.image_path).shape)
    patches, volumes = configs()
    assert estimate_memory(task, subject, (volumes,)) == 18 * num_voxels
    assert estimate_memory(task, subject, (patches, volumes)) == 24 * num_voxels
