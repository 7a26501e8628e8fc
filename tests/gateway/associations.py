"""Applications that talk to a gateway: senders, and an archive that takes its segmentations."""

import contextlib
import threading

from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

SENDER = "SCANNER"


@contextlib.contextmanager
def associate(port, ae_title=SENDER, called="MTSEG"):
    """An association with a gateway; it may not be established."""
    ae = AE(ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = 20
    for storage in (CTImageStorage, EnhancedCTImageStorage):
        ae.add_requested_context(storage, ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    connection = association.dul.socket and association.dul.socket.socket
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if connection is not None:  # pynetdicom leaves it open if the other end was killed
            connection.close()


def send(port, *paths, **how):
    """The status of each file that is sent in one association; None without an answer."""
    with associate(port, **how) as association:
        assert association.is_established
        return [association.send_c_store(path).get("Status") for path in paths]


class Archive:
    """A receiver of segmentations that notes each; `answer` is the status that it gives."""

    def __init__(self, port=0):
        self.received, self.answer = [], 0x0000
        self._lock = threading.Lock()
        ae = AE("ARCHIVE")
        ae.add_supported_context(SegmentationStorage)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self._ae = ae
        self.port = self._server.server_address[1]

    def _store(self, event):
        with self._lock:
            if self.answer == 0x0000:
                self.received.append(event.dataset)
            return self.answer

    def uids_by_series(self):
        """Series that was segmented -> the UIDs of the segmentations that refer to it."""
        with self._lock:
            found = {}
            for dataset in self.received:
                series = dataset.ReferencedSeriesSequence[0].SeriesInstanceUID
                found.setdefault(str(series), set()).add(str(dataset.SOPInstanceUID))
            return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ae.shutdown()
