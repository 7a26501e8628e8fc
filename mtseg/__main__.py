"""The one command: `mtseg predict`, `mtseg train` and so on; `python -m mtseg` is the same.

Each is also a command of its own, such as `mtseg-predict`; see `mtseg.cli`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
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
    "serve-dicom": "receive DICOM series and send their segmentations",
    "models": "list the networks that come with mtseg",
    "info": "versions, devices, models and what is installed",
}
"""Name of each command -> what it does, for the overview."""

_SYNONYMS = {"segment": "predict", "score": "evaluate", "validate": "check"}
"""What people call a command by mistake -> its name. In Python, predicting is `mtseg.segment`."""


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
        if name in _OWN:
            return run(_OWN[name], arguments)
        code: int = importlib.import_module(_module_of(name)).main(arguments)
        return code
    finally:
        PREFIX.reset(token)


def _module_of(name: str) -> str:
    others = {"view": "mtseg.viewer.command", "serve-dicom": "mtseg.gateway.command"}
    return others.get(name, f"mtseg.cli.{name}")


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
    meant = find_similar(_SYNONYMS.get(name, name), COMMANDS)
    return f"{name}: no such command." + (meant or f" Commands: {', '.join(COMMANDS)}.")


def make_parser() -> Parser:
    """The arguments of `mtseg info`."""
    parser = Parser(
        "info",
        description="Print versions, the devices that compute and what they can do, the models "
        "and tasks that come with mtseg, what is installed, and advice.",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON in place of a text")
    how.add_argument(
        "--completion",
        action="store_true",
        help="print a script instead, with which bash completes commands, options and their values",
    )
    return parser


def make_models_parser() -> Parser:
    """The arguments of `mtseg models`."""
    parser = Parser(
        "models",
        description="List the networks that come with mtseg: their tasks, classes and labels, mean "
        "Dice on their test scans, size, training and licence. --model takes their names.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a text")
    return parser


def make_completion() -> str:
    """A script for bash that completes what the parsers know, without starting Python.

    What is no command, option or value of a fixed set is completed as a file.
    """
    cases = []
    for name in COMMANDS:
        parser = _import_parser(name)
        for action in parser._actions:
            if action.option_strings and action.choices:
                flags = "|".join(f"{name}\\ {flag}" for flag in action.option_strings)
                cases.append(f"{flags}) words={shlex.quote(' '.join(map(str, action.choices)))} ;;")
        flags = " ".join(parser._option_string_actions)
        cases.append(f"{name}\\ *) [[ $word == -* ]] && words={shlex.quote(flags)} ;;")
    names = " ".join(["mtseg", *(f"mtseg-{name}" for name in COMMANDS if name not in _OWN)])
    lines = "\n        ".join(cases)
    return f"""\
_mtseg() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words= command=${{COMP_WORDS[0]##*/}}
    if [[ $command == mtseg ]]; then
        command=${{COMP_WORDS[1]}}
        [[ $COMP_CWORD == 1 ]] && command= words={shlex.quote(" ".join(COMMANDS))}
    fi
    case "${{command#mtseg-}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
        {lines}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _mtseg {names}"""


def _import_parser(name: str) -> argparse.ArgumentParser:
    if name in _OWN:
        return make_parser() if name == "info" else make_models_parser()
    parser: argparse.ArgumentParser = importlib.import_module(_module_of(name)).make_parser()
    return parser


def _info(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.completion:
        print(make_completion())
        return DONE
    from mtseg.api.installation import describe_installation, format_installation

    found = describe_installation()
    print(json.dumps(found, indent=2) if arguments.json else format_installation(found))
    return DONE


def _models(argv: list[str]) -> int:
    arguments = make_models_parser().parse_args(argv)
    from mtseg.models.listing import describe_packaged, format_packaged

    found = describe_packaged()
    print(json.dumps(found, indent=2) if arguments.json else format_packaged(found))
    return DONE


_OWN = {"info": _info, "models": _models}
"""The commands of this module, which have no name of their own."""


if __name__ == "__main__":
    sys.exit(main())
