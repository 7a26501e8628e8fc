"""mtseg-prepare: scans or phantoms to training records."""

from __future__ import annotations

import argparse

from mtseg.cli import DONE, import_tensorflow, run

DEFAULT_DATA_DIR = "mtseg_data"


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-prepare",
        description="Prepare labelled scans, or generated phantoms, as training records.",
        epilog="Example: mtseg-prepare brain:miccai2012 --manual-dir SCANS --data-dir mtseg_data",
    )
    parser.add_argument(
        "tasks",
        nargs="+",
        metavar="TASK[:SOURCE]",
        help="task name or path of a task file, with a source; several may be given",
    )
    parser.add_argument(
        "--data-dir", default=DEFAULT_DATA_DIR, help="where the records go (%(default)s)"
    )
    parser.add_argument("--manual-dir", help="folder of the scans; phantoms need none")
    parser.add_argument(
        "--patches-per-class", type=_positive, help="patches of each class a subject (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the patches (%(default)s)")
    parser.add_argument(
        "--num-shards", type=_positive, help="shard files of the patches (TFDS chooses)"
    )
    parser.add_argument("--size", type=_positive, help="largest extent of a phantom in voxels")
    parser.add_argument("--num-train", type=_positive, help="training phantoms (the task file's)")
    parser.add_argument("--num-test", type=_positive, help="test phantoms (the task file's)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace records that are there already"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_prepare, argv)


def _prepare(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    from mtseg.tasks import parse_tasks

    label_space = parse_tasks(",".join(arguments.tasks))
    import_tensorflow()
    from mtseg.preparation import prepare
    from mtseg.records import PATCHES_PER_CLASS

    for selection in label_space.selections:
        is_phantom = selection.source == "phantom"
        prepare(
            selection,
            arguments.data_dir,
            manual_dir=None if is_phantom else arguments.manual_dir,
            num_shards=arguments.num_shards,
            is_overwrite=arguments.overwrite,
            patches_per_class=arguments.patches_per_class or PATCHES_PER_CLASS,
            seed=arguments.seed,
            # Only phantoms can be had in any size and number.
            size=arguments.size if is_phantom else None,
            num_train=arguments.num_train if is_phantom else None,
            num_test=arguments.num_test if is_phantom else None,
        )
    return DONE
