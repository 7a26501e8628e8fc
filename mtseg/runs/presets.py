"""Presets: named settings for `mtseg-train --preset`, as changes to the paper's.

Look here for what `best`, `fast` and `demo` do differently. `TrainConfig` has the defaults, which
are the paper's, and says what each setting means; docs/training.md says what each change brings.
"""

from __future__ import annotations

from typing import Any

_SHORT_RUN: dict[str, Any] = {
    # The rate rises, then falls to zero: with balanced sampling, Dice varies widely until it falls.
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_minibatches": 30,
    "adam_beta_2": 0.98,
    # A short run needs moving statistics that follow quickly.
    "batch_norm_momentum": 0.9,
    # After a short run the network still finds too much of rare classes.
    "class_priors": "natural",
    "precision": "auto",
    # Where there are validation scans, the test scans decide nothing.
    "curves_on": "auto",
}

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults of TrainConfig.
    "paper": {},
    # The longest run, for the best figures: on a GPU, or a processor for an hour a task and more.
    # Tuned on a GPU with real scans of three tasks (see docs/training.md).
    "best": {
        **_SHORT_RUN,
        "minibatches_per_task": 2_500,
        "optimizer": "muon",
        "learning_rate": 5e-3,
        "warmup_minibatches": 100,
        "batch_norm_momentum": 0.99,
        "dropout_rate": 0.1,
        "backgrounds": "by-task",
        "augment": "flip,intensity,rotation,scaling,gamma,noise,bias,resolution",
        "evaluate_every": 500,
        "checkpoint_every": 50,
    },
    # Minutes on a processor, for small phantoms.
    "demo": {
        **_SHORT_RUN,
        "minibatches_per_task": 190,
        "global_batch_size": 24,
        "dropout_rate": 0.2,
        "evaluate_every": 190,
        "checkpoint_every": 95,
    },
    # 10 minutes per task on two cores with bfloat16 instructions, for real scans. Small
    # mini-batches give more updates for the same operations.
    "fast": {
        **_SHORT_RUN,
        "minibatches_per_task": 1_200,
        "global_batch_size": 35,
        "optimizer": "muon",
        "learning_rate": 5e-3,
        "dropout_rate": 0.1,
        "evaluate_every": 400,
        "checkpoint_every": 100,
    },
}
"""Name of a preset -> the settings that differ from the defaults of `TrainConfig`."""

DEMO_PHANTOMS: dict[str, Any] = {
    "size": 64,
    "num_train": 8,
    "num_test": 2,
    "patches_per_class": 250,
}
"""How the preset `demo` prepares its phantoms (see `mtseg.records.builder.RecordConfig`)."""
