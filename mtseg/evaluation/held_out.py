"""Which scans a run may score: those of its learning curves, and test scans at its end.

The paper has no validation set: its learning curves and operating points are those of the test
scans. Where there are validation scans, a run can use these instead, so that its test scans decide
nothing and are read once, at the end.

Reference: Moeskops et al., MICCAI 2016, section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from mtseg.errors import InputError
from mtseg.records.reading import count_scans
from mtseg.tasks.label_space import LabelSpace


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The scans that a run scores.

    Attributes:
        curves: split of the scans of learning curves, best weights and operating points:
            `validation`, or `test` as in the paper. `train` if there are neither: then nothing is
            scored before the end, and the last weights are taken.
        num_curves: how many these are.
        num_test: test scans that are scored at the end, at the operating points of the validation
            scans; 0 if there are none, or `curves` is not `validation`.
        num_unused: validation scans that are not used, because `curves` is `test`.
    """

    curves: str
    num_curves: int
    num_test: int = 0
    num_unused: int = 0

    @property
    def curves_on(self) -> Literal["test", "validation"]:
        """What becomes of `auto` in the configuration of the run: `validation` or `test`."""
        return "validation" if self.curves == "validation" else "test"

    @property
    def final(self) -> str:
        """The split of the last evaluation of the run."""
        return "test" if self.num_test else self.curves

    def describe(self) -> str:
        """What is scored on which scans, in a line."""
        if self.curves == "train":
            return (
                "There are neither validation nor test scans: no learning curves, the last weights "
                "are taken, and operating points are chosen on the training scans."
            )
        scans = f"{self.num_curves} {self.curves} scan{'s' * (self.num_curves != 1)}"
        text = f"Learning curves, best weights and operating points chosen on: {scans}"
        if self.curves == "validation":
            if not self.num_test:
                return f"{text}. There are no test scans."
            return f"{text}. The test scans ({self.num_test}) are read once, at the end."
        if not self.num_unused:
            return f"{text} (the paper's way)."
        return (
            f"{text} (the paper's way). The validation scans ({self.num_unused}) are not used: "
            "--curves-on validation uses them."
        )


def choose_held_out(data_dir: str, label_space: LabelSpace, curves_on: str) -> HeldOut:
    """Decides which scans a run scores, from the descriptions of its records.

    Args:
        data_dir: folder of prepared records.
        label_space: the tasks of the run.
        curves_on: `validation`, `test`, or `auto`: `validation` if there are such scans.

    Raises:
        InputError: if records are not prepared, or a task has no scan of the split that is wanted.
    """
    counts = {split: count_scans(data_dir, label_space, split) for split in ("validation", "test")}
    total = {split: sum(of_tasks.values()) for split, of_tasks in counts.items()}
    wanted = curves_on
    if wanted == "auto":
        wanted = "validation" if total["validation"] else "test"
    if wanted == "test" and not any(total.values()):
        return HeldOut("train", sum(count_scans(data_dir, label_space, "train").values()))
    if without := [task for task, count in counts[wanted].items() if not count]:
        other = "validation" if wanted == "test" else "test"
        raise InputError(
            f"{data_dir}: learning curves on {wanted} scans need some of each task, and "
            f"{', '.join(without)} was prepared without. Prepare the task with a split that has "
            f"some, or give --curves-on {other}."
        )
    if wanted == "validation":
        return HeldOut(wanted, total[wanted], num_test=total["test"])
    return HeldOut(wanted, total[wanted], num_unused=total["validation"])
