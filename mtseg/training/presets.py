"""The configuration of a training run: flags come in, a validated record leaves.

The defaults are the paper's settings (Moeskops et al., MICCAI 2016, section 3.2); where the
paper is silent they are this project's, and the attribute's description says so.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's settings: TrainConfig's own defaults.
    "paper": {},
    # Minutes instead of days on a processor: small mini-batches, a learning rate that rises,
    # then falls to zero, less dropout and quick moving statistics. So short a training leaves the
    # network finding too much of what is rare, hence the natural priors. For small phantoms.
    "demo": {
        "minibatches_per_task": 190,
        "global_batch_size": 24,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup_minibatches": 30,
        "adam_beta_2": 0.98,
        "dropout_rate": 0.2,
        "batch_norm_momentum": 0.9,
        "class_priors": "natural",
        "evaluate_every": 190,
        "checkpoint_every": 95,
        "precision": "auto",
    },
    # The same recipe for real scans: a quarter of an hour a task on a processor with bfloat16. What
    # each choice brings is in docs/training.md.
    "fast": {
        "minibatches_per_task": 2_000,
        "global_batch_size": 35,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup_minibatches": 30,
        "adam_beta_2": 0.98,
        "batch_norm_momentum": 0.9,
        "class_priors": "natural",
        "evaluate_every": 500,
        "checkpoint_every": 100,
        "precision": "auto",
    },
}
"""Named configurations: what each changes of `TrainConfig`'s defaults."""


DEMO_PHANTOMS = {"size": 64, "num_train": 8, "num_test": 2, "patches_per_class": 250}
"""How the `demo` preset prepares its phantoms (see `mtseg.records.schema.RecordConfig`)."""
