"""The one command: `mtseg predict`, `mtseg train` and so on; `python -m mtseg` is the same.

Each is also a command of its own, such as `mtseg-predict`; see `mtseg.cli`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from mtseg import __version__
from mtseg.cli.command import BAD_INPUT, DONE, PREFIX, Parser, find_similar, print_error, run

COMMANDS = {
    "predict": "segment scans",
    "train": "train a network and evaluate it",
    "prepare": "turn labelled scans into training records",
    "check": "list every issue of a data set",
    "evaluate": "score a network on its test scans, or label files",
    "export": "write a trained network for prediction and serving",
    "experiments": "compare networks for one task and for several",
    "report": "write a page about finished experiments",
    "view": "segment and look at scans in the browser",
    "info": "versions, devices, models and what is installed",
}
"""Name of each command -> what it does, for the overview."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command that the first argument names."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE
    name, *arguments = argv
    if name == "--version":
        print(f"mtseg {__version__}")
        return DONE
    if name not in COMMANDS:
        print_error(_refuse(name))
        return BAD_INPUT
    token = PREFIX.set("mtseg ")
    try:
        if name == "info":
            return run(_info, arguments)
        module = "mtseg.viewer.command" if name == "view" else f"mtseg.cli.{name}"
        code: int = importlib.import_module(module).main(arguments)
        return code
    finally:
        PREFIX.reset(token)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mtseg COMMAND ...",
            "",
            "Segment scans of different modalities and anatomies with one network.",
            "",
            *lines,
            "",
            "mtseg COMMAND --help lists the options of a command; mtseg --version prints the "
            "version.",
            "Begin with: mtseg predict scan.nii.gz",
        ]
    )


def _refuse(name: str) -> str:
    if name.startswith("-"):
        return f"{name}: no such option. Name a command first, such as mtseg predict."
    if Path(name).exists():
        return f"{name}: is not a command. To segment it: mtseg predict {name}"
    meant = find_similar(name, COMMANDS)
    return f"{name}: no such command." + (meant or f" Commands: {', '.join(COMMANDS)}.")


def make_parser() -> Parser:
    """The arguments of `mtseg info`."""
    parser = Parser(
        "info",
        description="Print versions, the devices that compute and what they can do, the models "
        "and tasks that come with mtseg, what is installed, and advice.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a text")
    return parser


def _info(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    from mtseg.api.installation import describe_installation, format_installation

    found = describe_installation()
    print(json.dumps(found, indent=2) if arguments.json else format_installation(found))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
