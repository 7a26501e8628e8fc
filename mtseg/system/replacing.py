"""Several folders replaced as one: others see all the old ones or all the new ones.

A single rename is atomic, several are not. So a plan of them is written first. Whoever reads the
folders calls `finish_replacing` before, and carries out what a killed process has left of the plan.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mtseg.system.atomic_files import remove_path, write_json


def replace_together(plan: Path, moves: Sequence[tuple[Path, Path]]) -> None:
    """Moves new files and folders to the places of old ones, which are removed.

    Args:
        plan: a file that does not exist yet. It exists until the last move is done.
        moves: for each, the new file or folder, which is complete, and its place on the same disk.

    Raises:
        OSError: if something cannot be moved.
    """
    start = plan.parent
    write_json(plan, [[os.path.relpath(path, start) for path in move] for move in moves])
    finish_replacing(plan)


def finish_replacing(plan: Path) -> None:
    """Carries out the moves of a plan that are not done yet, if there is a plan.

    Two processes must not do so at once: lock a folder before.

    Raises:
        OSError: if something cannot be moved.
    """
    try:
        moves = json.loads(plan.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    for new, place in moves:
        source, target = plan.parent / new, plan.parent / place
        if source.exists():
            if source.is_dir():
                remove_path(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    plan.unlink()
