"""Other programs' tables of labels: read back by their own parsers or by the documented grammar."""

import csv
import re
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from mtseg.scans.formats.label_tables import bids_text, freesurfer_text, itksnap_text, slicer_text
from mtseg.scans.label_files import read_label_map, write_label_map
from mtseg.scans.volume import Volume
from mtseg.sources.layouts.bids import find_bids
from mtseg.tasks.label_space import parse_tasks
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import TissueClass

TABLE = parse_tasks("cta,brain").label_table  # in ascending order in files, whatever the network's


def test_nibabel_reads_names_and_colours_from_the_header(tmp_path):
    labels = np.arange(24).reshape(2, 3, 4) % 9
    for name in ("a.nii", "a.nii.gz"):
        write_label_map(tmp_path / name, labels, Volume(labels, np.diag([1, 2, 3, 1.0])), TABLE)
        image = nib.load(tmp_path / name)
        first, second = image.header.extensions
        # TotalSegmentator reads the content of the first, Connectome Workbench that of code 30.
        assert (first.get_code(), second.get_code()) == (0, 30)
        assert first.get_content() == second.content
        volume = ElementTree.fromstring(first.get_content()).find("VolumeInformation")
        assert volume.get("Index") == "0"
        assert volume.findtext("VolumeType") == "Label"
        read = {int(label.get("Key")): label.text for label in volume.iter("Label")}
        assert read == {entry.label: entry.name for entry in TABLE}
        for label in volume.iter("Label"):
            entry = next(e for e in TABLE if e.label == int(label.get("Key")))
            rgb = [255 * float(label.get(name)) for name in ("Red", "Green", "Blue")]
            np.testing.assert_allclose(rgb, entry.rgb, atol=1e-3)
            assert label.get("Alpha") == "1"
        # The voxels are where the extension ends, and every other reader of this package copes.
        np.testing.assert_array_equal(image.dataobj, labels)
        np.testing.assert_array_equal(read_label_map(tmp_path / name).array, labels)


def test_another_library_finds_the_voxels_behind_the_extension(tmp_path):
    import SimpleITK as sitk

    labels = np.arange(24).reshape(2, 3, 4) % 9
    write_label_map(tmp_path / "a.nii.gz", labels, Volume(labels, np.diag([1, 2, 3, 1.0])), TABLE)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_array_equal(read.transpose(2, 1, 0), labels)


def test_names_with_special_characters_are_still_xml(tmp_path):
    table = make_label_table([("a", TissueClass("x", 'Grey & "white" <matter>'))])
    labels = np.ones((2, 2, 2), int)
    write_label_map(tmp_path / "a.nii", labels, Volume(labels, np.eye(4)), table)
    content = nib.load(tmp_path / "a.nii").header.extensions[0].get_content()
    assert ElementTree.fromstring(content).find(".//Label").text == "x"
    assert "\"Grey & 'white' <matter>\"" in itksnap_text(table)


def test_itksnaps_grammar():
    """Eight fields: index, red, green, blue, alpha from 0 to 1, two flags, and a quoted title."""
    lines = [line for line in itksnap_text(TABLE).splitlines() if not line.startswith("#")]
    number = r"\s+(\d+)"
    grammar = re.compile(rf'\s*(\d+){3 * number}\s+([01]|[01]\.\d+)\s+([01])\s+([01])\s+"([^"]*)"')
    read = [grammar.fullmatch(line).groups() for line in lines]
    assert read[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
    assert [int(label) for label, *_ in read] == [0, 1, 2, 3, 4, 5, 6, 8]
    assert read[-1] == ("8", "153", "221", "255", "1", "1", "1", "Coronary arteries")


def read_colors(text):
    """As FreeSurfer (`%d %s %d %d %d %d`) and Slicer (a stream of words) read a line."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 6 for row in rows)
    return {int(label): (name, *map(int, rgba)) for label, name, *rgba in rows}


def test_slicer_and_freesurfer_have_the_same_colours_and_opposite_alphas():
    slicer, freesurfer = read_colors(slicer_text(TABLE)), read_colors(freesurfer_text(TABLE))
    assert slicer[8] == ("coronary_arteries", 153, 221, 255, 255)  # 255 is opaque
    assert freesurfer[8] == ("coronary_arteries", 153, 221, 255, 0)  # 0 is not transparent
    assert slicer[0] == freesurfer[0] == ("background", 0, 0, 0, 0)
    assert list(slicer) == list(freesurfer) == [0, 1, 2, 3, 4, 5, 6, 8]
    assert all(slicer[label][:4] == freesurfer[label][:4] for label in slicer)


def test_the_bids_table_has_the_required_columns():
    rows = list(csv.DictReader(bids_text(TABLE).splitlines(), delimiter="\t"))
    assert [(row["index"], row["name"]) for row in rows[:2]] == [
        ("0", "background"),
        ("1", "white_matter"),
    ]
    assert rows[-1] == {"index": "8", "name": "coronary_arteries", "color": "#99DDFF"}
    assert all(re.fullmatch("#[0-9A-F]{6}", row["color"]) for row in rows)


def test_a_bids_data_set_with_this_table_is_read(tmp_path):
    for name in ("sub-1/anat/sub-1_T1w.nii.gz", "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "derivatives/m/dseg.tsv").write_text(bids_text(TABLE))
    assert find_bids(tmp_path).label_names["coronary_arteries"] == (8,)
