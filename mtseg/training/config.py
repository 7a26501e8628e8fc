"""The configuration of a training run: flags come in, a validated record leaves.

The defaults are the paper's settings (Moeskops et al., MICCAI 2016, section 3.2); where the
paper is silent they are this project's, and the attribute's description says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import typing
from typing import Any

from mtseg.errors import InputError
from mtseg.system.hardware import fastest_precision
from mtseg.training.presets import PRESETS

STRATEGIES = ("default", "mirrored", "multiworker")


INPUTS = ("patches", "volumes")


AUGMENTATIONS = ("flip", "intensity")


SCHEDULES = ("constant", "cosine")


CLASS_PRIORS = ("drawn", "natural")


BACKGROUNDS = ("shared", "by-task")


OPTIMIZERS = ("adam", "muon")


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")


_MAY_CHANGE = ("checkpoint_every", "evaluate_every", "keep", "strategy", "steps_per_call")
"""What may differ when a run is gone on with: it does not decide what is computed."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes.

    Args:
        tasks: the `--tasks` text, such as `"brain:miccai2012,breast,cta"`.
        data_dir: folder of prepared records.
        minibatches_per_task: the run has this many mini-batches times the number of tasks.
        global_batch_size: samples in a mini-batch over all replicas.
        learning_rate: the optimiser's, or the schedule's highest (the paper is silent).
        schedule: `constant`, or `cosine` to zero over the run (the paper is silent).
        warmup_minibatches: mini-batches of linear rise to `learning_rate` (the paper has none).
        optimizer: `adam`, as in the paper, or `muon`: the weights of convolutions and fully
            connected layers move in orthogonal directions (see `mtseg.training.optimizers`).
        adam_beta_2: decay of Adam's second moment (Keras's default).
        dropout_rate: on both 192-node layers (the paper gives no rate).
        batch_norm_momentum: of the moving statistics (Keras's default; short runs want less).
        class_priors: `drawn`, as in the paper, or `natural`: scores are shifted from how often
            classes are drawn to how often they occur (see `mtseg.batches.logit_adjustment`).
        backgrounds: `shared`, as in the paper: one score for the background of all tasks; or
            `by-task`: one for each task, summed after the softmax, so that the network also learns
            whose background a voxel is, and natural priors are exact for each.
        input: `patches`, the prepared patch records, or `volumes`: whole prepared scans in memory,
            of which every voxel may be drawn, as the paper does.
        augment: comma list of `flip` (left and right, where the task's anatomy allows it) and
            `intensity` (a factor for each sample); the paper has none.
        evaluate_every: mini-batches per task between evaluations on the test scans.
        checkpoint_every: mini-batches between checkpoints, in all.
        keep: number of checkpoints kept.
        precision: `float32`; `mixed_bfloat16` or `mixed_float16`: convolutions in that type with
            float32 weights, which is faster where the hardware has such instructions, and for the
            latter a scaled loss; or `float64`, to compare runs (the paper is silent).
        strategy: `default` (one device), `mirrored` (all local devices) or `multiworker` (those of
            several machines).
        steps_per_call: mini-batches that TensorFlow computes before Python is asked again.
        is_deterministic: whether the same run again has the same weights to the bit, for which the
            number of threads is fixed too.
        num_threads: threads of an operation; 0 is TensorFlow's choice.
        seed: decides initial weights, dropout and the order of samples.
        preset: the named configuration this one started from.
    """

    tasks: str
    data_dir: str
    minibatches_per_task: int = 25_000
    global_batch_size: int = 210
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_minibatches: int = 0
    optimizer: str = "adam"
    adam_beta_2: float = 0.999
    dropout_rate: float = 0.5
    batch_norm_momentum: float = 0.99
    class_priors: str = "drawn"
    backgrounds: str = "shared"
    input: str = "patches"
    augment: str = ""
    evaluate_every: int = 1_000
    checkpoint_every: int = 500
    keep: int = 2
    precision: str = "float32"
    strategy: str = "default"
    steps_per_call: int = 1
    is_deterministic: bool = False
    num_threads: int = 0
    seed: int = 0
    preset: str = "paper"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), typing.get_type_hints(type(self))[field.name]
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise InputError(f"{field.name}: {value!r} is not of type {kind.__name__}.")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: must be above 0, not {getattr(self, name)}.")
        for name in ("warmup_minibatches", "seed", "num_threads"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: must not be negative, not {getattr(self, name)}.")
        for name in ("dropout_rate", "batch_norm_momentum", "adam_beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: must be in [0, 1), not {getattr(self, name)}.")
        if not math.isfinite(self.learning_rate):
            raise InputError(f"learning_rate: must be finite, not {self.learning_rate}.")
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("class_priors", self.class_priors, CLASS_PRIORS)
        _check_choice("backgrounds", self.backgrounds, BACKGROUNDS)
        _check_choice("input", self.input, INPUTS)
        for name in self.augmentations:
            _check_choice("augment", name, AUGMENTATIONS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("preset", self.preset, tuple(PRESETS))

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `augment`."""
        return tuple(name.strip() for name in self.augment.split(",") if name.strip())

    def to_json(self) -> str:
        """The configuration as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The configuration that `to_json` wrote.

        Raises:
            InputError: if the text is not JSON, or has other fields than this version knows.
        """
        try:
            fields = json.loads(text)
            return cls(**fields)
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(f"not a configuration of this version of mtseg: {error}.") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """What would make it another run, one `field: here / there` each."""
        here, there = dataclasses.asdict(self), dataclasses.asdict(other)
        fields = [name for name in here if name not in _MAY_CHANGE]
        return [f"{k}: {here[k]} / {there[k]}" for k in fields if here[k] != there[k]]


_POSITIVE = (
    "minibatches_per_task",
    "global_batch_size",
    "learning_rate",
    "evaluate_every",
    "checkpoint_every",
    "keep",
    "steps_per_call",
)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(choices)}.")


def configure(preset: str, tasks: str, data_dir: str, **changes: Any) -> TrainConfig:
    """The configuration of a preset with some settings changed; a change of None is none."""
    _check_choice("preset", preset, tuple(PRESETS))
    given = {name: value for name, value in changes.items() if value is not None}
    fields = {"tasks": tasks, "data_dir": data_dir, "preset": preset, **PRESETS[preset], **given}
    if fields.get("precision") == "auto":
        fields["precision"] = fastest_precision()
    if fields.get("is_deterministic") and not fields.get("num_threads"):
        # Sums depend on how many threads divide them.
        fields["num_threads"] = len(os.sched_getaffinity(0))
    return TrainConfig(**fields)
