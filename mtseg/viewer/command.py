"""mtseg-view: a page in the browser that segments scans and shows their labels."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mtseg.cli.command import (
    DONE,
    Parser,
    add_devices_flag,
    number,
    run,
    whole,
)
from mtseg.errors import InputError
from mtseg.runs.manifest import locate_model

if TYPE_CHECKING:
    from mtseg.viewer.scan import StoredScan


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
        "lists one of these per line; shown at once. Or the folder that mtseg-experiments wrote: "
        "its test scans with the labels of every network",
    )
    parser.add_argument(
        "--reference",
        metavar="LABELS",
        help="a label map of the only SCAN, shown with Dice",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="for experiments: folder of prepared records, if it was moved since",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder that mtseg-export wrote, or a name that mtseg models lists (default: "
        "packaged, which comes with mtseg)",
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
    if arguments.model is not None:
        arguments.model = str(locate_model(arguments.model))
        if not Path(arguments.model).is_dir():
            raise InputError(
                f"{arguments.model}: no such folder. Give one that mtseg-export wrote."
            )
    from mtseg.experiments.plan import PLAN
    from mtseg.scans.discovery import list_scans
    from mtseg.viewer.private_folder import private_folder

    if any((Path(named) / PLAN).is_file() for named in arguments.scans):
        experiments = _read_experiments(arguments)
        with _ended_by_signals(), private_folder() as folder:
            with contextlib.suppress(KeyboardInterrupt):
                _serve(arguments, folder, experiments=experiments)
            print("Ended.", flush=True)
        return DONE
    if arguments.data_dir is not None:
        raise InputError("--data-dir: is for a folder of experiments. Leave it out.")
    # One by one: each scan has a folder of its own here, so two may have the same name.
    listed = [list_scans([Path(named)]) for named in arguments.scans]
    paths = [scan.path for scans in listed for scan in scans]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise InputError(f"{', '.join(missing)}: no such file. Give the path of a scan.")
    if arguments.reference is not None:
        if len(paths) != 1:
            raise InputError(
                f"--reference: is for one scan, and there are {len(paths)}. Give one SCAN with it."
            )
        if not Path(arguments.reference).is_file():
            raise InputError(f"{arguments.reference}: no such file. Give a label map of the scan.")
    with _ended_by_signals(), private_folder() as folder:
        with contextlib.suppress(KeyboardInterrupt):
            _serve(arguments, folder, paths=[path.absolute() for path in paths])
        print("Ended. The scans that were dropped and their results are removed.", flush=True)
    return DONE


def _read_experiments(arguments: argparse.Namespace) -> tuple[dict[str, str], list[StoredScan]]:
    """Where the experiments and their records are, and their test scans.

    Raises:
        InputError: if there are other scans or flags too, or the experiments cannot be read.
    """
    from mtseg.experiments.plan import read_plan
    from mtseg.experiments.stored import StoredExperiments
    from mtseg.viewer.scan import StoredScan

    if len(arguments.scans) > 1:
        raise InputError(
            f"{', '.join(arguments.scans)}: has a folder of experiments. Give it alone."
        )
    for name in ("model", "task", "reference"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name}: is for scans, not for experiments. Leave it out.")
    path = Path(arguments.scans[0])
    plan = read_plan(path)
    assert plan is not None  # its file is there
    data_dir = arguments.data_dir or plan[0].data_dir
    scans = [StoredScan(*scan) for scan in StoredExperiments(path, data_dir).scans()]
    return {"experiments": str(path), "data_dir": data_dir}, scans


def _serve(
    arguments: argparse.Namespace,
    folder: Path,
    paths: Sequence[Path] = (),
    experiments: tuple[dict[str, str], list[StoredScan]] | None = None,
) -> None:
    """Answers the browser until a signal ends the command.

    Args:
        arguments: of the command.
        folder: the private folder.
        paths: scans to segment.
        experiments: from `_read_experiments`, in place of scans.

    Raises:
        InputError: if the model cannot be used or the port not be had.
    """
    from mtseg.models.listing import describe_choice
    from mtseg.viewer.computer import Computer
    from mtseg.viewer.scan_list import ScanList
    from mtseg.viewer.web.server import Server

    options = {
        "task": arguments.task,
        "use_preview": importlib.util.find_spec("matplotlib") is not None,
        "memory_bytes": None if arguments.memory_gb is None else arguments.memory_gb * 1e9,
    }
    model = None if arguments.model is None else str(Path(arguments.model).absolute())
    settings: dict[str, str | None] = {"model": model, "devices": arguments.devices}
    place = folder / "idle"
    place.mkdir()
    if experiments is not None:
        # Task files and records may be named by relative paths.
        settings, place = dict(experiments[0]), Path.cwd()
    refusals: list[InputError] = []

    def refuse(error: InputError) -> None:
        refusals.append(error)
        server.shutdown()

    computer = Computer(settings, place)
    scans = ScanList(computer, folder, options, on_refusal=refuse)
    with Server(scans, arguments.port) as server:
        if experiments is None and (said := describe_choice(arguments.model)):
            print(said, flush=True)
        print(f"{server.url}\nOpen this address in a browser; Ctrl-C ends the page.", flush=True)
        if experiments is not None:
            scans.add_stored(Path(arguments.scans[0]).absolute(), experiments[1])
        reference = None if arguments.reference is None else Path(arguments.reference).absolute()
        scans.add(list(paths), reference=reference)
        scans.start()
        if not arguments.no_browser:
            webbrowser.open(server.url_for_once)
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
