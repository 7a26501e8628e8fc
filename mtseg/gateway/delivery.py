"""Delivering the DICOM SEG of series: into a folder, by C-STORE to another application, or both.

What cannot be delivered is tried again with growing waits. The file, and so the UID of the
segmentation, stays the same; so an archive that has it already knows it.

Reference: DICOM PS3.4, B.2.3 (status codes of C-STORE).
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtseg.errors import InputError
from mtseg.gateway.peers import Destination
from mtseg.gateway.segmenting import seg_path, verdict_of
from mtseg.gateway.spool import Spool
from mtseg.scans.formats.dicom_files import read_header
from mtseg.system.atomic_files import atomic_write, parse_json, sync_to_disk

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LOG = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
"""Waits before another attempt: each is twice the one before."""

_POLL_SECONDS = 0.5
_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 60.0

_DUPLICATE = 0x0111
"""Some archives answer so to an object that they have."""


class AwayError(Exception):
    """The destination cannot be reached, or accepts no association: it must be tried later."""


class TryLaterError(Exception):
    """The destination cannot take this object for now."""


class RefusedError(Exception):
    """The destination will never take this object."""


class Delivery:
    """Delivers the series of a spool that are in `outgoing`.

    Args:
        spool: has them.
        out_dir: folder for a copy of each DICOM SEG; None writes none.
        destination: where each is sent; None sends none.
        ae_title: of the gateway.
        first_wait_s: seconds before the second attempt.
    """

    def __init__(
        self,
        spool: Spool,
        out_dir: Path | None,
        destination: Destination | None,
        ae_title: str,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._spool, self._out_dir, self._destination = spool, out_dir, destination
        self._ae_title, self._first_wait_s = ae_title, first_wait_s
        self._ended = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Delivers in a thread of its own while the block runs."""
        thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(2 * _CONNECT_SECONDS)

    def _run(self) -> None:
        wait_s = self._first_wait_s
        while not self._ended.wait(_POLL_SECONDS):
            if reason := self.deliver_all():
                _LOG.info(f"not delivered, tries again in {wait_s:.0f} s: {reason}")
                self._ended.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                wait_s = self._first_wait_s

    def deliver_all(self) -> str:
        """Delivers each series in `outgoing` once.

        Returns:
            Why one could not be delivered; empty if all were.
        """
        reason = ""
        try:
            for series in self._spool.list_series("outgoing"):
                if self._ended.is_set():
                    break
                reason = self._deliver_or_fail(series) or reason
        except (AwayError, OSError) as error:
            return str(error)
        return reason

    def _deliver_or_fail(self, series: str) -> str:
        """Delivers a series, or moves it to `failed` if the destination refuses it.

        Returns:
            Why it must be tried again; empty if it need not be.

        Raises:
            AwayError: if the destination is away.
            OSError: if a folder cannot be written, that of failed series included.
        """
        try:
            self.deliver(series)
        except TryLaterError as error:
            return f"series {series}: {error}"
        except RefusedError as error:
            self._spool.fail(series, "outgoing", str(error))
            _LOG.info(f"series {series}: failed: {error}")
        except (AwayError, OSError):
            raise
        except Exception as error:
            return f"series {series}: a defect of mtseg: {type(error).__name__}"
        return ""

    def deliver(self, series: str) -> None:
        """Delivers a series; its images are deleted then.

        Raises:
            AwayError: if the destination is away.
            TryLaterError: if it cannot take this object now.
            RefusedError: if it refuses this object.
            OSError: if the folder cannot be written.
        """
        folder = self._spool.path("outgoing", series)
        path = seg_path(folder)
        try:
            header = read_header(path)
        except InputError as error:
            raise RefusedError(f"its segmentation {path} is damaged") from error
        places = []
        if self._out_dir is not None:
            target = self._out_dir / path.name
            self._out_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(target) as temporary:
                temporary.write_bytes(path.read_bytes())
                sync_to_disk(temporary)
            sync_to_disk(self._out_dir)
            places.append(str(target))
        if self._destination is not None:
            send(path, header, self._destination, self._ae_title)
            places.append(str(self._destination))
        verdict = _read_verdict(verdict_of(folder))
        num_images = len(list(folder.glob("*.dcm")))
        self._spool.finish(
            series,
            {
                "schema": 1,
                "series": series,
                "seg_sop_instance_uid": str(header.SOPInstanceUID),
                "seg_series_instance_uid": str(header.SeriesInstanceUID),
                "delivered_to": places,
                "delivered": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                **verdict,
            },
        )
        warning = f" ({verdict['warning']})" if verdict.get("warning") else ""
        status = verdict.get("status", "not assessed")
        _LOG.info(
            f"series {series}: {num_images} images, {status}{warning}, sent to {', '.join(places)}"
        )


def send(path: Path, header: Dataset, destination: Destination, ae_title: str) -> None:
    """Sends a DICOM file by C-STORE.

    Args:
        path: the file.
        header: of the file.
        destination: where to.
        ae_title: of the sender.

    Raises:
        AwayError: if there is no association for it.
        TryLaterError: if the answer is missing, or says that it may be taken later.
        RefusedError: if it is refused.
    """
    from pynetdicom import AE, _config, evt

    from mtseg.gateway.bounded_socket import BoundedSocket

    _config.LOG_HANDLER_LEVEL = "none"  # its own lines would have the names of patients
    ae = AE(ae_title)
    ae.connection_timeout = ae.acse_timeout = _CONNECT_SECONDS
    ae.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
    association = ae.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        evt_handlers=[
            (evt.EVT_CONN_OPEN, lambda event: BoundedSocket(event.assoc, _ANSWER_SECONDS))
        ],
    )
    if not association.is_established:
        if association.is_rejected:
            raise AwayError(f"{destination} rejects {ae_title}: allow it there")
        if association.rejected_contexts:
            raise AwayError(f"{destination} does not accept DICOM SEG")
        raise AwayError(f"{destination} does not answer")
    try:
        answer = association.send_c_store(path)
    finally:
        if association.is_established:
            association.release()
    status = answer.get("Status")
    if status is None:
        raise TryLaterError(f"{destination} ended the association without an answer")
    if status in (0x0000, _DUPLICATE) or status >> 12 == 0xB:  # a warning: it is stored
        return
    text = f"{destination} refused it with status 0x{status:04X}"
    if 0xA900 <= status < 0xB000 or status >> 12 == 0xC:
        raise RefusedError(text)
    raise TryLaterError(text)


def _read_verdict(path: Path) -> dict[str, Any]:
    """What the ledger keeps of a verdict file; empty if there is none that can be read."""
    try:
        found = parse_json(path.read_text())
    except (OSError, ValueError):
        return {}
    names = "model", "status", "warning", "volumes_ml"
    return {name: found[name] for name in names if name in found}
