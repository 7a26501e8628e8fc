"""Evaluation of a trained network on prepared scans: what `mtseg-evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mtseg.errors import InputError
from mtseg.evaluation.held_out import choose_held_out
from mtseg.evaluation.results import Evaluation
from mtseg.evaluation.scoring import evaluate_model
from mtseg.inference.dense import DenseNetwork, make_dense_network
from mtseg.inference.engines.averaging import MeanNetwork, Network, require_symmetric
from mtseg.inference.engines.choice import choose_engine
from mtseg.models.ensembles import mean_point, require_same_classes
from mtseg.network.folding import fold_to_arrays
from mtseg.provenance.training_data import (
    list_changes,
    read_all_training_data,
    read_training_data,
    refuse_training_scans,
)
from mtseg.records.reading import count_scans, read_fingerprints
from mtseg.runs.manifest import PACKAGED, WEIGHTS
from mtseg.runs.unevaluated import read_unevaluated
from mtseg.runs.weights import TrainedModel, load_trained
from mtseg.system.progress import Progress
from mtseg.tasks.label_space import LabelSpace
from mtseg.tasks.task import Task
from mtseg.training.reporting import evaluate_run


def evaluate_trained(
    paths: Sequence[Path],
    *,
    data_dir: str | None = None,
    split: str = "test",
    which: str = "last",
    use_flips: bool = False,
    precision: str | None = None,
    may_score_training_scans: bool = False,
    is_quiet: bool = False,
    on_note: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluates a network on the scans of its tasks, with surfaces and volumes.

    A run that was trained without evaluations gets its own first, which is kept there.

    Args:
        paths: folder of a run, or of weights that were exported; of several, the probabilities are
            averaged. Without any, the model that comes with the package.
        data_dir: folder of prepared records; None is that of the (first) network's training.
        split: `test` or `validation`.
        which: weights of a run: `last` or `best`.
        use_flips: whether probabilities are averaged with those of each scan's mirror image.
        precision: `float32`, `bfloat16`, or `int8`, which needs OpenVINO; None is the faster one
            of the first two on this machine.
        may_score_training_scans: whether scans that a run was trained on are scored too.
        is_quiet: whether no progress is shown.
        on_note: called with lines about what is scored, and what has changed in the records.

    Raises:
        InputError: if a network, the records or the scans cannot be used, or flips are asked for
            and a task does not allow them.
    """
    paths = paths or [PACKAGED]
    for path in paths:
        if which == "best" and (path / WEIGHTS).is_file():
            raise InputError(
                f"{path}: is a model, not a run: it has one set of weights. Leave out --weights."
            )
    trained = [load_trained(path, which) for path in paths]
    label_space = trained[0].label_space
    if use_flips:
        for each in trained:
            require_symmetric(_tasks(each))
    for path, other in zip(paths[1:], trained[1:], strict=True):
        require_same_classes(paths[0], _tasks(trained[0]), path, _tasks(other))
    data_dir = data_dir or trained[0].config.data_dir
    is_first = which == "last" and len(paths) == 1 and read_unevaluated(paths[0]) is not None
    splits = {split}
    if is_first:
        held_out = choose_held_out(data_dir, label_space, trained[0].config.curves_on)
        # Without any other scans, a run is meant to be scored on those that it was trained on.
        splits |= {held_out.curves, held_out.final} - {"train"}
    scored, lines = read_fingerprints(data_dir, label_space, "volumes")
    for path, of_path in zip(paths, trained, strict=True):
        lines += list_changes(path, read_training_data(path) or [], scored)
        if may_score_training_scans:
            continue
        known, is_all = read_all_training_data(path, of_path.config.init_from)
        refuse_training_scans(path, known, scored, sorted(splits))
        if not is_all:
            it = "the network that it started from" if known else "it"
            lines.append(
                f"{path}: does not say what {it} was trained on, as a run does. If it was trained "
                "on scans that are scored, their figures are too good."
            )
    if data_dir != trained[0].config.data_dir and any(each.operating_points for each in trained):
        lines.append("Operating points are those of the network, from its own evaluation.")
    for line in dict.fromkeys(lines):
        on_note(line)
    evaluation = None
    if is_first:
        on_note("The run was trained without evaluations: its own comes first, and is kept there.")
        evaluation = evaluate_run(paths[0], trained[0], data_dir)
        trained = [load_trained(paths[0])]
    is_own = precision is None and not use_flips
    if is_own and evaluation is not None and evaluation.split in (split, "train"):
        return evaluation
    return _score(trained, data_dir, split, precision, use_flips, is_quiet, on_note)


def _tasks(trained: TrainedModel) -> list[Task]:
    return [selection.task for selection in trained.label_space.selections]


def _score(
    trained: Sequence[TrainedModel],
    data_dir: str,
    split: str,
    precision: str | None,
    use_flips: bool,
    is_quiet: bool,
    on_note: Callable[[str], None],
) -> Evaluation:
    """Scores the scans of the split that was asked for."""
    label_space = trained[0].label_space
    num_scans = _count_scans(data_dir, label_space, split, on_note)
    networks = tuple(_open(each, precision) for each in trained)
    network: Network = networks[0]
    if len(networks) > 1 or use_flips:
        network = MeanNetwork(networks, is_mirrored=use_flips)
    points, points_from = _join_points(trained)
    with Progress("Evaluating", num_scans, "scans", is_quiet=is_quiet) as progress:
        return evaluate_model(
            network,
            label_space,
            data_dir,
            split=split,
            operating_points=points,
            points_from=points_from,
            is_complete=True,
            on_scan=lambda name: progress.advance(note=name),
        )


def _open(trained: TrainedModel, precision: str | None) -> DenseNetwork:
    if precision != "int8":
        return make_dense_network(trained.model, precision)
    choose_engine(None, "weights", precision=precision)  # refuses what is not installed
    from mtseg.inference.engines.openvino_engine import open_folded

    return open_folded(fold_to_arrays(trained.model), precision)


def _join_points(trained: Sequence[TrainedModel]) -> tuple[dict[str, float] | None, str]:
    """The operating points that a prediction uses, and the splits that they were chosen on.

    Returns:
        None instead of points if no network has been evaluated yet, so that they are chosen on the
        scans that are scored.
    """
    known = [each.operating_points for each in trained if each.operating_points is not None]
    if not known:
        return None, "test"
    origins = {each.points_from for each in trained if each.operating_points is not None}
    names = dict.fromkeys(name for points in known for name in points)
    means = {name: mean_point([points.get(name) for points in known]) for name in names}
    points = {name: mean for name, mean in means.items() if mean is not None}
    return points, " and ".join(sorted(origins))


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
