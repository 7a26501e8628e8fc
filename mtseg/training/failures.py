"""What can end a run before its last mini-batch, and what the user is told to do then.

A run can diverge, or its disk can be full. What fails in the devices of a run is the engine's to
explain: see `mtseg.training.engines`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import writing_to


def writing_run(
    workdir: Path, also: tuple[type[Exception], ...] = ()
) -> contextlib.AbstractContextManager[None]:
    """Turns an error of the disk into one line that says how to resume.

    Args:
        workdir: folder of the run.
        also: what the engine raises for a full disk, besides OSError.

    Raises:
        InputError: when the block raises such an error.
    """
    remedy = (
        "Make room or use another folder, and rerun the command to resume from the last checkpoint."
    )
    return writing_to(workdir, remedy, also)


class DivergedError(InputError):
    """The loss or the weights of a run are not finite any more.

    Args:
        message: what was found, as a sentence.
        minibatch: the mini-batch at which it was found, counted from 1.
    """

    def __init__(self, message: str, minibatch: int) -> None:
        super().__init__(message)
        self.minibatch = minibatch


def explain_divergence(
    error: DivergedError, workdir: Path, config: TrainConfig, num_saved: int
) -> DivergedError:
    """Adds to a divergence which run it is and what to do.

    Args:
        error: what was found.
        workdir: folder of the run.
        config: its configuration.
        num_saved: mini-batches done at the last checkpoint; 0 if there is none.
    """
    remedy = f"Rerun the command with a lower --learning-rate (it was {config.learning_rate:g})"
    if num_saved:
        remedy += f": it resumes from the checkpoint after mini-batch {num_saved}."
    else:
        remedy += " or a longer --warmup-minibatches: there is no checkpoint yet."
    if config.precision == "mixed_float16":
        remedy += " Or start over in another folder with --precision mixed_bfloat16."
    return DivergedError(f"{workdir}: {error} {remedy}", error.minibatch)
