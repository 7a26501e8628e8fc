"""mtseg-evaluate: a trained network's Dice on its test scans."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtseg.cli import DONE, command_line, import_tensorflow, run


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-evaluate",
        description="Score a trained network on the test scans of its tasks: Dice per scan and "
        "class, at the task's own decision rule.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a run of mtseg-train")
    parser.add_argument("--weights", choices=("last", "best"), default="last", help="(%(default)s)")
    parser.add_argument("--data-dir", help="prepared records, if they have moved since training")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the convolutions; auto: the faster one on this machine (%(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write every figure as CSV")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_evaluate, argv)


def _evaluate(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    import_tensorflow()
    from mtseg import workdir as folder
    from mtseg.dense import make_dense_network
    from mtseg.evaluate import evaluate_model
    from mtseg.prepared import count_test_scans
    from mtseg.progress import Progress

    workdir = Path(arguments.workdir)
    trained = folder.load_trained(workdir, arguments.weights)
    data_dir = arguments.data_dir or trained.config.data_dir
    total = count_test_scans(data_dir, trained.label_space)
    network = make_dense_network(
        trained.model, None if arguments.precision == "auto" else arguments.precision
    )
    with Progress("Evaluating", total, "scans") as progress:
        evaluation = evaluate_model(
            network,
            trained.label_space,
            data_dir,
            on_scan=lambda name: progress.advance(note=name),
        )
    print(evaluation.table())
    result = evaluation.to_json(
        model=f"{workdir} ({arguments.weights})", command=command_line("mtseg-evaluate", argv)
    )
    if arguments.json:
        folder.write_json(Path(arguments.json), result)
    if arguments.csv:
        folder.write_aside(Path(arguments.csv), lambda aside: aside.write_text(evaluation.to_csv()))
    return DONE
