"""Checkpoints: a run resumes from the latest one that can be read."""

import pytest
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.training.checkpoints import Checkpoints


class Saved:
    """The state of a run that is one variable, as TensorFlow writes it."""

    def __init__(self, value):
        self.checkpoint = tf.train.Checkpoint(value=value)

    def write_state(self, folder):
        self.checkpoint.write(str(folder / "state"))

    def read_state(self, folder):
        self.checkpoint.read(str(folder / "state")).assert_existing_objects_matched()


@pytest.fixture
def saved(tmp_path):
    """A run's value and its three checkpoints, after 10, 20 and 30, each holding its number."""
    value = tf.Variable(tf.zeros(1000))
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3, Saved(value))
    for step in (10, 20, 30):
        value.assign(tf.fill(1000, float(step)))
        checkpoints.save(step)
    value.assign(tf.zeros(1000))
    return value, checkpoints, tmp_path / "checkpoints"


def data_file(folder, step):
    (path,) = (folder / f"step-{step}").glob("*.data-*")
    return path


def test_the_latest_is_restored(saved):
    value, checkpoints, _ = saved
    assert checkpoints.restore_latest() == 30
    assert value[0] == 30


def test_there_is_nothing_to_restore_in_a_new_run(tmp_path):
    assert Checkpoints(tmp_path / "new", 2, Saved(tf.Variable(1.0))).restore_latest() == 0


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_index(path):
    index = path.with_name("state.index")
    index.write_bytes(index.read_bytes()[:20])


@pytest.mark.promise("damage is noticed")
@pytest.mark.parametrize("damage", [truncate, flip, cut_index, lambda path: path.unlink()])
def test_the_one_before_a_damaged_one_is_restored(saved, capsys, damage):
    value, checkpoints, folder = saved
    damage(data_file(folder, 30))
    assert checkpoints.restore_latest() == 20
    assert value[0] == value[999] == 20
    assert "step-30: this checkpoint is damaged" in capsys.readouterr().out


@pytest.mark.promise("damage is noticed")
def test_a_run_without_a_readable_checkpoint_does_not_start_over_by_itself(saved):
    _, checkpoints, folder = saved
    for step in (10, 20, 30):
        truncate(data_file(folder, step))
    with pytest.raises(InputError, match="none of its 3 checkpoints"):
        checkpoints.restore_latest()


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, Saved(tf.Variable(1.0)))
    for step in range(1, 6):
        checkpoints.save(step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-4", "step-5"]


@pytest.mark.promise("damage is noticed")
def test_a_damaged_one_is_replaced_when_the_run_gets_there_again(saved):
    value, checkpoints, folder = saved
    truncate(data_file(folder, 30))
    value.assign(tf.fill(1000, 31.0))
    checkpoints.save(30)
    value.assign(tf.zeros(1000))
    assert checkpoints.restore_latest() == 30
    assert value[0] == 31


@pytest.mark.promise("atomic outputs")
def test_what_a_killed_process_left_half_written_is_ignored_and_removed(saved):
    _, checkpoints, folder = saved
    left = folder / ".123.step-40"
    left.mkdir()
    (left / "state.index").write_bytes(b"half")
    assert checkpoints.restore_latest() == 30
    checkpoints.clean(30)
    assert not left.exists()


@pytest.mark.promise("goes on after a kill")
def test_what_a_killed_process_did_not_delete_is_deleted(saved):
    _, _, folder = saved
    Checkpoints(folder, 1, Saved(tf.Variable(tf.zeros(1000)))).clean(30)
    assert sorted(path.name for path in folder.iterdir()) == ["step-30"]


@pytest.mark.promise("damage is noticed")
def test_the_one_that_was_restored_is_kept_beside_a_damaged_newer_one(saved):
    _, _, folder = saved
    truncate(data_file(folder, 30))
    checkpoints = Checkpoints(folder, 1, Saved(tf.Variable(tf.zeros(1000))))
    checkpoints.clean(checkpoints.restore_latest())
    assert checkpoints.restore_latest() == 20


@pytest.mark.promise("damage is noticed")
def test_a_new_one_is_not_deleted_in_place_of_a_damaged_one_that_is_newer(saved):
    value, _, folder = saved
    truncate(data_file(folder, 30))
    checkpoints = Checkpoints(folder, 1, Saved(value))
    checkpoints.clean(checkpoints.restore_latest())
    value.assign(tf.fill(1000, 25.0))
    checkpoints.save(25)
    value.assign(tf.zeros(1000))
    assert checkpoints.restore_latest() == 25
    assert value[0] == 25


@pytest.mark.promise("atomic outputs")
def test_a_write_that_fails_leaves_the_ones_before(saved, monkeypatch):
    _, checkpoints, folder = saved

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mtseg.training.checkpoints.sync_to_disk", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(40)
    assert sorted(path.name for path in folder.iterdir()) == ["step-10", "step-20", "step-30"]
    assert checkpoints.restore_latest() == 30


def test_the_one_before_one_that_cannot_be_used_is_restored(saved, capsys):
    value, checkpoints, _ = saved
    assert checkpoints.restore_latest(lambda: value[0] < 30) == 20
    assert value[0] == 20
    assert "step-30: its weights are not finite" in capsys.readouterr().out
    with pytest.raises(InputError, match="none of its 3 checkpoints can be used"):
        checkpoints.restore_latest(lambda: False)


def test_a_checkpoint_says_by_which_rule_it_was_trained(tmp_path):
    Checkpoints(tmp_path, 2, Saved(tf.Variable(1.0))).save(10)
    checkpoints = Checkpoints(tmp_path, 2, Saved(tf.Variable(1.0)), rules={"muon": 2})
    checkpoints.save(20)
    assert [checkpoints.stored_rule(step, "muon") for step in (10, 20)] == [1, 2]
    (tmp_path / "step-20" / "rules.json").unlink()  # as those of earlier versions
    assert checkpoints.restore_latest() == 20
    assert checkpoints.stored_rule(20, "muon") == 1
