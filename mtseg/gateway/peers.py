"""The DICOM applications that a gateway knows: who may send to it, and where it sends to.

Reference: DICOM PS3.5, 6.2 (AE titles); PS3.8, 9.3 (associations).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket

from mtseg.errors import InputError

_AE_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")
"""Up to 16 printable characters of ASCII without a backslash; spaces around them do not count."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """An application that may open associations.

    Attributes:
        ae_title: its AE title.
        addresses: the IP addresses that it may call from; None allows all.
    """

    ae_title: str
    addresses: frozenset[str] | None = None

    def is_calling(self, ae_title: str, address: str) -> bool:
        """Whether an association is from this application.

        Args:
            ae_title: the calling AE title.
            address: IP address that the association comes from.
        """
        if ae_title.strip() != self.ae_title:
            return False
        return self.addresses is None or _plain_address(address) in self.addresses


@dataclasses.dataclass(frozen=True)
class Destination:
    """An application that segmentations are sent to.

    Attributes:
        ae_title: its AE title.
        host: its name or IP address.
        port: its port.
    """

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def parse_ae_title(text: str, flag: str) -> str:
    """Checks an AE title.

    Args:
        text: as a user gave it.
        flag: named in the error message.

    Raises:
        InputError: if it is none.
    """
    title = text.strip(" ")
    if not _AE_TITLE.fullmatch(title):
        raise InputError(
            f"{flag}: {text!r} is not an AE title. Give 1 to 16 letters, digits or signs of ASCII, "
            "without a backslash."
        )
    return title


def parse_caller(text: str) -> Caller:
    """Reads a value of `--allow`: `AE_TITLE` or `AE_TITLE@HOST`.

    Raises:
        InputError: if it is neither, or the address of the host is not known.
    """
    title, separator, host = text.rpartition("@")
    if not separator:
        return Caller(parse_ae_title(text, "--allow"))
    title = parse_ae_title(title, "--allow")
    try:
        found = socket.getaddrinfo(host.strip("[]") or "?", None)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--allow: {text}: no address of the host {host!r} is known. Give its IP address."
        ) from error
    return Caller(title, frozenset(_plain_address(str(entry[4][0])) for entry in found))


def parse_destination(text: str) -> Destination:
    """Reads a value of `--send-to`: `AE_TITLE@HOST:PORT`.

    Raises:
        InputError: if it is not of this form.
    """
    parts = re.fullmatch(r"(.+)@(\[[0-9A-Fa-f:.]+\]|[^@:\s/]+):([0-9]{1,5})", text)
    if parts is None or not 0 < int(parts[3]) < 1 << 16:
        raise InputError(f"--send-to: {text!r} is not AE_TITLE@HOST:PORT. Give all three.")
    return Destination(parse_ae_title(parts[1], "--send-to"), parts[2].strip("[]"), int(parts[3]))


def _plain_address(address: str) -> str:
    """An IP address in one spelling; an IPv4 address also if IPv6 carries it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
