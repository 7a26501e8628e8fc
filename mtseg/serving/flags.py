"""The flags of a command that sends requests to a server, made from `ServerOptions`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mtseg.errors import InputError
from mtseg.serving.address import ServerOptions

_SERVER_FLAGS = (
    "message_mb",
    "in_flight",
    "deadline_s",
    "retries",
    "token_file",
    "ca_certificate",
)


def add_server_flags(server: argparse._ActionsContainer) -> None:
    """Adds the fields of `ServerOptions` as flags; None keeps a field's default."""
    default = ServerOptions()
    server.add_argument(
        "--message-mb",
        type=float,
        metavar="MB",
        help="largest message to send or accept, in 1e6 bytes (default: "
        f"{default.message_bytes / 1e6:g})",
    )
    server.add_argument(
        "--in-flight",
        type=int,
        metavar="N",
        help=f"requests to send before the first is answered (default: {default.in_flight})",
    )
    server.add_argument(
        "--deadline-s",
        type=float,
        metavar="S",
        help=f"longest wait for an answer, in seconds (default: {default.deadline_seconds:g})",
    )
    server.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="further attempts if the server is unavailable or overloaded (default: "
        f"{default.retries})",
    )
    server.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with a bearer token (default: the environment variable MTSEG_TOKEN)",
    )
    server.add_argument(
        "--ca-certificate",
        type=Path,
        metavar="PEM",
        help="certificate of the authority to trust (default: those of the system)",
    )


def refuse_server_flags(arguments: argparse.Namespace) -> None:
    """Refuses the flags if a command has no server to use them for.

    Raises:
        InputError: if one was given.
    """
    for name in _SERVER_FLAGS:
        if getattr(arguments, name) is not None:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag}: is for --server. Give both, or leave it out.")


def read_server_options(arguments: argparse.Namespace) -> ServerOptions:
    """The options that the flags ask for; without a flag, an option keeps its default.

    Raises:
        InputError: if a value cannot be used, or the token cannot be read.
    """
    for flag, value, most in (
        ("message-mb", arguments.message_mb, 2000),
        ("deadline-s", arguments.deadline_s, 86_400),
    ):
        if value is not None and not 0 < value <= most:
            raise InputError(f"--{flag}: {value:g} is not above 0 and up to {most}.")
    for flag, number, least in (
        ("in-flight", arguments.in_flight, 1),
        ("retries", arguments.retries, 0),
    ):
        if number is not None and number < least:
            raise InputError(f"--{flag}: must be at least {least}, not {number}.")
    given = {
        "message_bytes": None if arguments.message_mb is None else int(arguments.message_mb * 1e6),
        "in_flight": arguments.in_flight,
        "deadline_seconds": arguments.deadline_s,
        "retries": arguments.retries,
        "ca_path": arguments.ca_certificate,
        "token": _read_token(arguments.token_file),
    }
    return ServerOptions(**{name: value for name, value in given.items() if value is not None})


def _read_token(path: Path | None) -> str | None:
    """The bearer token of a file, or of the environment; None if there is neither."""
    token = os.environ.get("MTSEG_TOKEN")
    if path is not None:
        try:
            token = path.read_text()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read. Give a file that contains a token."
            ) from error
    if token is None:
        return None
    word = token.strip()
    if not (word.isascii() and word.isprintable()) or len(token.split()) != 1:
        raise InputError("the token of --token-file or MTSEG_TOKEN is not one word of ASCII.")
    return word
