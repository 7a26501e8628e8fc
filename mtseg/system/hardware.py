"""This machine: its memory, its processor, its limit of open files, and a description for reports.

Inference asks how much memory it may use. `mtseg.system.devices` knows the GPUs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtseg.errors import InputError

_CGROUPS = Path("/sys/fs/cgroup")
"""Memory limits of containers and batch jobs, in the unified hierarchy (version 2)."""

_PAGE = os.sysconf("SC_PAGE_SIZE")

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Processor flags of instructions that multiply bfloat16 numbers."""


def num_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def total_bytes() -> int:
    """Memory of the machine, or the part of it that this process may use, in bytes."""
    installed = _PAGE * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *(limit for limit, _ in _limits())])


def resident_bytes() -> int:
    """Memory that this process holds now, with the libraries that it has loaded, in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError):  # not Linux
        return 0


def free_bytes() -> int:
    """Memory that this process can get without displacing other programs, in bytes."""
    free = total_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        free = min(free, int(available) * 1024)
    except (OSError, ValueError):
        pass  # Not Linux: report all of it; the caller uses a share.
    return min([free, *(max(limit - used, 0) for limit, used in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """Each memory limit of this process and how much of it is used, in bytes."""
    for folder in _own_cgroups():
        limit, used = (_read_number(folder / f"memory.{name}") for name in ("max", "current"))
        if limit is not None and used is not None:
            yield limit, used - _cached(folder / "memory.stat")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # ulimit -v
    if limit != resource.RLIM_INFINITY:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
        except (OSError, ValueError):
            used = 0
        yield limit, used


def _own_cgroups() -> list[Path]:
    """The folder of this process's control group, then those of its parents."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = _CGROUPS / own.lstrip("/")
    return [folder, *(above for above in folder.parents if above.is_relative_to(_CGROUPS))]


def _cached(path: Path) -> int:
    """Bytes of cached files in a group; the kernel frees them when the group needs memory."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max": no limit
        return None


def allow_open_files(count: int, spare: int, reason: str, remedy: str) -> None:
    """Raises this process's limit of open files if it is too low for that many more.

    Args:
        count: files that will be opened and stay open.
        spare: files that may be opened beside them.
        reason: what needs them, the beginning of the message.
        remedy: what to do, the end of the message.

    Raises:
        InputError: if the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        num_open = len(os.listdir("/dev/fd"))
    except OSError:  # not there; the lowest number that is free is a little less, or the same
        num_open = os.open(os.devnull, os.O_RDONLY)
        os.close(num_open)
    wanted = num_open + count + spare
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise InputError(
            f"{reason}, but only {hard} files may be open at once, and {num_open} are already. "
            f"{remedy}"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def processor_name() -> str:
    """Name of the processor, such as `AMD EPYC 9654 96-Core Processor`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or "of unknown name"


def describe_processor() -> str:
    """The processor as a device that computes, such as `2 processor cores: AMD EPYC`."""
    count = num_cores()
    return f"{count} processor core{'s' * (count != 1)}: {processor_name()}"


def describe_machine(device: str) -> dict[str, Any]:
    """Device, processor, cores, bfloat16 instructions, and versions of the software.

    Args:
        device: what computed, from `mtseg.system.devices.describe_devices`.
    """
    return {
        "device": device,
        "processor": processor_name(),
        "cores": num_cores(),
        "bfloat16": sorted(_bfloat16_flags(Path("/proc/cpuinfo"))),
        "python": platform.python_version(),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "mtseg": importlib.metadata.version("mtseg"),
    }


def format_machine(machine: dict[str, Any]) -> str:
    """The result of `describe_machine` as one line. Those of earlier versions name no device."""
    device = machine.get("device")
    # The processor is named in any case.
    other = f"{device}; " if device and "processor core" not in device else ""
    return (
        f"{other}{machine['processor']}, {machine['cores']} cores, "
        f"{' '.join(machine['bfloat16']) or 'no bfloat16'}; Python {machine['python']}, "
        f"TensorFlow {machine['tensorflow']}"
    )


def has_bfloat16_instructions(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the processor has instructions that multiply bfloat16 numbers."""
    return bool(_bfloat16_flags(Path(cpuinfo)))


def is_x86() -> bool:
    """Whether the processor is one of Intel's or AMD's kind, on which int8 was measured."""
    return platform.machine() in ("x86_64", "AMD64")


def _bfloat16_flags(cpuinfo: Path) -> set[str]:
    try:
        return _BFLOAT16_FLAGS & set(cpuinfo.read_text().split())
    except OSError:  # not Linux
        return set()


def can_import(package: str) -> bool:
    """Whether a package can be imported, as far as can be said without doing so."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # its import is blocked
        return False
