"""The receiver, by real associations: what it takes, what it refuses, and what it keeps."""

import contextlib
import errno
import logging
import socket
import time

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from mtseg.gateway import receiver as receiver_module
from mtseg.gateway.peers import parse_caller
from mtseg.gateway.receiver import list_readable_syntaxes, receiving
from mtseg.gateway.spool import open_spool
from tests.dicom_files import change, write_multiframe
from tests.gateway.associations import associate, send
from tests.viewer.threshold_computer import wait_until


def kept(spool):
    """The files of the spool but for its lock, relative to it."""
    files = (path.relative_to(spool.folder) for path in spool.folder.rglob("*") if path.is_file())
    return sorted(str(file) for file in files if file.name != ".lock")


def of_gateway(caplog):
    """The lines that the gateway logged itself."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("mtseg")]


def test_an_acknowledged_object_is_in_the_spool_as_it_was_sent(spool, port, make_series, tmp_path):
    uid, files = make_series()
    assert send(port, *files) == [0x0000] * 4
    sent = [pydicom.dcmread(file) for file in files]
    names = sorted(f"incoming/{uid}/{dataset.SOPInstanceUID}.dcm" for dataset in sent)
    assert kept(spool) == names
    for dataset in sent:
        found = pydicom.dcmread(spool.path("incoming", uid) / f"{dataset.SOPInstanceUID}.dcm")
        assert found == dataset
    paths = [spool.folder, *spool.folder.rglob("*")]
    modes = {path.stat().st_mode & 0o077 for path in paths if path.name != ".lock"}  # it is empty
    assert (spool.folder.stat().st_mode & 0o777) == 0o700
    assert modes == {0}
    array = np.zeros((8, 8, 3))
    enhanced = write_multiframe(tmp_path / "enhanced.dcm", array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert send(port, enhanced) == [0x0000]


@pytest.mark.promise("loopback only")
def test_it_listens_at_the_given_address_alone(port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_verification_is_answered(port):
    with associate(port) as association:
        assert association.send_c_echo().Status == 0x0000


@pytest.mark.parametrize(
    ("allowed", "ae_title", "called", "is_accepted"),
    [
        ("SCANNER", "SCANNER", "MTSEG", True),
        ("SCANNER", "OTHER", "MTSEG", False),
        ("SCANNER", "SCANNER", "PACS", False),
        ("SCANNER@127.0.0.1", "SCANNER", "MTSEG", True),
        ("SCANNER@192.0.2.7", "SCANNER", "MTSEG", False),
    ],
)
def test_only_callers_on_the_list_are_accepted(spool, allowed, ae_title, called, is_accepted):
    with (
        receiving(spool, "MTSEG", [parse_caller(allowed)], "127.0.0.1", 0) as port,
        associate(port, ae_title, called) as association,
    ):
        assert association.is_established == is_accepted
        assert association.is_rejected == (not is_accepted)


def test_a_caller_that_is_rejected_again_and_again_does_not_fill_the_log(port, caplog):
    caplog.set_level(logging.INFO, "mtseg.gateway")
    for title in ("OTHER", "OTHER", "ANOTHER"):
        with associate(port, title) as association:
            assert association.is_rejected
    assert of_gateway(caplog) == ["rejected 'OTHER' at 127.0.0.1: --allow does not name it"]


def test_objects_that_are_refused_for_one_reason_have_one_line(port, make_series, caplog):
    _, files = make_series()
    for file in files:
        change_raw(file, Rows=4000)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    assert send(port, *files) == [0xC000] * 4
    assert len(of_gateway(caplog)) == 1


def test_a_repeated_object_is_acknowledged_and_kept_once(spool, port, make_series):
    _, files = make_series()
    assert send(port, files[0], files[0]) == [0x0000] * 2
    assert send(port, files[0]) == [0x0000]
    assert len(kept(spool)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"SeriesInstanceUID": "../../../outside"},
        {"SeriesInstanceUID": ""},
        {"SeriesInstanceUID": "1." * 40 + "1"},
        {"SeriesInstanceUID": "1..2"},
        {"Rows": 4000},
        {"PixelData": b"\0" * 20},
        {"BitsAllocated": 0},
    ],
    ids=str,
)
@pytest.mark.promise("refused input")
def test_a_broken_object_is_refused_in_one_line_and_not_kept(
    spool, port, make_series, caplog, fields
):
    _, files = make_series()
    change_raw(files[0], **fields)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    assert send(port, *files[:2]) == [0xC000, 0x0000]  # the association goes on
    (line,) = of_gateway(caplog)
    assert line.startswith("refused an object of 'SCANNER' at 127.0.0.1: ")
    assert "Phantom" not in line
    assert [name[-4:] for name in kept(spool)].count(".dcm") == 1


def test_a_damaged_object_is_missed_until_it_comes_whole(spool, port, make_series):
    uid, files = make_series()
    whole = files[1].read_bytes()
    change_raw(files[1], PixelData=b"\0" * 20)
    assert send(port, *files[:2]) == [0x0000, 0xC000]
    assert spool.take_quiet(0.0) == uid
    assert spool.count_refused(uid) == 1
    spool.fail(uid, "work", "incomplete")
    files[1].write_bytes(whole)
    assert send(port, files[1]) == [0x0000]
    change_raw(files[1], Rows=4000)
    assert send(port, files[1]) == [0xC000]  # it is there already
    assert spool.take_quiet(0.0) == uid
    assert spool.count_refused(uid) == 0


def change_raw(path, **fields):
    """Rewrites fields of a file, also with values that are not valid."""
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    reading = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        change(path, **fields)
    finally:
        pydicom.config.settings.writing_validation_mode = before
        pydicom.config.settings.reading_validation_mode = reading


@pytest.mark.promise("refused input")
def test_bytes_that_are_no_object_are_refused(spool, port, make_series, monkeypatch):
    _, files = make_series()
    content = files[0].read_bytes()
    with associate(port) as association:
        dataset = pydicom.dcmread(files[0])
        monkeypatch.setattr("pynetdicom.association.encode", lambda *_, **__: content[:777][300:])
        assert association.send_c_store(dataset).Status == 0xC000
    assert kept(spool) == []


def test_an_object_that_its_command_names_otherwise_is_refused(
    spool, port, make_series, monkeypatch
):
    _, files = make_series()
    dataset, other = pydicom.dcmread(files[0]), pydicom.dcmread(files[1])
    from pynetdicom.dsutils import encode

    monkeypatch.setattr("pynetdicom.association.encode", lambda _, *how, **h: encode(other, *how))
    with associate(port) as association:
        assert association.send_c_store(dataset).Status == 0xA900
    assert kept(spool) == []


@pytest.mark.promise("scarcity is one line")
def test_a_full_spool_asks_to_send_again_later(tmp_path, make_series, caplog):
    uid, files = make_series()
    room = 2.5 * 4096  # a file takes at least a block of the disk
    assert files[0].stat().st_size < 4096
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with (
        open_spool(tmp_path / "small", room) as spool,
        receiving(spool, "MTSEG", [parse_caller("SCANNER")], "127.0.0.1", 0) as port,
    ):
        assert send(port, *files) == [0x0000, 0x0000, 0xA700, 0xA700]
        (line,) = of_gateway(caplog)
        assert "refuses objects for now: the spool has" in line
        assert spool.take_quiet(0.0) == uid
        assert spool.count_refused(uid) == 2
        spool.fail(uid, "work", "incomplete")
        for path in spool.folder.glob("failed/*/*.dcm"):
            path.unlink()  # by hand: room is counted anew
        assert send(port, files[3]) == [0x0000]  # and the series is tried again
        assert spool.take_quiet(0.0) == uid
        assert spool.count_refused(uid) == 1


@pytest.mark.promise("scarcity is one line")
def test_a_full_disk_asks_to_send_again_later(spool, port, make_series, monkeypatch, caplog):
    _, files = make_series()
    caplog.set_level(logging.INFO, "mtseg.gateway")

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr("mtseg.gateway.spool.sync_to_disk", fail)
        assert send(port, files[0]) == [0xA700]
    assert of_gateway(caplog) == ["refuses objects for now: No space left on device"]
    assert not list(spool.folder.rglob("*.dcm"))
    assert spool.take_quiet(0.0) is None  # a series of which nothing was taken is none
    assert kept(spool) == []
    assert send(port, files[0]) == [0x0000]


def test_an_object_that_would_fill_the_memory_ends_its_association(
    spool, port, make_series, monkeypatch
):
    monkeypatch.setattr(receiver_module, "MOST_OBJECT_BYTES", 20_000)
    _, files = make_series(shape=(700, 700, 1))
    assert send(port, files[0]) == [None]
    assert kept(spool) == []


def test_what_can_be_read_is_accepted():
    names = {UID(syntax).name for syntax in list_readable_syntaxes()}
    assert {"Implicit VR Little Endian", "RLE Lossless"} < names
    assert not any("MPEG" in name for name in names)


def open_connections(port, count, content=b""):
    found = []
    for _ in range(count):
        found.append(socket.create_connection(("127.0.0.1", port), timeout=20))
        found[-1].sendall(content)
    return found


NOTHING, HALF_A_HEADER, HALF_A_PDU, TYPE_OF_OBJECTS = (
    *(b"", b"\x01\x00\x00", b"\x01\x00\x00\x00\x10\x00\x00\x01"),
    b"\x04\x00\x00\x01\x00\x00",
)


@pytest.mark.promise("servers may fail")
@pytest.mark.parametrize(
    "content",
    [
        HALF_A_HEADER,
        *(
            pytest.param(content, marks=pytest.mark.thorough)
            for content in (NOTHING, HALF_A_PDU, TYPE_OF_OBJECTS)
        ),
    ],
)
def test_half_of_a_pdu_does_not_keep_others_from_sending(spool, port, make_series, content):
    """Nor does a scanner that has lost its network in the middle of one."""
    _, files = make_series()
    idle = open_connections(port, 30, content)
    try:
        assert send(port, *files) == [0x0000] * 4
        # The first ones were closed for those that came after.
        assert idle[0].recv(100)[:1] in (b"", b"\x07")
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("kind", [b"\x01", b"\x04", b"\x07"])
def test_a_pdu_that_would_fill_the_memory_is_not_read(port, kind):
    """Its length is 4 GB; who sends it has not even been accepted."""
    (connection,) = open_connections(port, 1, kind + b"\x00\xff\xff\xff\xff")
    with connection:
        received = connection.recv(100)
        assert received[:1] in (b"", b"\x07")  # closed, or aborted


@pytest.mark.promise("servers may fail")
def test_a_pdu_that_does_not_come_in_time_is_not_waited_for(spool, monkeypatch):
    monkeypatch.setattr(receiver_module, "_IDLE_SECONDS", 1.0)
    with receiving(spool, "MTSEG", [parse_caller("SCANNER")], "127.0.0.1", 0) as port:
        (connection,) = open_connections(port, 1, b"\x01\x00\x00\x00\x10\x00")
        with connection:
            started = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - started < 20:  # a letter now and then is not enough
                    connection.sendall(b"\x00")
                    time.sleep(0.1)
            assert time.monotonic() - started < 10


def test_more_associations_than_are_served_are_told_to_come_again(port):
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(associate(port)) for _ in range(10)]
        assert all(association.is_established for association in opened)
        with associate(port) as one_too_many:
            assert one_too_many.is_rejected
            assert one_too_many.acceptor.primitive.result == 0x02  # not for ever
    with associate(port) as association:
        assert association.is_established


@pytest.mark.promise("scarcity is one line")
def test_more_objects_of_a_series_than_can_be_read_are_refused(
    spool, port, make_series, monkeypatch, caplog
):
    uid, files = make_series()
    monkeypatch.setattr("mtseg.gateway.room.MOST_OBJECTS", 2)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    assert send(port, *files) == [0x0000, 0x0000, 0xA700, 0xA700]
    assert "a series has more than 2 objects" in of_gateway(caplog)[0]
    assert spool.take_quiet(0.0) == uid
    assert spool.count_refused(uid) == 2  # so it is not segmented without them


@pytest.mark.promise("scarcity is one line")
def test_more_series_than_can_be_listed_are_refused_and_leave_nothing(
    spool, port, make_series, monkeypatch
):
    monkeypatch.setattr("mtseg.gateway.room.MOST_SERIES", 2)
    sent = [make_series(number) for number in range(3)]
    assert [send(port, files[0]) for _, files in sent] == [[0x0000], [0x0000], [0xA700]]
    assert send(port, sent[0][1][1]) == [0x0000]  # those that have begun are completed
    assert sorted(spool.list_series("incoming")) == [uid for uid, _ in sent[:2]]


def test_what_inflates_to_any_size_is_not_accepted():
    assert not any(UID(syntax).is_deflated for syntax in list_readable_syntaxes())


@pytest.mark.promise("servers may fail")
def test_a_command_that_lacks_a_part_ends_its_association_alone(
    port, make_series, monkeypatch, capfd, caplog
):
    """pynetdicom's thread would die with a traceback, and the connection stay open."""
    _, files = make_series()
    caplog.set_level(logging.INFO, "mtseg.gateway")
    # A library's handler may write to the stream of an earlier test, and tell its error here.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    from pynetdicom.dimse_messages import C_STORE_RQ

    with monkeypatch.context() as broken, associate(port) as association:
        encode = C_STORE_RQ.encode_msg

        def without_kind(self, *how):
            del self.command_set.CommandDataSetType
            return encode(self, *how)

        broken.setattr(C_STORE_RQ, "encode_msg", without_kind)
        broken.setattr(association, "dimse_timeout", 10)
        assert association.send_c_store(files[0]).get("Status") is None
        wait_until(lambda: not association.is_established)
    (line,) = of_gateway(caplog)
    assert line.startswith("ended the association of 127.0.0.1: a message is damaged (")
    assert send(port, files[0]) == [0x0000]
    assert "Traceback" not in "".join(capfd.readouterr())
