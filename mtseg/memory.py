"""Memory: what this machine has, and what of it is free, in bytes."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
"""Limits of a container or a batch job, in the unified hierarchy (version 2)."""


def total_bytes() -> int:
    """All of the machine's memory, or what a container may use of it."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read_number(_CGROUP / "memory.max")
    return there if limit is None else min(there, limit)


def free_bytes() -> int:
    """Memory that can be had without pushing anything else out."""
    free = total_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        free = min(free, int(available) * 1024)
    except (OSError, ValueError):
        pass  # Not Linux: all of it, which the caller takes a share of.
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # Absent, or "max": no limit.
        return None
