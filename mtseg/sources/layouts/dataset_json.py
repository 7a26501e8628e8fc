"""Reading `dataset.json`, which describes a data set of nnU-Net or of the Decathlon.

nnU-Net's first version has the keys of the Decathlon (`modality`, labels as value -> name), its
second has its own (`channel_names`, labels as name -> value). Both are read. Everything that is
neither is refused in one line: a label that is guessed would be learnt wrongly.

References: nnU-Net, `documentation/dataset_format.md` and `region_based_training.md`; Antonelli et
al., "The Medical Segmentation Decathlon", Nature Communications 2022.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtseg.errors import InputError
from mtseg.scans.reading import ENDINGS

_NO_LABELS = 'Correct it: a whole number for each label, such as "kidney": 1, or a list of them.'


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Reads the file, with or without the byte order mark that Windows writes.

    Raises:
        InputError: if it is missing, not a JSON object, or has a key twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent}: has no dataset.json. Give the data set's own folder."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply. Correct it.") from error
    except ValueError as error:
        raise InputError(f"{path}: is not a dataset.json: {error}. Correct it.") from error
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that is there twice is an error, not silently the last one."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"it has {key!r} twice")
        content[key] = value
    return content


def read_label_names(path: Path, dataset: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The labels by name, in the order of the file. A region has several values.

    Args:
        path: of `dataset.json`, for messages.
        dataset: its content; `labels` is either name -> value or list of values (nnU-Net's second
            version), or value as text -> name (its first version and the Decathlon).

    Raises:
        InputError: if the labels are anything else; the message names the first that is.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict):
        raise InputError(
            f"{path}: labels are not as nnU-Net writes them: a table is needed, "
            f"not {_show(labels)}. {_NO_LABELS}"
        )
    if labels and all(key.isdecimal() and isinstance(name, str) for key, name in labels.items()):
        names: dict[str, tuple[int, ...]] = {}
        for key, name in labels.items():
            if name in names:
                raise InputError(
                    f"{path}: labels {names[name][0]} and {key} are both named {name!r}. Give each "
                    "a name of its own."
                )
            names[name] = (int(key),)
        return names
    return {name: _read_values(path, name, value) for name, value in labels.items()}


def _read_values(path: Path, name: str, value: Any) -> tuple[int, ...]:
    """The values of one label: a number, a number as text, or a list of these."""
    listed = value if isinstance(value, list) else [value]
    values = [int(v) if isinstance(v, str) and v.isdecimal() else v for v in listed]
    if not values or not all(type(v) is int for v in values):  # by type: true is an int as well
        raise InputError(
            f"{path}: labels are not as nnU-Net writes them: {name} is {_show(value)}. {_NO_LABELS}"
        )
    return tuple(dict.fromkeys(values))


def read_region_order(path: Path, dataset: dict[str, Any], names: dict[str, Any]) -> bool:
    """Whether overlapping regions have an order, so that the later one gets a shared voxel.

    nnU-Net writes the regions in the order of `labels`, each with the value that
    `regions_class_order` has at its place, and each over those before it.

    Args:
        path: of `dataset.json`, for messages.
        dataset: its content.
        names: from `read_label_names`.

    Raises:
        InputError: if `regions_class_order` does not have one whole number per region.
    """
    order = dataset.get("regions_class_order")
    if order is None:
        return False
    regions = [name for name, values in names.items() if name != "ignore" and values != (0,)]
    is_list = isinstance(order, list) and all(type(value) is int for value in order)
    if not is_list or len(order) != len(regions):
        raise InputError(
            f"{path}: regions_class_order is {_show(order)}. Correct it: one whole number for each "
            f"of {', '.join(regions)}."
        )
    return True


def require_one_channel(path: Path, key: str, channels: Any) -> None:
    """Refuses a data set whose scans have several channels, such as T1 and FLAIR.

    Args:
        path: of `dataset.json`, for messages.
        key: its key, `channel_names` or `modality`.
        channels: its value. A text is the name of the only channel.

    Raises:
        InputError: if there is not exactly one.
    """
    if isinstance(channels, str):
        return
    if not isinstance(channels, dict | list) or not channels:
        raise InputError(
            f"{path}: {key} does not list the channels of its scans, but is {_show(channels)}. "
            f'Correct it, for example "{key}": {{"0": "MRI"}}.'
        )
    if len(channels) > 1:
        names = ", ".join(map(str, channels.values() if isinstance(channels, dict) else channels))
        raise InputError(
            f"{path}: its scans have {len(channels)} channels ({names}). The network takes one "
            "scan at a time: make a data set of one of them."
        )


def read_file_ending(path: Path, dataset: dict[str, Any]) -> str:
    """The ending of the names of scans, with its dot; nnU-Net's first version knows `.nii.gz` only.

    Raises:
        InputError: if it is not one of a format that can be read.
    """
    ending = dataset.get("file_ending", ".nii.gz")
    dotted = f".{ending.lstrip('.')}" if isinstance(ending, str) else ""
    if dotted.lower() not in ENDINGS:
        raise InputError(
            f"{path}: file_ending is {_show(ending)}. Convert the scans to one of "
            f"{', '.join(ENDINGS)}, and write that."
        )
    return dotted


def _show(value: Any) -> str:
    """A JSON value as in the file, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
