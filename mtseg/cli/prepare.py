"""mtseg-prepare: scans or phantoms to training records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.cli.command import (
    DONE,
    Parser,
    add_beam_flags,
    add_bids_filter,
    check_beam_flags,
    not_negative,
    number,
    positive,
    print_doubts,
    require_named_sources,
    run,
    whole,
)
from mtseg.errors import InputError
from mtseg.system.devices import choose_devices
from mtseg.system.quiet_tensorflow import import_tensorflow, require_package

if TYPE_CHECKING:
    from mtseg.tasks.label_space import LabelSpace

DEFAULT_DATA_DIR = "mtseg_data"


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "prepare",
        description="Prepare labelled scans, or generated phantoms, as training records.",
        epilog="Example: mtseg-prepare brain:miccai2012 --manual-dir SCANS --data-dir mtseg_data",
    )
    parser.add_argument(
        "tasks",
        nargs="+",
        metavar="TASK[:SOURCE]",
        help="name of a task or path of a task file, with a source of scans; may be repeated",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=DEFAULT_DATA_DIR,
        help="folder for the records (default: %(default)s)",
    )
    parser.add_argument(
        "--manual-dir",
        action="append",
        default=[],
        metavar="[SOURCE=]DIR",
        help="folder of the scans; with several sources, once per source; phantoms need none",
    )
    add_bids_filter(parser)
    parser.add_argument(
        "--kinds",
        metavar="KINDS",
        help="volumes, patches or both, separated by a comma; patches are for mtseg-train "
        "--input patches (default: volumes)",
    )
    parser.add_argument(
        "--num-processes",
        type=positive,
        metavar="N",
        help="subjects to prepare in parallel (default: number of cores)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--update",
        action="store_true",
        help="bring existing records up to date: read only the subjects that changed",
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="prepare existing records again, all of them"
    )
    add_beam_flags(parser, "prepare")
    validation = parser.add_argument_group("validation: training subjects that are set aside")
    validation.add_argument(
        "--validation-share",
        type=number,
        metavar="X",
        help="share of the training persons to set aside (default: those that the split lists)",
    )
    validation.add_argument(
        "--fold",
        metavar="K/N",
        help="set aside part K of N of them, or fold K of nnU-Net's splits_final.json",
    )
    validation.add_argument(
        "--split-seed",
        type=not_negative,
        metavar="N",
        help="random seed of who is set aside (default: 0)",
    )
    patches = parser.add_argument_group("for patches")
    patches.add_argument(
        "--patches-per-class",
        type=positive,
        metavar="N",
        help="patches per class and subject (default: 1000)",
    )
    patches.add_argument(
        "--seed",
        type=not_negative,
        metavar="N",
        help="random seed of the choice of patches (default: 0)",
    )
    patches.add_argument(
        "--num-shards",
        type=positive,
        metavar="N",
        help="number of shard files for the patches (default: one per subject)",
    )
    phantoms = parser.add_argument_group("for phantoms")
    phantoms.add_argument(
        "--size",
        type=positive,
        metavar="N",
        help="largest extent in voxels, at least 32 (default: about that of the paper's scans)",
    )
    for split, name, kind in (("train", "training", positive), ("test", "test", whole)):
        phantoms.add_argument(
            f"--num-{split}",
            type=kind,
            metavar="N",
            help=f"number of {name} subjects (default: that in the task file)",
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_prepare, argv)


def _prepare(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    folders = _folders(arguments.manual_dir)
    from mtseg.records import WORKER_IMPORTS
    from mtseg.system.processes import begin_workers
    from mtseg.tasks.label_space import filter_bids, parse_tasks
    from mtseg.tasks.task_file import GENERATED

    label_space = parse_tasks(",".join(arguments.tasks))
    if arguments.bids_filter is not None:
        label_space = filter_bids(label_space, arguments.bids_filter)
    _check_manual_dirs(label_space, folders)
    has_phantoms = any(GENERATED in selection.sources for selection in label_space.selections)
    for name in ("size", "num_train", "num_test"):
        if getattr(arguments, name) is not None and not has_phantoms:
            raise InputError(
                f"--{name.replace('_', '-')}: is for phantoms, and no task here has the source "
                f"{GENERATED}. Leave it out."
            )
    check_beam_flags(arguments)
    validation = _read_validation(arguments)
    kinds = [kind.strip() for kind in (arguments.kinds or "").split(",") if kind.strip()]
    if "patches" not in kinds:
        for name in ("patches_per_class", "seed", "num_shards"):
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')}: is for patches, and none are prepared. Add "
                    "--kinds patches,volumes, or leave it out."
                )
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder. Give the folder of the scans.")
    require_named_sources(label_space, arguments.data_dir)
    print_doubts(label_space)
    for package in ("tensorflow", "tensorflow_datasets"):
        require_package(package)
    if arguments.num_processes != 1:
        begin_workers(WORKER_IMPORTS)  # imports TensorFlow in the background
    import_tensorflow()
    choose_devices("cpu")
    from mtseg.records.schema import DEFAULT_KINDS, KINDS, PATCHES_PER_CLASS
    from mtseg.records.writing import prepare

    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"--kinds: {kind!r} is not one of {', '.join(KINDS)}.")
    for selection in label_space.selections:
        for place, source in enumerate(selection.sources, start=1):
            is_phantom = source == GENERATED
            prepare(
                selection.task,
                source,
                arguments.data_dir,
                manual_dir=folders.get(source, folders.get("")),
                kinds=tuple(dict.fromkeys(kinds)) or DEFAULT_KINDS,
                num_shards=arguments.num_shards,
                num_processes=arguments.num_processes,
                beam_runner=arguments.beam_runner,
                beam_options=arguments.beam_option,
                is_update=arguments.update,
                is_overwrite=arguments.overwrite,
                also=selection.sources[place:],
                patches_per_class=arguments.patches_per_class or PATCHES_PER_CLASS,
                seed=arguments.seed or 0,
                # Of several sources, these are for the phantoms.
                size=arguments.size if is_phantom else None,
                num_train=arguments.num_train if is_phantom else None,
                num_test=arguments.num_test if is_phantom else None,
                **validation,
            )
    return DONE


def _read_validation(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of records that the flags of the group `validation` ask for."""
    from mtseg.sources.splits import ValidationRule

    share, fold, seed = arguments.validation_share, arguments.fold, arguments.split_seed
    ValidationRule(share or 0.0, fold or "", seed or 0)  # refuses what cannot be used
    if not share and not fold:
        if seed is not None:
            raise InputError("--split-seed: needs --validation-share or --fold. Leave it out.")
        return {}
    return {"validation_share": share, "fold": fold, "split_seed": seed or 0}


def _check_manual_dirs(label_space: LabelSpace, folders: dict[str, str]) -> None:
    """Refuses folders of scans that no source would use, above all in favour of phantoms.

    Raises:
        InputError: if so; the message names the flag or the task, and the sources.
    """
    from mtseg.tasks.label_space import name_sources
    from mtseg.tasks.task_file import GENERATED

    sources = {source for selection in label_space.selections for source in selection.sources}
    for selection in label_space.selections:
        if folders and selection.is_default and selection.sources == (GENERATED,):
            task = selection.task.own_file or selection.task.name
            raise InputError(
                f"task {task}: --manual-dir gives scans, but no source is named, which means "
                f"phantoms. Name one: {name_sources(selection)}; or {task}:{GENERATED}."
            )
    for source in folders:
        if source == GENERATED or (source and source not in sources):
            raise InputError(
                f"--manual-dir {source}={folders[source]}: no task here has scans of the source "
                f"{source}. Leave it out, or name the source with its task."
            )
    if folders and sources == {GENERATED}:
        raise InputError(
            "--manual-dir: is for scans, and only phantoms are prepared. Leave it out, or name a "
            "source of scans."
        )


def _folders(given: list[str]) -> dict[str, str]:
    """Reads `--manual-dir`: the folder of each named source; the other sources' under ""."""
    folders = {}
    for text in given:
        source, equals, folder = text.partition("=")
        # The name of a folder may contain an equals sign; that of a source is a word.
        source, folder = (source, folder) if equals and source.isidentifier() else ("", text)
        if source in folders:
            raise InputError(
                f"--manual-dir: {text}: {source or 'the folder of all sources'} is given twice. "
                "Write --manual-dir SOURCE=DIR for each source."
            )
        folders[source] = folder
    return folders
