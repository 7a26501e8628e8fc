"""Writing the labels of a DICOM series as a DICOM SEG, which viewers show over the series.

Reference: DICOM PS3.3, A.51 (Segmentation IOD), written by highdicom.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import mtseg
from mtseg.errors import InputError
from mtseg.scans.formats.dicom import open_series
from mtseg.scans.formats.dicom_files import read_header
from mtseg.system.atomic_files import atomic_write, writing_to
from mtseg.tasks.label_table import LabelEntry
from mtseg.tasks.task import Code

if TYPE_CHECKING:
    import highdicom as hd

_PRIVATE_SCHEME = "99MTSEG"
"""The coding scheme of classes whose task file gives no code."""

_LONGEST_CODE = 16
"""Characters of a code's value (DICOM's type SH)."""


def write_dicom_seg(
    path: Path, labels: npt.NDArray[np.uint8], series_path: Path, table: Sequence[LabelEntry]
) -> None:
    """Writes labels as a DICOM SEG that refers to the slices of its series.

    Args:
        path: the file. It appears whole, by an atomic write.
        labels: uint8 (columns, rows, slices) in the order of
            `mtseg.scans.formats.dicom.open_series`; 0 is background.
        series_path: the folder or file of the scan.
        table: what the labels mean. Labels that occur become segments, in ascending order. If none
            occurs, all become segments without a voxel. DICOM numbers segments 1, 2, 3, … without a
            gap: these are the labels where those have no gap. The description of a segment states
            its label.

    Raises:
        InputError: if highdicom is missing, the series lacks a field that a SEG must repeat, or the
            file cannot be written.
    """
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise InputError(
            f"{path}: writing a DICOM SEG needs highdicom. Install it: pip install 'mtseg[dicom]'"
        ) from error
    series = open_series(series_path)
    sources = list(dict.fromkeys(frame.path for frame in series.frames))
    datasets = [read_header(source) for source in sources]
    table = sorted(table, key=lambda entry: entry.label)
    found = [entry for entry in table if (labels == entry.label).any()] or table
    masks = np.stack([labels == entry.label for entry in found], axis=-1).astype(np.uint8)
    pixels = masks.transpose(2, 1, 0, 3)
    if len(sources) == 1:  # highdicom expects frames in the order of their file
        pixels = pixels[np.argsort([frame.number for frame in series.frames])]
    algorithm = hd.AlgorithmIdentificationSequence(
        name="mtseg", version=mtseg.__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        _describe_segment(number, entry, code, algorithm)
        for number, (entry, code) in enumerate(zip(found, distinct_codes(found), strict=True), 1)
    ]
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    try:
        segmentation = hd.seg.Segmentation(
            source_images=datasets,
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=1000 + int(datasets[0].get("SeriesNumber") or 0),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="mtseg",
            manufacturer_model_name="mtseg",
            software_versions=mtseg.__version__,
            device_serial_number="0",
            series_description="mtseg segmentation",
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{series_path}: lacks a field that a DICOM SEG must repeat ({reason}). Give the "
            "series as the scanner wrote it, or leave out --dicom-seg."
        ) from error
    with writing_to(path, "Make room, or give another folder."), atomic_write(path) as temporary:
        segmentation.save_as(temporary)


def distinct_codes(table: Sequence[LabelEntry]) -> list[Code]:
    """A code for each class: that of the task file, or a private one made of the name.

    Classes of two tasks may have the same code, such as the liver in CT and in MR. Viewers would
    take them for one structure, so the second one gets a private code.
    """
    codes: list[Code] = []
    for entry in table:
        code = entry.code or _private_code(entry)
        if any((code.scheme, code.value) == (other.scheme, other.value) for other in codes):
            code = _private_code(entry)
        codes.append(code)
    return codes


def _private_code(entry: LabelEntry) -> Code:
    """A code that no class of another name has, also if the names are long and begin alike."""
    value = entry.name
    if len(value) > _LONGEST_CODE:
        checksum = hashlib.sha256(value.encode()).hexdigest()[:8]
        value = f"{value[: _LONGEST_CODE - 9]}-{checksum}"
    return Code(_PRIVATE_SCHEME, value, (entry.title.strip() or entry.name)[:64])


def _describe_segment(
    number: int, entry: LabelEntry, code: Code, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=entry.name.replace("_", " ")[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=hd.sr.CodedConcept(code.value, code.scheme, code.meaning),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*entry.rgb),
    )
    segment.SegmentDescription = f"{entry.title}; label {entry.label} in mtseg's label files"
    return segment
