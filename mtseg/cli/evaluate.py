"""mtseg-evaluate: evaluation of a trained network on its test scans, or its validation scans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli.command import DONE, add_devices_flag, command_line, run, start_tensorflow
from mtseg.errors import InputError
from mtseg.system.atomic_files import atomic_write, write_json, writing_to
from mtseg.tasks.label_space import LabelSpace

if TYPE_CHECKING:
    from mtseg.evaluation.results import Evaluation
    from mtseg.runs.weights import TrainedModel

_WRITE_REMEDY = "Make room, or give another file."


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-evaluate",
        description="Evaluate a trained network on the test scans of its tasks, with the decision "
        "rule of each task: Dice, precision, recall, surface distances and volumes per scan and "
        "class, and the share of voxels that get a class of another task (cross-task error).",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder of a run of mtseg-train, or weights that mtseg-export wrote (default: the "
        "model that comes with mtseg)",
    )
    parser.add_argument(
        "--weights",
        choices=("last", "best"),
        default="last",
        help="which weights of a run: last, or best mean Dice on the scans of its learning curve "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="which scans (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of prepared records, if it was moved after training",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the convolutions; auto: the faster one on this machine (default: "
        "%(default)s)",
    )
    add_devices_flag(parser)
    parser.add_argument(
        "--allow-training-scans",
        action="store_true",
        help="also score scans that the run was trained on; without it they are refused",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all results as JSON")
    parser.add_argument("--csv", metavar="FILE", help="also write all results as CSV")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_evaluate, argv)


def _evaluate(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    for file in filter(None, (arguments.json, arguments.csv)):
        if not Path(file).parent.is_dir():  # before the long work
            raise InputError(f"{Path(file).parent}: no such folder. Make it, or give another file.")
    start_tensorflow(arguments.devices)
    from mtseg.evaluation.tables import complete_table, describe_scans, dice_table
    from mtseg.runs import weights
    from mtseg.runs.manifest import PACKAGED, WEIGHTS
    from mtseg.runs.unevaluated import read_unevaluated
    from mtseg.system.devices import describe_devices
    from mtseg.system.hardware import describe_machine
    from mtseg.training.reporting import evaluate_run

    path = Path(arguments.model or PACKAGED)
    if arguments.weights == "best" and (path / WEIGHTS).is_file():
        raise InputError(
            f"{path}: is a model, not a run: it has one set of weights. Leave out --weights."
        )
    trained = weights.load_trained(path, arguments.weights)
    name = str(path) if (path / WEIGHTS).is_file() else f"{path} ({arguments.weights})"
    if arguments.model is None:
        name = "the model that comes with mtseg"
        print(f"No model given: evaluating {name}.", flush=True)
    data_dir = arguments.data_dir or trained.config.data_dir
    _check_data(path, data_dir, trained.label_space, arguments)
    evaluation = None
    if arguments.weights == "last" and read_unevaluated(path) is not None:
        print(
            "The run was trained without evaluations: its own comes first, and is kept there.",
            flush=True,
        )
        evaluation = evaluate_run(path, trained, data_dir)
        trained = weights.load_trained(path)
    if (
        arguments.precision != "auto"
        or evaluation is None
        or evaluation.split not in (arguments.split, "train")
    ):
        evaluation = _score(trained, data_dir, arguments)
    print(f"{describe_scans(evaluation)}\n")
    print(f"{dice_table(evaluation)}\n\n{complete_table(evaluation)}")
    result = evaluation.to_json(model=name, command=command_line("mtseg-evaluate", argv))
    result["machine"] = describe_machine(describe_devices())
    if arguments.json:
        with writing_to(Path(arguments.json), _WRITE_REMEDY):
            write_json(Path(arguments.json), result)
    if arguments.csv:
        path = Path(arguments.csv)
        with writing_to(path, _WRITE_REMEDY), atomic_write(path) as temporary:
            temporary.write_text(evaluation.to_csv())
    return DONE


def _score(trained: TrainedModel, data_dir: str, arguments: argparse.Namespace) -> Evaluation:
    """Scores the scans of the split that was asked for."""
    from mtseg.evaluation.scoring import evaluate_model
    from mtseg.inference.dense import make_dense_network
    from mtseg.system.progress import Progress

    num_scans = _count_scans(data_dir, trained.label_space, arguments.split)
    network = make_dense_network(
        trained.model, None if arguments.precision == "auto" else arguments.precision
    )
    with Progress("Evaluating", num_scans, "scans") as progress:
        return evaluate_model(
            network,
            trained.label_space,
            data_dir,
            split=arguments.split,
            operating_points=trained.operating_points,
            points_from=trained.points_from,
            is_complete=True,
            on_scan=lambda name: progress.advance(note=name),
        )


def _count_scans(data_dir: str, label_space: LabelSpace, split: str) -> int:
    """The number of scans to score; prints which tasks have none.

    Raises:
        InputError: if no task has one.
    """
    from mtseg.records.reading import count_scans

    counts = count_scans(data_dir, label_space, split)
    without = [task for task, count in counts.items() if not count]
    if len(without) == len(counts):
        raise InputError(
            f"{data_dir}: there is no {split} set: {', '.join(without)} were prepared without "
            f"{split} scans. Prepare scans for it in another --data-dir, or use another --split."
        )
    if without:
        print(f"Not evaluated, because without {split} scans: {', '.join(without)}.", flush=True)
    return sum(counts.values())


def _check_data(
    path: Path, data_dir: str, label_space: LabelSpace, arguments: argparse.Namespace
) -> None:
    """Refuses scans that a run was trained on, and prints what else has changed in the records."""
    from mtseg.provenance.training_data import (
        list_changes,
        read_training_data,
        refuse_training_scans,
    )
    from mtseg.records.prepared import read_fingerprints

    scored, lines = read_fingerprints(data_dir, label_space, "volumes")
    trained = read_training_data(path)
    if trained is not None:
        lines += list_changes(path, trained, scored)
        if not arguments.allow_training_scans:
            refuse_training_scans(path, trained, scored, arguments.split)
    for line in lines:
        print(line, flush=True)
