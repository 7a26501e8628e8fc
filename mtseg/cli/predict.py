"""mtseg-predict: scan files to label files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg import load
from mtseg.cli import BAD_INPUT, DONE, SOME_FAILED, import_tensorflow, positive, print_error, run
from mtseg.errors import InputError
from mtseg.prediction.results import is_done, made_from
from mtseg.scans.discovery import ListedScan, list_scans, take_part
from mtseg.serving.address import MESSAGE_BYTES, ServerOptions, parse_address
from mtseg.system.progress import Progress

if TYPE_CHECKING:
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.pipeline import Work
    from mtseg.prediction.scan import Options


PACKAGED_MODEL = (
    "No model named: the one that comes with mtseg is used. For research only; it knows "
    "skull-stripped brain MR, and breast MR and coronary CT angiography from synthetic scans alone."
)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-predict",
        description="Segment scans. The network recognises modality and anatomy by itself; each "
        "label file is on its scan's own grid.",
    )
    parser.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="files (NIfTI, MGH, NRRD, MetaImage, DICOM), folders of a DICOM series, other "
        "folders, which are searched, or a .txt file with one of these a line",
    )
    parser.add_argument(
        "--model", metavar="DIR", help="from mtseg-export (the model that comes with the package)"
    )
    parser.add_argument(
        "--server",
        metavar="ADDRESS",
        help="a server computes: grpc://HOST:PORT[/MODEL[/VERSION]], or grpcs, http or https",
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="folder of the label files"
    )
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also write a DICOM segmentation; the scans must be DICOM series",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write each class's probability, in steps of 1/255",
    )
    parser.add_argument(
        "--spacing-mm", type=float, help="isotropic size to work at (the scan's finest)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the convolutions; auto: the faster one on this machine, and float32 on a server "
        "(%(default)s)",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        metavar="GB",
        help="memory that may be used, 1e9 bytes each, beside that of the libraries (half of what "
        "is free)",
    )
    parser.add_argument(
        "--modality",
        choices=("auto", "ct", "mr"),
        default="auto",
        help="whether intensities are Hounsfield units; auto: below -500 means CT (%(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="compute scans again that have results of this model and these options",
    )
    jobs = parser.add_argument_group("for several jobs that share the scans")
    jobs.add_argument("--num-parts", type=positive, default=1, help="jobs (%(default)s)")
    jobs.add_argument("--part-id", type=int, default=0, help="which one, from 0 (%(default)s)")
    jobs.add_argument(
        "--beam-runner", metavar="NAME", help="segment on the workers of an Apache Beam runner"
    )
    jobs.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="an option of that runner; may be repeated",
    )
    server = parser.add_argument_group("with --server")
    server.add_argument(
        "--message-mb",
        type=float,
        default=MESSAGE_BYTES / 1e6,
        metavar="MB",
        help="largest message, 1e6 bytes each (%(default)g)",
    )
    server.add_argument(
        "--in-flight", type=positive, default=2, help="requests at once (%(default)s)"
    )
    server.add_argument(
        "--deadline-s",
        type=float,
        default=600.0,
        metavar="S",
        help="how long an answer may take (%(default)g)",
    )
    server.add_argument(
        "--retries",
        type=int,
        default=5,
        help="further attempts if it is unavailable or has too much to do (%(default)s)",
    )
    server.add_argument(
        "--token-file", type=Path, help="holds a bearer token (environment: MTSEG_TOKEN)"
    )
    server.add_argument(
        "--ca-certificate", type=Path, metavar="PEM", help="who vouches for the server (system's)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_predict, argv)


def _predict(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    out = Path(arguments.out)
    if arguments.spacing_mm is not None and not 0.05 <= arguments.spacing_mm <= 20:
        raise InputError(
            f"--spacing-mm: {arguments.spacing_mm} is not a voxel size in mm. Give 0.05 to 20."
        )
    if arguments.memory_gb is not None and not arguments.memory_gb > 0:
        raise InputError(
            f"--memory-gb: {arguments.memory_gb} is not an amount of memory. Give a number above 0."
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give a folder for the label files.")
    server_options = None
    if arguments.server is not None:
        if arguments.model is not None:
            raise InputError("--model and --server: give one of them.")
        if arguments.beam_runner is not None:
            raise InputError("--beam-runner: its workers compute; --server does not go with it.")
        parse_address(arguments.server)  # is it one, before TensorFlow is loaded?
        server_options = _server_options(arguments)
    scans = list_scans(Path(scan) for scan in arguments.scans)
    missing = [str(scan.path) for scan in scans if not scan.path.exists()]
    if len(missing) == len(scans):  # nothing to do: say so before TensorFlow is loaded
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a scan.")
    scans = take_part(scans, arguments.num_parts, arguments.part_id)

    import_tensorflow()
    if arguments.model is None and arguments.server is None:
        print(PACKAGED_MODEL, flush=True)
    precision = None if arguments.precision == "auto" else arguments.precision
    model = load(arguments.server or arguments.model, precision, server_options)
    return _segment(model, scans, out, arguments)


def _segment(
    model: ExportedModel, scans: list[ListedScan], out: Path, arguments: argparse.Namespace
) -> int:
    from mtseg.prediction.pipeline import segment_files
    from mtseg.prediction.scan import Options
    from mtseg.serving.connection import ServerError

    options = Options(
        spacing_mm=arguments.spacing_mm,
        is_ct={"auto": None, "ct": True, "mr": False}[arguments.modality],
        use_probabilities=arguments.probabilities,
        use_dicom_seg=arguments.dicom_seg,
        memory_bytes=None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    )
    to_do = scans
    if not arguments.overwrite:
        made = (model.model_id, model.network.precision, options.deciding())
        to_do = [
            scan
            for scan in scans
            if not (scan.path.exists() and is_done(out / scan.stem, made_from(scan.path, *made)))
        ]
        if num_done := len(scans) - len(to_do):
            print(
                f"{num_done} of {len(scans)} scans have their results already, of this model and "
                "these options; --overwrite computes them again.",
                flush=True,
            )
    if arguments.beam_runner is not None:
        return _segment_on_beam(to_do, out, options, arguments)
    bars = _Bars(len(to_do), model.network.precision)
    num_written, failed = 0, []
    try:
        for scan, outcome in segment_files(
            model,
            [scan.path for scan in to_do],
            out,
            options,
            folders=dict(to_do),
            on_start=bars.start,
            on_flop=bars.advance,
        ):
            if isinstance(outcome, InputError):
                if len(scans) == 1:
                    raise outcome
                failed.append(str(scan))
                print_error(outcome)
                continue
            num_written += 1
            found = ", ".join(f"{n} {ml:.1f} ml" for n, ml in outcome.volumes_ml.items())
            bars.say(f"{scan} -> {outcome.label_path}: {found or 'background only'}")
            bars.say(f"  {outcome.verdict.describe()}; in full: {outcome.verdict_path}")
            if outcome.verdict.warning:
                print(f"warning: {scan}: {outcome.verdict.warning}", file=sys.stderr)
    except ServerError as error:
        if len(scans) == 1:
            raise
        num_there = len(scans) - len(to_do) + num_written
        raise InputError(
            f"{error} {num_there} of {len(scans)} scans have their results; the same command goes "
            "on from there."
        ) from error
    return _sum_up(failed, len(scans))


def _sum_up(failed: list[str], num_scans: int) -> int:
    if failed:
        print(f"{len(failed)} of {num_scans} scans failed: {', '.join(failed)}", file=sys.stderr)
    if num_scans and len(failed) == num_scans:
        return BAD_INPUT
    return SOME_FAILED if failed else DONE


def _segment_on_beam(
    scans: list[ListedScan], out: Path, options: Options, arguments: argparse.Namespace
) -> int:
    from mtseg.prediction.beam import segment_on_beam

    print(f"{len(scans)} scans on {arguments.beam_runner}.", flush=True)
    failures = segment_on_beam(
        scans,
        None if arguments.model is None else Path(arguments.model).absolute(),
        out.absolute(),
        options,
        None if arguments.precision == "auto" else arguments.precision,
        arguments.beam_runner,
        arguments.beam_option,
    )
    for message in failures.values():
        print_error(message)
    print(f"{len(scans) - len(failures)} of {len(scans)} scans segmented into {out}.")
    return _sum_up(list(failures), len(scans))


def _server_options(arguments: argparse.Namespace) -> ServerOptions:
    for name, most in (("message_mb", 2000), ("deadline_s", 86_400)):
        if not 0 < getattr(arguments, name) <= most:
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag}: {getattr(arguments, name):g} is not above 0 and up to {most}."
            )
    if arguments.retries < 0:
        raise InputError(f"--retries: must not be negative, not {arguments.retries}.")
    token = os.environ.get("MTSEG_TOKEN")
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{arguments.token_file}: cannot be read. Give a file that holds a token."
            ) from error
    if token is not None and (not token.strip().isascii() or len(token.split()) != 1):
        raise InputError("the token of --token-file or MTSEG_TOKEN is not one word of ASCII.")
    return ServerOptions(
        message_bytes=int(arguments.message_mb * 1e6),
        in_flight=arguments.in_flight,
        deadline_seconds=arguments.deadline_s,
        retries=arguments.retries,
        ca_path=arguments.ca_certificate,
        token=None if token is None else token.strip(),
    )


class _Bars:
    """One progress bar per scan, by the operations done."""

    def __init__(self, num_scans: int, precision: str) -> None:
        self._num_scans, self._precision = num_scans, precision
        self._number, self._path = 0, Path()
        self._bar: Progress | None = None
        self._left = 0.0

    def start(self, path: Path, work: Work) -> None:
        """Begins the bar of a scan, and says what it will take."""
        num_tiles = len(work.plan.tiles)
        self.say(
            f"{path}: {work.plan.flop / 1e12:.2f} TFLOP in {self._precision}, {num_tiles} "
            f"tile{'s' * (num_tiles != 1)}, at most {work.peak_bytes / 1e9:.2f} GB."
        )
        self._number += path != self._path  # a scan may be begun anew
        self._path = path
        title = f"{path.name} ({self._number} of {self._num_scans})"
        self._bar = Progress(title, round(work.plan.flop / 1e9), "GFLOP")
        self._left = 0.0

    def advance(self, flop: int) -> None:
        """Counts operations as done."""
        assert self._bar is not None
        self._left += flop / 1e9
        self._bar.advance(int(self._left))
        self._left -= int(self._left)

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.say(line)
