"""mtseg-export: a trained network to a SavedModel, or to its weights alone."""

from __future__ import annotations

import argparse

from mtseg.cli import DONE, import_tensorflow, run


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-export",
        description="Write a trained network as the next version of a SavedModel, which "
        "mtseg-predict and TensorFlow Serving load.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a run of mtseg-train")
    parser.add_argument("out", metavar="OUT", help="the model's folder; versions go into it")
    parser.add_argument("--weights", choices=("last", "best"), default="last", help="(%(default)s)")
    parser.add_argument(
        "--format",
        choices=("savedmodel", "weights"),
        default="savedmodel",
        help="weights: a tenth of the size, for mtseg-predict and mtseg-evaluate alone "
        "(%(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_export, argv)


def _export(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    import_tensorflow()
    from mtseg.export import export_model, export_weights

    export = {"savedmodel": export_model, "weights": export_weights}[arguments.format]
    path = export(arguments.workdir, arguments.out, arguments.weights)
    print(f"Wrote {path}.")
    print(f"Use it: mtseg-predict SCAN.nii.gz --model {arguments.out} -o predictions")
    return DONE
