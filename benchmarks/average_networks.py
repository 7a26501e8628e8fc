"""A network between the one that a training started from and the one that it ended with, as a run.

    python benchmarks/average_networks.py START END --share 0.5 --data-dir DATA --workdir RUN
    mtseg-export RUN MODEL --format weights

Training a network on with other augmentations, or without a task, changes what it knew. Where both
networks agree about as well as their common start allows, each weight can be taken between the two:
the result keeps much of either (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR
2022). START and END are folders of runs or exported models, or names of packaged ones; END has been
trained from START (`mtseg-train --init-from`), for the same tasks or some of them. Outputs that END
does not have stay those of START. The run has the tasks and settings of START, and is evaluated on
the test scans of DATA, which needs the records of its tasks.

    mean_dice_TASK   mean Dice of the classes of TASK on its test scans
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from comparison import finish, make_parser, run_benchmark
from import_networks import evaluate_network, mean_dice_by_task, write_run

from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow

if TYPE_CHECKING:
    from mtseg.runs.weights import TrainedModel


def average(start: TrainedModel, end: TrainedModel, share: float) -> None:
    """Moves the weights of a network towards those of one that was trained from it.

    Args:
        start: the first network; its weights are changed.
        end: the second one. Its tasks are among those of the first.
        share: of the second network, from 0 to 1.

    Raises:
        InputError: if the second network has an output that the first lacks.
    """
    from mtseg.runs.growing import LOGITS, inner_layers, name_outputs

    ours, theirs = (name_outputs(m.label_space, m.config.backgrounds) for m in (start, end))
    if unknown := [f"{task}/{name}" for task, name in theirs if (task, name) not in ours]:
        raise InputError(
            f"END: has outputs that START lacks, such as {unknown[0]}. Give a network that was "
            "trained from START for the same tasks or some of them."
        )
    places = [ours.index(output) for output in theirs]
    for layer, of_end in zip(inner_layers(start.model), inner_layers(end.model), strict=True):
        pairs = zip(layer.get_weights(), of_end.get_weights(), strict=True)
        layer.set_weights([(1 - share) * a + share * b for a, b in pairs])
    logits = start.model.get_layer(LOGITS)
    merged = []
    for a, b in zip(logits.get_weights(), end.model.get_layer(LOGITS).get_weights(), strict=True):
        a[..., places] = (1 - share) * a[..., places] + share * b
        merged.append(a.astype(np.float32))
    logits.set_weights(merged)


def to_share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1.")
    return share


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("start", metavar="START", help="the network that training started from")
    parser.add_argument("end", metavar="END", help="the network that it ended with")
    parser.add_argument("--share", type=to_share, default=0.5, help="of END (%(default)s)")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="prepared records")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the run")
    arguments = parser.parse_args()
    import_tensorflow()
    from mtseg.evaluation.results import Evaluation
    from mtseg.evaluation.tables import dice_table
    from mtseg.runs.manifest import locate_model
    from mtseg.runs.unevaluated import have_last_weights
    from mtseg.runs.weights import load_trained
    from mtseg.runs.workdir import read_evaluation
    from mtseg.system.devices import describe_devices

    start, end = (load_trained(locate_model(name)) for name in (arguments.start, arguments.end))
    average(start, end, arguments.share)
    num_minibatches = start.config.minibatches_per_task * len(start.label_space.selections)
    if not have_last_weights(arguments.workdir, num_minibatches):
        command = shlex.join(
            [
                *("python", "benchmarks/average_networks.py", arguments.start, arguments.end),
                *("--share", str(arguments.share), "--data-dir", arguments.data_dir),
                *("--workdir", str(arguments.workdir)),
            ]
        )
        config = dataclasses.replace(start.config, data_dir=arguments.data_dir)
        write_run(
            *(config, start.label_space, start.model, num_minibatches, arguments.workdir, command),
            seconds=0.0,
            device=describe_devices(),
        )
    evaluate_network(arguments.workdir, arguments.data_dir)
    evaluation = Evaluation.from_json(read_evaluation(arguments.workdir) or {})
    print(f"\n{dice_table(evaluation)}\n")
    tasks = [selection.task.name for selection in start.label_space.selections]
    finish("average_networks", mean_dice_by_task(evaluation, tasks), {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
