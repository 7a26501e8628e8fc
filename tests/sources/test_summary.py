"""The summary of a check: figures that a person can verify on a few small scans."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from mtseg.cli import check
from mtseg.scans.volume import Volume
from mtseg.sources.scan_figures import measure_scan
from tests.layout_files import AFFINE, write, write_task

SIZES = {"a": (4, 6, 8), "b": (4, 6, 8), "c": (5, 6, 8), "d": (4, 6, 10)}


@pytest.fixture
def data(tmp_path):
    """Four scans: intensities 1 to 100 times 1, 2, 3, 4; class 1 is a plane, class 2 one voxel."""
    folder = tmp_path / "data"
    for number, (name, shape) in enumerate(SIZES.items(), 1):
        image = (np.arange(np.prod(shape)).reshape(shape) % 100 + 1) * number
        labels = np.zeros(shape, np.uint8)
        labels[0] = 1
        if name != "b":
            labels[1, 0, 0] = 2
        write(folder / "images" / f"{name}.nii.gz", image.astype(np.int16))
        write(folder / "labels" / f"{name}.nii.gz", labels)
    (folder / "split.csv").write_text("subject,split\na,train\nb,train\nc,train\nd,test\n")
    write_task(tmp_path / "renal.toml")
    return folder


def run(capsys, folder, *flags):
    task = f"{folder.parent}/renal.toml:folder"
    code = check.main([task, str(folder), "--num-processes", "1", *flags])
    return code, capsys.readouterr().out


def row(text, title):
    """The cells of a table's row that begins with a title; cells are two spaces apart."""
    (line,) = [line for line in text.splitlines() if line.startswith(title)]
    return re.split(r" {2,}", line)[1:]


def test_the_summary_has_sizes_intensities_classes_and_the_split(data, capsys):
    code, text = run(capsys, data)
    assert code == 0
    assert "3 train, no validation, 1 test subjects (split.csv)" in text
    assert row(text, "size x (left-right), voxels") == ["4", "4", "5", "a", "c"]
    assert row(text, "size y (back-front), voxels") == ["6", "6", "6", "all"]
    assert row(text, "size z (down-up), voxels") == ["8", "8", "10", "a", "d"]
    assert row(text, "voxel z (down-up), mm") == ["1", "1", "1", "all"]
    assert row(text, "labels outside it, %") == ["0", "0", "0", "all"]
    assert row(text, "kidney") == ["1", "3 of 3", "1 of 1", "48", "48", "60", "23.6"]
    assert row(text, "cyst") == ["2", "2 of 3", "1 of 1", "1", "1", "1", "0.347"]
    assert text.splitlines()[-1] == "4 subjects read: 0 errors, 1 warnings."


def test_json_has_the_figures_of_every_subject(data, capsys):
    _, text = run(capsys, data, "--json")
    figures = {each["subject"]: each for each in json.loads(text)["figures"]}
    assert list(figures) == ["a", "b", "c", "d"]
    assert figures["d"]["split"] == "test"
    assert figures["d"]["shape_xyz"] == [4, 6, 10]
    assert figures["b"]["num_voxels"] == {"background": 144, "kidney": 48, "cyst": 0}
    # 192 voxels of 1 to 100: 92 values twice, the median is 48 or 49.
    assert figures["a"]["intensity_percentiles"]["50"] == pytest.approx(48.5, abs=1)
    assert figures["b"]["intensity_percentiles"]["50"] == pytest.approx(97, abs=2)


def test_a_file_that_cannot_be_read_is_left_out_of_the_figures(data, capsys):
    (data / "images" / "c.nii.gz").write_text("not a scan")
    code, text = run(capsys, data)
    assert code == 2
    assert row(text, "size x (left-right), voxels") == ["4", "4", "4", "all"]


def test_axes_are_those_of_the_world_and_intensities_those_of_the_file():
    """A scan stored as (z, x, y) with z downwards, offset by 50: its background is 50."""
    array = np.full((3, 4, 5), 50, np.float32)
    array[1, 1:3, 1:4] = 100
    affine = np.array([[0, 2.0, 0, 0], [0, 0, 3.0, 0], [-4.0, 0, 0, 0], [0, 0, 0, 1]])
    labels = np.zeros(array.shape, np.uint8)
    labels[1, 1, 1:4] = 1  # three voxels inside
    labels[0, 0, 0] = 2  # one outside
    figures = measure_scan(Volume(array, affine), labels)
    assert figures.shape == (4, 5, 3)
    assert figures.spacing_mm == pytest.approx((2, 3, 4))
    assert figures.percentiles == (100, 100, 100)
    assert figures.foreground_share == pytest.approx(6 / 60)
    assert figures.outside_share == pytest.approx(1 / 4)
    assert "its background is 50" in figures.note
    assert array[0, 0, 0] == 50  # not changed
    assert measure_scan(Volume(np.zeros((2, 2, 2), np.float32), AFFINE), None) is None


def test_small_figures_have_no_exponent(data, capsys):
    for path in (data / "images").iterdir():
        array = nib.load(path).get_fdata(dtype=np.float32)
        write(path, array * np.float32(2**-30))
    _, text = run(capsys, data)
    # 98 or more of the 100 values of the scans, times 1 and 4, times 2**-30.
    assert row(text, "intensity, 99 % below")[0].startswith("0.0000000")
    assert "e-" not in text.split("Intensities:")[0]


def test_a_warning_that_all_subjects_have_is_one_row(data, capsys):
    """Thick slices are as they are; a hundred rows of them would hide all else."""
    for kind in ("images", "labels"):
        for path in (data / kind).iterdir():
            array = np.asarray(nib.load(path).dataobj)
            write(path, array, np.diag([-1.0, -1.0, 9.0, 1.0]))
    code, text = run(capsys, data)
    assert code == 0
    (line,) = [line for line in text.splitlines() if "anisotropy" in line]
    assert "4 subjects" in line
    assert "The same: b, c, d." in line
    assert "0 errors, 5 warnings" in text


def test_real_data_sets_pass_and_flaws_in_a_copy_are_all_named(real_data, tmp_path, capsys):
    """Twelve subjects of the hippocampus, each spoilt in another way."""
    import nibabel as nib

    source = real_data / "hippocampus_msd"
    names = [path.name for path in sorted((source / "images").iterdir())[:16]]
    folder = tmp_path / "copy"
    scans = {}
    for name in names:
        for kind in ("images", "labels"):
            image = nib.load(source / kind / name)
            array = np.asarray(image.dataobj)
            array = array.astype(np.float32 if kind == "images" else np.uint8)
            scans[kind, name] = array, image.affine
            write(folder / kind / name, array, image.affine)
    stems = [name.removesuffix(".nii.gz") for name in names]
    rows = [f"{stem},{'test' if n > 12 else 'train'}" for n, stem in enumerate(stems)]
    (folder / "split.csv").write_text("\n".join(["subject,split", *rows, "ghost,train"]))

    def spoil(number, kind, change, affine=None):
        array, old = scans[kind, names[number]]
        write(
            folder / kind / names[number], change(array.copy()), old if affine is None else affine
        )

    spoil(0, "images", lambda a: np.where(a == a.max(), np.nan, a))
    spoil(1, "images", lambda a: a * 0)
    spoil(2, "labels", lambda a: a * 0)
    spoil(3, "labels", lambda a: np.where(a == 2, 7, a))
    spoil(4, "labels", lambda a: a[1:])
    spoil(5, "images", lambda a: np.where(scans["labels", names[5]][0] == 1, 0, a))
    (folder / "labels" / names[6]).unlink()
    (folder / "images" / names[7]).write_bytes((folder / "images" / names[7]).read_bytes()[:-999])
    spoil(8, "labels", lambda a: np.where(a == 1, 0, a))
    for kind in ("images", "labels"):
        spoil(9, kind, lambda a: a, np.diag([30.0, 30, 30, 1]))
    write(folder / "images" / names[13], *scans["images", names[10]])
    write(folder / "labels" / names[13], *scans["labels", names[10]])
    write(folder / "images" / "extra.nii.gz", *scans["images", names[11]])
    (tmp_path / "t.toml").write_text(HIPPOCAMPUS)
    command = [f"{tmp_path}/t.toml:folder", str(folder), "--num-processes", "1", "--json"]
    assert check.main(command) == 2
    flaws = json.loads(capsys.readouterr().out)["flaws"]
    found = {(flaw["kind"], flaw["subject"]) for flaw in flaws}
    assert found == {
        ("not_finite", stems[0]),
        ("blank", stems[1]),
        ("empty", stems[2]),
        ("labels", stems[3]),
        ("grid", stems[4]),
        ("outside", stems[5]),
        ("missing", stems[6]),
        ("unreadable", stems[7]),
        ("absent", stems[8]),
        ("spacing", stems[9]),
        ("duplicate", stems[10]),
        ("extra", ""),
        ("missing", ""),
    }


HIPPOCAMPUS = """
name = "hippocampus"
title = "Hippocampus"
modality = "MR"
citation = "none"
spacing = { rule = "fixed", mm = 1.0 }
decision = { rule = "argmax" }
classes = [
    { name = "anterior", title = "Anterior" },
    { name = "posterior", title = "Posterior" },
]
"""
