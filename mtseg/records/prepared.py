"""Where prepared records are, and whether they are there.

Every module that opens records begins here. Records that a killed command was about to replace are
put in their places first. The folder of the records of one kind is
`DATA_DIR/mtseg_TASK/SOURCE_KIND/VERSION`. `mtseg.records.reading` says what they were made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.records.schema import DEFAULT_KINDS, VERSION
from mtseg.system.atomic_files import lock_folder, parse_json, writing_to
from mtseg.system.replacing import finish_replacing
from mtseg.tasks.task_file import GENERATED, shipped_tasks


def prepare_command(
    data_dir: str | Path, task_name: str, source: str, kind: str, task_file: str = ""
) -> str:
    """The command that prepares one kind of records of a task's source, for a message.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of the source.
        kind: `patches` or `volumes`.
        task_file: path of the task's file, if it is known and does not come with mtseg.
    """
    task = task_file or (task_name if task_name in shipped_tasks() else "TASK_FILE.toml")
    manual_dir = "" if source == GENERATED else " --manual-dir FOLDER"
    # Patches are of no use alone: evaluation needs volumes.
    kinds = "" if kind in DEFAULT_KINDS else f" --kinds {kind},volumes"
    return f"mtseg-prepare {task}:{source} --data-dir {data_dir}{manual_dir}{kinds}"


def prepare_again(path: Path) -> str:
    """A sentence that says how to replace records; `path` is their folder or a file in it."""
    is_patches = any(part.endswith("_patches") for part in path.parts)
    kinds = " --kinds patches" if is_patches else ""
    return f"Prepare the task again: mtseg-prepare with --overwrite{kinds}."


def records_dir(data_dir: str | Path, task_name: str, source: str, kind: str) -> Path:
    """The folder of the records of one kind, whether or not they have been prepared.

    TFDS decides its layout: `DATA_DIR/mtseg_TASK/SOURCE_KIND/VERSION`.
    """
    return Path(data_dir) / f"mtseg_{task_name}" / f"{source}_{kind}" / VERSION


def staging_dir(data_dir: str | Path, task_name: str, source: str) -> Path:
    """The folder in which a task's source is prepared before its records are replaced."""
    return Path(data_dir) / f"mtseg_{task_name}" / f".preparing_{source}"


def replacement_plan(staging: Path) -> Path:
    """The file in a staging folder that exists while finished records are moved to their places."""
    return staging / "replace.json"


def finish_replacing_records(staging: Path) -> None:
    """Moves new records to their places if a killed command has left that undone.

    Raises:
        InputError: if they cannot be moved.
    """
    plan = replacement_plan(staging)
    if plan.is_file():
        remedy = "Rerun the mtseg-prepare command that was stopped."
        with writing_to(staging, remedy), lock_folder(staging.parent):
            finish_replacing(plan)


def prepared_dir(
    data_dir: str | Path, task_name: str, source: str, kind: str, task_file: str = ""
) -> Path:
    """The folder of the records of one kind.

    Args:
        data_dir: folder of prepared records.
        task_name: the task.
        source: name of one of its sources.
        kind: `patches` or `volumes`.
        task_file: as for `prepare_command`.

    Raises:
        InputError: if they have not been prepared. The message has the command that does it.
    """
    finish_replacing_records(staging_dir(data_dir, task_name, source))
    path = records_dir(data_dir, task_name, source, kind)
    if not (path / "dataset_info.json").is_file():
        raise InputError(
            f"{data_dir}: has no prepared {kind} of {task_name}:{source}. "
            f"Run: {prepare_command(data_dir, task_name, source, kind, task_file)}"
        )
    return path


def damaged_records(path: Path) -> InputError:
    """The error for records, or files that describe them, that cannot be read."""
    return InputError(f"{path}: these records are damaged. {prepare_again(path)}")


def prepared_settings(path: Path) -> dict[str, Any]:
    """The settings that the records in a folder were made with.

    Raises:
        InputError: if they cannot be read.
    """
    file = path / "metadata.json"
    try:
        settings = parse_json(file.read_text())
    except (OSError, ValueError) as error:
        raise damaged_records(file) from error
    if not isinstance(settings, dict):
        raise damaged_records(file)
    return settings
