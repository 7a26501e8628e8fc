"""The gateway as a whole, in this process: series come in by DICOM, segmentations go out."""

# ruff: noqa: F811 - the fixture that is imported

import contextlib
import dataclasses
import errno
import logging
import threading

import highdicom as hd
import pydicom
import pytest

from mtseg.errors import InputError
from mtseg.gateway.peers import parse_caller
from mtseg.gateway.serving import Settings, run_gateway
from mtseg.models.loading import Renewal
from mtseg.prediction.options import Options
from mtseg.serving.connection import RequestError, ServerError
from mtseg.system.signals import StopRequest
from mtseg.tasks.label_space import parse_tasks
from tests.dicom_files import change
from tests.gateway.associations import associate, send
from tests.gateway.test_delivery import wait_for
from tests.prediction.test_pipeline import model  # noqa: F401

# pynetdicom leaves a socket that could not be connected to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

OPTIONS = Options(use_dicom_seg=True, is_strict=True)


@pytest.fixture
def settings(tmp_path):
    return Settings(
        tmp_path / "spool",
        (parse_caller("SCANNER"),),
        port=0,
        quiet_s=0.5,
        out_dir=tmp_path / "out",
        first_wait_s=0.1,
    )


@contextlib.contextmanager
def running(settings, load_model):
    """A gateway in a thread: its port."""
    stop, listening, ports = StopRequest(), threading.Event(), []

    def listen(port):
        ports.append(port)
        listening.set()

    thread = threading.Thread(
        target=run_gateway, args=(settings, load_model, OPTIONS, stop, listen), daemon=True
    )
    thread.start()
    assert listening.wait(30)
    try:
        yield ports[0]
    finally:
        stop.is_made = True
        thread.join(30)
        assert not thread.is_alive()


def states(settings):
    """Name of a folder of the spool -> what is in it."""
    names = "incoming", "work", "outgoing", "done", "failed"
    return {
        name: sorted(p.name for p in (settings.spool / name).iterdir() if p.name != "late")
        for name in names
    }


def test_series_are_segmented_and_one_that_cannot_be_does_not_stop_the_others(
    settings,
    model,
    make_series,
    caplog,
):
    (first, files), (broken, few), (last, others) = (
        make_series(number, shape=(10, 12, 6)) for number in range(3)
    )
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with running(settings, lambda: model) as port:
        send(port, *files, files[0])
        send(port, *few[:2], *few[3:])  # a slice is missing
        send(port, *others)
        done = [f"{first}.json", f"{last}.json"]
        wait_for(lambda: states(settings)["done"] == done and states(settings)["failed"])
        assert send(port, few[2]) == [0x0000]  # it comes after all
        wait_for(lambda: len(states(settings)["done"]) == 3)
    for uid in (first, broken, last):
        seg = hd.seg.segread(settings.out_dir / f"{uid}_labels.dcm")
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    assert states(settings)["failed"] == []
    assert not list(settings.spool.rglob("*.dcm"))
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("mtseg.gateway")]
    assert len(lines) == 4, lines
    (failure,) = [line for line in lines if "failed" in line]
    assert failure.startswith(f"series {broken}: failed: ")
    assert "1 missing" in failure


def test_what_a_gateway_left_is_continued_by_the_next_one(settings, model, make_series):
    uid, files = make_series()
    with running(dataclasses.replace(settings, quiet_s=1000.0), lambda: model) as port:
        assert send(port, *files) == [0x0000] * 4
    assert states(settings)["incoming"] == [uid]
    (settings.spool / "incoming" / uid).rename(settings.spool / "work" / uid)  # as after a kill
    with running(settings, lambda: model):
        wait_for(lambda: states(settings)["done"])
    with running(settings, lambda: model) as port:
        assert send(port, *files) == [0x0000] * 4  # all repeated
    assert {name: len(of) for name, of in states(settings).items()} == {
        "incoming": 0, "work": 0, "outgoing": 0, "done": 1, "failed": 0,
    }  # fmt: skip


def test_a_series_that_ends_the_program_again_and_again_is_given_up(
    settings,
    model,
    make_series,
):
    uid, files = make_series()
    with running(dataclasses.replace(settings, quiet_s=1000.0), lambda: model) as port:
        send(port, *files)
    work = settings.spool / "work" / uid
    (settings.spool / "incoming" / uid).rename(work)
    (work / "attempts.txt").write_text("5")
    with running(settings, lambda: model):
        wait_for(lambda: states(settings)["failed"])
    assert "ended 5 times" in (settings.spool / "failed" / uid / "reason.txt").read_text()


def test_a_series_with_refused_objects_waits_for_them(settings, model, make_series):
    uid, files = make_series()
    settings = dataclasses.replace(settings, max_bytes=3.5 * 4096)
    with running(settings, lambda: model) as port:
        assert send(port, *files) == [0x0000, 0x0000, 0x0000, 0xA700]
        wait_for(lambda: states(settings)["failed"] == [uid])
        reason = (settings.spool / "failed" / uid / "reason.txt").read_text()
    assert reason.startswith("incomplete: 1 of its objects, refused because")
    with running(dataclasses.replace(settings, max_bytes=1e9), lambda: model) as port:
        assert send(port, files[3]) == [0x0000]
        wait_for(lambda: states(settings)["done"])
    seg = pydicom.dcmread(settings.out_dir / f"{uid}_labels.dcm")
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 4


def test_a_series_whose_last_slice_came_damaged_waits_for_it(settings, model, make_series):
    """Without it, the others look like a whole series of three slices."""
    uid, files = make_series()
    last = files[3].read_bytes()
    change(files[3], PixelData=b"\0" * 20)
    with running(settings, lambda: model) as port:
        assert send(port, *files) == [0x0000, 0x0000, 0x0000, 0xC000]
        wait_for(lambda: states(settings)["failed"] == [uid])
        files[3].write_bytes(last)
        assert send(port, files[3]) == [0x0000]
        wait_for(lambda: states(settings)["done"])
    seg = pydicom.dcmread(settings.out_dir / f"{uid}_labels.dcm")
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 4


@pytest.mark.parametrize("what", ["a server that is away", "a full disk", "a defect"])
def test_what_passes_is_tried_again_and_a_defect_is_not(
    settings,
    model,
    make_series,
    monkeypatch,
    caplog,
    what,
):
    from mtseg.gateway import segmenting

    uid, files = make_series()
    calls, segment_files = [], segmenting.segment_files

    def fail_once(*arguments, **how):
        calls.append(arguments)
        if len(calls) > 1:
            return segment_files(*arguments, **how)
        if what == "a defect":
            raise KeyError("Phantom^Synthetic")
        if what == "a server that is away":
            raise ServerError("grpc://server: does not answer.")
        error = InputError("no room")
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        return iter([(arguments[1][0], error)])

    monkeypatch.setattr(segmenting, "segment_files", fail_once)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    with running(settings, lambda: model) as port:
        send(port, *files)
        wait_for(lambda: states(settings)["done"] or states(settings)["failed"])
    if what == "a defect":
        assert states(settings)["failed"] == [uid]
        reason = (settings.spool / "failed" / uid / "reason.txt").read_text()
        assert reason.startswith("a defect of mtseg: KeyError in test_serving.py, line ")
    else:
        assert states(settings)["done"] == [f"{uid}.json"]
        assert "tries again in" in caplog.text
    assert "hantom" not in caplog.text


@pytest.mark.promise("servers may fail")
def test_a_series_that_the_server_never_computes_does_not_hold_up_the_others(
    settings, model, make_series, monkeypatch
):
    from mtseg.gateway import segmenting

    (hopeless, files), (other, others) = make_series(0), make_series(1)
    segment_files = segmenting.segment_files

    def refuse(model, scans, *arguments, **how):
        if scans[0].name == hopeless:
            raise RequestError("http://server: a message is larger than the server accepts.")
        return segment_files(model, scans, *arguments, **how)

    monkeypatch.setattr(segmenting, "segment_files", refuse)
    monkeypatch.setattr("mtseg.gateway.serving.LONGEST_WAIT_S", 0.1)
    with running(settings, lambda: model) as port:
        send(port, *files)
        send(port, *others)
        wait_for(lambda: states(settings)["done"] == [f"{other}.json"], seconds=60)
    assert states(settings)["failed"] == [hopeless]
    reason = (settings.spool / "failed" / hopeless / "reason.txt").read_text()
    assert reason == (
        "the server did not compute it in 5 attempts: http://server: a message is larger than the "
        "server accepts.\n"
    )


@pytest.mark.promise("servers may fail")
def test_a_server_that_is_away_is_waited_for(settings, model, make_series, monkeypatch):
    """However often it does not answer, and whatever it refused before."""
    from mtseg.gateway import segmenting

    uid, files = make_series()
    segment_files = segmenting.segment_files
    errors = [RequestError("no answer within 600 s.")] * 3 + [ServerError("does not answer.")] * 6
    errors += [RequestError("no answer within 600 s.")] * 3

    def fail(*arguments, **how):
        if errors:
            raise errors.pop(0)
        return segment_files(*arguments, **how)

    monkeypatch.setattr(segmenting, "segment_files", fail)
    monkeypatch.setattr("mtseg.gateway.serving.LONGEST_WAIT_S", 0.1)
    with running(settings, lambda: model) as port:
        send(port, *files)
        wait_for(lambda: states(settings)["done"] == [f"{uid}.json"])
    assert states(settings)["failed"] == []


def test_each_series_is_segmented_by_the_newest_version_that_is_served(
    settings, model, make_series, monkeypatch, caplog
):
    from mtseg.gateway import serving

    served, errors, used = ["grpc://here/mtseg:1"], [], []
    segment_series = serving.segment_series

    def load():
        if errors:
            raise errors.pop()
        return dataclasses.replace(model, path=served[-1], renewal=renewal)

    def note(spool, series, newest, *others):
        used.append(newest.path)
        segment_series(spool, series, newest, *others)

    renewal = Renewal(load)
    monkeypatch.setattr(serving, "segment_series", note)
    caplog.set_level(logging.INFO, "mtseg.gateway")
    (_, first), (_, second), (_, third) = (make_series(number) for number in range(3))
    with running(settings, load) as port:
        for number, files in enumerate((first, second, third), start=1):
            if number == 3:
                served.append("grpc://here/mtseg:2")
                errors.append(ServerError("does not answer."))  # for a while
            send(port, *files)
            wait_for(lambda number=number: len(states(settings)["done"]) == number)
    assert used == ["grpc://here/mtseg:1"] * 2 + ["grpc://here/mtseg:2"]
    lines = [r.getMessage() for r in caplog.records if "in place of" in r.getMessage()]
    assert lines == ["grpc://here/mtseg:2: segments from now on, in place of grpc://here/mtseg:1"]
    assert states(settings)["failed"] == []


def test_labels_with_a_warning_are_withheld(settings, model, make_series, monkeypatch):
    monkeypatch.setattr("mtseg.inference.verdict.assessment.Assessment.warning", "unlike all")
    uid, files = make_series()
    with running(settings, lambda: model) as port:
        send(port, *files)
        wait_for(lambda: states(settings)["failed"])
    reason = (settings.spool / "failed" / uid / "reason.txt").read_text()
    assert reason == "the labels are withheld: unlike all\n"
    assert not settings.out_dir.exists()
    assert not list(settings.spool.rglob("*_labels*"))


@pytest.mark.promise("refused input")
def test_a_port_that_is_taken_is_one_error_before_the_model_is_loaded(settings, model):
    def load():
        raise AssertionError("it was loaded")

    with running(settings, lambda: model) as port:
        other = dataclasses.replace(settings, spool=settings.spool.parent / "other", port=port)
        with pytest.raises(InputError, match=rf"--port {port}: cannot listen there \(Address al"):
            run_gateway(other, load, OPTIONS, StopRequest())
    with associate(port) as association:  # and after its end, nobody answers
        assert not association.is_established


@pytest.mark.promise("refused input")
def test_a_task_that_the_model_does_not_have_ends_the_gateway_at_its_start(settings, model):
    """Or it would acknowledge every series and segment none."""
    tasks = tuple(selection.task for selection in parse_tasks("brain,cta").selections)
    model = dataclasses.replace(model, tasks=tasks)
    stop = StopRequest()
    timer = threading.Timer(20, setattr, (stop, "is_made", True))
    timer.start()
    with pytest.raises(
        InputError, match=r"task brian: .* \(did you mean brain\?\)\. Give one of brain, cta, or"
    ):
        run_gateway(settings, lambda: model, dataclasses.replace(OPTIONS, task="brian"), stop)
    timer.cancel()


@pytest.mark.promise("refused input")
def test_a_spool_that_is_removed_meanwhile_ends_the_gateway_with_one_line(settings, model):
    def remove(port):
        (settings.spool / "work").rmdir()

    with pytest.raises(InputError, match=r"work: the spool cannot be used any more \(No such"):
        run_gateway(settings, lambda: model, OPTIONS, StopRequest(), remove)
