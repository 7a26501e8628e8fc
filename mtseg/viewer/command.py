"""mtseg-view: a page in the browser that segments scans and shows their labels."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
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
from mtseg.runs.manifest import find_model, locate_model
from mtseg.system.atomic_files import atomic_write, writing_to

if TYPE_CHECKING:
    from mtseg.viewer.scan import StoredScan

_SCRIPT = "mtseg-view"
"""Name of the command as it is installed, and of its shortcuts."""


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
        help="folder that mtseg-export wrote, or of a run of mtseg-train, or a name that mtseg "
        "models lists (default: packaged, which comes with mtseg)",
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
    parser.add_argument(
        "--shortcut",
        action="store_true",
        help="write a shortcut that opens the page with these options, for the applications menu "
        "and the desktop, and exit",
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
        found = find_model(Path(arguments.model))
        if not arguments.shortcut:  # the page keeps this version; a shortcut takes the newest
            arguments.model = str(found)
    if arguments.shortcut:
        for path in _write_shortcuts(arguments):
            print(f"Wrote {path}. It opens the page; nobody needs a terminal for it.")
        print("If the desktop asks whether to trust it: right-click it, Allow Launching.")
        return DONE
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
    # Each scan has a folder of its own here. One by one, so that the same may be named twice.
    listed = [list_scans([Path(named)], may_share_names=True) for named in arguments.scans]
    paths = [scan.path for scans in listed for scan in scans]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise InputError(
            f"{', '.join(missing)}: no such file or folder. Give the path of a scan, or the folder "
            "that mtseg-experiments wrote."
        )
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
        InputError: if the model cannot be used or does not have the task, or the port is taken.
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
    settings: dict[str, str | None] = {
        "model": model,
        "devices": arguments.devices,
        "task": arguments.task,
    }
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
        print(server.url, flush=True)
        print("Open it in a browser. Ctrl-C, or closing this window, ends the page.", flush=True)
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


def _write_shortcuts(arguments: argparse.Namespace) -> list[Path]:
    """Writes a shortcut that opens the page; returns where.

    Files and folders that are dropped on it are opened. The page ends with the window of the
    shortcut, which stays open after an error, so that it can be read.

    Raises:
        InputError: if other options are given than the page of a shortcut can have, the command is
            not installed, or the files cannot be written.

    Reference: freedesktop.org, Desktop Entry Specification 1.5.
    """
    for name in ("scans", "reference", "data_dir", "no_browser"):
        if getattr(arguments, name):
            flag = "SCAN" if name == "scans" else f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: is not for --shortcut. Leave it out.")
    # The script, not python -m: that would import a folder mtseg of the user's home.
    places = [Path(sys.argv[0]).parent, Path(sysconfig.get_path("scripts"))]
    commands = [path for place in places if (path := place.absolute() / _SCRIPT).is_file()]
    if not commands:
        raise InputError(f"{_SCRIPT}: is not installed as a command. Install mtseg with pip.")
    command = [str(commands[0])]
    if arguments.model is not None:
        command += ["--model", str(Path(arguments.model).absolute())]
    for name in ("task", "devices", "memory_gb"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.port:
        command += ["--port", str(arguments.port)]
    started = ["sh", "-c", '"$0" "$@" || { echo "Press Enter to close."; read -r line; }', *command]
    text = f"""\
[Desktop Entry]
Type=Application
Name=mtseg
Comment=Segment scans and see their labels in the browser
Exec={" ".join(map(_quote_for_shortcut, started))} %F
Terminal=true
Icon=applications-science
Categories=Science;MedicalSoftware;
"""
    home = Path.home()
    menu = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "applications"
    with writing_to(menu, "Ask for the right to write there."):
        menu.mkdir(parents=True, exist_ok=True)
    desktop = _find_desktop(home)
    written = [place / f"{_SCRIPT}.desktop" for place in (menu, desktop) if place is not None]
    for path in written:
        with writing_to(path, "Ask for the right to write there."), atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
    return written


def _find_desktop(home: Path) -> Path | None:
    """The folder of what lies on the desktop; None if there is none."""
    desktop = home / "Desktop"
    if shutil.which("xdg-user-dir"):  # its name depends on the language
        asked = subprocess.run(["xdg-user-dir", "DESKTOP"], capture_output=True, text=True)
        desktop = Path(asked.stdout.strip() or desktop)
    return desktop if desktop != home and desktop.is_dir() else None


def _quote_for_shortcut(argument: str) -> str:
    """An argument as the key Exec wants it: quoted, then escaped as every value is."""
    quoted = re.sub(r'(["`$\\])', r"\\\1", argument).replace("%", "%%")
    return '"' + quoted.replace("\\", "\\\\").replace("\n", "\\n") + '"'


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
