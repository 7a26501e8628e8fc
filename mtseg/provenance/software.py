"""Which mtseg made a file: its version, and the commit if it is a checkout."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
"""The folder that has the package: a checkout of the repository, or where packages are."""

_SECONDS = 10


@functools.cache  # the code of this process stays what it was when it began
def describe_software() -> str:
    """Version and commit in words, such as `mtseg 0.1.0, commit 1a2b3c4d5e6f`."""
    version = f"mtseg {importlib.metadata.version('mtseg')}"
    commit = source_commit()
    return f"{version}, commit {commit}" if commit else version


def source_commit(folder: Path = _CHECKOUT) -> str | None:
    """The commit that the package is of.

    Args:
        folder: that has the package.

    Returns:
        Its first 12 digits, then `with changes` if files of the package differ from it; None if it
        is not known, as for a package from an index.
    """
    # Without this check, git would answer for a repository around an installed package.
    if not (folder / ".git").exists():
        return _installed_commit()
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "mtseg")
    return f"{commit} with changes" if commit and changes else commit or None


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _installed_commit() -> str | None:
    """The commit of a package that pip installed from a repository; None otherwise."""
    text = importlib.metadata.distribution("mtseg").read_text("direct_url.json")
    try:
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (ValueError, AttributeError):
        return None
    return str(commit)[:12] if commit else None
