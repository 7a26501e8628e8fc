"""mtseg-view: a page in the browser that segments scans and shows their labels."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from mtseg.cli.command import DONE, Parser, add_devices_flag, number, run, whole
from mtseg.cli.predict import PACKAGED_MODEL
from mtseg.errors import InputError


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "view",
        description="Open a page in the browser that segments scans and shows their labels. "
        "Scans that are dropped there stay on this machine, and are removed when the command ends.",
        epilog="Exit codes: 0 ended by Ctrl-C; 1 a defect of mtseg; 2 wrong usage, or the model "
        "cannot be used.",
    )
    parser.add_argument(
        "scans",
        nargs="*",
        metavar="SCAN",
        help="file, folder of a DICOM series, other folder, which is searched, or .txt file that "
        "lists one of these per line; shown at once",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder that mtseg-export wrote (default: the model that comes with mtseg)",
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="the task that all scans are for; no voxel gets a class of another (default: the "
        "network decides)",
    )
    add_devices_flag(parser)
    parser.add_argument(
        "--memory-gb",
        type=number,
        metavar="GB",
        help="memory for a scan, in 1e9 bytes, in addition to that of the libraries (default: half "
        "of the free memory)",
    )
    parser.add_argument(
        "--port",
        type=whole,
        default=0,
        metavar="N",
        help="port of the page on 127.0.0.1; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="only print the address of the page"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_view, argv)


def _view(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.memory_gb is not None and not arguments.memory_gb > 0:
        raise InputError(
            f"--memory-gb: {arguments.memory_gb} is not an amount of memory. Give a number above 0."
        )
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port: {arguments.port} is not a port. Give 0 to 65535.")
    if arguments.model is not None and not Path(arguments.model).is_dir():
        raise InputError(f"{arguments.model}: no such folder. Give one that mtseg-export wrote.")
    from mtseg.scans.discovery import list_scans
    from mtseg.viewer.private_folder import private_folder

    # One by one: each scan has a folder of its own here, so two may have the same name.
    listed = [list_scans([Path(named)]) for named in arguments.scans]
    paths = [scan.path for scans in listed for scan in scans]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a scan.")
    with _ended_by_signals(), private_folder() as folder:
        with contextlib.suppress(KeyboardInterrupt):
            _serve(arguments, [path.absolute() for path in paths], folder)
        print("Ended. The scans that were dropped and their results are removed.", flush=True)
    return DONE


def _serve(arguments: argparse.Namespace, paths: list[Path], folder: Path) -> None:
    """Answers the browser until a signal ends the command.

    Raises:
        InputError: if the model cannot be used or the port not be had.
    """
    from mtseg.viewer.computer import Computer
    from mtseg.viewer.scan_list import ScanList
    from mtseg.viewer.server import Server

    options = {
        "task": arguments.task,
        "use_preview": importlib.util.find_spec("matplotlib") is not None,
        "memory_bytes": None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    }
    model = None if arguments.model is None else str(Path(arguments.model).absolute())
    idle = folder / "idle"
    idle.mkdir()
    refusals: list[InputError] = []

    def refuse(error: InputError) -> None:
        refusals.append(error)
        server.shutdown()

    computer = Computer({"model": model, "devices": arguments.devices}, idle)
    scans = ScanList(computer, folder, options, on_refusal=refuse)
    with Server(scans, arguments.port) as server:
        if model is None:
            print(PACKAGED_MODEL, flush=True)
        print(f"{server.url}\nOpen this address in a browser; Ctrl-C ends the page.", flush=True)
        scans.add(paths)
        scans.start()
        if not arguments.no_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        finally:
            scans.close()
    if refusals:
        raise refusals[0]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt, so that the private folder is removed."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(each, interrupt) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
