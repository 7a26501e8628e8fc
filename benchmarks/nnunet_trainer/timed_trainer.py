"""nnU-Net's trainer for a given number of iterations, for `benchmarks/against_nnunet.py`.

nnU-Net finds it through the environment variable `nnUNet_extTrainer`. It is in a folder of its own,
because nnU-Net imports every module that is beside it. Everything is nnU-Net's: network, loss with
deep supervision, augmentation, optimiser, step. Only the length differs. The learning rate falls by
nnU-Net's polynomial to the last iteration, at each iteration instead of every 250. Nothing is
validated, in between or at the end.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class TimedTrainer(nnUNetTrainer):
    """Trains as long as the environment says, and writes the seconds that it took.

    `MTSEG_ITERATIONS` is the number of iterations. The polynomial ends there. With
    `MTSEG_TIMING_SECONDS` it stops at the first iteration after so many seconds: to find out how
    many iterations a given time allows. `MTSEG_PRECISION` may be `bfloat16`; nnU-Net's own choice
    on processors is float32.

    It writes `seconds.json`: the seconds of all iterations, counted from the moment when the first
    mini-batch is asked for, and those of each.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        # The polynomial is counted in what nnU-Net calls epochs.
        self.num_epochs = int(os.environ.get("MTSEG_ITERATIONS", "1"))
        self.num_iterations_per_epoch = 1
        self.use_bfloat16 = os.environ.get("MTSEG_PRECISION") == "bfloat16"

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step; on processors it chooses no precision itself."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.use_bfloat16):
            return super().train_step(batch)

    def run_training(self) -> None:
        """Trains, without validation."""
        self.on_train_start()
        limit = float(os.environ.get("MTSEG_TIMING_SECONDS", "inf"))
        seconds: list[float] = []
        started = time.perf_counter()
        for number in range(self.num_epochs):
            self.lr_scheduler.step(number)
            self.train_step(next(self.dataloader_train))
            seconds.append(time.perf_counter() - started - sum(seconds))
            if sum(seconds) >= limit:
                break
        self.current_epoch = len(seconds)
        self.on_train_end()
        path = Path(self.output_folder) / "seconds.json"
        path.write_text(json.dumps({"seconds": sum(seconds), "of_each": seconds}))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Does nothing: `fold all` would predict the training scans."""
