"""The names and colours of labels, in the formats of other programs.

Use these functions to show labels by name: in the header of a label file (Connectome Workbench and
whoever reads what TotalSegmentator writes), in ITK-SNAP, 3D Slicer, FreeSurfer, and by BIDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import nibabel as nib

from mtseg.tasks.label_table import LabelEntry

EXTENSION_CODES = 0, 30
"""Codes of the NIfTI header extensions with names and colours. Both have the same content:
TotalSegmentator writes and reads code 0, Connectome Workbench code 30 (Caret, its predecessor)."""

_ITKSNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def make_extensions(table: Sequence[LabelEntry]) -> list[nib.nifti1.Nifti1Extension]:
    """NIfTI header extensions with the names and colours of labels.

    Their XML is the label table of Connectome Workbench, which also TotalSegmentator writes. The
    background is not in it: a reader has it by itself.
    """
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    labels = ElementTree.SubElement(volume, "LabelTable")
    for entry in _by_label(table):
        red, green, blue = (f"{channel / 255:.6g}" for channel in entry.rgb)
        attributes = {"Key": str(entry.label), "Red": red, "Green": green, "Blue": blue}
        ElementTree.SubElement(labels, "Label", attributes, Alpha="1").text = entry.name
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    content = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return [nib.nifti1.Nifti1Extension(code, content) for code in EXTENSION_CODES]


def itksnap_text(table: Sequence[LabelEntry]) -> str:
    """A label description file of ITK-SNAP (Segmentation > Import Label Descriptions)."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for entry in _by_label(table):
        red, green, blue = entry.rgb
        title = entry.title.replace('"', "'")
        lines.append(
            f"{entry.label:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "
            f'"{" ".join(title.split())}"'
        )
    return _ITKSNAP_HEADER + "\n".join(lines) + "\n"


def slicer_text(table: Sequence[LabelEntry]) -> str:
    """A colour table of 3D Slicer (`.ctbl`); 255 is opaque.

    Slicer shows underscores in a name as spaces.
    """
    return "# Color table file\n" + _color_lines(table, opaque=255)


def freesurfer_text(table: Sequence[LabelEntry]) -> str:
    """A colour table of FreeSurfer, as `FreeSurferColorLUT.txt` is; 0 is opaque.

    The last column is transparency there, so the colour table of Slicer would be invisible.
    """
    return "#No. Label Name: R G B A\n" + _color_lines(table, opaque=0)


def bids_text(table: Sequence[LabelEntry]) -> str:
    """The tab-separated table that BIDS wants beside a discrete segmentation (`dseg.tsv`)."""
    rows = [("index", "name", "color"), ("0", "background", "#000000")]
    rows += [(str(entry.label), entry.name, entry.color) for entry in _by_label(table)]
    return "".join("\t".join(row) + "\n" for row in rows)


def _color_lines(table: Sequence[LabelEntry], opaque: int) -> str:
    """Number, name and colour of each label, one per line."""
    rows = [(0, "background", (0, 0, 0), 0)]
    rows += [(entry.label, entry.name, entry.rgb, opaque) for entry in _by_label(table)]
    return "".join(
        f"{label} {name} {red} {green} {blue} {alpha}\n"
        for label, name, (red, green, blue), alpha in rows
    )


def _by_label(table: Sequence[LabelEntry]) -> list[LabelEntry]:
    return sorted(table, key=lambda entry: entry.label)
