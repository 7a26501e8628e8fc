"""The address of a served model, as `--server` gives it, and the options of its client."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from mtseg.errors import InputError

PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}
"""Schemes that are understood, and TensorFlow Serving's usual port for each."""


MODEL_NAME = "mtseg"
"""How a model is called where nobody says otherwise."""


MESSAGE_BYTES = 100_000_000
"""Largest message that is sent or taken: a brain at 1 mm fits one."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        scheme: one of `PORTS`.
        host: name or IP address.
        port: number.
        model: its name on the server.
        version: None is the newest.
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
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_rest(self) -> bool:
        """Whether messages are JSON over HTTP."""
        return self.scheme.startswith("http")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is used."""
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
    """How a server is asked.

    Attributes:
        message_bytes: largest message that is sent or taken.
        in_flight: requests that are under way at once.
        deadline_seconds: how long an answer may take.
        retries: further attempts where the server is unavailable or has too much to do.
        ca_path: certificates, PEM, of who may vouch for the server; None are the system's.
        token: bearer token that every request carries.
    """

    message_bytes: int = MESSAGE_BYTES
    in_flight: int = 2
    deadline_seconds: float = 600.0
    retries: int = 5
    ca_path: Path | None = None
    token: str | None = dataclasses.field(default=None, repr=False)


def is_address(text: str | Path) -> bool:
    """Whether a model's place is a server and not a folder."""
    return "://" in str(text)


def parse_address(text: str) -> Address:
    """Reads an address.

    Args:
        text: such as `grpc://localhost:8500`, `grpcs://host:8500/mtseg` or
            `http://127.0.0.1:8501/mtseg/3`.

    Raises:
        InputError: if it is none.
    """
    form = "Write grpc://HOST:PORT[/MODEL[/VERSION]], or grpcs, http or https."
    parts = urlsplit(text)
    if parts.scheme not in PORTS:
        raise InputError(f"server {text!r}: {parts.scheme or 'nothing'}:// is unknown. {form}")
    try:
        host, port = parts.hostname, parts.port or PORTS[parts.scheme]
    except ValueError as error:
        raise InputError(f"server {text!r}: the port is no number up to 65535. {form}") from error
    path = [part for part in parts.path.split("/") if part]
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    if not host or len(path) > 2 or not is_plain:
        raise InputError(f"server {text!r}: is no address of a model. {form}")
    if len(path) == 2 and not path[1].isdecimal():
        raise InputError(f"server {text!r}: the version {path[1]!r} is no whole number. {form}")
    model = path[0] if path else MODEL_NAME
    return Address(parts.scheme, host, port, model, int(path[1]) if len(path) == 2 else None)
