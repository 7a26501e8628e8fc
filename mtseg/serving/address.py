"""Where a model is served, and how requests are sent there.

Use this module to read the text of `--server` or to set message sizes, deadlines and tokens. It
imports neither TensorFlow nor gRPC, so a command can check an address before it loads them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from mtseg.errors import InputError

PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}
"""Scheme of an address -> the port that TensorFlow Serving uses for it by default."""

MODEL_NAME = "mtseg"
"""The name of a model if no other is given."""

MESSAGE_BYTES = 100_000_000
"""Largest message that is sent or accepted by default: a brain at 1 mm fits into one."""

_FORM = "Write grpc://HOST:PORT[/MODEL[/VERSION]], or grpcs, http or https."


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        scheme: one of `PORTS`.
        host: name or IP address.
        port: port number.
        model: name of the model on the server.
        version: version of the model; None is the newest.
    """

    scheme: str
    host: str
    port: int
    model: str = MODEL_NAME
    version: int | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else f"/{self.version}"
        return f"{self.scheme}://{self.netloc}/{self.model}{version}"

    @property
    def netloc(self) -> str:
        """Host and port, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_rest(self) -> bool:
        """Whether messages are JSON over HTTP; otherwise gRPC."""
        return self.scheme.startswith("http")

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme.endswith("s")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How requests are sent to a server.

    Attributes:
        message_bytes: largest message that is sent or accepted.
        in_flight: number of requests that are sent before the first is answered.
        deadline_seconds: longest wait for an answer.
        retries: further attempts if the server is unavailable or overloaded.
        ca_path: PEM file of the authorities that may certify the server; None uses the system's.
        token: bearer token, sent with every request.
    """

    message_bytes: int = MESSAGE_BYTES
    in_flight: int = 2
    deadline_seconds: float = 600.0
    retries: int = 5
    ca_path: Path | None = None
    token: str | None = dataclasses.field(default=None, repr=False)


def is_address(text: str | Path) -> bool:
    """Whether a text names a server rather than a folder."""
    return "://" in str(text)


def parse_address(text: str) -> Address:
    """Reads the address of a served model.

    Args:
        text: such as `grpc://localhost:8500`, `grpcs://host:8500/mtseg` or
            `http://127.0.0.1:8501/mtseg/3`.

    Raises:
        InputError: if the text is not such an address.

    Example:
        >>> parse_address("grpc://localhost")
        Address(scheme='grpc', host='localhost', port=8500, model='mtseg', version=None)
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as connections do
        if port == 0:
            raise ValueError("the port must be 1 to 65535")
    except ValueError as error:
        raise InputError(
            f"server {text!r}: its host or port cannot be used ({error}). {_FORM}"
        ) from error
    if parts.scheme not in PORTS:
        raise InputError(
            f"server {text!r}: the scheme {parts.scheme!r} is not one of {', '.join(PORTS)}. "
            f"{_FORM}"
        )
    path = [part for part in parts.path.split("/") if part]
    has_more = bool(parts.query or parts.fragment or "@" in parts.netloc)
    if not host or len(path) > 2 or has_more or not text.isprintable():
        raise InputError(f"server {text!r}: is not the address of a model. {_FORM}")
    if len(path) == 2 and not re.fullmatch("[0-9]{1,18}", path[1]):
        raise InputError(f"server {text!r}: the version {path[1]!r} is not a whole number. {_FORM}")
    model = path[0] if path else MODEL_NAME
    version = int(path[1]) if len(path) == 2 else None
    return Address(parts.scheme, host, port or PORTS[parts.scheme], model, version)
