"""A run that diverged: what the user is told."""

from pathlib import Path

from mtseg.runs.config import TrainConfig
from mtseg.training.failures import DivergedError, explain_divergence

RUN = Path("run")


def config(**changes):
    return TrainConfig("breast:phantom", "data", **changes)


def test_a_divergence_says_what_to_do():
    found = DivergedError("the loss is nan at mini-batch 7.", 7)
    line = str(explain_divergence(found, RUN, config(learning_rate=0.01), 5))
    assert line == (
        "run: the loss is nan at mini-batch 7. Rerun the command with a lower --learning-rate (it "
        "was 0.01): it resumes from the checkpoint after mini-batch 5."
    )
    line = str(explain_divergence(found, RUN, config(precision="mixed_float16"), 0))
    assert "--warmup-minibatches: there is no checkpoint yet" in line
    assert "--precision mixed_bfloat16" in line
