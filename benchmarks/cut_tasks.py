"""A network that was trained elsewhere for several tasks, as a run for some of them.

    python benchmarks/cut_tasks.py NETWORKS/five.npz \\
        --trained brain:miccai2012,hippocampus:folder,heart:folder,breast,cta \\
        --tasks brain:miccai2012,hippocampus:folder,breast,cta --data-dir DATA --workdir RUN
    mtseg-export RUN MODEL --format weights

Every layer but the last is the same for all tasks, and the last has an output for each class: the
outputs of the other tasks are left out, and those that stay are as they were. Only the sum that
probabilities are divided by is smaller, so that operating points and figures are others: the run is
evaluated on the test scans of DATA, which needs the records of the tasks that stay.

The files beside the network are those that import_networks.py describes.

    mean_dice_TASK   mean Dice of the classes of TASK on its test scans
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from comparison import finish, make_parser, run_benchmark
from import_networks import (
    evaluate_network,
    is_written,
    load_model,
    make_config,
    mean_dice_by_task,
    read_priors,
    read_settings,
    write_run,
)

from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.tasks.label_space import LabelSpace, parse_tasks


def require_part(kept: LabelSpace, trained: LabelSpace) -> None:
    """Refuses tasks that a network was not trained for, or of other sources.

    Raises:
        InputError: if there is one.
    """
    for selection in kept.selections:
        if selection.spec not in trained.spec.split(","):
            raise InputError(
                f"--tasks: {selection.spec} is not one of {trained.spec}, which --trained names."
            )


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("network", type=Path, metavar="NETWORK", help="the .npz file")
    parser.add_argument("--trained", required=True, help="its tasks, in its order")
    parser.add_argument("--tasks", required=True, help="those that stay")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="prepared records")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the run")
    arguments = parser.parse_args()
    trained_space, kept_space = parse_tasks(arguments.trained), parse_tasks(arguments.tasks)
    require_part(kept_space, trained_space)
    settings = read_settings(arguments.network, len(trained_space.selections))
    priors = read_priors(arguments.network.with_name("voxels.json"), trained_space)
    import_tensorflow()
    from mtseg.evaluation.results import Evaluation
    from mtseg.evaluation.tables import dice_table
    from mtseg.runs.building import build_model
    from mtseg.runs.growing import start_from
    from mtseg.runs.weights import TrainedModel
    from mtseg.runs.workdir import read_evaluation

    print(
        f"Trained with {settings.minibatches_per_task:.0f} mini-batches of "
        f"{settings.settings['batch']} per task in {settings.settings['train_seconds']:.0f} s on "
        f"{settings.settings['device']}.",
        flush=True,
    )
    config = make_config([settings], kept_space.spec, arguments.data_dir)
    num_minibatches = math.floor(settings.minibatches_per_task) * len(kept_space.selections)
    command = shlex.join(
        [
            *("python", "benchmarks/cut_tasks.py", str(arguments.network)),
            *("--trained", arguments.trained, "--tasks", arguments.tasks),
            *("--data-dir", arguments.data_dir, "--workdir", str(arguments.workdir)),
        ]
    )
    if not is_written(arguments.workdir, num_minibatches, command):
        whole = load_model(settings, config, trained_space, priors)
        model = build_model(config, kept_space)
        trained = TrainedModel(config, trained_space, whole)
        print(start_from(trained, model, kept_space, config), flush=True)
        write_run(
            *(config, kept_space, model, num_minibatches, arguments.workdir, command),
            seconds=settings.settings["train_seconds"],
            device=settings.settings["device"],
            earlier=None,  # the scans of the tasks that are cut off
        )
    evaluate_network(arguments.workdir, arguments.data_dir)
    evaluation = Evaluation.from_json(read_evaluation(arguments.workdir) or {})
    print(f"\n{dice_table(evaluation)}\n")
    tasks = [selection.task.name for selection in kept_space.selections]
    finish("cut_tasks", mean_dice_by_task(evaluation, tasks), {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
