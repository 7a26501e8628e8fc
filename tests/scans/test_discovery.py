"""Scans named by files, folders and lists, and how jobs share them."""

from pathlib import Path

import pytest

from mtseg.errors import InputError
from mtseg.scans.discovery import ListedScan, list_scans, take_part


@pytest.fixture
def archive(tmp_path):
    """Scans, DICOM series with and without endings, and files that are not scans."""
    for name in (
        "b/two.nii.gz", "a/one.mha", "zero.nii", "a/notes.txt", "a/.hidden.nii", ".cache/x.nii",
        "series/1.dcm", "series/2.dcm", "old/1.2.840.1",
    ):  # fmt: skip
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if name.startswith("old") else b"")
    return tmp_path / "archive"


def test_a_folder_is_searched_and_its_tree_kept(archive):
    found = {str(scan.path.relative_to(archive)): str(scan.stem) for scan in list_scans([archive])}
    assert found == {
        "zero.nii": "zero",
        "a/one.mha": "a/one",
        "b/two.nii.gz": "b/two",
        "series": "series",
        "old": "old",
    }


def test_files_and_series_are_scans_themselves(archive):
    named = [archive / "b/two.nii.gz", archive / "series", archive / "old", archive / "missing.nii"]
    assert list_scans(named) == [ListedScan(path, Path()) for path in named]


def test_a_list_names_files_and_folders_and_each_scan_counts_once(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list_file = tmp_path / "list.txt"
    list_file.write_text("# my scans\narchive/b\n\narchive/a/one.mha\narchive/a/one.mha\n")
    scans = list_scans([list_file])
    assert [str(scan.path) for scan in scans] == ["archive/b/two.nii.gz", "archive/a/one.mha"]


@pytest.mark.parametrize(
    ("named", "stem"),
    [((".", "b"), "b/two"), (("b", "."), "two"), (("b/two.nii.gz", "b", "./b/../b"), "two")],
)
def test_a_scan_that_is_named_twice_has_one_place_for_its_results(archive, named, stem):
    scans = list_scans([archive / name for name in named])
    (scan,) = (scan for scan in scans if scan.path.name == "two.nii.gz")
    assert str(scan.stem) == stem


def test_two_links_to_one_file_are_two_scans(archive):
    """Each has a name of its own, and so have its results."""
    (archive / "b" / "three.nii.gz").symlink_to(archive / "b" / "two.nii.gz")
    assert [scan.stem.name for scan in list_scans([archive / "b"])] == ["three", "two"]


def test_two_scans_of_one_name_are_refused(archive):
    (archive / "zero.nii.gz").write_bytes(b"")
    paths = [scan.path.name for scan in list_scans([archive], may_share_names=True)]
    assert {"zero.nii", "zero.nii.gz"} <= set(paths)  # each has a folder of its own there
    with pytest.raises(InputError, match="would share its results"):
        list_scans([archive])


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read as a list"), ("# none\n", "lists no scan"), ("empty\n", "no scan")],
)
def test_a_list_or_a_folder_without_scans_is_one_clear_line(
    tmp_path, monkeypatch, content, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(InputError, match=expected):
        list_scans([tmp_path / "list.txt"])


def test_parts_are_all_scans_once_and_nearly_equal():
    scans = [ListedScan(Path(f"{n}.nii"), Path()) for n in range(7)]
    parts = [take_part(scans, 3, part) for part in range(3)]
    assert sorted(scan for part in parts for scan in part) == scans
    assert [len(part) for part in parts] == [3, 2, 2]
    for part_id in (-1, 3):
        with pytest.raises(InputError, match="--part-id"):
            take_part(scans, 3, part_id)


def test_results_of_earlier_commands_are_not_scans(tmp_path):
    """The folder of results is in the searched folder, or results are beside their scans."""
    for name in ("p1.nii.gz", "out/p1_labels.nii.gz", "out/p1_verdict.json", "p2_labels.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [scan.path.name for scan in list_scans([tmp_path], tmp_path / "out")]
    assert found == ["p1.nii.gz", "p2_labels.nii.gz"]  # without a verdict it is a scan
    assert [s.path.name for s in list_scans([tmp_path])] == ["p1.nii.gz", "p2_labels.nii.gz"]


def test_the_segmentation_of_a_series_does_not_make_its_folder_a_series(tmp_path):
    """Results of the series `person/scan`, written beside it with --dicom-seg."""
    for name in ("scan/1.dcm", "scan_labels.dcm", "scan_labels.nii.gz", "scan_verdict.json"):
        (tmp_path / "person" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "person" / name).touch()
    for folder, place in ((tmp_path / "person", "."), (tmp_path, "person")):
        found = list_scans([folder])
        assert found == [ListedScan(tmp_path / "person" / "scan", Path(place))]


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "real" / "s1").mkdir(parents=True)
    (tmp_path / "real" / "s1" / "a.nii.gz").touch()
    (tmp_path / "real" / "s1" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "s1").symlink_to(tmp_path / "real" / "s1")
    found = list_scans([tmp_path / "links"])
    assert [scan.stem for scan in found] == [Path("s1/a")]


def test_endings_in_capitals_and_hidden_files(tmp_path):
    for name in ("A.NII.GZ", "B.Nrrd", "._A.NII.GZ", ".hidden.nii"):
        (tmp_path / name).touch()
    assert [scan.stem.name for scan in list_scans([tmp_path])] == ["A", "B"]


def test_a_list_that_windows_wrote(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    text = f"{tmp_path / 'a.nii.gz'}  \r\n\r\n# a comment\r\n  # another\r\n"
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [scan.path.name for scan in list_scans([tmp_path / "list.txt"])] == ["a.nii.gz"]


@pytest.mark.parametrize("name", [".", "../series", "sub/..", ".."])
def test_the_results_of_a_series_have_the_name_of_its_folder(archive, monkeypatch, name):
    (archive / "series" / "sub").mkdir()
    monkeypatch.chdir(archive / "series" / ("sub" if name == ".." else ""))
    (scan,) = list_scans([Path(name)], Path("out"))
    assert str(scan.stem) == "series"
    assert scan.path.samefile(archive / "series")
