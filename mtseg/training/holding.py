"""Whether patches are cut by the device that trains or by the host, and why not by the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtseg.batches.balance import BalancedSamples
from mtseg.batches.placed_samples import (
    AUGMENTATIONS_OF_PLACES,
    MOST_VOXELS,
    PlacedSamples,
    count_voxels,
)
from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.devices import gpu_bytes
from mtseg.system.hardware import free_bytes
from mtseg.training.engines.engine import Engine

_VOXEL_BYTES = 2  # float16

_SAMPLE_BYTES = 32_000_000
"""Of a GPU's memory for a sample of a mini-batch: an estimate. The feature maps of 25 layers on
three planes take 8 MB in float32, and about four of each are kept for the gradients."""


def hold_volumes(
    config: TrainConfig,
    engine: Engine,
    samples: BalancedSamples,
    workdir: Path,
    say: Callable[[str], None],
) -> None:
    """Has the devices of a run hold its training volumes, if they are to cut the patches.

    The samples are the same in either case, bit for bit.

    Args:
        config: its `input` decides: with `auto` a GPU that can cut them does.
        engine: after `build`.
        samples: the samples of all tasks.
        workdir: folder of the run, for messages.
        say: prints a line.

    Raises:
        InputError: if `input` is `device` and the devices cannot.
    """
    of_gpu = gpu_bytes() if config.input in ("auto", "device") else None
    if config.input != "device" and of_gpu is None:
        return  # a processor gains nothing
    num_bytes = _VOXEL_BYTES * count_voxels(samples)
    reason = _find_obstacle(config, num_bytes, engine.per_device_batch_size, of_gpu)
    if not reason:
        try:
            engine.hold_volumes(PlacedSamples(samples))
        except engine.errors as error:
            if engine.explain(error, workdir) is None:
                raise
            reason = f"other programs use its memory, and the volumes take {_show(num_bytes)}"
    if not reason:
        memory = "memory" if of_gpu is None else f"{_show(of_gpu)} of memory"
        say(f"Patches are cut on the device, from {_show(num_bytes)} of volumes in its {memory}.")
    elif config.input == "device":
        raise InputError(
            f"input: the device cannot cut the patches: {reason}. Train with --input volumes."
        )
    else:
        say(f"Patches are cut by the host, not by the device: {reason}.")


def _find_obstacle(
    config: TrainConfig, num_bytes: int, num_samples: int, of_gpu: int | None
) -> str:
    """Why the devices cannot cut the patches; empty if they can.

    Args:
        config: of the run.
        num_bytes: size of the volumes.
        num_samples: of a mini-batch that each device computes.
        of_gpu: memory of a GPU; None if processors compute.
    """
    others = [name for name in config.augmentations if name not in AUGMENTATIONS_OF_PLACES]
    if others:
        return f"{', '.join(others)} of --augment must be made by the host"
    if config.strategy == "multiworker":
        return "--strategy multiworker has each machine's host do it"
    if num_bytes > _VOXEL_BYTES * MOST_VOXELS:
        return (
            f"the volumes have more than {MOST_VOXELS:,} voxels with their borders, and 32 bits "
            "count no more"
        )
    of_step = 0 if of_gpu is None else _SAMPLE_BYTES * num_samples
    # The host copies the volumes; a processor that computes holds a copy of its own.
    of_host = num_bytes * (2 if of_gpu is None else 1)
    for memory, there, needed in (
        ("its memory", of_gpu, num_bytes + of_step),
        ("the host's free memory", free_bytes(), of_host),
    ):
        if there is not None and needed > there:
            return f"{memory} is {_show(there)}, and {_show(needed)} are needed"
    return ""


def _show(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
