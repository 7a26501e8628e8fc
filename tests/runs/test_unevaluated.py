"""Weights that are not scored yet, also where a killed process left the folder of the run."""

import os
import shutil

import keras
import pytest

from mtseg.errors import InputError
from mtseg.models.export import export_weights
from mtseg.runs.unevaluated import (
    UNEVALUATED,
    have_last_weights,
    read_unevaluated,
    write_unevaluated,
)
from mtseg.runs.weights import load_trained
from mtseg.runs.workdir import EVALUATION, weights_path


@pytest.fixture
def evaluated(random_run, tmp_path):
    """The folder of a run whose last weights are evaluated, and its network."""
    workdir, model = random_run
    return shutil.copytree(workdir, tmp_path / "run"), model


def write(workdir, model, minibatch=20):
    write_unevaluated(workdir, model, minibatch, 1.5, "mtseg-train", "a device")


def test_they_replace_the_ones_before_and_their_evaluation(evaluated):
    workdir, model = evaluated
    write(workdir, model)
    assert not (workdir / EVALUATION).exists()
    assert read_unevaluated(workdir)["minibatch"] == 20
    assert have_last_weights(workdir, 20)
    assert not have_last_weights(workdir, 19)
    with pytest.raises(InputError, match=r"mtseg-evaluate .* first"):
        export_weights(workdir, workdir.parent / "model")


@pytest.mark.promise("goes on after a kill")
def test_a_kill_before_the_weights_are_in_their_place_changes_nothing(evaluated):
    class Killed(Exception):
        pass

    def replace_or_die(source, target):
        if str(target).endswith(".h5"):
            raise Killed
        replace(source, target)

    workdir, model = evaluated
    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            write(workdir, keras.models.clone_model(model))  # with other weights
    assert (workdir / UNEVALUATED).exists()
    assert read_unevaluated(workdir) is None
    load_trained(workdir)
    export_weights(workdir, workdir.parent / "model")


@pytest.mark.promise("goes on after a kill")
def test_a_kill_before_the_old_evaluation_is_removed_does_not_bring_it_back(evaluated):
    workdir, model = evaluated
    old = (workdir / EVALUATION).read_text()
    write(workdir, model)
    (workdir / EVALUATION).write_text(old)
    assert read_unevaluated(workdir) is not None
    load_trained(workdir)
    with pytest.raises(InputError, match=r"mtseg-evaluate .* first"):
        export_weights(workdir, workdir.parent / "model")


@pytest.mark.promise("damage is noticed")
def test_damaged_weights_have_no_note(evaluated):
    workdir, model = evaluated
    write(workdir, model)
    weights_path(workdir, "last").write_bytes(b"no weights")
    assert read_unevaluated(workdir) is None
    assert not have_last_weights(workdir, 20)
