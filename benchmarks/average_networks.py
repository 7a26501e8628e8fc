"""An average of networks, one of which the others were trained from, as a run.

    python benchmarks/average_networks.py START END [END …] --shares 0.5 --data-dir DATA \\
        --workdir RUN
    mtseg-export RUN MODEL --format weights

Training a network on with other augmentations, or without a task, changes what it knew. Each weight
can be taken between that of the start and those of such ends: the result keeps much of all of them
(Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022; Model soups, ICML 2022). START
and END are folders of runs or exported models, or names of packaged ones. An END has been trained
from START, or from an average of it (`mtseg-train --init-from`), for the same tasks or some of
them; outputs that it does not have count as those of START. START has what the shares of the others
leave. The run has the tasks and settings of START, and is evaluated on the test scans of DATA,
which needs the records of its tasks.

    mean_dice_TASK   mean Dice of the classes of TASK on its test scans
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, run_benchmark
from import_networks import evaluate_network, is_written, mean_dice_by_task, write_run

from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.tasks.label_space import parse_tasks

if TYPE_CHECKING:
    from mtseg.provenance.fingerprint import Fingerprint
    from mtseg.runs.weights import TrainedModel


def average(start: TrainedModel, ends: Sequence[TrainedModel], shares: Sequence[float]) -> None:
    """Moves the weights of a network towards those of others that were trained from it.

    Args:
        start: the first network; its weights are changed.
        ends: the others. Their tasks are among those of the first.
        shares: of the others, one each, from 0 to 1; they add up to 1 at most.

    Raises:
        InputError: if one of the others has an output that the first lacks.
    """
    weights = [(1 - sum(shares)) * array for array in start.model.get_weights()]
    for end, share in zip(ends, shares, strict=True):
        for total, array in zip(weights, weights_as_in(start, end), strict=True):
            total += share * array
    start.model.set_weights(weights)


def weights_as_in(start: TrainedModel, end: TrainedModel) -> list[npt.NDArray[np.float32]]:
    """The weights of `end` with the outputs of `start`: those that it lacks are from `start`.

    Raises:
        InputError: if it has an output that `start` lacks.
    """
    from mtseg.runs.growing import name_outputs

    ours, theirs = (name_outputs(m.label_space, m.config.backgrounds) for m in (start, end))
    if unknown := [f"{task}/{name}" for task, name in theirs if (task, name) not in ours]:
        raise InputError(
            f"END: has outputs that START lacks, such as {unknown[0]}. Give a network that was "
            "trained from START for the same tasks or some of them."
        )
    places = [ours.index(output) for output in theirs]
    # The last two are the kernel and the bias of the outputs.
    *inner, kernel, bias = end.model.get_weights()
    *_, all_kernels, all_biases = start.model.get_weights()
    all_kernels[..., places], all_biases[places] = kernel, bias
    return [*inner, all_kernels, all_biases]


def find_training_data(
    names: Sequence[str], networks: Sequence[TrainedModel]
) -> list[Fingerprint] | None:
    """What several networks were trained on; None if not all of it is known."""
    from mtseg.runs.growing import read_initial_data

    of_each = [
        read_initial_data(name, network.config)
        for name, network in zip(names, networks, strict=True)
    ]
    if any(known is None for known in of_each):
        return None
    return [print_ for known in of_each for print_ in known or ()]


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
    parser.add_argument("ends", metavar="END", nargs="+", help="a network that it ended with")
    parser.add_argument(
        "--shares", type=to_share, nargs="+", required=True, help="of each END, from 0 to 1"
    )
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="prepared records")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the run")
    arguments = parser.parse_args()
    shares = arguments.shares
    if len(shares) != len(arguments.ends) or sum(shares) > 1:
        parser.error("--shares: give one for each END; together they are 1 at most.")
    import_tensorflow()
    from mtseg.evaluation.results import Evaluation
    from mtseg.evaluation.tables import dice_table
    from mtseg.runs.manifest import locate_model
    from mtseg.runs.weights import load_trained
    from mtseg.runs.workdir import read_evaluation
    from mtseg.system.devices import describe_devices

    start, *ends = (load_trained(locate_model(name)) for name in (arguments.start, *arguments.ends))
    average(start, ends, shares)
    # With their sources, which a stored one lacks.
    label_space = parse_tasks(start.label_space.spec)
    num_minibatches = start.config.minibatches_per_task * len(label_space.selections)
    command = shlex.join(
        [
            *("python", "benchmarks/average_networks.py", arguments.start, *arguments.ends),
            *("--shares", *map(str, shares), "--data-dir", arguments.data_dir),
            *("--workdir", str(arguments.workdir)),
        ]
    )
    if not is_written(arguments.workdir, num_minibatches, command):
        config = dataclasses.replace(start.config, data_dir=arguments.data_dir)
        write_run(
            *(config, label_space, start.model, num_minibatches, arguments.workdir, command),
            seconds=0.0,
            device=describe_devices(),
            earlier=find_training_data([arguments.start, *arguments.ends], [start, *ends]),
        )
    evaluate_network(arguments.workdir, arguments.data_dir)
    evaluation = Evaluation.from_json(read_evaluation(arguments.workdir) or {})
    print(f"\n{dice_table(evaluation)}\n")
    tasks = [selection.task.name for selection in label_space.selections]
    finish("average_networks", mean_dice_by_task(evaluation, tasks), {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
