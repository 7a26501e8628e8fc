"""Evaluation of a trained network on prepared scans: what `mtseg-evaluate` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.inference.dense import make_dense_network
from mtseg.provenance.training_data import list_changes, read_training_data, refuse_training_scans
from mtseg.records.reading import count_scans, read_fingerprints
from mtseg.runs.manifest import PACKAGED, WEIGHTS
from mtseg.runs.unevaluated import read_unevaluated
from mtseg.runs.weights import TrainedModel, load_trained
from mtseg.system.progress import Progress
from mtseg.tasks.label_space import LabelSpace
from mtseg.training.reporting import evaluate_run


def evaluate_trained(
    path: Path | None,
    *,
    data_dir: str | None = None,
    split: str = "test",
    which: str = "last",
    precision: str | None = None,
    may_score_training_scans: bool = False,
    is_quiet: bool = False,
    on_note: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluates a network on the scans of its tasks, with surfaces and volumes.

    A run that was trained without evaluations gets its own first, which is kept there.

    Args:
        path: folder of a run, or of weights that were exported. None is the model that comes with
            the package.
        data_dir: folder of prepared records; None is that of its training.
        split: `test` or `validation`.
        which: weights of a run: `last` or `best`.
        precision: `float32` or `bfloat16`; None is the faster one on this machine.
        may_score_training_scans: whether scans that the run was trained on are scored too.
        is_quiet: whether no progress is shown.
        on_note: called with lines about what is scored, and what has changed in the records.

    Raises:
        InputError: if the network, the records or the scans cannot be used.
    """
    path = PACKAGED if path is None else path
    if which == "best" and (path / WEIGHTS).is_file():
        raise InputError(
            f"{path}: is a model, not a run: it has one set of weights. Leave out --weights."
        )
    trained = load_trained(path, which)
    data_dir = data_dir or trained.config.data_dir
    scored, lines = read_fingerprints(data_dir, trained.label_space, "volumes")
    trained_on = read_training_data(path)
    if trained_on is not None:
        lines += list_changes(path, trained_on, scored)
        if not may_score_training_scans:
            refuse_training_scans(path, trained_on, scored, split)
    for line in lines:
        on_note(line)
    evaluation = None
    if which == "last" and read_unevaluated(path) is not None:
        on_note("The run was trained without evaluations: its own comes first, and is kept there.")
        evaluation = evaluate_run(path, trained, data_dir)
        trained = load_trained(path)
    if precision is None and evaluation is not None and evaluation.split in (split, "train"):
        return evaluation
    return _score(trained, data_dir, split, precision, is_quiet, on_note)


def _score(
    trained: TrainedModel,
    data_dir: str,
    split: str,
    precision: str | None,
    is_quiet: bool,
    on_note: Callable[[str], None],
) -> Evaluation:
    """Scores the scans of the split that was asked for."""
    num_scans = _count_scans(data_dir, trained.label_space, split, on_note)
    network = make_dense_network(trained.model, precision)
    with Progress("Evaluating", num_scans, "scans", is_quiet=is_quiet) as progress:
        return evaluate_model(
            network,
            trained.label_space,
            data_dir,
            split=split,
            operating_points=trained.operating_points,
            points_from=trained.points_from,
            is_complete=True,
            on_scan=lambda name: progress.advance(note=name),
        )


def _count_scans(
    data_dir: str, label_space: LabelSpace, split: str, on_note: Callable[[str], None]
) -> int:
    """The number of scans to score; notes which tasks have none.

    Raises:
        InputError: if no task has one.
    """
    counts = count_scans(data_dir, label_space, split)
    without = [task for task, count in counts.items() if not count]
    if len(without) == len(counts):
        raise InputError(
            f"{data_dir}: there is no {split} set: {', '.join(without)} were prepared without "
            f"{split} scans. Prepare scans for it in another --data-dir, or use another --split."
        )
    if without:
        on_note(f"Not evaluated, because without {split} scans: {', '.join(without)}.")
    return sum(counts.values())
