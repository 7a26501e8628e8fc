"""Sockets of associations that neither wait for ever nor read more than one sound PDU.

pynetdicom reads as many bytes as the header of a PDU says, up to 4 GB, and waits for them without
end, also for a peer that has not been accepted or has lost its network.

Reference: DICOM PS3.8, 9.3.1 (PDU structure).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    from pynetdicom.association import Association

MOST_PDU_BYTES = 1 << 20
"""Far more than is negotiated for objects, and than a request for an association takes."""

_PIECE_BYTES = 1 << 16


class BoundedSocket(AssociationSocket):
    """Takes the place of the socket of an association that has not begun.

    Args:
        association: the association; its socket is replaced.
        longest_wait_s: how long a PDU may take to arrive, from its first byte, or an answer to be
            taken.
    """

    def __init__(self, association: Association, longest_wait_s: float) -> None:
        plain = association.dul.socket
        assert plain is not None
        # Not by the constructor, which announces a connection once more.
        self.__dict__.update(plain.__dict__)
        self._longest_wait_s = longest_wait_s
        association.dul.socket = self
        if self.socket is not None:
            self.socket.settimeout(longest_wait_s)

    def recv(self, nr_bytes: int) -> bytearray:
        """Reads so many bytes, or fewer if the connection ends.

        Raises:
            OSError: if they are too many, or do not come in time.
        """
        if nr_bytes > MOST_PDU_BYTES:
            raise OSError(f"a PDU of {nr_bytes} bytes")
        received = bytearray()
        deadline_s = time.monotonic() + self._longest_wait_s
        connection = self.socket
        assert connection is not None
        try:
            while len(received) < nr_bytes:
                connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
                piece = connection.recv(min(nr_bytes - len(received), _PIECE_BYTES))
                if not piece:
                    break
                received += piece
        finally:
            connection.settimeout(self._longest_wait_s)
        return received
