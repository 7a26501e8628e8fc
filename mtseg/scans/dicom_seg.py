"""Writing the labels of a DICOM series as a DICOM SEG, which viewers show over the series.

Reference: DICOM PS3.3, A.51 (Segmentation IOD), written by highdicom.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import mtseg
from mtseg.errors import InputError
from mtseg.scans.formats.dicom import open_series
from mtseg.scans.formats.dicom_files import read_header
from mtseg.system.atomic_files import atomic_write, writing_to

_CODING_SCHEME = "99MTSEG"
"""A private scheme, because the classes of a task need not have a code of a public one."""


def write_dicom_seg(
    path: Path, labels: npt.NDArray[np.uint8], series_path: Path, class_names: Sequence[str]
) -> None:
    """Writes labels as a DICOM SEG that refers to the slices of its series.

    Args:
        path: the file. It appears whole, by an atomic write.
        labels: uint8 (columns, rows, slices) in the order of
            `mtseg.scans.formats.dicom.open_series`; 0 is background.
        series_path: the folder or file of the scan.
        class_names: name of each label, background first. Labels that occur become segments. If
            none occurs, all become segments without a voxel.

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
    found = [n for n in range(1, len(class_names)) if (labels == n).any()]
    found = found or list(range(1, len(class_names)))
    masks = np.stack([labels == n for n in found], axis=-1).astype(np.uint8)
    pixels = masks.transpose(2, 1, 0, 3)
    if len(sources) == 1:  # highdicom expects frames in the order of their file
        pixels = pixels[np.argsort([frame.number for frame in series.frames])]
    algorithm = hd.AlgorithmIdentificationSequence(
        name="mtseg", version=mtseg.__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=class_names[n].replace("_", " "),
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=hd.sr.CodedConcept(
                class_names[n][:16], _CODING_SCHEME, class_names[n].replace("_", " ")[:64]
            ),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, n in enumerate(found, start=1)
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
