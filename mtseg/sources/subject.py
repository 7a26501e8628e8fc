"""What is known of a data set before it is read: its subjects, and the issues found."""

from __future__ import annotations

from dataclasses import dataclass

from mtseg.errors import InputError
from mtseg.tasks.task import LabelSource


@dataclass(frozen=True)
class Subject:
    """One labelled subject, not yet read.

    Attributes:
        name: unique over both splits of its source.
        split: `train` or `test`.
        image_path: the scan's file; None for a phantom.
        label_path: the label map's file; None for a phantom.
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
        kind: one word, such as `missing`; `mtseg.sources.checks` lists them.
        subject: whose; empty if it concerns the data set.
        message: one line that names the file, what is wrong, and what to do.
        is_error: whether it keeps the data from being prepared; else the user has to look at it.
    """

    kind: str
    subject: str
    message: str
    is_error: bool = True


@dataclass(frozen=True)
class FoundSubjects:
    """A source whose files have been found and not yet read.

    Attributes:
        labels: the source, with every label as a value.
        subjects: the complete ones: the training subjects, then the test subjects, each in the
            order of the split.
        issues: why others are not among them.
    """

    labels: LabelSource
    subjects: tuple[Subject, ...]
    issues: tuple[Issue, ...] = ()

    def require_sound(self) -> FoundSubjects:
        """Refuses a source that lacks something.

        Raises:
            InputError: with the first error.
        """
        for issue in self.issues:
            if issue.is_error:
                raise InputError(issue.message)
        return self
