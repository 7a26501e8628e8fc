"""Errors for users keep their text and kind on the way from a worker process."""

import pickle

from mtseg.errors import InputError, WorkerLostError


def test_an_input_error_is_its_message():
    assert (
        str(InputError("a.nii: is empty. Remove it.", kind="empty"))
        == "a.nii: is empty. Remove it."
    )
    assert InputError("no kind").kind == ""


def test_an_input_error_of_a_worker_process_keeps_its_kind():
    sent = pickle.loads(pickle.dumps(InputError("split.csv: twice.", kind="split")))
    assert (type(sent), str(sent), sent.kind) == (InputError, "split.csv: twice.", "split")


def test_a_lost_worker_is_not_bad_input():
    assert not issubclass(WorkerLostError, InputError)
