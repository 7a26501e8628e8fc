"""The files of a whole folder of results: what its labels mean, and the volumes of all scans.

    labels_dseg.tsv          names and colours of the labels, as BIDS wants them
    labels_itksnap.txt       the same for ITK-SNAP
    labels_slicer.ctbl       for 3D Slicer
    labels_freesurfer.txt    for FreeSurfer
    volumes.csv              a row for each scan and class

A folder has the results of one set of labels: another model with other ones is refused. So the
labels are explained before the first label file is written. This module imports no TensorFlow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.prediction.results import WRITE_REMEDY, label_path, verdict_path
from mtseg.scans.formats.label_tables import (
    bids_text,
    freesurfer_text,
    itksnap_text,
    slicer_text,
)
from mtseg.system.atomic_files import atomic_write, lock_folder, parse_json, writing_to
from mtseg.system.text_table import format_csv, read_csv_text
from mtseg.tasks.label_table import LabelEntry

LABEL_TABLES = {
    "labels_dseg.tsv": bids_text,
    "labels_itksnap.txt": itksnap_text,
    "labels_slicer.ctbl": slicer_text,
    "labels_freesurfer.txt": freesurfer_text,
}
"""Name of each file that explains the labels -> what makes its text."""

VOLUMES = "volumes.csv"
"""The table of the volumes of all scans."""

VOLUMES_COLUMNS = (
    *("scan", "task", "class", "label", "num_voxels", "volume_ml"),
    *("label_file", "status", "warning"),
)


def refuse_other_labels(
    out: Path, table: Sequence[LabelEntry], may_replace: bool = False, stems: Iterable[Path] = ()
) -> None:
    """Refuses a folder whose files explain other labels, or have the names of these files.

    Args:
        out: folder of the results; it need not exist.
        table: the labels of the model.
        may_replace: whether to accept files for other labels, if no other scan has such labels.
        stems: of the scans whose results are replaced, relative to `out`.

    Raises:
        InputError: if the folder has such a file.
    """
    with writing_to(out, WRITE_REMEDY):
        for name, make_text in LABEL_TABLES.items():
            path = out / name
            if may_replace or not path.is_file() or _read(path) == make_text(table):
                continue
            raise InputError(
                f"{path}: describes other labels than those of this model. Use another folder for "
                "the results, or --overwrite."
            )
        path = out / VOLUMES
        if path.is_file() and not _read(path).startswith(",".join(VOLUMES_COLUMNS) + "\n"):
            raise InputError(
                f"{path}: is not a table that mtseg-predict wrote. Move it, or use another folder "
                "for the results."
            )
        if may_replace:
            _refuse_labels_of_others(out, table, stems)


def _refuse_labels_of_others(out: Path, table: Sequence[LabelEntry], stems: Iterable[Path]) -> None:
    """Refuses to explain anew the labels of scans whose results stay."""
    explained = {(entry.name, str(entry.label)) for entry in table}
    for stem in sorted(set(_listed_stems(out)) - set(stems)):
        columns = (dict(zip(VOLUMES_COLUMNS, row, strict=True)) for row in _volume_rows(out, stem))
        if {(row["class"], str(row["label"])) for row in columns} <= explained:
            continue
        raise InputError(
            f"{label_path(out / stem)}: has other labels than those of this model, and would be "
            "explained wrongly. Use another folder for the results, or --overwrite all its scans."
        )


def write_label_tables(out: Path, table: Sequence[LabelEntry], may_replace: bool) -> None:
    """Writes the files that explain the labels; the caller has locked the folder.

    Args:
        out: folder of the results.
        table: the labels of the model.
        may_replace: whether to replace files for other labels.

    Raises:
        InputError: if there are files for other labels, or a file cannot be written.
    """
    if not may_replace:  # or `refuse_other_labels` has looked at all scans of the command
        refuse_other_labels(out, table)
    with writing_to(out, WRITE_REMEDY):
        for name, make_text in LABEL_TABLES.items():
            _replace(out / name, make_text(table))


def write_folder_results(out: Path, stems: Iterable[Path], table: Sequence[LabelEntry]) -> None:
    """Writes the files of the folder; none if no scan has or had results.

    The table of volumes has the scans of this command and those that it has already, from their
    verdict files. So it is complete after a command was resumed, and several jobs may share it. The
    files that explain the labels are written if they are missing and a scan of this command has
    labels.

    Args:
        out: folder of the results.
        stems: of the command's scans, relative to `out`.
        table: the labels of the model.

    Raises:
        InputError: if a file cannot be written.
    """
    stems = list(stems)
    has_labels = any(_is_written(out / stem) for stem in stems)
    if not has_labels and not (out / VOLUMES).is_file():
        return
    with writing_to(out, WRITE_REMEDY), lock_folder(out):
        for name, make_text in LABEL_TABLES.items() if has_labels else ():
            if not (out / name).is_file():
                _replace(out / name, make_text(table))
        listed = {*stems, *_listed_stems(out)}
        rows = [row for stem in sorted(listed) for row in _volume_rows(out, stem)]
        _replace(out / VOLUMES, format_csv(VOLUMES_COLUMNS, rows))


def _is_written(stem: Path) -> bool:
    return label_path(stem).is_file() and verdict_path(stem).is_file()


def _listed_stems(out: Path) -> list[Path]:
    """The stems of the scans in the table of volumes that is there."""
    path = out / VOLUMES
    if not path.is_file():
        return []
    ending = label_path(Path("x")).name.removeprefix("x")
    return [
        Path(read_csv_text(row["label_file"]).removesuffix(ending))
        for row in csv.DictReader(io.StringIO(_read(path), newline=""))
        if (row.get("label_file") or "").endswith(ending)
    ]


def _volume_rows(out: Path, stem: Path) -> list[tuple[Any, ...]]:
    """The rows of a scan, one per class; none if it has no results."""
    if not _is_written(out / stem):
        return []
    try:
        verdict = parse_json(verdict_path(out / stem).read_text())
        classes = verdict.get("classes")
        if classes is None:  # an earlier version wrote the classes that it found, without labels
            classes = [
                {"class": name, "volume_ml": round(volume_ml, 3)}
                for name, volume_ml in verdict["volumes_ml"].items()
            ]
        return [
            (
                verdict["scan"],
                *(of_class.get(key, "") for key in VOLUMES_COLUMNS[1:6]),
                str(label_path(stem)),
                verdict.get("status") or "",  # without a warning: ok, or not assessed
                verdict.get("warning") or "",
            )
            for of_class in classes
        ]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []  # not a verdict file: such a scan counts as not done


def _read(path: Path) -> str:
    # Names of files need not be text: such bytes are read and written as they are.
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _replace(path: Path, text: str) -> None:
    """Writes a text file atomically, unless it has the text already."""
    if path.is_file() and _read(path) == text:
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
