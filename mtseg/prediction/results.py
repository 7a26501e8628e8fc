"""The result files of a scan: their names, writing them, and whether they exist already.

The verdict file of a scan, written last, records what its results were made from. So a job that was
killed resumes with the remaining scans, and a changed scan, model or option is computed again. This
module imports no TensorFlow, so a command can look for finished scans before it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.errors import InputError
from mtseg.system.atomic_files import parse_json, write_json, writing_to
from mtseg.system.checksums import file_checksum

if TYPE_CHECKING:
    from mtseg.inference.verdict import Assessment, ScanStatistics
    from mtseg.prediction.options import Options
    from mtseg.prediction.outcome import Segmentation

WRITE_REMEDY = "Make room or use another folder for the results."
"""What to do if a result file cannot be written."""

PROBABILITY_STEPS = 255
"""The stored value of probability 1."""


@dataclasses.dataclass(frozen=True)
class ScanResults:
    """The results of a scan that were written.

    Attributes:
        label_path: the label file; None if the labels were withheld.
        verdict_path: the verdict on the labels, as JSON.
        volumes_ml: class name -> volume, rounded to 0.001 ml, for every class of the model; empty
            if the labels were withheld.
        statistics: sums over the scan's voxels, from which the verdict was made.
        verdict: whether to trust the labels.
        notes: what was decided about the scan: its voxel size, its intensities, and what
            post-processing changed.
    """

    label_path: Path | None
    verdict_path: Path
    volumes_ml: dict[str, float]
    statistics: ScanStatistics
    verdict: Assessment
    notes: tuple[str, ...] = ()

    @property
    def is_withheld(self) -> bool:
        """Whether there is no label file, because of a warning."""
        return self.label_path is None

    def headline(self, path: Path) -> str:
        """One line on a scan that begins with its state.

        Args:
            path: the scan.
        """
        verdict = self.verdict
        if self.label_path is None:
            return f"WARNING {path}: labels withheld (--strict): {verdict.warning}"
        place = f"{path} -> {self.label_path}"
        if verdict.warning:
            return f"WARNING {place}: {verdict.warning}"
        if verdict.not_assessed:
            return f"not assessed {place}: {verdict.not_assessed}; {verdict.describe()}"
        return f"ok {place}: {verdict.describe()}"

    def details(self) -> list[str]:
        """The lines that follow the first one."""
        volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in self.volumes_ml.items() if ml)
        lines = [self.verdict.describe()] if self.verdict.warning else []
        lines += [volumes, self.verdict.describe_confidence(), *self.notes]
        return [line for line in [*lines, f"details: {self.verdict_path}"] if line]


def label_path(stem: Path) -> Path:
    """The label file of a scan.

    Args:
        stem: folder of the results and name of the scan, without an ending.
    """
    return stem.with_name(f"{stem.name}_labels.nii.gz")


def unprocessed_path(stem: Path) -> Path:
    """The label file of a scan before post-processing; `stem` as for `label_path`."""
    return stem.with_name(f"{stem.name}_labels_unprocessed.nii.gz")


def verdict_path(stem: Path) -> Path:
    """The verdict file of a scan; `stem` as for `label_path`."""
    return stem.with_name(f"{stem.name}_verdict.json")


def probabilities_path(stem: Path) -> Path:
    """The file of a scan's class probabilities; `stem` as for `label_path`."""
    return stem.with_name(f"{stem.name}_probabilities.nii.gz")


def preview_path(stem: Path) -> Path:
    """The picture of a scan with its labels; `stem` as for `label_path`."""
    return stem.with_name(f"{stem.name}_preview.png")


def dicom_seg_path(stem: Path) -> Path:
    """The DICOM segmentation of a scan; `stem` as for `label_path`."""
    return stem.with_name(f"{stem.name}_labels.dcm")


_RESULT_PATHS = (
    *(label_path, unprocessed_path, verdict_path),
    *(probabilities_path, preview_path, dicom_seg_path),
)
"""The path of each result of a scan."""


def describe_scan_files(path: Path) -> dict[str, Any]:
    """The files of a scan as plain values: their size and time of modification.

    Voxels are not read for it.

    Args:
        path: the scan: a file or the folder of a DICOM series.

    Raises:
        OSError: if it is missing.
    """
    from mtseg.scans.reading import scan_files

    states = [file.stat() for file in scan_files(path)]
    return {
        "scan_path": str(path.resolve()),
        "scan_bytes": sum(state.st_size for state in states),
        "scan_modified_ns": max((state.st_mtime_ns for state in states), default=0),
    }


def made_from(
    files: Mapping[str, Any], model: Mapping[str, Any], precision: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides the results of a scan, as plain values.

    Args:
        files: from `describe_scan_files`, before the scan was read.
        model: from `mtseg.models.loading.ExportedModel.identify`; `model_id` is None if the model
            cannot be told from others.
        precision: of the convolutions.
        options: from `mtseg.prediction.options.Options.deciding`.
    """
    return {**files, **model, "precision": precision, **options}


def refuse_results_that_are_scans(stems: Mapping[Path, Path]) -> None:
    """Refuses to replace or remove a scan that is to be segmented itself.

    Args:
        stems: scan -> as for `label_path`.

    Raises:
        InputError: if a scan has the name of a result of another one.
    """
    scans = {path.resolve() for path in stems}
    for path, stem in stems.items():
        for path_of in _RESULT_PATHS:
            if (result := path_of(stem)).resolve() in scans:
                raise InputError(
                    f"{result}: is one of the scans, and would be replaced or removed by the "
                    f"results of {path}. Leave it out, or give another folder for the results (-o)."
                )


def refuse_other_scan(stem: Path, path: Path) -> None:
    """Refuses to replace the results of another scan of the same name, and files of the user's.

    Raises:
        InputError: if the verdict file belongs to a scan at another path, the label file was
            changed since it was written, or there is no verdict file and one of the other files is
            not known to be of mtseg.
    """
    if not verdict_path(stem).exists() and (foreign := _find_foreign(stem)):
        raise InputError(
            f"{foreign}: was not written by mtseg, as far as it can tell, and would be replaced or "
            "removed. Give a folder for the results (-o), or --overwrite."
        )
    stored = _read_verdict(stem)
    try:
        other = stored["made_from"]["scan_path"]
    except (KeyError, TypeError):
        return  # no results, or those of a version that did not record the path
    if other != str(path.resolve()):
        raise InputError(
            f"{label_path(stem)}: belongs to another scan, {other}. Use another folder for the "
            "results, or --overwrite."
        )
    written = stored.get("labels_sha256")  # earlier versions did not record it
    if written and label_path(stem).is_file() and file_checksum(label_path(stem)) != written:
        raise InputError(
            f"{label_path(stem)}: was changed since mtseg wrote it, and would be replaced. Rename "
            "it, or give another folder for the results (-o), or --overwrite."
        )


def _find_foreign(stem: Path) -> Path | None:
    """The first result file that no command of mtseg has left; None if there is none."""
    labels, probabilities = label_path(stem), probabilities_path(stem)
    if labels.exists():
        return None if _is_own(labels, _has_label_table) else labels
    # A command writes these after the labels, and the probabilities before them.
    for path in (unprocessed_path(stem), preview_path(stem), dicom_seg_path(stem)):
        if path.exists():
            return path
    is_left = not probabilities.exists() or _is_own(probabilities, _has_steps)
    return None if is_left else probabilities


def _is_own(path: Path, is_such: Callable[[Any], bool]) -> bool:
    """Whether a file is a NIfTI image as mtseg writes it."""
    import nibabel as nib

    from mtseg.scans.reading import UNREADABLE

    try:
        return is_such(nib.load(path))
    except (*UNREADABLE, TypeError, AttributeError):
        return False


def _has_label_table(image: Any) -> bool:
    """Whether its header has a table of names for each kind of reader; others write one of them."""
    from mtseg.scans.formats.label_tables import EXTENSION_CODES

    tables = [each for each in image.header.extensions if b"<LabelTable>" in each.content]
    return {each.get_code() for each in tables} >= set(EXTENSION_CODES)


def _has_steps(image: Any) -> bool:
    return bool(image.ndim == 4 and abs(image.dataobj.slope * PROBABILITY_STEPS - 1) < 1e-3)


def is_done(stem: Path, wanted: Mapping[str, Any], is_strict: bool = False) -> bool:
    """Whether a scan's results exist and were made from the same scan, model and options.

    Args:
        stem: as for `label_path`.
        wanted: from `made_from`. Results of a model without an identifier are never done.
        is_strict: whether labels with a warning are withheld. Withheld labels are done only then,
            and labels with a warning only if not.
    """
    stored = _read_verdict(stem)
    if wanted["model_id"] is None or stored.get("made_from") != wanted:
        return False
    if stored.get("labels_withheld"):
        return is_strict
    files = [label_path(stem)]
    if wanted.get("use_probabilities"):
        files.append(probabilities_path(stem))
    if wanted.get("use_dicom_seg"):
        files.append(dicom_seg_path(stem))
    return all(file.is_file() for file in files) and not (is_strict and stored.get("warning"))


def has_all_results(
    stem: Path, path: Path, model: Mapping[str, Any], precision: str, options: Options
) -> bool:
    """Whether a command with these options has nothing to do for a scan.

    Args:
        stem: as for `label_path`.
        path: the scan; it need not exist.
        model: as for `made_from`.
        precision: likewise.
        options: how it would be segmented.
    """
    if not path.exists():
        return False
    made = made_from(describe_scan_files(path), model, precision, options.deciding())
    if not is_done(stem, made, options.is_strict):
        return False
    return not options.use_preview or preview_path(stem).is_file() or is_withheld(stem)


def is_withheld(stem: Path) -> bool:
    """Whether the labels of a scan were withheld, because of a warning."""
    return bool(_read_verdict(stem).get("labels_withheld"))


def _read_verdict(stem: Path) -> dict[str, Any]:
    """What the verdict file of a scan has; empty if there is none that can be read."""
    try:
        stored = parse_json(verdict_path(stem).read_text())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def write_results(segmentation: Segmentation, stem: Path) -> ScanResults:
    """Writes the label file, the DICOM segmentation and the preview if asked for, and the verdict.

    If the options are strict and there is a warning, only the verdict is written, and what earlier
    commands wrote of the scan is removed.

    Args:
        segmentation: the labels of the scan and all that is known about them.
        stem: as for `label_path`; its folder exists.

    Returns:
        What was written.

    Raises:
        InputError: if a file cannot be written. Then there is no verdict file, so the scan does not
            count as done.
    """
    from mtseg.scans.label_files import write_label_map

    scan, model, options = segmentation.scan, segmentation.model, segmentation.options
    labels, table = segmentation.labels, model.label_table
    verdict, volumes_ml = segmentation.assessment, segmentation.volumes_ml
    is_withheld = options.is_strict and verdict.warning is not None
    content = segmentation.to_json()
    if is_withheld:
        volumes_ml = {}
        withheld = f"--strict: {verdict.warning}"
        content |= {"volumes_ml": {}, "classes": [], "labels_withheld": withheld}
    content["made_from"] = made_from(
        scan.files, model.identify(), model.network.precision, options.deciding()
    )
    with writing_to(stem, WRITE_REMEDY):
        # The verdict is removed first and written last: it says that all other files are complete.
        # Those that are not written again must not stay: they may show other labels.
        stale = [
            *(verdict_path(stem), preview_path(stem)),
            *(dicom_seg_path(stem), unprocessed_path(stem)),
        ]
        if is_withheld:
            stale.append(label_path(stem))
        if is_withheld or not options.use_probabilities:
            stale.append(probabilities_path(stem))
        for path in stale:
            path.unlink(missing_ok=True)
        if not is_withheld:
            write_label_map(label_path(stem), labels, scan.prepared.source, table)
            if segmentation.unprocessed is not None:
                write_label_map(
                    unprocessed_path(stem), segmentation.unprocessed, scan.prepared.source, table
                )
        if options.use_dicom_seg and not is_withheld:
            from mtseg.scans.dicom_seg import write_dicom_seg

            write_dicom_seg(dicom_seg_path(stem), labels, scan.path, table)
        if options.use_preview and not is_withheld:
            segmentation.preview().save(preview_path(stem))
        content["labels_sha256"] = None if is_withheld else file_checksum(label_path(stem))
        write_json(verdict_path(stem), content)
    return ScanResults(
        None if is_withheld else label_path(stem),
        verdict_path(stem),
        volumes_ml,
        segmentation.statistics,
        verdict,
        segmentation.notes,
    )
