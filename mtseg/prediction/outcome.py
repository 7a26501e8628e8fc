"""A scan's labels in memory, with everything that is known about them.

`mtseg.segment` returns a `Segmentation`, and `mtseg.prediction.results` writes one to files, so the
labels, volumes and verdict of both are the same.
"""

from __future__ import annotations

import dataclasses
import functools
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.verdict import VOXEL_SIZE_FACTOR, Assessment, ScanStatistics
from mtseg.tasks.label_table import to_labels

if TYPE_CHECKING:
    import nibabel as nib

    from mtseg.inference.postprocessing import Change
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.options import Options
    from mtseg.prediction.preview import Picture
    from mtseg.prediction.scan import LoadedScan
    from mtseg.prediction.segmentation import SegmentedScan


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The labels of a scan and the verdict on them.

    Attributes:
        labels: uint8 (i, j, k) on the scan's own grid: 0 is background, the other values are those
            of the task files, as in label files.
        names: label -> name of its class, for every class of the model.
        num_voxels: name of a class -> its number of voxels, for every class of the model.
        volumes_ml: name of a class -> its volume, rounded to 0.001 ml, likewise.
        assessment: whether to trust the labels: `assessment.status` is `ok`, `warning` or `not
            assessed`, `assessment.task` the recognised task.
        probabilities: float32 (i, j, k, classes) on the scan's own grid, in the order of
            `model.class_names`, background first; None if they were not asked for. They are those
            of the network, before post-processing.
        changes: what post-processing did.
        unprocessed: `labels` before post-processing; None if they are not wanted, or there is none.
        statistics: sums over the scan's voxels, from which the verdict was made.
        scan: the scan as it was read and prepared.
        model: the model that made the labels.
        options: how the scan was segmented.
    """

    labels: npt.NDArray[np.uint8]
    names: dict[int, str]
    num_voxels: dict[str, int]
    volumes_ml: dict[str, float]
    assessment: Assessment
    probabilities: npt.NDArray[np.float32] | None
    changes: tuple[Change, ...]
    unprocessed: npt.NDArray[np.uint8] | None
    statistics: ScanStatistics
    scan: LoadedScan
    model: ExportedModel
    options: Options

    @property
    def confidence(self) -> dict[str, float]:
        """Name of a class -> mean probability of its voxels, for the classes that were found."""
        return self.assessment.confidence

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Voxel index of `labels` to RAS+ world in mm, float64 (4, 4)."""
        return self.scan.prepared.source.affine

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the scan's voxel size and intensities, and post-processing."""
        prepared = self.scan.prepared
        notes = (
            self.scan.recognition.reason,
            _describe_slices(prepared.source.spacing_mm, prepared.volume.spacing_mm[0]),
            prepared.intensities,
            "; ".join(change.describe() for change in self.changes),
        )
        return tuple(note for note in notes if note)

    @property
    def image(self) -> nib.Nifti1Image:
        """The labels as a NIfTI image, as `save` writes it, with names and colours in its header.

        Its voxels are those of `labels`, not a copy.
        """
        from mtseg.scans.label_files import make_label_image

        return make_label_image(self.labels, self.scan.prepared.source, self.model.label_table)

    def save(self, path: str | Path) -> Path:
        """Writes the label file, as `mtseg-predict` does.

        Args:
            path: a file that ends in `.nii.gz` or `.nii`. It appears whole, by an atomic write, and
                replaces a file of that name, unless that is the scan.

        Returns:
            The path.

        Raises:
            InputError: if it cannot be written, has another ending, or is the scan itself.
        """
        from mtseg.scans.label_files import write_label_map

        path, scan_path = Path(path), self.scan.path
        if path.exists() and scan_path.exists() and path.samefile(scan_path):
            raise InputError(f"{path}: is the scan itself. Give another file for the labels.")
        write_label_map(path, self.labels, self.scan.prepared.source, self.model.label_table)
        return path

    def preview(self) -> Picture:
        """A picture of the scan with its labels: three planes, outlines, and volumes.

        Returns:
            The picture. A notebook shows it; its `save` writes a PNG file.

        Raises:
            InputError: if Matplotlib is not installed.
        """
        return self._picture

    @functools.cached_property
    def _picture(self) -> Picture:
        from mtseg.prediction.preview import make_picture

        prepared = self.scan.prepared
        label_map = dataclasses.replace(prepared.source, array=self.labels)
        table, warning = self.model.label_table, self.assessment.warning
        return make_picture(prepared.volume, label_map, table, self.scan.path.name, warning)

    def to_json(self) -> dict[str, Any]:
        """The values of the verdict file, except for those of the files beside it."""
        classes = [
            {
                "class": entry.name,
                "task": entry.task,
                "class_index": class_index,
                "label": entry.label,
                "num_voxels": self.num_voxels[entry.name],
                "volume_ml": self.volumes_ml[entry.name],
            }
            for class_index, entry in enumerate(self.model.label_table, start=1)
        ]
        check, prepared = self.model.out_of_distribution_check, self.scan.prepared
        return {
            "schema": 1,
            "scan": str(self.scan.path),
            "model": str(self.model.path),
            "volumes_ml": self.volumes_ml,
            "classes": classes,
            **self.assessment.to_json(),
            "labels_withheld": None,
            "out_of_distribution_check": None if check is None else check.describe(),
            "postprocessing": [change.to_json() for change in self.changes],
            "engine": self.model.network.engine,
            "computed": self.scan.recognition.reason,
            "spacing_mm": prepared.volume.spacing_mm[0],
            "modality": "CT" if prepared.is_ct else "MR",
            "intensities": prepared.intensities,
        }

    def __repr__(self) -> str:
        found = [name for name, volume_ml in self.volumes_ml.items() if volume_ml]
        shown = ", ".join(f"{name} {self.volumes_ml[name]:.1f} ml" for name in found)
        verdict = self.assessment
        return (
            f"<Segmentation of {self.scan.path.name}: {verdict.status}, {verdict.describe()}; "
            f"{shown or 'no class was found'}>"
        )

    def _repr_html_(self) -> str:
        """A table with names, volumes and confidence, for notebooks."""
        verdict = self.assessment
        rows = [
            f'<tr><td style="color:{entry.color}">■</td>'
            f'<td style="text-align:left">{html.escape(entry.title)}</td>'
            f"<td>{entry.label}</td><td>{self.volumes_ml[entry.name]:.1f}</td>"
            f"<td>{_show_confidence(self.confidence.get(entry.name))}</td></tr>"
            for entry in self.model.label_table
            if self.volumes_ml[entry.name]
        ]
        said = verdict.warning or verdict.not_assessed or verdict.describe()
        title = html.escape(f"{self.scan.path.name}: {verdict.status}")
        return (
            f"<p><b>{title}</b> – {html.escape(said)}</p><table><tr><th></th>"
            '<th style="text-align:left">structure</th><th>label</th><th>ml</th>'
            f"<th>confidence</th></tr>{''.join(rows)}</table>"
        )


def make_segmentation(
    model: ExportedModel,
    scan: LoadedScan,
    segmented: SegmentedScan,
    options: Options,
    probabilities: npt.NDArray[np.float32] | None = None,
) -> Segmentation:
    """Turns combined class indices into labels, the values of the task files, and counts them.

    The only place where that is done.

    Args:
        model: the model that made the labels.
        scan: the scan.
        segmented: its labels and what else was computed of it.
        options: how it was segmented.
        probabilities: float32 (i, j, k, classes); None if they are not kept in memory.
    """
    table = model.label_table
    labels, counts = _to_label_values(segmented.labels, to_labels(table))
    names = [entry.name for entry in table]
    voxel_ml = scan.prepared.source.voxel_ml
    return Segmentation(
        labels=labels,
        names={entry.label: entry.name for entry in table},
        num_voxels=dict(zip(names, counts[1:], strict=True)),
        volumes_ml={
            name: round(count * voxel_ml, 3) for name, count in zip(names, counts[1:], strict=True)
        },
        assessment=segmented.verdict,
        probabilities=probabilities,
        changes=segmented.changes,
        unprocessed=None
        if segmented.unprocessed is None
        else _to_label_values(segmented.unprocessed, to_labels(table))[0],
        statistics=segmented.statistics,
        scan=scan,
        model=model,
        options=options,
    )


def _to_label_values(
    class_indices: npt.NDArray[np.uint8], lookup: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Turns combined class indices into labels, and counts the voxels of each.

    Args:
        class_indices: uint8, combined class indices of any grid.
        lookup: from `mtseg.tasks.label_table.to_labels`.

    Returns:
        uint8 labels of the same shape, and the number of voxels of each combined class.
    """
    labels = np.empty_like(class_indices)
    counts = np.zeros(len(lookup), np.int64)
    # Slice by slice: as an index, a whole label map would need eight times its own memory.
    for k in range(labels.shape[-1]):
        of_slice = class_indices[..., k]
        labels[..., k] = lookup[of_slice]
        counts += np.bincount(of_slice.ravel(), minlength=len(lookup))
    return labels, counts.tolist()


def _show_confidence(value: float | None) -> str:
    """A class that only the scan's own grid shows has no confidence."""
    return "–" if value is None else f"{value:.2f}"


def _describe_slices(own_mm: tuple[float, float, float], computed_mm: float) -> str:
    """A note on thick slices, of which it is not known whether the reference scans had them."""
    if max(own_mm) <= VOXEL_SIZE_FACTOR * computed_mm:
        return ""
    return (
        f"its slices are {max(own_mm):.3g} mm apart and were interpolated to {computed_mm:.3g} mm: "
        "look at the labels between them"
    )
