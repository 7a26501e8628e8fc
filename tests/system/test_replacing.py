"""Several folders replaced as one, also if the process ends in the middle."""

import contextlib
import os

import pytest

from mtseg.system import replacing

NAMES = ("a", "b", "c")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


@pytest.fixture
def moves(place):
    """Three new folders beside three old ones, and a file; each has its age as content."""
    for name in NAMES:
        for age in ("old", "new"):
            (place / age / name).mkdir(parents=True)
            (place / age / name / "content").write_text(age)
    (place / "new" / "file").write_text("new")
    return [(place / "new" / n, place / "old" / n) for n in (*NAMES, "file")]


def contents(folder):
    return {p.relative_to(folder).parts[0]: p.read_text() for p in folder.rglob("*") if p.is_file()}


ALL_NEW = dict.fromkeys([*NAMES, "file"], "new")


def test_everything_is_replaced(moves, place):
    replacing.replace_together(place / "plan", moves)
    assert contents(place / "old") == ALL_NEW
    assert not (place / "plan").exists()
    assert not any((place / "new").iterdir())


def test_without_a_plan_nothing_is_done(moves, place):
    replacing.finish_replacing(place / "plan")
    assert contents(place / "old") == dict.fromkeys(NAMES, "old")


@pytest.mark.promise("goes on after a kill")
@pytest.mark.parametrize("count", range(9))
def test_a_process_that_ends_between_two_changes_leaves_a_plan_to_finish(
    moves, place, monkeypatch, count
):
    """Each removal and each rename may be the last change. The folder may move meanwhile."""
    left = iter(range(count))

    def stop_at_the_end(change):
        def changed(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return change(*arguments)

        return changed

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop_at_the_end(os.replace))
        patched.setattr(replacing, "remove_path", stop_at_the_end(replacing.remove_path))
        with contextlib.suppress(KeyboardInterrupt):
            replacing.replace_together(place / "plan", moves)
    moved = place.rename(place.with_name("moved"))
    if not (moved / "plan").exists() and count == 0:
        assert contents(moved / "old") == dict.fromkeys(NAMES, "old")
        return
    replacing.finish_replacing(moved / "plan")
    assert contents(moved / "old") == ALL_NEW
    assert not (moved / "plan").exists()
