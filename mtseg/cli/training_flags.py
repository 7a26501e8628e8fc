"""The flags of a training run, which mtseg-train and mtseg-experiments share.

They are made from the fields of `TrainConfig`: type, choices, default and help stand there alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtseg.cli.command import (
    add_devices_flag,
    print_doubts,
    require_named_sources,
    start_tensorflow,
)
from mtseg.errors import InputError, OtherRecordsError
from mtseg.runs.config import Setting, TrainConfig, configure, settings
from mtseg.runs.presets import DEMO_PHANTOMS, PRESETS
from mtseg.system.devices import uses_jax

if TYPE_CHECKING:
    from mtseg.tasks.label_space import LabelSpace

_WITH_OWN_FLAG = ("tasks", "data_dir", "preset")
"""Settings whose flags are written out below."""


def add_training_flags(
    parser: argparse.ArgumentParser, without_strategies: Sequence[str] = ()
) -> None:
    """Adds the flags that determine a training run.

    Args:
        parser: of the command.
        without_strategies: values of `--strategy` that the command does not support.
    """
    parser.add_argument(
        "--tasks",
        default="brain,breast,cta",
        help="TASK[:SOURCE] or paths of task files, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="paper",
        help="named settings: paper (the paper's run, days on a processor), best (the highest "
        "Dice, for a GPU), fast (10 minutes per task) or demo (minutes, small phantoms) "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of prepared records, which must be there (default: mtseg_data, with --preset "
        "demo mtseg_data_demo; there, missing phantoms are made)",
    )
    add_devices_flag(parser)
    for name, setting in settings().items():
        if name not in _WITH_OWN_FLAG:
            _add_flag(parser, name, setting, without_strategies)


def _add_flag(
    parser: argparse.ArgumentParser, name: str, setting: Setting, without: Sequence[str]
) -> None:
    """Adds the flag of one setting. No flag has a default of its own: None keeps the preset's."""
    flag = "--" + name.removeprefix("is_").replace("_", "-")
    text = setting.description.split(". ")[0].rstrip(".").replace("%", "%%")
    if setting.kind is bool:
        parser.add_argument(flag, dest=name, action="store_true", default=None, help=text)
        return
    others = {preset: changes[name] for preset, changes in PRESETS.items() if name in changes}
    values = [f"{preset}: {_show(value)}" for preset, value in sorted(others.items())]
    shown = "; ".join([_show(setting.default), *values])
    choices = [choice for choice in setting.choices if choice not in without]
    if name == "precision":
        choices = ["auto", *choices]
    parser.add_argument(
        flag,
        dest=name,
        type=setting.kind,
        choices=choices or None,
        metavar=None if choices else {int: "N", float: "X", str: "NAMES"}[setting.kind],
        help=f"{text} (default: {shown})",
    )


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def read_training_flags(arguments: dict[str, Any]) -> tuple[TrainConfig, bool]:
    """The configuration that the flags of `add_training_flags` ask for.

    It starts TensorFlow, or JAX, on the devices that `--devices` chooses, since they decide what
    the precision `auto` means.

    Args:
        arguments: names and values of these flags alone.

    Returns:
        The configuration, and whether phantoms may be prepared, which is so if `--data-dir` was
        not given.

    Raises:
        InputError: if a value cannot be used.
    """
    from mtseg.batches.draws import read_source_weights, read_task_weights
    from mtseg.tasks.label_space import parse_tasks

    fields = dict(arguments)
    preset, data_dir = fields.pop("preset"), fields.pop("data_dir")
    devices = fields.pop("devices")
    label_space = parse_tasks(fields.pop("tasks"))
    print_doubts(label_space)
    folder = data_dir or ("mtseg_data_demo" if preset == "demo" else "mtseg_data")
    require_named_sources(label_space, folder)
    tasks = label_space.spec
    # First without the devices, so that a value that cannot be used is refused at once.
    config = configure(preset, tasks, folder, **{**fields, "precision": "float32"})
    read_task_weights(config.task_weights, label_space)
    read_source_weights(config.source_weights, label_space)
    if data_dir is not None:
        _require_records(config, label_space)
    start = _start_jax if uses_jax() else start_tensorflow
    start(devices, is_one=config.strategy == "default")
    return configure(preset, tasks, folder, **fields), data_dir is None


def _start_jax(devices: str | None, *, is_one: bool) -> None:
    """Does for JAX what `start_tensorflow` does for TensorFlow.

    Raises:
        InputError: if JAX is not installed, or there are no such devices.
    """
    from mtseg.system.devices import choose_devices, describe_devices

    try:
        choose_devices(devices, is_one=is_one)
        described = describe_devices(are_all=not is_one)
    except ModuleNotFoundError as error:
        raise InputError(
            f"KERAS_BACKEND=jax: {error.name} cannot be imported. Install JAX (pip install "
            "'mtseg[jax]'), or train with TensorFlow, without KERAS_BACKEND."
        ) from error
    print(f"Computing with JAX on {described}.", flush=True)


def _require_records(config: TrainConfig, label_space: LabelSpace) -> None:
    """Refuses a folder without the records of the run, before the long start of TensorFlow."""
    from mtseg.records.prepared import prepared_dir

    for selection in label_space.selections:
        task = selection.task
        for source in selection.sources:
            prepared_dir(config.data_dir, task.name, source, config.records, task.own_file)


def announce_kind(config: TrainConfig) -> None:
    """Prints which scans are synthetic, and how long the paper's preset takes."""
    phantoms = [spec for spec in config.tasks.split(",") if spec.endswith(":phantom")]
    if phantoms:
        print(f"Synthetic scans (phantoms) are used for {', '.join(phantoms)}.")
    if config.preset == "paper":
        print(
            "This is the paper's preset: days on a processor; the estimate follows after a few "
            "mini-batches. Shorter: --preset demo (minutes) or --preset fast. "
            "Real scans: mtseg-prepare brain:miccai2012 --manual-dir FOLDER, then "
            "--tasks brain:miccai2012."
        )


def prepare_phantoms(config: TrainConfig) -> None:
    """Makes the phantoms that a run without --data-dir needs and does not find.

    Evaluation needs volumes, whatever the run draws from.

    Raises:
        InputError: if there are phantoms of other settings, or scans were not prepared.
    """
    from mtseg.records.prepared import prepared_dir
    from mtseg.records.writing import prepare
    from mtseg.tasks.label_space import parse_tasks

    kinds = ("volumes",) if config.records == "volumes" else (config.records, "volumes")
    settings = DEMO_PHANTOMS if config.preset == "demo" else {}
    for selection in parse_tasks(config.tasks).selections:
        for source in selection.sources:
            if source == "phantom":
                try:
                    prepare(selection.task, source, config.data_dir, kinds=kinds, **settings)
                except OtherRecordsError as error:
                    raise InputError(
                        f"{error} To train on what is there, name it: --data-dir {config.data_dir}."
                    ) from error
            else:
                task = selection.task
                prepared_dir(config.data_dir, task.name, source, config.records, task.own_file)
