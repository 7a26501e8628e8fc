"""A model as people use it from Python: it segments scans in memory and says what it is."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mtseg.api.scan_progress import ScanProgress
from mtseg.errors import InputError
from mtseg.models.loading import ExportedModel
from mtseg.prediction.options import Options
from mtseg.prediction.outcome import Segmentation
from mtseg.prediction.pipeline import segment_scans
from mtseg.prediction.probabilities import ProbabilityArray
from mtseg.prediction.scan import LoadedScan
from mtseg.scans.formats.headers import ScanFile
from mtseg.scans.formats.in_memory import open_array, open_image
from mtseg.scans.reading import open_scan

if TYPE_CHECKING:
    from mtseg.api.functions import Scan

CARD = "README.md"
"""The file of a model's card, beside its manifest."""


@dataclasses.dataclass(frozen=True, repr=False)
class Model(ExportedModel):
    """A model that segments scans in memory; `mtseg.load` makes it."""

    def segment(
        self,
        scan: Scan | list[Scan] | tuple[Scan, ...],
        *,
        affine: npt.ArrayLike | None = None,
        spacing_mm: Sequence[float] | None = None,
        task: str | None = None,
        modality: str | None = None,
        computed_spacing_mm: float | None = None,
        probabilities: bool = False,
        tta: str | None = None,
        postprocessing: bool = True,
        memory_gb: float | None = None,
        progress: bool | Callable[[float], None] = False,
    ) -> Any:
        """Segments scans; see `mtseg.segment`, whose arguments are the same.

        Returns:
            A `Segmentation`, or a list of them if `scan` is a list or a tuple.

        Raises:
            InputError: as `mtseg.segment` does.
        """
        if modality not in (None, "ct", "mr"):
            raise InputError(f"modality: {modality!r} is not one of ct, mr.")
        if tta not in (None, "flip"):
            raise InputError(f"tta: {tta!r} is not flip, the only one.")
        options = Options(
            spacing_mm=computed_spacing_mm,
            is_ct=None if modality is None else modality == "ct",
            task=task,
            use_flips=tta == "flip",
            use_postprocessing=postprocessing,
            use_probabilities=probabilities,
            memory_bytes=None if memory_gb is None else memory_gb * 1e9,
        )
        is_one = not isinstance(scan, list | tuple)
        given: list[Any] = list(scan) if isinstance(scan, list | tuple) else [scan]
        opened = [
            _open(each, "array" if is_one else f"array {number}", affine, spacing_mm)
            for number, each in enumerate(given, start=1)
        ]
        shown = ScanProgress(len(opened), progress)
        done = []
        with shown:
            for _, outcome in segment_scans(
                self,
                opened,
                _Memory(self.network.num_classes, options),
                options,
                on_start=shown.start,
                on_flop=shown.advance,
            ):
                if isinstance(outcome, InputError):
                    raise outcome
                done.append(outcome)
        return done[0] if is_one else done

    @functools.cached_property
    def card(self) -> str:
        """What the model is, as Markdown; its card if it has one, else what its manifest says."""
        path = Path(self.path) / CARD
        if path.is_file():
            return path.read_text(encoding="utf-8")
        check = self.out_of_distribution_check
        lines = [f"# {self.path}", ""]
        for task in self.tasks:
            spacing_mm = self.trained_spacing_mm.get(task.name)
            size = "" if spacing_mm is None else f", at {spacing_mm:.3g} mm"
            classes = [entry for entry in self.label_table if entry.task == task.name]
            listed = ", ".join(f"{entry.label} {entry.title}" for entry in classes)
            lines.append(f"- {task.name}{size}: {listed}")
        lines += ["", "No out-of-distribution check." if check is None else check.describe()]
        lines.append(f"Identifier: {self.model_id or 'none'}")
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        tasks = ", ".join(task.name for task in self.tasks)
        return f"<Model {self.path}: {tasks}; {self.network.precision}>"


def _open(
    scan: Any, name: str, affine: npt.ArrayLike | None, spacing_mm: Sequence[float] | None
) -> ScanFile:
    """The header of a scan of any kind, checked.

    Args:
        scan: a path, an image of nibabel's, or an array.
        name: what an array is called in messages.
        affine: of an array.
        spacing_mm: likewise.

    Raises:
        InputError: if it is none of these, or cannot be used.
    """
    is_path = isinstance(scan, str | os.PathLike)
    is_image = isinstance(scan, nib.spatialimages.SpatialImage)
    if is_path or is_image:
        for flag, value in (("affine", affine), ("spacing_mm", spacing_mm)):
            if value is not None:
                raise InputError(f"{flag}: is for arrays; a file or an image has its own.")
        return open_scan(Path(scan)) if is_path else open_image(scan, "image")
    if not hasattr(scan, "__array__"):
        raise InputError(
            f"a scan cannot be a {type(scan).__name__}. Give a path, an image of nibabel's, an "
            "array with affine or spacing_mm, or a list of scans."
        )
    return open_array(np.asarray(scan), name, affine, spacing_mm)


@dataclasses.dataclass(frozen=True)
class _Memory:
    """An output of `segment_scans` that keeps segmentations, with probabilities if asked for."""

    num_classes: int
    options: Options

    def held_bytes(self, scan: LoadedScan) -> int:
        store = self.begin(scan)
        return 0 if store is None else store.num_bytes

    def begin(self, scan: LoadedScan) -> ProbabilityArray | None:
        if not self.options.use_probabilities:
            return None
        return ProbabilityArray(scan.prepared.source, self.num_classes)

    def finish(self, segmentation: Segmentation) -> Segmentation:
        return segmentation
