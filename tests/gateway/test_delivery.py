"""Delivery into a folder and to an archive that is there, away, full, or refuses."""

import errno
import logging
import socket
import threading
import time

import highdicom as hd
import numpy as np
import pydicom
import pytest

from mtseg.gateway import delivery as delivery_module
from mtseg.gateway.delivery import Delivery
from mtseg.gateway.peers import Destination
from mtseg.gateway.segmenting import seg_path, verdict_of
from mtseg.gateway.spool import RESULTS
from mtseg.scans.dicom_seg import write_dicom_seg
from mtseg.system.atomic_files import write_json
from mtseg.tasks.label_table import make_label_table
from mtseg.tasks.task import TissueClass
from tests.gateway.associations import Archive, send
from tests.viewer.threshold_computer import wait_until

# pynetdicom leaves a socket that could not be connected to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TABLE = make_label_table([("organ", TissueClass("liver", "Liver"))])


@pytest.fixture
def segmented(spool, port, make_series):
    """A series that waits for its delivery: its UID and the file to deliver."""
    uid, files = make_series()
    assert send(port, *files) == [0x0000] * 4
    assert spool.take_quiet(0.0) == uid
    work = spool.path("work", uid)
    (work / RESULTS).mkdir()
    labels = np.ones((10, 12, 4), np.uint8)
    write_dicom_seg(seg_path(work), labels, work, TABLE)
    write_json(verdict_of(work), {"status": "ok", "warning": None, "scan": str(work)})
    spool.send_out(uid)
    return uid, seg_path(spool.path("outgoing", uid))


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_segmentation_is_sent_and_written_and_the_images_are_deleted(
    spool, segmented, tmp_path, caplog
):
    uid, path = segmented
    content, sent = path.read_bytes(), pydicom.dcmread(path)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with Archive() as archive:
        destination = Destination("ARCHIVE", "127.0.0.1", archive.port)
        delivery = Delivery(spool, tmp_path / "out", destination, "MTSEG")
        assert delivery.deliver_all() == ""
        (received,) = archive.received
        assert received == sent
        assert delivery.deliver_all() == ""  # there is nothing more
        assert len(archive.received) == 1
    assert (tmp_path / "out" / f"{uid}_labels.dcm").read_bytes() == content
    assert hd.seg.segread(tmp_path / "out" / f"{uid}_labels.dcm").number_of_segments == 1
    done = spool.read_done(uid)
    assert done["seg_sop_instance_uid"] == sent.SOPInstanceUID
    assert (done["status"], len(done["objects"])) == ("ok", 4)
    assert not list(spool.folder.rglob("*.dcm"))
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("mtseg")]
    assert line.startswith(f"series {uid}: 4 images, ok, sent to {tmp_path / 'out'}")
    assert f"ARCHIVE@127.0.0.1:{archive.port}" in line
    assert "hantom" not in line


def test_an_archive_that_is_away_gets_the_same_object_when_it_is_back(spool, segmented, caplog):
    _, path = segmented
    uid = pydicom.dcmread(path).SOPInstanceUID
    port = free_port()
    delivery = Delivery(spool, None, Destination("ARCHIVE", "127.0.0.1", port), "MTSEG", 0.2)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with delivery.running():
        wait_for(lambda: "does not answer" in caplog.text)
        with Archive(port) as archive:
            wait_for(lambda: not spool.list_series("outgoing"))
            assert [dataset.SOPInstanceUID for dataset in archive.received] == [uid]


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_archive_is_asked_again_and_one_that_refuses_is_not(spool, segmented):
    uid, _ = segmented
    with Archive() as archive:
        delivery = Delivery(spool, None, Destination("A", "127.0.0.1", archive.port), "MTSEG")
        archive.answer = 0xA700
        assert "with status 0xA700" in delivery.deliver_all()
        assert spool.list_series("outgoing") == [uid]
        archive.answer = 0xC123
        assert delivery.deliver_all() == ""
    assert spool.list_series("outgoing") == []
    reason = (spool.path("failed", uid) / "reason.txt").read_text()
    assert reason == f"A@127.0.0.1:{archive.port} refused it with status 0xC123\n"


@pytest.mark.parametrize("answer", [0x0111, 0xB000, 0xB007])
def test_an_archive_that_has_the_object_already_or_stores_it_with_a_warning_is_content(
    spool, segmented, answer
):
    """0x0111 is a duplicate SOP instance; from 0xB000 on are warnings of an object that is kept."""
    with Archive() as archive:
        archive.answer = answer
        delivery = Delivery(spool, None, Destination("A", "127.0.0.1", archive.port), "MTSEG")
        assert delivery.deliver_all() == ""
    assert spool.read_done(segmented[0])["objects"]


@pytest.mark.promise("scarcity is one line")
def test_a_folder_that_cannot_be_written_is_tried_again(spool, segmented, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert str(tmp_path / "out") in Delivery(spool, tmp_path / "out", None, "MTSEG").deliver_all()
    assert spool.list_series("outgoing") == [segmented[0]]


@pytest.mark.promise("scarcity is one line")
@pytest.mark.parametrize("step", ["fail", "list_series"])
def test_a_disk_that_fails_for_a_while_does_not_end_the_deliveries(
    spool, segmented, monkeypatch, caplog, step
):
    """Neither where a refused series is moved to `failed` nor where the series are listed."""
    do, errors = getattr(spool, step), [OSError(errno.ENOSPC, "No space left on device")]

    def fail_once(*arguments):
        if errors:
            raise errors.pop()
        return do(*arguments)

    monkeypatch.setattr(spool, step, fail_once)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with Archive() as archive:
        archive.answer = 0xC123
        delivery = Delivery(spool, None, Destination("A", "127.0.0.1", archive.port), "MTSEG", 0.2)
        with delivery.running():
            wait_for(lambda: spool.path("failed", segmented[0]).exists(), seconds=20)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("mtseg.gateway")]
    assert [line for line in lines if "No space left" in line] == [
        "not delivered, tries again in 0 s: [Errno 28] No space left on device"
    ]


@pytest.mark.promise("servers may fail")
def test_an_archive_that_stalls_in_half_of_an_answer_leaves_no_thread(
    spool, segmented, monkeypatch
):
    """Or each attempt would leave one, for ever."""
    monkeypatch.setattr(delivery_module, "_CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(delivery_module, "_ANSWER_SECONDS", 1.0)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        destination = Destination("ARCHIVE", "127.0.0.1", listening.getsockname()[1])
        delivery = Delivery(spool, None, destination, "MTSEG")

        def stall():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x02\x00\x00\x00\x10")  # half of the head of an acceptance
                stalled.wait(30)

        stalled = threading.Event()
        thread = threading.Thread(target=stall)
        thread.start()
        assert delivery.deliver_all()
        wait_until(lambda: threading.active_count() <= before + 1)
        stalled.set()
        thread.join(30)
