"""The C-STORE receiver of a gateway: it acknowledges an object once the spool has it on disk.

Reference: DICOM PS3.4, B (Storage Service Class); PS3.7, C (status codes); PS3.8, 9.3.4
(rejection).
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mtseg.errors import InputError
from mtseg.gateway.caller_log import CallerLog
from mtseg.gateway.peers import Caller
from mtseg.gateway.room import SpoolFullError
from mtseg.gateway.spool import Spool, is_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_LOG = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, OTHER_OBJECT, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
"""Status codes of C-STORE. After the second, a sender tries again later."""

MOST_OBJECT_BYTES = 2**31
"""A larger object would not fit into the memory of usual machines; its association is aborted."""

_MOST_ASSOCIATIONS, _MOST_CONNECTIONS = 10, 20
_PDU_BYTES = 1 << 17
_IDLE_SECONDS, _REQUEST_SECONDS = 60.0, 10.0

_NOT_RECOGNISED = 0x01, 0x01, 0x03
"""Rejection of an association: permanent, by the user of the service, calling AE title."""

_TOO_MANY = 0x02, 0x03, 0x02
"""Rejection of an association: transient, by the provider of the service, local limit."""


class _BrokenObjectError(Exception):
    """An object that cannot be kept; the text says why."""


@contextlib.contextmanager
def receiving(
    spool: Spool, ae_title: str, callers: Sequence[Caller], address: str, port: int
) -> Iterator[int]:
    """Receives objects into a spool, in threads of its own, while the block runs.

    Args:
        spool: takes them.
        ae_title: of the gateway; an association must name it.
        callers: who may open an association; all others are rejected.
        address: IP address to listen at.
        port: to listen at; 0 takes a free one.

    Yields:
        The port.

    Raises:
        InputError: if the gateway cannot listen there.
    """
    from pynetdicom import AE, _config, evt, sop_class

    _config.LOG_HANDLER_LEVEL = "none"  # its own lines would have the names of patients
    ae = AE(ae_title)
    # pynetdicom's own limit counts connections that have not asked for an association, too.
    ae.maximum_associations, ae.maximum_pdu_size = 2 * _MOST_CONNECTIONS, _PDU_BYTES
    ae.network_timeout, ae.acse_timeout = _IDLE_SECONDS, _REQUEST_SECONDS
    ae.require_called_aet = True
    ae.add_supported_context(sop_class.Verification)  # type: ignore[attr-defined]
    syntaxes = list_readable_syntaxes()
    for storage in (
        "MRImageStorage",
        "CTImageStorage",
        "EnhancedMRImageStorage",
        "EnhancedCTImageStorage",
        "LegacyConvertedEnhancedMRImageStorage",
        "LegacyConvertedEnhancedCTImageStorage",
    ):
        ae.add_supported_context(getattr(sop_class, storage), syntaxes)
    receiver = _Receiver(spool, callers)
    try:
        server = ae.start_server(
            (address, port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, receiver.take_connection),
                (evt.EVT_REQUESTED, receiver.check_caller),
                (evt.EVT_PDU_RECV, receiver.check_size),
                (evt.EVT_C_STORE, receiver.store),
            ],
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--bind {address} --port {port}: cannot listen there ({reason}). Give another."
        ) from error
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        ae.shutdown()


def list_readable_syntaxes() -> list[str]:
    """The transfer syntaxes whose pixels can be decoded with what is installed here.

    Not the deflated one: a small object would inflate to any size before it could be checked.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    found = []
    for syntax in ALL_TRANSFER_SYNTAXES:
        with contextlib.suppress(NotImplementedError):
            if get_decoder(syntax).is_available and not UID(syntax).is_deflated:
                found.append(syntax)
    return found


class _Receiver:
    """Answers the events of all associations; pynetdicom calls it in their threads."""

    def __init__(self, spool: Spool, callers: Sequence[Caller]) -> None:
        self._spool, self._callers = spool, callers
        self._is_full = False
        # Apart, so that strangers cannot hide what becomes of the objects of allowed callers.
        self._of_anybody = CallerLog("rejected callers and damaged messages")
        self._of_senders = CallerLog("refused and late objects")
        self._lock = threading.Lock()
        self._waiting: list[Association] = []

    def take_connection(self, event: Event) -> None:
        """Bounds what a connection may take, and how many may wait without an association.

        If there are too many, the one that has waited longest is closed.
        """
        from mtseg.gateway.bounded_socket import BoundedSocket

        BoundedSocket(event.assoc, _IDLE_SECONDS)
        for thread in (event.assoc, event.assoc.dul):  # neither has been started
            run = functools.partial(_run, thread.run, event.assoc, self._of_anybody)
            thread.run = run  # type: ignore[method-assign]
        with self._lock:
            ended = [a for a in self._waiting if not a.is_alive() and a.ident is not None]
            self._waiting = [a for a in self._waiting if a not in ended and not a.is_established]
            self._waiting.append(event.assoc)
            if len(self._waiting) > _MOST_CONNECTIONS:
                _shut_down(self._waiting.pop(0))

    def check_caller(self, event: Event) -> None:
        """Rejects an association whose caller is not allowed, or one too many."""
        association = event.assoc
        request = association.requestor.primitive
        assert request is not None
        title, address = str(request.calling_ae_title), str(association.requestor.address)
        if any(caller.is_calling(title, address) for caller in self._callers):
            established = [a for a in association.ae.active_associations if a.is_established]
            if len(established) >= _MOST_ASSOCIATIONS:
                association.acse.send_reject(*_TOO_MANY)
                association.kill()
            return
        line = f"rejected {title.strip()!r} at {address}: --allow does not name it"
        self._of_anybody.say(address, line)
        association.acse.send_reject(*_NOT_RECOGNISED)
        association.kill()

    def check_size(self, event: Event) -> None:
        """Aborts an association whose object would fill the memory."""
        message = event.assoc.dimse.message
        data = None if message is None else message.data_set
        if data is not None and data.tell() > MOST_OBJECT_BYTES:
            self._say(f"aborted {_caller(event)}: its object is larger than {MOST_OBJECT_BYTES} B")
            event.assoc.abort()

    def store(self, event: Event) -> int:
        """Keeps an object.

        Returns:
            The status for the sender; `SUCCESS` says that it may forget the object.
        """
        pieces: list[bytes] = []
        header: Dataset | None = None
        try:
            pieces = _as_file(event)
            with self._spool.temporary_file(sum(map(len, pieces))) as path:
                with path.open("wb") as file:
                    for piece in pieces:
                        file.write(piece)
                with path.open("rb") as stored:
                    header = _read_header(stored)
                    _check_image(header, stored)
                request: Any = event.request
                if header.SOPInstanceUID != request.AffectedSOPInstanceUID or (
                    header.SOPClassUID != request.AffectedSOPClassUID
                ):
                    self._say(f"refused an object of {_caller(event)}: its command names another")
                    return OTHER_OBJECT
                series = str(header.SeriesInstanceUID)
                arrival = self._spool.add(path, series, str(header.SOPInstanceUID))
        except _BrokenObjectError as error:
            self._say(f"refused an object of {_caller(event)}: {error}")
            if header is not None:
                self._note_refused(header)
            return CANNOT_UNDERSTAND
        except (SpoolFullError, OSError) as error:
            if not self._is_full:  # a line for all objects until there is room
                reason = error.strerror if isinstance(error, OSError) else error
                _LOG.info(f"refuses objects for now: {reason}")
            self._is_full = True
            with contextlib.suppress(_BrokenObjectError):
                self._note_refused(_read_header(io.BytesIO(b"".join(pieces))))
            return OUT_OF_RESOURCES
        self._is_full = False
        if arrival == "late":
            self._say(
                f"series {series}: an object arrived after it had been segmented, and is in "
                "failed/late. Give a larger --quiet-s."
            )
        return SUCCESS

    def _note_refused(self, header: Dataset) -> None:
        """Its series is not complete, although the sender may go on with the next object."""
        self._spool.note_refused(str(header.SeriesInstanceUID), str(header.SOPInstanceUID))

    def _say(self, line: str) -> None:
        """Logs a line about an object; one that says the same only once a minute."""
        self._of_senders.say(line, line)


def _run(run: Callable[[], None], association: Association, log: CallerLog) -> None:
    """Runs a thread of an association.

    pynetdicom lets a thread die of a damaged message, with its connection open and a traceback.
    """
    try:
        run()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        address = str(association.requestor.address)
        log.say(
            address,
            f"ended the association of {address}: a message is damaged "
            f"({type(error).__name__} in {Path(place.filename).name}, line {place.lineno})",
        )
        if association.dul.socket is not None:
            association.dul.socket.close()


def _shut_down(association: Association) -> None:
    """Ends a connection; the thread of its association then ends, too."""
    of_it = association.dul.socket
    if of_it is not None and of_it.socket is not None:
        with contextlib.suppress(OSError):
            of_it.socket.shutdown(socket.SHUT_RDWR)


def _caller(event: Event) -> str:
    return f"{event.assoc.requestor.ae_title.strip()!r} at {event.assoc.requestor.address}"


def _as_file(event: Event) -> list[bytes]:
    """The parts of a DICOM file with an object as it was sent."""
    from pynetdicom.dsutils import encode_file_meta

    try:
        meta = encode_file_meta(event.file_meta)
        return [bytes(128), b"DICM", meta, event.encoded_dataset(include_meta=False)]
    except Exception as error:  # what is missing or damaged raises errors of many types
        raise _BrokenObjectError("its command is damaged") from error


def _read_header(file: BinaryIO) -> Dataset:
    """What an object says of itself; the file is then at the beginning of its pixels.

    Raises:
        _BrokenObjectError: if it has no valid UIDs.
    """
    import pydicom

    names = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns"]
    names += ["BitsAllocated", "SamplesPerPixel", "NumberOfFrames"]
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(names))
        uids = [str(header.SOPInstanceUID), str(header.SeriesInstanceUID)]
        _ = header.SOPClassUID
    except Exception as error:  # pydicom raises errors of many types for damaged objects
        raise _BrokenObjectError("it cannot be read, or lacks a UID") from error
    if not all(map(is_uid, uids)):
        raise _BrokenObjectError("its UIDs are not valid")
    return header


def _check_image(header: Dataset, file: BinaryIO) -> None:
    """Refuses an object that is no image, or whose pixels are cut off.

    Args:
        header: from `_read_header`.
        file: as that left it.

    Raises:
        _BrokenObjectError: if it is such an object.
    """
    pixels_start = file.tell()
    num_left = file.seek(0, os.SEEK_END) - pixels_start
    try:
        bits = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated)
        bits *= int(header.get("SamplesPerPixel") or 1) * int(header.get("NumberOfFrames") or 1)
        syntax = header.file_meta.TransferSyntaxUID
        is_plain = not syntax.is_encapsulated and not syntax.is_deflated
    except Exception as error:  # as above
        raise _BrokenObjectError("it cannot be read, or lacks its size") from error
    if not bits or (is_plain and num_left < bits // 8):
        raise _BrokenObjectError("its pixels are missing or cut off")
