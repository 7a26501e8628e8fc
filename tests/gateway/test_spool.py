"""The states of a series, and what is left after a kill between any two steps."""

import json

import pytest

from mtseg.errors import InputError
from mtseg.gateway.room import SpoolFullError
from mtseg.gateway.spool import RESULTS, is_uid, open_spool


def add(spool, series, instance, content=b"image"):
    with spool.temporary_file(len(content)) as path:
        path.write_bytes(content)
        return spool.add(path, series, instance)


def finish(spool, series, quiet_s=0.0):
    """Takes a series through all its states."""
    assert spool.take_quiet(quiet_s) == series
    (spool.path("work", series) / RESULTS).mkdir()
    spool.send_out(series)
    spool.finish(series, {"seg_sop_instance_uid": "9"})


def test_a_series_is_complete_when_it_is_quiet_and_the_oldest_comes_first(spool, monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("mtseg.gateway.spool.time.monotonic", lambda: now_s)
    add(spool, "1.2", "1.2.1")
    now_s = 101.0
    add(spool, "1.1", "1.1.1")
    now_s = 103.0
    assert spool.take_quiet(4.0) is None
    now_s = 104.5
    add(spool, "1.2", "1.2.2")
    now_s = 105.5
    assert spool.take_quiet(4.0) == "1.1"
    assert spool.take_quiet(4.0) == "1.1"  # it is in work
    spool.fail("1.1", "work", "for a test")
    assert spool.take_quiet(4.0) is None
    now_s = 109.0
    assert spool.take_quiet(4.0) == "1.2"


def test_a_series_that_is_done_leaves_a_small_file_and_no_image(spool):
    assert add(spool, "1.2", "1.2.1") == "stored"
    finish(spool, "1.2")
    done = json.loads((spool.folder / "done" / "1.2.json").read_text())
    assert done == {"seg_sop_instance_uid": "9", "objects": ["1.2.1"]}
    assert not list(spool.folder.rglob("*.dcm"))
    assert add(spool, "1.2", "1.2.1") == "repeated"
    assert not list(spool.folder.rglob("*.dcm"))


@pytest.mark.parametrize("state", ["work", "outgoing", "done"])
def test_a_new_object_of_a_series_that_was_begun_is_late(spool, state):
    add(spool, "1.2", "1.2.1")
    if state == "done":
        finish(spool, "1.2")
    else:
        spool.take_quiet(0.0)
    if state == "outgoing":
        (spool.path("work", "1.2") / RESULTS).mkdir()
        spool.send_out("1.2")
    assert add(spool, "1.2", "1.2.1") == "repeated"
    assert add(spool, "1.2", "1.2.2") == "late"
    assert add(spool, "1.2", "1.2.2") == "repeated"
    late = spool.folder / "failed/late/1.2"
    assert sorted(path.name for path in late.iterdir()) == ["1.2.2.dcm", "reason.txt"]
    assert "give a larger --quiet-s" in (late / "reason.txt").read_text()
    assert spool.list_series("failed") == []


def test_a_failed_series_is_tried_again_when_a_missing_object_comes(spool):
    add(spool, "1.2", "1.2.1")
    spool.take_quiet(0.0)
    spool.fail("1.2", "work", "1 missing slice")
    assert (spool.path("failed", "1.2") / "reason.txt").read_text() == "1 missing slice\n"
    assert add(spool, "1.2", "1.2.1") == "repeated"
    assert spool.list_series("failed") == ["1.2"]
    assert add(spool, "1.2", "1.2.2") == "stored"
    assert spool.list_series("failed") == []
    finish(spool, "1.2")
    assert spool.read_done("1.2")["objects"] == ["1.2.1", "1.2.2"]


def test_a_spool_is_opened_again_as_a_killed_process_left_it(spool, tmp_path):
    add(spool, "1.1", "1.1.1")
    spool.take_quiet(0.0)
    spool.begin_attempt("1.1")
    add(spool, "1.3", "1.3.1")
    (spool.folder / "incoming" / "1.4").mkdir()  # killed before the first object was in it
    (spool.folder / "temporary" / "half").write_bytes(b"im")
    # Killed after the delivery was noted, before the images were deleted.
    (spool.folder / "outgoing" / "1.5").mkdir()
    (spool.folder / "outgoing" / "1.5" / "1.5.1.dcm").write_bytes(b"image")
    (spool.folder / "done" / "1.5.json").write_text('{"objects": ["1.5.1"]}')
    spool.recover()
    assert spool.list_series("work") == ["1.1"]
    assert spool.begin_attempt("1.1") == 2
    spool.end_attempt("1.1")
    assert spool.begin_attempt("1.1") == 1
    assert spool.list_series("incoming") == ["1.3"]
    assert spool.list_series("outgoing") == []
    assert not list((spool.folder / "temporary").iterdir())


def test_an_object_that_came_again_before_a_kill_is_not_missed(spool):
    add(spool, "1.2", "1.2.1")
    spool.note_refused("1.2", "1.2.2")
    spool.note_refused("1.2", "1.2.3")
    (spool.path("incoming", "1.2") / "1.2.2.dcm").write_bytes(b"image")  # killed, and its note left
    spool.take_quiet(0.0)
    assert spool.count_refused("1.2") == 1


@pytest.mark.promise("one at a time")
def test_a_second_gateway_on_the_same_spool_is_refused(spool):
    with (
        pytest.raises(InputError, match="another gateway uses this spool"),
        open_spool(spool.folder, 1e9),
    ):
        pass


@pytest.mark.promise("refused input")
def test_a_spool_that_others_can_read_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(InputError, match="chmod 700"), open_spool(tmp_path, 1e9):
        pass


def test_a_closed_spool_takes_nothing(spool):
    spool.close()
    with pytest.raises(SpoolFullError):
        add(spool, "1.2", "1.2.1")


def test_a_damaged_file_of_a_done_series_does_not_stop_the_gateway(spool):
    (spool.folder / "done" / "1.2.json").write_text("{")
    assert add(spool, "1.2", "1.2.1") == "late"


@pytest.mark.parametrize("text", ["1", "1.2.840.10008", "0.0", "1" * 64])
def test_uids(text):
    assert is_uid(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "1.", ".1", "1..2", "1/2", "1\n", "1 ", "a", "1" * 65, None]
)
def test_what_is_no_uid(text):
    assert not is_uid(text)


@pytest.mark.promise("refused input")
def test_a_folder_of_the_spool_that_is_a_link_is_refused(tmp_path):
    """It would be emptied, wherever it leads to."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    (tmp_path / "spool").mkdir(mode=0o700)
    (tmp_path / "spool" / "temporary").symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match="is a link"), open_spool(tmp_path / "spool", 1e9):
        pass
    assert (tmp_path / "home" / "letter").exists()
