"""A subject of a data set, before its files are read, and an issue of a data set.

`mtseg.sources.find` makes these; checks and preparation take them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtseg.errors import InputError
from mtseg.tasks.task import LabelSource


@dataclass(frozen=True)
class Subject:
    """One labelled subject: the paths of its files, or the seed of a phantom.

    Attributes:
        name: unique among all subjects of its source.
        split: `train` or `test`.
        image_path: the scan; None for a phantom.
        label_path: the label map; None for a phantom.
        seed: of a phantom; None for a scan.
    """

    name: str
    split: str
    image_path: str | None
    label_path: str | None
    seed: int | None


@dataclass(frozen=True)
class Issue:
    """Something that is wrong with a data set.

    Attributes:
        kind: one of `mtseg.sources.checks.ISSUE_KINDS`.
        subject: name of the subject; empty if the issue is one of the whole data set.
        message: one line with the file, what is wrong, and what to do.
        is_error: whether the data cannot be prepared until it is corrected; otherwise it is a
            warning.
    """

    kind: str
    subject: str
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class FoundSubjects:
    """The subjects of a source, whose files have been found but not read.

    Attributes:
        labels: the source, in which every label is a value.
        subjects: the complete ones: training subjects, then test subjects, each in the order of the
            split.
        issues: what is wrong with the others, and with the split.
    """

    labels: LabelSource
    subjects: tuple[Subject, ...]
    issues: tuple[Issue, ...] = ()

    def require_sound(self) -> FoundSubjects:
        """Refuses a source with an error.

        Raises:
            InputError: with the message of the first error.
        """
        for issue in self.issues:
            if issue.is_error:
                raise InputError(issue.message)
        return self
