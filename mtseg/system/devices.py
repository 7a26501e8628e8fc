"""The devices that compute: which ones, how much memory they have, and their names.

A command calls `choose_devices` before anything is computed. Look here for what differs on a GPU:
memory, precision, and what is printed and stored about a run. TensorFlow computes, or JAX if
`uses_jax` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
from typing import Any

from mtseg.errors import InputError
from mtseg.system.hardware import describe_processor, has_bfloat16_instructions

_BFLOAT16_CAPABILITY = (8, 0)
"""Compute capability from which NVIDIA's GPUs multiply bfloat16 numbers fast (Ampere)."""


_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Numbers of the attributes that the driver is asked for (`CUdevice_attribute`)."""


def uses_jax() -> bool:
    """Whether JAX computes in this process: the environment variable KERAS_BACKEND is `jax`."""
    return os.environ.get("KERAS_BACKEND") == "jax"


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
    if uses_jax():
        _choose_jax_devices(text, is_one)
        return
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    chosen = [gpus[number] for number in _numbers(text, len(gpus), is_one)]
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


def let_memory_grow() -> None:
    """Lets the memory of TensorFlow's GPUs grow with need, unless it has started on them."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError, ValueError):
        for gpu in _visible_gpus():
            tf.config.experimental.set_memory_growth(gpu, True)


def _choose_jax_devices(text: str | None, is_one: bool) -> None:
    """Does for JAX what `choose_devices` does, before JAX starts."""
    import jax

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if text is None:
        return
    numbers = _numbers(text, num_cards(), is_one)
    if numbers:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, numbers)))
    else:
        jax.config.update("jax_platforms", "cpu")


def _numbers(text: str | None, num_gpus: int, is_one: bool) -> list[int]:
    """The numbers of the GPUs that `--devices` names; of no more than one if one computes."""
    if text is None:
        return list(range(num_gpus))
    text = text.strip()
    if text == "cpu" or (text == "1" and not num_gpus):  # the processor is the one device
        return []
    # No machine has so many GPUs.
    if not re.fullmatch(r"\d{1,9}|(\d{1,9},)+(\d{1,9})?", text) or not text.strip("0"):
        raise InputError(
            f"--devices: {text!r:.60} is neither a number of GPUs, nor numbers of GPUs such as 0,1 "
            "or 2, (with a comma), nor cpu."
        )
    is_list = "," in text
    named = {int(number) for number in text.split(",") if number}
    last = max(named) if is_list else max(named) - 1
    if last >= num_gpus:
        there = {0: "no GPU", 1: "1 GPU, number 0"}.get(
            num_gpus, f"{num_gpus} GPUs, numbers 0 to {num_gpus - 1}"
        )
        engine = "JAX" if uses_jax() else "TensorFlow"
        raise InputError(f"--devices {text}: {engine} finds {there}. Give fewer, or cpu.")
    numbers = sorted(named) if is_list else list(range(last + 1))
    if is_one and len(numbers) > 1:
        raise InputError(
            f"--devices {text}: one GPU computes here. Give 1, or its number with a comma, such as "
            "3, (mtseg-train --strategy mirrored uses several; mtseg-predict takes --num-parts)."
        )
    return numbers


def describe_devices(*, are_all: bool = False) -> str:
    """The devices that compute, such as `1 GPU: NVIDIA H200` or `2 processor cores: AMD EPYC`.

    Args:
        are_all: whether all GPUs of this process compute, or the first one alone.
    """
    if uses_jax():
        names = [device.device_kind for device in _jax_gpus()]
    else:
        names = [_details(gpu).get("device_name", "of unknown name") for gpu in _visible_gpus()]
    if not names:
        return describe_processor()
    names = names if are_all else names[:1]
    return f"{len(names)} GPU{'s' * (len(names) != 1)}: {', '.join(dict.fromkeys(names))}"


def gpu_bytes() -> int | None:
    """Memory of the GPU that computes, also if TensorFlow has taken it already; None without a GPU.

    It is the limit that was set for TensorFlow, if there is one, else what the card has. Memory
    that other processes use is not known here; who runs out of it takes smaller tiles. For JAX it
    is what JAX may take of the card; 0 if JAX does not say.
    """
    if uses_jax():
        return next((_jax_limit(gpu) for gpu in _jax_gpus()), None)
    import tensorflow as tf

    gpus = _visible_gpus()
    if not gpus:
        return None
    for part in tf.config.get_logical_device_configuration(gpus[0]) or ():
        if part.memory_limit is not None:
            return int(part.memory_limit) << 20
    number = int(gpus[0].name.rsplit(":", 1)[1])
    return _card_bytes(number) or _bytes_left()


def _jax_limit(gpu: Any) -> int:
    return int((gpu.memory_stats() or {}).get("bytes_limit", 0))


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


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU as NVIDIA's driver describes it.

    Attributes:
        name: such as `NVIDIA H200`.
        num_bytes: its memory.
        capability: its compute capability, such as (9, 0).
    """

    name: str
    num_bytes: int
    capability: tuple[int, int]


def list_cards() -> list[Card]:
    """The cards that NVIDIA's driver shows this process, without TensorFlow; none without it."""
    cards = []
    for number in range(num_cards()):
        driver = ctypes.CDLL("libcuda.so.1")
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        failed = (
            driver.cuDeviceGet(ctypes.byref(device), number)
            or driver.cuDeviceGetName(name, len(name), device)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        )
        if not failed:
            capability = major.value, minor.value
            cards.append(Card(name.value.decode(), _card_bytes(number) or 0, capability))
    return cards


def num_cards() -> int:
    """Number of the cards that NVIDIA's driver shows this process; 0 without that driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _bytes_left() -> int:
    """What TensorFlow reports of a GPU without that driver: memory that it has not taken yet."""
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return max(int(device.memory_limit) for device in devices if device.device_type == "GPU")


def has_fast_bfloat16() -> bool:
    """Whether the devices that compute multiply bfloat16 numbers faster than float32 numbers."""
    if uses_jax():
        return _has_fast_bfloat16_in_jax()
    gpus = _visible_gpus()
    if not gpus:
        return has_bfloat16_instructions()
    return all(
        _details(gpu).get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY for gpu in gpus
    )


def _has_fast_bfloat16_in_jax() -> bool:
    """On processors, XLA computes bfloat16 numbers as float32 numbers and rounds each result."""
    capabilities = [getattr(device, "compute_capability", "0.0") for device in _jax_gpus()]
    known = [tuple(map(int, str(text).split("."))) for text in capabilities]
    return bool(known) and all(capability >= _BFLOAT16_CAPABILITY for capability in known)


def _jax_gpus() -> list[Any]:
    import jax

    return [device for device in jax.local_devices() if device.platform != "cpu"]


def _visible_gpus() -> list[Any]:
    import tensorflow as tf

    gpus: list[Any] = tf.config.get_visible_devices("GPU")
    return gpus


def _details(gpu: Any) -> dict[str, Any]:
    import tensorflow as tf

    details: dict[str, Any] = tf.config.experimental.get_device_details(gpu)
    return details
