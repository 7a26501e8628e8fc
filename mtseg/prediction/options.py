"""How scans are segmented; a command makes these options before it loads TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtseg.errors import InputError

SPACING_LIMITS_MM = (0.05, 20.0)
"""Voxel sizes that a scan may be computed at."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are segmented.

    Attributes:
        spacing_mm: isotropic voxel size to compute at; None is that of the task, which is
            recognised if the network has several (see `mtseg.inference.recognition`).
        is_ct: whether the scan is CT, in Hounsfield units, or MR; None lets the Modality of a DICOM
            series decide, or the values of other scans. If it is given or in the DICOM header,
            classes of tasks of the other modality are excluded.
        task: name of the task that the scan is for; classes of all others are excluded. None lets
            the network decide.
        use_flips: whether the probabilities are the mean of those of the scan and of those of the
            scan with left and right exchanged (see `mtseg.inference.engines.averaging`).
        use_postprocessing: whether label maps are post-processed as the model's tasks ask for (see
            `mtseg.inference.postprocessing`).
        use_unprocessed: whether to write the labels before post-processing too, if there is any.
        use_probabilities: whether to write the class probabilities too.
        use_dicom_seg: whether to write a DICOM segmentation too; the scan must be a DICOM series.
        is_strict: whether the labels of a scan with a warning are withheld.
        use_preview: whether to draw a picture of the scan with its labels too.
        memory_bytes: memory that may be used in total; None is half of what is free.

    Raises:
        InputError: if the voxel size or the memory cannot be used.
    """

    spacing_mm: float | None = None
    is_ct: bool | None = None
    task: str | None = None
    use_flips: bool = False
    use_postprocessing: bool = True
    use_unprocessed: bool = False
    use_probabilities: bool = False
    use_dicom_seg: bool = False
    use_preview: bool = False
    is_strict: bool = False
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        low_mm, high_mm = SPACING_LIMITS_MM
        if self.spacing_mm is not None and not low_mm <= self.spacing_mm <= high_mm:
            raise InputError(
                f"{self.spacing_mm} mm is not a voxel size to compute at. Give {low_mm:g} to "
                f"{high_mm:g} (--spacing-mm)."
            )
        if self.memory_bytes is not None and not self.memory_bytes > 0:
            raise InputError(
                f"{self.memory_bytes / 1e9:g} GB is not an amount of memory. Give a number above 0 "
                "(--memory-gb)."
            )

    def deciding(self) -> dict[str, Any]:
        """The options that decide what the labels are, as plain values."""
        fields = dataclasses.asdict(self)
        # Whether labels were withheld is in the verdict file. A preview shows the same labels.
        for name in ("memory_bytes", "is_strict", "use_preview", "use_unprocessed"):
            del fields[name]
        if not self.use_flips:  # earlier versions, whose results are the same, did not have it
            del fields["use_flips"]
        return fields
