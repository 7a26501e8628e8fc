"""Weights of a run that no evaluation has scored yet.

Training on JAX scores no scan. Beside its last weights it leaves a note of what their evaluation
will need to know. mtseg-evaluate scores them then, and removes the note.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.runs.workdir import EVALUATION, have_matching_weights, read_evaluation, weights_path
from mtseg.system.atomic_files import atomic_write, parse_json, write_json
from mtseg.system.checksums import file_checksum

if TYPE_CHECKING:
    import keras

UNEVALUATED = "unevaluated.json"
"""The file in the folder of a run."""


def write_unevaluated(
    workdir: Path, model: keras.Model, minibatch: int, seconds: float, command: str, device: str
) -> None:
    """Writes the last weights of a run, with a note of what their evaluation will need to know.

    Args:
        workdir: folder of the run.
        model: the network as it is to be evaluated.
        minibatch: number of mini-batches done.
        seconds: time spent in training up to here.
        command: the command line, stored with the figures.
        device: what computed, from `mtseg.system.devices.describe_devices`.

    Raises:
        OSError: if the folder cannot be written.
    """
    with atomic_write(weights_path(workdir, "last")) as temporary:
        model.save_weights(temporary)
        note = {"minibatch": minibatch, "training_seconds": seconds, "command": command}
        checksum = {"device": device, "weights_sha256": file_checksum(temporary)}
        # By its checksum the note counts from when the weights are in their place.
        write_json(workdir / UNEVALUATED, note | checksum)
    (workdir / EVALUATION).unlink(missing_ok=True)  # it is of the weights before


def read_unevaluated(workdir: Path) -> dict[str, Any] | None:
    """The note of `write_unevaluated`; None if the last weights are evaluated or there are none."""
    try:
        note: dict[str, Any] = parse_json((workdir / UNEVALUATED).read_text())
        is_theirs = note["weights_sha256"] == file_checksum(weights_path(workdir, "last"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if is_theirs else None


def have_last_weights(workdir: Path, minibatch: int) -> bool:
    """Whether the last weights are those after so many mini-batches, evaluated or not."""
    if (note := read_unevaluated(workdir)) is not None:
        return bool(note["minibatch"] == minibatch)
    evaluation = read_evaluation(workdir)
    is_theirs = evaluation is not None and evaluation["minibatch"] == minibatch
    return is_theirs and have_matching_weights(workdir, "last")
