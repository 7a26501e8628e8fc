"""Who cuts the patches of volumes: the device if it can, else the host, and what is said."""

from pathlib import Path

import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.training import holding
from mtseg.training.holding import hold_volumes
from tests.batches.test_placed_samples import make_samples

VOXELS = 53 * 55 * 52 + 51 * 57 * 54 + 110 * 52 * 53
"""Of the volumes of `make_samples` with 25 voxels on each side."""


class OutOfMemory(Exception):
    pass


class Engine:
    """An engine on a device whose memory may be taken by others."""

    errors = (OutOfMemory,)
    per_device_batch_size = 10
    held = None

    def __init__(self, is_full=False):
        self.is_full = is_full

    def hold_volumes(self, samples):
        if self.is_full:
            raise OutOfMemory
        self.held = samples.make_buffer()

    def explain(self, error, workdir):
        return InputError("the device's memory is too small")


def hold(monkeypatch, of_gpu, of_host=10**9, augment="", engine=None, **changes):
    """The lines that are printed, and whether the device holds the volumes."""
    monkeypatch.setattr(holding, "gpu_bytes", lambda: of_gpu)
    monkeypatch.setattr(holding, "free_bytes", lambda: of_host)
    config = TrainConfig("breast,cta", "data", augment=augment, **changes)
    engine, lines = engine or Engine(), []
    hold_volumes(config, engine, make_samples(config.augmentations), Path("run"), lines.append)
    assert engine.held is None or engine.held.size == VOXELS
    return lines, engine.held is not None


def test_a_gpu_cuts_the_patches_by_itself_and_a_processor_does_not(monkeypatch):
    assert hold(monkeypatch, of_gpu=None) == ([], False)
    lines, is_held = hold(monkeypatch, of_gpu=16 * 10**9, augment="flip,intensity")
    assert is_held
    assert lines == [
        "Patches are cut on the device, from 1.2 MB of volumes in its 16.0 GB of memory."
    ]
    assert hold(monkeypatch, of_gpu=16 * 10**9, input="volumes") == ([], False)
    assert hold(monkeypatch, of_gpu=16 * 10**9, input="patches") == ([], False)


def test_a_processor_cuts_them_from_a_buffer_if_it_is_told_to(monkeypatch):
    lines, is_held = hold(monkeypatch, of_gpu=None, input="device")
    assert is_held
    assert lines == ["Patches are cut on the device, from 1.2 MB of volumes in its memory."]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # The volumes and ten samples of a mini-batch.
        ({"of_gpu": 320 * 10**6}, "its memory is 320.0 MB, and 321.2 MB are needed"),
        ({"of_gpu": 0}, "its memory is 0.0 MB"),
        ({"of_host": 800_000}, "the host's free memory is 0.8 MB, and 1.2 MB are needed"),
        ({"augment": "flip,gamma,noise"}, "gamma, noise of --augment must be made by the host"),
        ({"strategy": "multiworker"}, "--strategy multiworker"),
        ({"engine": Engine(is_full=True)}, "other programs use its memory, and the volumes take"),
    ],
)
def test_where_the_device_cannot_the_host_does_or_the_run_is_refused(monkeypatch, changes, reason):
    changes = {"of_gpu": 16 * 10**9} | changes
    (line,), is_held = hold(monkeypatch, **changes)
    assert line.startswith(f"Patches are cut by the host, not by the device: {reason}")
    assert not is_held
    with pytest.raises(InputError, match=r"^input: the device cannot.*Train with --input volumes"):
        hold(monkeypatch, **changes, input="device")


def test_more_voxels_than_32_bits_count_are_refused(monkeypatch):
    monkeypatch.setattr(holding, "count_voxels", lambda samples: 2**31)
    (line,), is_held = hold(monkeypatch, of_gpu=10**11)
    assert "more than 2,147,483,647 voxels" in line
    assert not is_held


def test_another_error_of_the_device_is_not_hidden(monkeypatch):
    engine = Engine(is_full=True)
    monkeypatch.setattr(engine, "explain", lambda error, workdir: None)
    with pytest.raises(OutOfMemory):
        hold(monkeypatch, of_gpu=16 * 10**9, engine=engine)


def test_the_buffer_is_the_volumes_with_their_borders():
    samples = make_samples()
    assert holding.count_voxels(samples) == VOXELS
    assert np.count_nonzero(holding.PlacedSamples(samples).make_buffer()) == 30 + 28 + 360
