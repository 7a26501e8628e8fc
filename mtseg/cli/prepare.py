"""mtseg-prepare: scans or phantoms to training records."""

from __future__ import annotations

import argparse

from mtseg.cli import DONE, import_tensorflow, positive, run
from mtseg.errors import InputError

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
    parser.add_argument(
        "--manual-dir",
        action="append",
        default=[],
        metavar="[SOURCE=]DIR",
        help="folder of the scans, or of one source's where there are several; phantoms need none",
    )
    parser.add_argument(
        "--patches-per-class", type=positive, help="patches of each class a subject (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the patches (%(default)s)")
    parser.add_argument(
        "--num-shards", type=positive, help="shard files of the patches (one a subject)"
    )
    parser.add_argument(
        "--num-processes", type=positive, help="subjects prepared at once (all cores)"
    )
    parser.add_argument(
        "--beam-runner", metavar="NAME", help="prepare on the workers of an Apache Beam runner"
    )
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="an option of that runner; may be repeated",
    )
    parser.add_argument("--size", type=positive, help="largest extent of a phantom in voxels")
    parser.add_argument("--num-train", type=positive, help="training phantoms (the task file's)")
    parser.add_argument("--num-test", type=positive, help="test phantoms (the task file's)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace records that are there already"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_prepare, argv)


def _prepare(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    from mtseg.records import WORKER_IMPORTS
    from mtseg.system.processes import begin_workers
    from mtseg.tasks.label_space import parse_tasks
    from mtseg.tasks.task_file import GENERATED

    label_space = parse_tasks(",".join(arguments.tasks))
    has_phantoms = any(GENERATED in selection.sources for selection in label_space.selections)
    for name in ("size", "num_train", "num_test"):
        if getattr(arguments, name) is not None and not has_phantoms:
            raise InputError(
                f"--{name.replace('_', '-')}: is for phantoms, and no task here has the source "
                f"{GENERATED}. Leave it out."
            )
    if arguments.beam_option and arguments.beam_runner is None:
        raise InputError("--beam-option: is for --beam-runner. Give both, or leave it out.")
    if arguments.num_processes != 1:
        begin_workers(WORKER_IMPORTS)  # imports TensorFlow in the background
    import_tensorflow()
    from mtseg.records.schema import PATCHES_PER_CLASS
    from mtseg.records.writing import prepare

    folders = _folders(arguments.manual_dir)
    for selection in label_space.selections:
        for source in selection.sources:
            is_phantom = source == GENERATED
            prepare(
                selection.task,
                source,
                arguments.data_dir,
                manual_dir=folders.get(source, folders.get("")),
                num_shards=arguments.num_shards,
                num_processes=arguments.num_processes,
                beam_runner=arguments.beam_runner,
                beam_options=arguments.beam_option,
                is_overwrite=arguments.overwrite,
                patches_per_class=arguments.patches_per_class or PATCHES_PER_CLASS,
                seed=arguments.seed,
                # Of several sources, these are for the phantoms.
                size=arguments.size if is_phantom else None,
                num_train=arguments.num_train if is_phantom else None,
                num_test=arguments.num_test if is_phantom else None,
            )
    return DONE


def _folders(given: list[str]) -> dict[str, str]:
    """The folder of each source that has one of its own; that of the others under no name."""
    folders = {}
    for text in given:
        source, equals, folder = text.partition("=")
        # A folder's own name may hold an equals sign; a source's is a word.
        source, folder = (source, folder) if equals and source.isidentifier() else ("", text)
        if source in folders:
            raise InputError(
                f"--manual-dir: {text}: {source or 'the folder of all sources'} is given twice. "
                "Write --manual-dir SOURCE=DIR for each source."
            )
        folders[source] = folder
    return folders
