"""Adds a task to a trained network, and compares with a network of its own for that task.

    mtseg-prepare benchmarks/hippocampus.toml:folder --manual-dir SCANS --data-dir mtseg_data
    python benchmarks/adding_a_task.py --init-from mtseg_runs/brain --old brain:miccai2012 \\
        --new benchmarks/hippocampus.toml:folder --data-dir mtseg_data

It trains three networks with the same preset and prints mean Dice on the test scans of both tasks,
and minutes of training:

- both tasks: starts from the trained network and draws from the data of both, `--new-weight` times
  as often from the new task;
- new data alone: starts from it and draws from the new task alone. mtseg-train then leaves the old
  outputs out. They are put back for scoring, beside the changed layers, to show what is forgotten;
- of its own: the new task from random weights, `--times` as many mini-batches.

The first two take `--minibatches` each. Rerun the command to resume: finished runs are read. With
the defaults about an hour on 2 cores; smallest form: `--minibatches 10 --times 1`.

    own_minutes_over_both         what the network of its own costs more
    both_dice_over_own            the new task in the network for both, over the network of its own
    both_old_dice_over_before     the old tasks, after over before
    new_alone_dice_over_own, new_alone_old_dice_over_before   likewise without the old data
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparison import finish, make_parser, mtseg_command, run_benchmark

from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.system.text_table import format_table

if TYPE_CHECKING:
    import keras

    from mtseg.runs.weights import TrainedModel
    from mtseg.tasks.label_space import LabelSpace


@dataclasses.dataclass(frozen=True)
class Scored:
    """A network and its figures.

    Attributes:
        name: what it was trained on.
        minutes: of training, without those of the network that it started from.
        minibatches: of training.
        old: mean Dice on the old tasks; None if it does not have them.
        new: mean Dice on the new task; None if it does not have it.
    """

    name: str
    minutes: float = 0.0
    minibatches: int = 0
    old: float | None = None
    new: float | None = None

    def row(self) -> list[str]:
        """Its row of the table."""
        dice = ("–" if value is None else f"{value:.3f}" for value in (self.old, self.new))
        return [self.name, f"{self.minibatches}", f"{self.minutes:.1f}", *dice]


def train(
    workdir: Path, tasks: str, count: int, arguments: argparse.Namespace, *, is_start: bool
) -> float:
    """Trains a network, or reads it if it is finished.

    Args:
        workdir: folder of the run.
        tasks: `--tasks` of mtseg-train.
        count: mini-batches per task.
        arguments: of the command line.
        is_start: whether it starts from the trained network.

    Returns:
        Seconds of training.
    """
    flags: dict[str, Any] = {
        "preset": arguments.preset, "tasks": tasks, "data-dir": arguments.data_dir,
        "workdir": workdir, "minibatches-per-task": count, "evaluate-every": count,
        # With a background of each task, natural class priors are exact for each.
        "backgrounds": "by-task",
    }  # fmt: skip
    if tasks != arguments.new and arguments.new_weight != 1:
        flags["task-weights"] = f"{arguments.new_name}={arguments.new_weight}"
    if is_start:
        flags |= {"init-from": arguments.init_from, "learning-rate": arguments.learning_rate}
    typed = [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    subprocess.run(mtseg_command("train", *typed), check=True)
    (*_, point) = json.loads((workdir / "learning_curve.json").read_text())
    return float(point["training_seconds"])


def read_score(workdir: Path, tasks: LabelSpace) -> float:
    """Mean Dice of a run on the test scans of some of its tasks, from its last evaluation."""
    from mtseg.evaluation.results import Evaluation
    from mtseg.runs.workdir import EVALUATION
    from mtseg.system.atomic_files import parse_json

    evaluation = Evaluation.from_json(parse_json((workdir / EVALUATION).read_text()))
    names = {selection.task.name for selection in tasks.selections}
    rows = tuple(row for row in evaluation.rows if row.task in names)
    return dataclasses.replace(evaluation, rows=rows).overall_dice()


def score(model: keras.Model, label_space: LabelSpace, tasks: LabelSpace, data_dir: str) -> float:
    """Mean Dice of a network on the test scans of some of its tasks.

    Args:
        model: the network.
        label_space: all its tasks.
        tasks: those to score, with their sources.
        data_dir: folder of prepared records.
    """
    from mtseg.evaluation.results import join
    from mtseg.evaluation.scoring import evaluate_task
    from mtseg.inference.dense import make_dense_network
    from mtseg.records.reading import read_selection

    network = make_dense_network(model)
    evaluations = [
        evaluate_task(
            network, label_space, selection.task, read_selection(data_dir, selection, "test")
        )
        for selection in tasks.selections
    ]
    return join(evaluations).overall_dice()


def put_back(old: TrainedModel, new: TrainedModel, tasks: str) -> tuple[keras.Model, LabelSpace]:
    """A network with the layers of one network and the outputs of two.

    Args:
        old: a network of the old tasks; their outputs are taken from it.
        new: one that started from it; its outputs and all other layers are taken.
        tasks: the old tasks and the new one, as `--tasks`.

    Returns:
        The network and its tasks.
    """
    from mtseg.runs.building import build_model
    from mtseg.runs.growing import LOGITS, name_outputs, start_from
    from mtseg.tasks.label_space import parse_tasks

    label_space = parse_tasks(tasks)
    config = dataclasses.replace(new.config, tasks=tasks)
    models = [build_model(config, label_space) for _ in range(2)]
    for trained, model in zip((old, new), models, strict=True):
        start_from(trained, model, label_space, config)
    of_old, joined = models
    added = {selection.task.name for selection in new.label_space.selections}
    weights = joined.get_layer(LOGITS).get_weights()
    for number, (task, _) in enumerate(name_outputs(label_space, config.backgrounds)):
        if task not in added:
            for values, kept in zip(weights, of_old.get_layer(LOGITS).get_weights(), strict=True):
                values[..., number] = kept[..., number]
    joined.get_layer(LOGITS).set_weights(weights)
    return joined, label_space


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--init-from", required=True, help="run or exported weights of the old")
    parser.add_argument("--old", default="brain:miccai2012", help="its tasks (%(default)s)")
    parser.add_argument("--new", required=True, help="the task to add, TASK:SOURCE")
    parser.add_argument("--data-dir", default="mtseg_data", help="records of both (%(default)s)")
    parser.add_argument("--workdir", default="adding_a_task", help="of the runs (%(default)s)")
    parser.add_argument("--preset", default="fast", help="of mtseg-train (%(default)s)")
    parser.add_argument(
        "--minibatches", type=int, default=500, help="of a network that starts (%(default)s)"
    )
    parser.add_argument(
        "--times", type=int, default=4, help="as many for the network of its own (%(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3,
        help="highest of a network that starts; that of its own has the preset's (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--new-weight", type=int, default=3, help="of the new task, others have 1 (%(default)s)"
    )
    arguments = parser.parse_args()
    import_tensorflow()
    from mtseg.runs.weights import load_trained
    from mtseg.tasks.label_space import parse_tasks

    old, new = parse_tasks(arguments.old), parse_tasks(arguments.new)
    both = f"{old.spec},{new.spec}"
    arguments.new_name = new.selections[0].task.name
    folder, data_dir = Path(arguments.workdir), arguments.data_dir
    trained = load_trained(Path(arguments.init_from))
    names = {selection.task.name for selection in trained.label_space.selections}
    if missing := [s.task.name for s in old.selections if s.task.name not in names]:
        raise InputError(f"{arguments.init_from}: was not trained for {', '.join(missing)}.")
    num_tasks = len(old.selections) + len(new.selections)
    count = arguments.minibatches
    total = count * num_tasks

    rows = [Scored("as it was", old=score(trained.model, trained.label_space, old, data_dir))]
    print(f"{arguments.init_from}: mean Dice {rows[0].old:.3f} on {old.spec}", flush=True)

    seconds = train(folder / "both", both, count, arguments, is_start=True)
    figures = (read_score(folder / "both", part) for part in (old, new))
    rows.append(Scored("both tasks", seconds / 60, total, *figures))

    seconds = train(folder / "new_alone", new.spec, total, arguments, is_start=True)
    joined = put_back(trained, load_trained(folder / "new_alone"), both)
    figures = (score(*joined, part, data_dir) for part in (old, new))
    rows.append(Scored("new data alone", seconds / 60, total, *figures))

    total *= arguments.times
    seconds = train(folder / "own", new.spec, total, arguments, is_start=False)
    rows.append(Scored("of its own", seconds / 60, total, new=read_score(folder / "own", new)))
    names_of = (", ".join(s.task.name for s in part.selections) for part in (old, new))
    report(rows, *names_of, use_json=arguments.json)


def report(rows: list[Scored], old: str, new: str, *, use_json: bool) -> None:
    """Prints the table and the ratios.

    Args:
        rows: the four networks, in their order.
        old: names of the old tasks.
        new: name of the new one.
        use_json: as for `comparison.finish`.
    """
    header = ("trained on", "mini-batches", "minutes", f"Dice {old}", f"Dice {new}")
    print(f"\n{format_table(header, [row.row() for row in rows], left=('trained on',))}")
    before, both, alone, own = rows

    def ratio(numerator: float | None, denominator: float | None) -> float | None:
        return None if numerator is None or not denominator else numerator / denominator

    ratios = {
        "own_minutes_over_both": ratio(own.minutes, both.minutes),
        "both_dice_over_own": ratio(both.new, own.new),
        "both_old_dice_over_before": ratio(both.old, before.old),
        "new_alone_dice_over_own": ratio(alone.new, own.new),
        "new_alone_old_dice_over_before": ratio(alone.old, before.old),
    }
    floor = {row.name.replace(" ", "_"): dataclasses.asdict(row) for row in rows}
    finish("adding_a_task", ratios, floor, 1, use_json)


if __name__ == "__main__":
    run_benchmark(main)
