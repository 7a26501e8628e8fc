"""The layout of the ACDC challenge: the heart in cine MR, a folder for each patient.

A patient has two labelled frames of a film, the end of diastole (ED) and of systole (ES), and
`Info.cfg` says which. So a patient is two subjects, and one person.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from mtseg.errors import InputError
from mtseg.scans.reading import scan_stem
from mtseg.sources.layouts.dataset_files import (
    DatasetFiles,
    SubjectFiles,
    list_scan_files,
    list_subfolders,
)

INFO = "Info.cfg"
"""The file of a patient's folder with the lines `ED: 1` and `ES: 12`, among others."""

_SIDES: tuple[tuple[str, str | None], ...] = (("training", "train"), ("testing", "test"))
"""The challenge's folders of patients, and the split that each is."""

_PATIENT = re.compile(r"patient\d+")


def find_acdc(folder: Path) -> DatasetFiles:
    """`patientNNN/patientNNN_frameFF.nii.gz` beside `patientNNN_frameFF_gt.nii.gz`.

    The patients are in `training/` and `testing/`, which are the split, or in the folder itself.
    `testing/` is left out if it has no label map, as in the challenge's first years. The film,
    `patientNNN_4d.nii.gz`, is not used.

    Args:
        folder: of the data set, or the one above its folder `database`.

    Raises:
        InputError: if an `Info.cfg` does not name the two frames.
    """
    folder = folder / "database" if (folder / "database").is_dir() else folder
    sides = [(folder / name, split) for name, split in _SIDES if (folder / name).is_dir()]
    subjects: list[SubjectFiles] = []
    unused: list[Path] = []
    for side, split in sides or [(folder, None)]:
        patients = [path for path in list_subfolders(side) if _PATIENT.fullmatch(path.name)]
        found = [_find_frames(patient, split) for patient in patients]
        frames = [files for of_patient, _ in found for files in of_patient]
        if split == "test" and not any(files.label_maps for files in frames):
            continue
        subjects += frames
        unused += [path for _, others in found for path in others]
    return DatasetFiles(tuple(subjects), unused=tuple(unused))


def _find_frames(patient: Path, split: str | None) -> tuple[list[SubjectFiles], list[Path]]:
    """The frames of a patient, complete or not, and scan files of other names."""
    name = patient.name
    files: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    others = []
    for path in list_scan_files(patient):
        match = re.fullmatch(rf"({name}_frame\d+)(_gt)?", scan_stem(_named_after(path, patient)))
        if match is not None:
            files[match[1]][1 if match[2] else 0].append(path)
        elif scan_stem(path) != f"{name}_4d":
            others.append(path)
    for frame in _read_frames(patient / INFO):
        _ = files[f"{name}_frame{frame:02d}"]  # missing files are an issue of this subject
    subjects = [
        SubjectFiles(subject, tuple(scans), tuple(label_maps), split)
        for subject, (scans, label_maps) in sorted(files.items())
    ]
    return subjects, others


def _named_after(path: Path, patient: Path) -> Path:
    """The entry of a patient's folder that a file is, or is in."""
    return path if path.parent == patient else path.parent


def _read_frames(path: Path) -> tuple[int, ...]:
    """The frames of the end of diastole and of systole; none if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Restore or remove it.") from error
    numbers = dict(re.findall(r"^(ED|ES): *(\d+) *$", text, re.MULTILINE))
    if set(numbers) != {"ED", "ES"}:
        raise InputError(
            f"{path}: lacks the lines ED: N and ES: N, which number the labelled frames. Restore "
            "it, or remove it to use the frames that are there."
        )
    return int(numbers["ED"]), int(numbers["ES"])
