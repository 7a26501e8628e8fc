"""Damaged messages to what listens, by number: the page's server and the DICOM gateway go on."""

import contextlib
import socket
import time

import numpy as np
import pytest

from mtseg.gateway.peers import Caller
from mtseg.gateway.receiver import receiving
from mtseg.gateway.spool import open_spool
from tests.dicom_files import write_series
from tests.faults.damage import damage_bytes
from tests.gateway.associations import SENDER, send
from tests.viewer.conftest import computer, scans, server  # noqa: F401
from tests.viewer.test_hostile_requests import head_of
from tests.viewer.test_server import ask, ask_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.promise("servers may fail", kind="fuzzed"),
]

PER_PART = 50
COUNTS = {"request": 500, "pdu": 250}
"""How many messages of each kind the whole campaign sends."""

LINES = [
    "GET /TOKEN/state HTTP/1.1", "GET /TOKEN/ HTTP/1.1", "HEAD /TOKEN/page.js HTTP/1.1",
    "POST /TOKEN/uploads HTTP/1.1", "PUT /TOKEN/uploads/1?name=scan.nii HTTP/1.1",
    "POST /TOKEN/uploads/1 HTTP/1.1", "POST /TOKEN/scans/1/reference HTTP/1.1",
    "DELETE /TOKEN/uploads/1 HTTP/1.1", "GET /TOKEN/scans/1/scan.nii?step=2 HTTP/1.1",
]  # fmt: skip


def pytest_generate_tests(metafunc):
    kind = "request" if "server" in metafunc.fixturenames else "pdu"
    count = COUNTS[kind] * metafunc.config.getoption("--scale")
    metafunc.parametrize("part", range(max(1, round(count / PER_PART))))


def send_bytes(port, content):
    """Sends bytes and waits for the end of the connection, or a moment."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection,
        contextlib.suppress(OSError),
    ):
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def test_the_page_answers_after_a_damaged_request(server, part, record_property, capfd):  # noqa: F811
    record_property("cases", PER_PART)
    for number in range(part * PER_PART, (part + 1) * PER_PART):
        rng = np.random.default_rng([10, number])
        body = b'{"name": "scan.nii", "upload": 1}'
        length = f"Content-Length: {len(body)}"
        request = head_of(server, LINES[rng.integers(len(LINES))], length) + body
        # The token is kept now and then, so that what is behind it sees the damage.
        start = request.find(server.token.encode()) + 30 if rng.random() < 0.6 else 0
        send_bytes(server.server_port, damage_bytes(request, rng, start))
        for upload in range(number + 5):  # what was begun is removed, so that there is room
            if number % 20 == 0:
                ask(server, "DELETE", f"uploads/{upload}")
    assert ask_json(server, "GET", "state")["scans"] == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The files of a series, and the bytes that a sender sends of them."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    folder = tmp_path_factory.mktemp("sent") / "series"
    files = sorted(write_series(folder, np.ones((6, 7, 3)), affine).iterdir())
    sent = []
    from pynetdicom.transport import AssociationSocket

    plain = AssociationSocket.send
    with pytest.MonkeyPatch.context() as patch, open_spool(folder.parent / "spool", 1e9) as spool:

        def note(self, bytestream):
            if self.assoc.is_requestor:
                sent.append(bytes(bytestream))
            plain(self, bytestream)

        patch.setattr(AssociationSocket, "send", note)
        with receiving(spool, "MTSEG", [Caller(SENDER)], "127.0.0.1", 0) as port:
            assert send(port, *files) == [0x0000] * 3
    return files, sent


def test_the_gateway_receives_after_a_damaged_message(
    recorded, part, tmp_path, record_property, capfd
):
    record_property("cases", PER_PART)
    files, sent = recorded
    with (
        open_spool(tmp_path / "spool", 1e9) as spool,
        receiving(spool, "MTSEG", [Caller(SENDER)], "127.0.0.1", 0) as port,
    ):
        for number in range(part * PER_PART, (part + 1) * PER_PART):
            rng = np.random.default_rng([11, number])
            messages = list(sent)
            place = int(rng.integers(len(messages)))
            messages[place] = damage_bytes(messages[place], rng)
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection,
            ):
                for message in messages:
                    connection.sendall(message)
                    connection.recv(1 << 16)
        time.sleep(0.5)
        assert send(port, *files) == [0x0000] * 3
        kept = [path for path in spool.folder.rglob("*.dcm")]
        assert all(path.is_relative_to(spool.folder / "incoming") for path in kept)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
