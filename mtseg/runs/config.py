"""The configuration of a training run, with the paper's settings as defaults.

Every setting stands here once: its name, type, default and meaning. The command line takes its
flags and their help from here (`mtseg.cli.training_flags`), and a run's folder keeps the
configuration as JSON.

Reference: Moeskops et al., MICCAI 2016, section 3.2. Where the paper is silent the default is this
project's, and the description says so.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import re
import typing
from typing import TYPE_CHECKING, Any, Literal

from mtseg.errors import InputError
from mtseg.runs.presets import PRESETS
from mtseg.system.atomic_files import parse_json
from mtseg.system.devices import has_fast_bfloat16
from mtseg.system.hardware import num_cores

if TYPE_CHECKING:
    from mtseg.tasks.label_space import LabelSpace

Strategy = Literal["default", "mirrored", "multiworker"]
CurvesOn = Literal["test", "validation", "auto"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16", "float64"]

AUGMENTATIONS = (
    "flip",
    "intensity",
    "rotation",
    "scaling",
    "gamma",
    "noise",
    "bias",
    "resolution",
)
"""Names that `TrainConfig.augment` may list."""

_CUTTING_AUGMENTATIONS = ("rotation", "scaling")
"""Those that are made while patches are cut: patches that were cut before cannot be turned."""

MAY_CHANGE = ("checkpoint_every", "evaluate_every", "keep", "strategy", "steps_per_call")
"""Settings that may differ when a run is resumed: they do not change what is computed."""

_ABOVE_ZERO = (
    "minibatches_per_task",
    "global_batch_size",
    "learning_rate",
    "evaluate_every",
    "checkpoint_every",
    "keep",
    "steps_per_call",
)
_NOT_NEGATIVE = ("warmup_minibatches", "seed", "num_threads")
_MOST_SEEDS = 2**32
_BELOW_ONE = ("dropout_rate", "batch_norm_momentum", "adam_beta_2")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that determines what a training run computes.

    The first sentence of each description is also the help of the flag.

    Args:
        tasks: the `--tasks` text, such as `"brain:miccai2012,breast,cta"`.
        data_dir: folder of prepared records.
        minibatches_per_task: length of the run in mini-batches per task.
        global_batch_size: samples in a mini-batch, over all devices.
        learning_rate: learning rate, or the highest of the schedule. The paper gives none.
        schedule: learning-rate schedule: constant, or cosine to zero. The paper gives none.
        warmup_minibatches: mini-batches in which the learning rate rises from zero. The paper has
            none.
        optimizer: optimiser: adam, as in the paper, or muon. Muon moves the weights of
            convolutions and fully connected layers in orthogonal directions (see
            `mtseg.runs.building`).
        adam_beta_2: decay of Adam's second moment. The default is Keras's.
        dropout_rate: dropout on both layers of 192 nodes. The paper gives no rate.
        batch_norm_momentum: momentum of the moving statistics. The default is Keras's.
        class_priors: class frequencies that the probabilities assume: drawn, as in the paper, or
            natural. With `natural`, logits are adjusted from how often classes are drawn to how
            often they occur (see `mtseg.batches.logit_adjustment`).
        backgrounds: one background output shared by all tasks, as in the paper, or one by-task.
            By task, the outputs are summed after the softmax. The network then also learns whose
            background a voxel is, and natural class priors are exact for each task.
        input: patches cut from whole volumes, as in the paper, by the host (volumes) or by the
            device that trains (device; auto where that is a GPU with room for them), or patches
            prepared before. The first three give the same samples, bit for bit. Prepared patches
            are streamed from disk, and each is drawn again and again.
        source_weights: TASK:SOURCE=N for all sources of a task, with commas; empty for weights in
            proportion to scans. The paper draws from all training images; of several sources,
            each then counts as many times as it has scans that show the class.
        task_weights: TASK=N for tasks that are drawn more often, with commas; empty for equally
            often, as in the paper. A task that is not named has 1. A task that is added to a
            trained network needs more samples than those that it knows.
        augment: comma list of flip, intensity, rotation, scaling, gamma, noise, bias and
            resolution; empty for none, as in the paper. See `mtseg.batches.augmentation` for what
            each of them changes, and how much.
        init_from: start from the weights of a trained network: the folder of a run, or of a model
            that was exported with --format weights, or a name that mtseg models lists. Classes
            that both networks have keep their outputs, and others begin at random (see
            `mtseg.runs.growing`). Empty starts from random weights, as in the paper.
        evaluate_every: mini-batches per task between evaluations.
        curves_on: scans of learning curves, best weights and operating points: test, as in the
            paper, validation, or auto (validation if there are such scans). A run's configuration
            holds what becomes of `auto`. Unless it is `test`, test scans are read once, at the end.
        checkpoint_every: mini-batches between checkpoints.
        keep: number of checkpoints to keep.
        precision: type of the convolutions; auto is mixed_bfloat16 if the device has such
            instructions, else float32. A configuration holds what `configure` makes of `auto`.
            Weights stay float32. The 16-bit types are faster on hardware with such instructions;
            `mixed_float16` also scales the loss, on one device only; `float64` is for comparing
            runs. The paper gives none.
        strategy: devices: one (default), all of this machine (mirrored) or, in mtseg-train,
            those of several machines (multiworker).
        steps_per_call: mini-batches that TensorFlow computes per call from Python. A call ends
            earlier where a checkpoint or an evaluation is due.
        is_deterministic: make the same run give the same weights, bit for bit. This also fixes
            the number of threads.
        num_threads: threads of an operation; 0 lets TensorFlow choose.
        seed: seed of initial weights, dropout and the order of samples.
        preset: the preset that this configuration started from.

    Raises:
        InputError: if a setting has a wrong type or value; the message names it.
    """

    tasks: str
    data_dir: str
    minibatches_per_task: int = 25_000
    global_batch_size: int = 210
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_minibatches: int = 0
    optimizer: Literal["adam", "muon"] = "adam"
    adam_beta_2: float = 0.999
    dropout_rate: float = 0.5
    batch_norm_momentum: float = 0.99
    class_priors: Literal["drawn", "natural"] = "drawn"
    backgrounds: Literal["shared", "by-task"] = "shared"
    input: Literal["auto", "volumes", "device", "patches"] = "auto"
    source_weights: str = ""
    task_weights: str = ""
    augment: str = ""
    init_from: str = ""
    evaluate_every: int = 1_000
    curves_on: CurvesOn = "test"
    checkpoint_every: int = 500
    keep: int = 2
    precision: Precision = "float32"
    strategy: Strategy = "default"
    steps_per_call: int = 1
    is_deterministic: bool = False
    num_threads: int = 0
    seed: int = 0
    preset: str = "paper"

    def __post_init__(self) -> None:
        for name, setting in settings().items():
            value = getattr(self, name)
            if setting.kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
            elif type(value) is not setting.kind:
                raise InputError(f"{name}: {value!r} is not of type {setting.kind.__name__}.")
            if setting.choices:
                _check_choice(name, value, setting.choices)
        for name in _ABOVE_ZERO:
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: must be above 0, not {getattr(self, name)}.")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise InputError(f"{name}: must not be negative, not {getattr(self, name)}.")
        if self.seed >= _MOST_SEEDS:
            raise InputError(f"seed: must be below 2**32 = {_MOST_SEEDS}, not {self.seed}.")
        for name in _BELOW_ONE:
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: must be in [0, 1), not {getattr(self, name)}.")
        if not math.isfinite(self.learning_rate):
            raise InputError(f"learning_rate: must be finite, not {self.learning_rate}.")
        for name in self.augmentations:
            _check_choice("augment", name, AUGMENTATIONS)
            if name in _CUTTING_AUGMENTATIONS and self.records == "patches":
                raise InputError(
                    f"augment: {name} needs whole volumes, because patches that were cut before "
                    "cannot be turned. Leave it out, or train with --input volumes."
                )
        _check_choice("preset", self.preset, tuple(PRESETS))

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `augment`."""
        return tuple(name.strip() for name in self.augment.split(",") if name.strip())

    @property
    def records(self) -> str:
        """Kind of the records that are drawn from: `volumes` or `patches`."""
        return "patches" if self.input == "patches" else "volumes"

    def to_json(self) -> str:
        """The configuration as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Reads what `to_json` wrote.

        Raises:
            InputError: if the text is not JSON, or has other settings than this version knows.
        """
        try:
            return cls(**parse_json(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"not a configuration of this version of mtseg: {error}.") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """The settings that make `other` a different run, as `name: here / there`.

        Where patches are cut from volumes does not: the samples are the same.
        """
        here, there = (dataclasses.asdict(c) | {"input": c.records} for c in (self, other))
        names = [name for name in here if name not in MAY_CHANGE]
        return [f"{k}: {here[k]} / {there[k]}" for k in names if here[k] != there[k]]

    def task_differences(self, before: LabelSpace, now: LabelSpace) -> list[str]:
        """What task files say that makes `now` a different run, as `setting: before / now`.

        What only readers see, such as titles and colours, does not.
        """
        here, there = (self._tasks_as_settings(label_space) for label_space in (before, now))
        pairs = {name: (here.get(name, False), there.get(name, False)) for name in here | there}
        return [f"{name}: {was} / {is_}" for name, (was, is_) in pairs.items() if was != is_]

    def _tasks_as_settings(self, label_space: LabelSpace) -> dict[str, Any]:
        """What weights, figures or labels follow from: setting -> its value."""
        found: dict[str, Any] = {}
        for task in (selection.task for selection in label_space.selections):
            names = ["modality", "spacing_rule", "spacing_mm", "decision"]
            # Without flips nothing in a run asks for it.
            names += ["is_symmetric"] if "flip" in self.augmentations else []
            found[f"classes of {task.name}"] = ", ".join(task.class_names[1:])
            found |= {f"{name} of {task.name}": getattr(task, name) for name in names}
            for tissue in task.classes:
                rules = [r for r in ("largest_component", "fill_holes") if getattr(tissue, r)]
                found |= {f"{rule} of {tissue.name}": True for rule in rules}
        return found


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one field of `TrainConfig`.

    Attributes:
        kind: its type: str, int, float or bool.
        choices: the values that it may have; empty if there is no list.
        default: its default; `dataclasses.MISSING` if it has none.
        description: its text in the docstring.
    """

    kind: type
    choices: tuple[str, ...]
    default: Any
    description: str


@functools.cache
def settings() -> dict[str, Setting]:
    """Every field of `TrainConfig` by name, in their order."""
    hints = typing.get_type_hints(TrainConfig)
    text = inspect.getdoc(TrainConfig) or ""
    described = dict(re.findall(r"^    (\w+): ((?:.|\n(?=        ))+)", text, re.MULTILINE))
    found = {}
    for field in dataclasses.fields(TrainConfig):
        choices = typing.get_args(hints[field.name])
        found[field.name] = Setting(
            kind=str if choices else hints[field.name],
            choices=choices,
            default=field.default,
            description=" ".join(described.get(field.name, "").split()),
        )
    return found


def configure(preset: str, tasks: str, data_dir: str, **changes: Any) -> TrainConfig:
    """The configuration of a preset with some settings changed.

    Args:
        preset: a name in `PRESETS`.
        tasks: as for `TrainConfig`.
        data_dir: as for `TrainConfig`.
        **changes: values of other settings; None keeps the preset's value. `precision` may be
            `auto`: the fastest of this machine.

    Raises:
        InputError: as `TrainConfig` does.
    """
    _check_choice("preset", preset, tuple(PRESETS))
    given = {name: value for name, value in changes.items() if value is not None}
    fields = {"tasks": tasks, "data_dir": data_dir, "preset": preset, **PRESETS[preset], **given}
    if fields.get("precision") == "auto":
        fields["precision"] = "mixed_bfloat16" if has_fast_bfloat16() else "float32"
    if fields.get("is_deterministic") and not fields.get("num_threads"):
        # Sums depend on how many threads share them.
        fields["num_threads"] = num_cores()
    return TrainConfig(**fields)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(choices)}.")
