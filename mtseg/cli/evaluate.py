"""mtseg-evaluate: a trained network on its test or validation scans, or label files, scored."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.cli.command import DONE, Parser, add_devices_flag, run, start_tensorflow
from mtseg.errors import InputError
from mtseg.inference.engines.choice import PRECISIONS
from mtseg.runs.manifest import WEIGHTS, locate_model, require_trained
from mtseg.system.atomic_files import atomic_write, write_json, writing_to
from mtseg.system.progress import Progress

if TYPE_CHECKING:
    from mtseg.evaluation.results import Evaluation

_WRITE_REMEDY = "Make room, or give another file."

_MODEL_FLAGS = (
    "ensemble", "tta", "weights", "split", "data_dir", "precision", "devices",
    "allow_training_scans",
)  # fmt: skip
_FILE_FLAGS = ("task", "prediction_ending", "reference_ending")
"""Flags for a network, and for label files."""

_MOST_PAIRS = 20
"""Pairs of label files that are printed."""


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "evaluate",
        description="Evaluate a trained network on the test scans of its tasks, with the decision "
        "rule of each task: Dice, precision, recall, surface distances and volumes per scan and "
        "class, and the share of voxels that get a class of another task (cross-task error). With "
        "PREDICTIONS REFERENCES, score label files.",
        usage="%(prog)s [MODEL] [options]\n       %(prog)s PREDICTIONS REFERENCES [options]",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder of a run of mtseg-train, or weights that mtseg-export wrote, or a name that "
        "mtseg models lists (default: packaged, which comes with mtseg); or PREDICTIONS: a label "
        "file or a folder of them",
    )
    parser.add_argument(
        "references",
        metavar="REFERENCES",
        nargs="?",
        help="the reference label files: a file, or a folder with the same names",
    )
    parser.add_argument(
        "--ensemble",
        nargs="+",
        metavar="MODEL",
        help="in place of MODEL two or more, of the same classes: their probabilities are averaged",
    )
    parser.add_argument(
        "--tta",
        choices=("flip",),
        help="flip: average the probabilities of a scan and of its mirror image, left and right "
        "exchanged; for networks all of whose tasks allow it (default: none)",
    )
    parser.add_argument(
        "--weights",
        choices=("last", "best"),
        help="which weights of a run: last, or best mean Dice on the scans of its learning curve "
        "(default: last)",
    )
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        help="which scans (default: test)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of prepared records, if it was moved after training",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        help="precision of the convolutions; auto: the faster one of float32 and bfloat16 on this "
        "machine; int8 needs OpenVINO (default: auto)",
    )
    add_devices_flag(parser)
    parser.add_argument(
        "--allow-training-scans",
        action="store_true",
        help="also score scans that the run was trained on; without it they are refused",
    )
    files = parser.add_argument_group("for label files")
    files.add_argument(
        "--task",
        metavar="TASK[:SOURCE]",
        help="score the classes of a task; with a source, the references have its labels "
        "(default: every label, with the names in the header of the first prediction)",
    )
    for which in ("prediction", "reference"):
        files.add_argument(
            f"--{which}-ending",
            metavar="END",
            help=f"in a folder, the end of the names of the {which}s, such as _labels.nii.gz "
            "(default: that of any format, with or without _labels)",
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
    if arguments.references is not None:
        return _evaluate_files(arguments, argv)
    _refuse_flags(arguments, _FILE_FLAGS, "is for label files: PREDICTIONS REFERENCES")
    if arguments.ensemble and arguments.model is not None:
        raise InputError("MODEL and --ensemble: give one of them.")
    if arguments.ensemble:
        from mtseg.models.ensembles import require_several

        require_several(arguments.ensemble)
    given = arguments.ensemble or filter(None, [arguments.model])
    folders = [locate_model(folder) for folder in given]
    for folder in folders:
        require_trained(folder)
    start_tensorflow(arguments.devices)
    from mtseg.api.evaluation import evaluate_trained
    from mtseg.evaluation.tables import complete_table, describe_scans, dice_table
    from mtseg.system.devices import describe_devices
    from mtseg.system.hardware import describe_machine

    name = "the model that comes with mtseg"
    weights = arguments.weights or "last"
    if not folders:
        print(f"No model given: evaluating {name}.", flush=True)
    else:
        name = " + ".join(
            str(folder) if (folder / WEIGHTS).is_file() else f"{folder} ({weights})"
            for folder in folders
        )
    evaluation = evaluate_trained(
        folders,
        data_dir=arguments.data_dir,
        split=arguments.split or "test",
        which=weights,
        use_flips=arguments.tta == "flip",
        precision=None if arguments.precision in (None, "auto") else arguments.precision,
        may_score_training_scans=arguments.allow_training_scans,
        on_note=lambda line: print(line, flush=True),
    )
    print(f"{describe_scans(evaluation)}\n")
    print(f"{dice_table(evaluation)}\n\n{complete_table(evaluation)}")
    result = evaluation.to_json(model=name, command=shlex.join(["mtseg-evaluate", *argv]))
    result["machine"] = describe_machine(describe_devices())
    _write(evaluation, result, arguments)
    return DONE


def _evaluate_files(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Scores label files, without TensorFlow."""
    _refuse_flags(arguments, _MODEL_FLAGS, "is for a network, not for label files")
    for given in (arguments.model, arguments.references):
        if not Path(given).exists():
            raise InputError(f"{given}: no such file or folder. Give label files.")
    from mtseg.api.label_files import pair_files, score_files
    from mtseg.evaluation.tables import complete_table

    pairs = pair_files(
        arguments.model,
        arguments.references,
        arguments.prediction_ending or "",
        arguments.reference_ending or "",
    )
    for pair in pairs[:_MOST_PAIRS]:
        print(f"{pair.subject}: {pair.predicted} with {pair.reference}", flush=True)
    if len(pairs) > _MOST_PAIRS:
        print(f"and {len(pairs) - _MOST_PAIRS} more pairs", flush=True)
    with Progress("Scoring", len(pairs), "files") as progress:
        evaluation = score_files(
            pairs, arguments.task, on_scan=lambda name: progress.advance(note=name)
        )
    print(f"\n{complete_table(evaluation)}")
    command = shlex.join(["mtseg-evaluate", *argv])
    _write(evaluation, evaluation.to_json(model=arguments.model, command=command), arguments)
    return DONE


def _refuse_flags(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuses flags that would do nothing."""
    for name in names:
        if getattr(arguments, name):
            raise InputError(f"--{name.replace('_', '-')}: {why}. Leave it out.")


def _write(evaluation: Evaluation, result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Writes the files that were asked for."""
    if arguments.json:
        with writing_to(Path(arguments.json), _WRITE_REMEDY):
            write_json(Path(arguments.json), result)
    if arguments.csv:
        path = Path(arguments.csv)
        with writing_to(path, _WRITE_REMEDY), atomic_write(path) as temporary:
            # Names of files need not be text: such bytes are written as they are.
            temporary.write_bytes(evaluation.to_csv().encode("utf-8", "surrogateescape"))
