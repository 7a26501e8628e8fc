"""The devices that TensorFlow computes on: which ones, how much memory they have, and their names.

A command calls `choose_devices` before TensorFlow computes anything. Look here for what differs on
a GPU: memory, precision, and what is printed and stored about a run.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from mtseg.errors import InputError
from mtseg.system.hardware import has_bfloat16_instructions, num_cores, processor_name

_BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA's GPUs multiply bfloat16 numbers fast (Ampere)."""


def choose_devices(text: str | None, *, is_one: bool = False) -> None:
    """Chooses the GPUs of this process, and lets their memory grow with need.

    Without growth TensorFlow takes all memory of every GPU at its start, so that a second process
    on the same GPU fails.

    Args:
        text: the value of `--devices`: how many GPUs, such as `2` for the first two; their numbers
            with a comma, such as `0,3` or `1,`; `cpu` for none; None for all.
        is_one: whether only one of them will compute, so that several are refused.

    Raises:
        InputError: if there are no such devices, or TensorFlow has already started on others.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    chosen = [gpus[number] for number in _numbers(text, len(gpus))]
    if is_one and text is not None and len(chosen) > 1:
        raise InputError(
            f"--devices {text}: one GPU computes here. Give 1, or its number with a comma, such as "
            "3, (mtseg-train --strategy mirrored uses several; mtseg-predict takes --num-parts)."
        )
    try:
        if chosen != gpus:
            tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:  # TensorFlow has started: memory is as it is
        if chosen != tf.config.get_visible_devices("GPU"):
            raise InputError(
                "--devices: must be chosen before TensorFlow computes anything. Use a new process."
            ) from error


def _numbers(text: str | None, num_gpus: int) -> list[int]:
    """The numbers of the GPUs that `--devices` names."""
    if text is None:
        return list(range(num_gpus))
    text = text.strip()
    if text == "cpu" or (text == "1" and not num_gpus):  # the processor is the one device
        return []
    if not re.fullmatch(r"\d+|(\d+,)+\d*", text) or text == "0":
        raise InputError(
            f"--devices: {text!r} is neither a number of GPUs, nor numbers of GPUs such as 0,1 or "
            "2, (with a comma), nor cpu."
        )
    if "," in text:
        numbers = sorted({int(number) for number in text.split(",") if number})
    else:
        numbers = list(range(int(text)))
    if numbers[-1] >= num_gpus:
        there = {0: "no GPU", 1: "1 GPU, number 0"}.get(
            num_gpus, f"{num_gpus} GPUs, numbers 0 to {num_gpus - 1}"
        )
        raise InputError(f"--devices {text}: TensorFlow finds {there}. Give fewer, or cpu.")
    return numbers


def describe_devices(*, are_all: bool = False) -> str:
    """The devices that compute, such as `1 GPU: NVIDIA H200` or `2 processor cores: AMD EPYC`.

    Args:
        are_all: whether all GPUs of this process compute, or the first one alone.
    """
    gpus = _visible_gpus()
    if not gpus:
        count = num_cores()
        return f"{count} processor core{'s' * (count != 1)}: {processor_name()}"
    names = [_details(gpu).get("device_name", "of unknown name") for gpu in gpus]
    names = names if are_all else names[:1]
    return f"{len(names)} GPU{'s' * (len(names) != 1)}: {', '.join(dict.fromkeys(names))}"


def gpu_bytes() -> int | None:
    """Memory of the GPU that computes, also if TensorFlow has taken it already; None without a GPU.

    It is the limit that was set for TensorFlow, if there is one, else what the card has. Memory
    that other processes use is not known here; who runs out of it takes smaller tiles.
    """
    import tensorflow as tf

    gpus = _visible_gpus()
    if not gpus:
        return None
    for part in tf.config.get_logical_device_configuration(gpus[0]) or ():
        if part.memory_limit is not None:
            return int(part.memory_limit) << 20
    number = int(gpus[0].name.rsplit(":", 1)[1])
    return _card_bytes(number) or _bytes_left()


def _card_bytes(number: int) -> int | None:
    """Memory of a visible card, as NVIDIA's driver states it; None without that driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, total = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    )
    return None if failed else total.value


def _bytes_left() -> int:
    """What TensorFlow reports of a GPU without that driver: memory that it has not taken yet."""
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return max(int(device.memory_limit) for device in devices if device.device_type == "GPU")


def has_fast_bfloat16() -> bool:
    """Whether the devices that compute multiply bfloat16 numbers faster than float32 numbers."""
    gpus = _visible_gpus()
    if not gpus:
        return has_bfloat16_instructions()
    return all(
        _details(gpu).get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY for gpu in gpus
    )


def _visible_gpus() -> list[Any]:
    import tensorflow as tf

    gpus: list[Any] = tf.config.get_visible_devices("GPU")
    return gpus


def _details(gpu: Any) -> dict[str, Any]:
    import tensorflow as tf

    details: dict[str, Any] = tf.config.experimental.get_device_details(gpu)
    return details
