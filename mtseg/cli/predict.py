"""mtseg-predict: segmentation of scan files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg import load
from mtseg.cli.command import (
    Parser,
    Tally,
    add_beam_flags,
    add_devices_flag,
    add_engine_flag,
    add_part_flags,
    check_beam_flags,
    number,
    print_error,
    run,
    start_engine,
)
from mtseg.errors import InputError
from mtseg.inference.engines.choice import PRECISIONS
from mtseg.runs.manifest import find_model, locate_model
from mtseg.serving.address import parse_address
from mtseg.serving.flags import add_server_flags, read_server_options, refuse_server_flags
from mtseg.system.quiet_tensorflow import import_tensorflow

if TYPE_CHECKING:
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.options import Options
    from mtseg.scans.discovery import ListedScan


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "predict",
        description="Segment scans. The network recognises modality and anatomy; each label file "
        "is on the grid of its scan.",
        epilog="Exit codes: 0 all scans are segmented; 1 a defect of mtseg; 2 wrong usage, the "
        "server was lost, or no scan could be segmented; 3 some of several could not; 4 all were "
        "segmented, and --strict withheld the labels of at least one; 130 interrupted.",
    )
    parser.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="file (NIfTI, MGH, NRRD, MetaImage, DICOM), folder of a DICOM series, other folder, "
        "which is searched, or .txt file that lists one of these per line",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        help="folder for the results (default: beside each scan, without tables of all scans)",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder that mtseg-export wrote, or of a run of mtseg-train, or a name that mtseg "
        "models lists (default: packaged, which comes with mtseg)",
    )
    parser.add_argument(
        "--ensemble",
        nargs="+",
        metavar="DIR",
        help="two models or more, of the same classes: their probabilities are averaged; give it "
        "after the scans",
    )
    parser.add_argument(
        "--tta",
        choices=("flip",),
        help="flip: average the probabilities of the scan and of its mirror image, left and right "
        "exchanged, in twice the time; for tasks whose files allow it (default: none)",
    )
    parser.add_argument(
        "--server",
        metavar="ADDRESS",
        help="compute on a server: grpc://HOST:PORT[/MODEL[/VERSION]], or grpcs, http or https",
    )
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write a DICOM segmentation; the scans must be DICOM series",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write the probability of each class, in steps of 1/255",
    )
    parser.add_argument(
        "--preview",
        action="store_true",
        help="also draw a picture of each scan with its labels: three planes, outlines, volumes",
    )
    parser.add_argument(
        "--spacing-mm",
        type=number,
        metavar="MM",
        help="isotropic voxel size for the computation (default: that of the task, which is "
        "recognised)",
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="the task that the scans are for; no voxel gets a class of another (default: the "
        "network decides)",
    )
    parser.add_argument(
        "--no-postprocessing",
        action="store_true",
        help="leave out the post-processing that the task file of a class asks for",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="precision of the convolutions; auto: the fastest on this machine, int8 only if the "
        "model allows it, and float32 on a server (default: %(default)s)",
    )
    add_engine_flag(parser)
    add_devices_flag(parser)
    parser.add_argument(
        "--memory-gb",
        type=number,
        metavar="GB",
        help="memory to use, in 1e9 bytes, in addition to that of the libraries (default: half of "
        "the free memory)",
    )
    parser.add_argument(
        "--modality",
        choices=("auto", "ct", "mr"),
        default="auto",
        help="ct if intensities are Hounsfield units; auto: as the DICOM header says, else by the "
        "values (default: %(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="withhold the labels of a scan with a warning: only its verdict file is written, and "
        "the exit code is 4",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="segment scans again that have results; replaces any files of their names",
    )
    jobs = parser.add_argument_group("for several jobs that share the scans")
    add_part_flags(jobs)
    add_beam_flags(jobs, "segment")
    add_server_flags(parser.add_argument_group("with --server"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_predict, argv)


def _predict(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    options = _read_options(arguments)
    _check_arguments(arguments)  # and the scans: fail before TensorFlow is loaded
    if not any(Path(scan).exists() for scan in arguments.scans):
        raise InputError(f"{', '.join(arguments.scans)}: no such file. Give the path of a scan.")
    if arguments.model is not None:
        arguments.model = str(locate_model(arguments.model))
    for folder in arguments.ensemble or filter(None, [arguments.model]):
        find_model(locate_model(folder))
    from mtseg.models.listing import describe_choice
    from mtseg.scans.discovery import list_scans, take_part

    out = None if arguments.out is None else Path(arguments.out)
    scans = list_scans((Path(scan) for scan in arguments.scans), out, is_beside=out is None)
    missing = [str(scan.path) for scan in scans if not scan.path.exists()]
    if len(missing) == len(scans):
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a scan.")
    scans = take_part(scans, arguments.num_parts, arguments.part_id)
    server_options = None if arguments.server is None else read_server_options(arguments)

    precision = None if arguments.precision == "auto" else arguments.precision
    engine = None
    if arguments.server is None and arguments.beam_runner is None:
        models = arguments.ensemble or arguments.model
        engine = start_engine(models, arguments.engine, arguments.devices, precision)
    elif arguments.server is None:
        import_tensorflow()
    given = arguments.server or arguments.ensemble or arguments.model
    if given in (None, arguments.model) and (said := describe_choice(arguments.model)):
        print(said, flush=True)
    model = load(given, precision, server_options, engine)
    return _segment(model, scans, out, options, arguments)


def _read_options(arguments: argparse.Namespace) -> Options:
    """The options that the flags ask for.

    Raises:
        InputError: if a value cannot be used.
    """
    from mtseg.prediction.options import Options

    return Options(
        spacing_mm=arguments.spacing_mm,
        is_ct={"auto": None, "ct": True, "mr": False}[arguments.modality],
        task=arguments.task,
        use_flips=arguments.tta == "flip",
        use_postprocessing=not arguments.no_postprocessing,
        use_probabilities=arguments.probabilities,
        use_dicom_seg=arguments.dicom_seg,
        use_preview=arguments.preview,
        is_strict=arguments.strict,
        memory_bytes=None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    )


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuses values and combinations of arguments that cannot be used."""
    if arguments.preview:
        from mtseg.prediction.preview import require_matplotlib

        require_matplotlib()
    if arguments.out is not None and Path(arguments.out).is_file():
        raise InputError(f"{arguments.out}: is a file. Give a folder for the label files.")
    check_beam_flags(arguments)
    if arguments.devices is not None and (arguments.server or arguments.beam_runner):
        raise InputError(
            "--devices: is for computing in this process. Leave it out: the server or the workers "
            "choose their devices."
        )
    if arguments.engine != "auto" and (arguments.server or arguments.beam_runner):
        raise InputError(
            "--engine: is for computing in this process. Leave it out: the server or the workers "
            "choose their engines."
        )
    if arguments.ensemble is not None:
        for other in ("model", "server", "beam_runner"):
            if getattr(arguments, other) is not None:
                raise InputError(
                    f"--{other.replace('_', '-')} and --ensemble: give one of them. An ensemble is "
                    "computed in this process."
                )
    if arguments.server is None:
        refuse_server_flags(arguments)
        return
    for other in ("model", "beam_runner"):
        if getattr(arguments, other) is not None:
            raise InputError(f"--{other.replace('_', '-')} and --server: give one of them.")
    parse_address(arguments.server)


def _segment(
    model: ExportedModel,
    scans: list[ListedScan],
    folder: Path | None,
    options: Options,
    arguments: argparse.Namespace,
) -> int:
    from mtseg.prediction.folder_results import refuse_other_labels, write_folder_results
    from mtseg.prediction.pipeline import with_flips
    from mtseg.prediction.results import (
        has_all_results,
        is_withheld,
        refuse_other_scan,
        refuse_results_that_are_scans,
    )
    from mtseg.prediction.scan import wanted_tasks

    # What no scan could be segmented with is refused before anything is written.
    wanted_tasks(model, options)
    with_flips(model, options)
    check = model.out_of_distribution_check
    if arguments.strict and check is None:
        raise InputError(
            f"--strict: {model.path} has no out-of-distribution check, so no scan would be warned "
            "of. Leave out --strict, or export a model that was evaluated on at least 3 scans of "
            "each task."
        )
    print("No out-of-distribution check in the model." if check is None else check.describe())
    out = folder or Path()  # beside each scan: the scans' own folders are relative to here
    if folder is not None:
        stems = [scan.stem for scan in scans]
        refuse_other_labels(folder, model.label_table, arguments.overwrite, stems)
    refuse_results_that_are_scans({scan.path: out / scan.stem for scan in scans})
    to_do = scans
    if not arguments.overwrite:
        of_model = (model.identify(), model.network.precision)
        to_do = [
            scan
            for scan in scans
            if not has_all_results(out / scan.stem, scan.path, *of_model, options)
        ]
        for scan in to_do:
            refuse_other_scan(out / scan.stem, scan.path)
        if num_done := len(scans) - len(to_do):
            print(
                f"{num_done} of {len(scans)} scans already have results of this model and these "
                "options; --overwrite segments them again.",
                flush=True,
            )
    tally = Tally()
    if options.is_strict:  # also of commands before: the exit code is that of all scans
        done = [scan for scan in scans if scan not in to_do and is_withheld(out / scan.stem)]
        tally.withheld.extend(str(scan.path) for scan in done)
    try:
        if arguments.beam_runner is not None:
            return _segment_on_beam(to_do, folder, options, arguments, tally)
        return _segment_here(
            model, to_do, len(scans), folder, options, tally, may_replace=arguments.overwrite
        )
    finally:  # also of the scans before one that could not be computed
        if folder is not None:
            write_folder_results(folder, [scan.stem for scan in scans], model.label_table)


def _segment_here(
    model: ExportedModel,
    to_do: list[ListedScan],
    num_scans: int,
    folder: Path | None,
    options: Options,
    tally: Tally,
    *,
    may_replace: bool,
) -> int:
    from mtseg.api.scan_progress import ScanBars
    from mtseg.prediction.pipeline import segment_files
    from mtseg.serving.connection import ServerError

    bars = ScanBars(len(to_do), model.network.precision)
    num_written = 0
    try:
        for path, outcome in segment_files(
            model,
            [scan.path for scan in to_do],
            folder or Path(),
            options,
            folders=dict(to_do),
            may_replace=may_replace,
            is_explained=folder is not None,
            on_start=bars.start,
            on_flop=bars.advance,
        ):
            if isinstance(outcome, InputError):
                if num_scans == 1:
                    raise outcome
                tally.failed.append(str(path))
                print_error(outcome)
                continue
            num_written += 1
            bars.say(outcome.headline(path))
            for line in outcome.details():
                bars.say(f"  {line}")
            tally.add(str(path), outcome.verdict.warning is not None, outcome.is_withheld)
    except ServerError as error:
        if num_scans == 1:
            raise
        num_there = num_scans - len(to_do) + num_written
        raise InputError(
            f"{error} {num_there} of {num_scans} scans have their results. Rerun the command "
            "to resume."
        ) from error
    return tally.sum_up(num_scans)


def _segment_on_beam(
    scans: list[ListedScan],
    folder: Path | None,
    options: Options,
    arguments: argparse.Namespace,
    tally: Tally,
) -> int:
    from mtseg.prediction.beam import segment_on_beam

    out = folder or Path()
    print(f"{len(scans)} scans on {arguments.beam_runner}.", flush=True)
    outcomes = segment_on_beam(
        scans,
        None if arguments.model is None else Path(arguments.model).absolute(),
        out.absolute(),
        options,
        None if arguments.precision == "auto" else arguments.precision,
        arguments.beam_runner,
        arguments.beam_option,
        may_replace=arguments.overwrite,
        is_explained=folder is not None,
    )
    for outcome in outcomes:
        if outcome.error is not None:
            print_error(outcome.error)
            tally.failed.append(outcome.scan)
            continue
        print(outcome.headline)
        tally.add(outcome.scan, outcome.has_warning, outcome.is_withheld)
    num_segmented = len(scans) - len(tally.failed)
    print(f"{num_segmented} of {len(scans)} scans segmented into {out}.", flush=True)
    return tally.sum_up(len(scans))
