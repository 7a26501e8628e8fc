"""mtseg-serve-dicom: a DICOM gateway that segments the series that are sent to it."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli.command import (
    DONE,
    Parser,
    add_devices_flag,
    add_engine_flag,
    number,
    run,
    start_engine,
    whole,
)
from mtseg.errors import InputError
from mtseg.gateway.peers import parse_ae_title, parse_caller, parse_destination
from mtseg.runs.manifest import PACKAGED, find_model, locate_model
from mtseg.serving.address import parse_address
from mtseg.serving.flags import add_server_flags, read_server_options, refuse_server_flags
from mtseg.system.signals import catch_sigterm

if TYPE_CHECKING:
    from mtseg.gateway.serving import Settings
    from mtseg.models.loading import ExportedModel
    from mtseg.prediction.options import Options
    from mtseg.serving.address import ServerOptions

_NEEDED = "pydicom", "highdicom", "pynetdicom"


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "serve-dicom",
        description="Receive DICOM series by C-STORE, segment each when it is complete, and write "
        "its DICOM SEG or send it. What was acknowledged is on the disk, so the command may be "
        "killed and started again. For research only.",
        epilog="Exit codes: 0 ended by SIGTERM; 1 a defect of mtseg; 2 wrong usage, or the spool, "
        "the port or the model cannot be used; 130 interrupted.",
    )
    parser.add_argument(
        "spool",
        metavar="SPOOL",
        help="folder that keeps what was received until it is delivered; private, made if missing",
    )
    here = parser.add_argument_group("receiving")
    here.add_argument(
        "--allow",
        action="append",
        required=True,
        metavar="AE_TITLE[@HOST]",
        help="application that may send, and the host that it calls from (default: any host); may "
        "be repeated. All others are rejected",
    )
    here.add_argument(
        "--ae-title",
        default="MTSEG",
        metavar="AE_TITLE",
        help="AE title of the gateway, which senders must name (default: %(default)s)",
    )
    here.add_argument(
        "--bind",
        default="127.0.0.1",
        metavar="IP",
        help="IP address of this machine to listen at (default: %(default)s)",
    )
    here.add_argument(
        "--port", type=whole, default=11112, metavar="N", help="port (default: %(default)s)"
    )
    here.add_argument(
        "--quiet-s",
        type=number,
        default=30.0,
        metavar="S",
        help="a series is complete when nothing of it has arrived for so many seconds (default: "
        "%(default)g)",
    )
    here.add_argument(
        "--max-gb",
        type=number,
        default=50.0,
        metavar="GB",
        help="size of the spool, in 1e9 bytes; when it is reached, senders are told to try again "
        "later (default: %(default)g)",
    )
    there = parser.add_argument_group("delivery, at least one of")
    there.add_argument("--out", metavar="DIR", help="folder for the DICOM SEG of each series")
    there.add_argument(
        "--send-to",
        metavar="AE_TITLE@HOST:PORT",
        help="application that each DICOM SEG is sent to; repeated until it takes it",
    )
    how = parser.add_argument_group("segmentation")
    how.add_argument(
        "--send-warned",
        action="store_true",
        help="also deliver labels with a warning, such as that the scan is unlike those that the "
        "network knows (default: such a series ends in SPOOL/failed)",
    )
    how.add_argument(
        "--model",
        metavar="DIR",
        help="folder that mtseg-export wrote, or of a run of mtseg-train, or a name that mtseg "
        "models lists (default: packaged, which comes with mtseg)",
    )
    how.add_argument(
        "--server",
        metavar="ADDRESS",
        help="compute on a server: grpc://HOST:PORT[/MODEL[/VERSION]], or grpcs, http or https",
    )
    how.add_argument(
        "--task",
        metavar="NAME",
        help="the task that all series are for; no voxel gets a class of another (default: the "
        "network decides)",
    )
    add_engine_flag(how)
    add_devices_flag(how)
    how.add_argument(
        "--memory-gb",
        type=number,
        metavar="GB",
        help="memory for a series, in 1e9 bytes, in addition to that of the libraries (default: "
        "half of the free memory)",
    )
    add_server_flags(parser.add_argument_group("with --server"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_serve, argv)


def _serve(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    with catch_sigterm() as stop:  # also during the imports, which take seconds
        options = _read_options(arguments)
        settings = _read_settings(arguments)
        server_options = None if arguments.server is None else read_server_options(arguments)
        from mtseg.gateway.serving import run_gateway

        _begin_log()

        def announce(port: int) -> None:
            print(f"{settings.ae_title} listens at {settings.address}:{port}.", flush=True)

        run_gateway(
            settings, lambda: _load(arguments, server_options), options, stop, on_listening=announce
        )
    print("Ended. What is in the spool is continued at the next start.", flush=True)
    return DONE


def _read_settings(arguments: argparse.Namespace) -> Settings:
    """What the flags ask for.

    Raises:
        InputError: if a value cannot be used, or a package is missing.
    """
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port: {arguments.port} is not a port. Give 0 to 65535.")
    try:
        ipaddress.ip_address(arguments.bind)
    except ValueError as error:
        raise InputError(
            f"--bind: {arguments.bind!r} is not an IP address. Give one of this machine."
        ) from error
    for flag, value in (("quiet-s", arguments.quiet_s), ("max-gb", arguments.max_gb)):
        if not 0 < value < float("inf"):
            raise InputError(f"--{flag}: must be a number above 0, not {value:g}.")
    if arguments.out is None and arguments.send_to is None:
        raise InputError("give --out or --send-to, or both: segmentations would go nowhere.")
    if arguments.out is not None and Path(arguments.out).is_file():
        raise InputError(f"{arguments.out}: is a file. Give a folder for the segmentations.")
    if Path(arguments.spool).is_file():
        raise InputError(f"{arguments.spool}: is a file. Give a folder for the spool.")
    ae_title = parse_ae_title(arguments.ae_title, "--ae-title")
    callers = tuple(parse_caller(text) for text in arguments.allow)
    destination = None if arguments.send_to is None else parse_destination(arguments.send_to)
    if arguments.server is None:
        refuse_server_flags(arguments)
        find_model(locate_model(arguments.model or PACKAGED))
    else:
        if arguments.model is not None:
            raise InputError("--model and --server: give one of them.")
        if arguments.engine != "auto" or arguments.devices is not None:
            raise InputError("--engine and --devices: the server chooses them. Leave them out.")
        parse_address(arguments.server)
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"{', '.join(missing)}: not installed. Install what the gateway needs: "
            "pip install 'mtseg[gateway]'"
        )
    from mtseg.gateway.serving import Settings

    return Settings(
        spool=Path(arguments.spool).absolute(),
        callers=callers,
        ae_title=ae_title,
        address=arguments.bind,
        port=arguments.port,
        quiet_s=arguments.quiet_s,
        max_bytes=arguments.max_gb * 1e9,
        out_dir=None if arguments.out is None else Path(arguments.out).absolute(),
        destination=destination,
    )


def _read_options(arguments: argparse.Namespace) -> Options:
    from mtseg.prediction.options import Options

    return Options(
        task=arguments.task,
        use_dicom_seg=True,
        is_strict=not arguments.send_warned,
        memory_bytes=None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    )


def _load(arguments: argparse.Namespace, server_options: ServerOptions | None) -> ExportedModel:
    """Loads the model and prints what will compute.

    Raises:
        InputError: if it cannot be used.
    """
    from mtseg import load
    from mtseg.models.listing import describe_choice

    engine = None
    if arguments.server is None:
        engine = start_engine(arguments.model, arguments.engine, arguments.devices)
        if said := describe_choice(arguments.model):
            print(said, flush=True)
    model = load(arguments.server or arguments.model, None, server_options, engine)
    check = model.out_of_distribution_check
    print(
        "No out-of-distribution check in the model: no series is withheld for being unlike those "
        "it knows."
        if check is None
        else check.describe(),
        flush=True,
    )
    return model


def _begin_log() -> None:
    """Prints the lines of the gateway, and none of libraries: those may have patients' names."""
    log = logging.getLogger("mtseg.gateway")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
