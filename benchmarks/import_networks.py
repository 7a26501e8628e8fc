"""Single-task and multi-task networks that were trained elsewhere, as finished experiments.

    python benchmarks/import_networks.py NETWORKS --tasks TASKS --data-dir DATA --out OUT
    mtseg-report OUT

Imports each network as a run of mtseg, evaluates it on the test scans of DATA and compares the
networks. OUT is then a folder as mtseg-experiments writes it: mtseg-report, mtseg-evaluate,
mtseg-export and mtseg-view take it. Rerun the command to resume: what is imported or evaluated
stays as it is. On two cores, a scan of the size of a brain takes about half a minute.

The networks of docs/real_tasks.md came in this way. What mtseg-train has trained needs no import,
on JAX neither.

NETWORKS has two files for each experiment, such as `brain+heart.npz` and `brain+heart.json`, with
the tasks in the order of --tasks; the repeat of the first is `brain-again`. The .npz has the arrays
of `get_weights()` of `mtseg.network.model.build_patch_model`, with a background for each task, in
their order under the keys `000|PATH`, `001|PATH` and so on; PATH is that of the weight in Keras.
The .json says what the network was trained with: minibatches, batch, lr, optimizer, beta2, dropout,
momentum, warmup, train_seconds and device. `voxels.json` has the foreground voxels of each class in
the training scans, by task, background first: the natural class priors, which are not in the
arrays, follow from it.

    ALL_dice_over_TASK   mean Dice of the network for all tasks, over that of the network for TASK
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, run_benchmark

from mtseg.errors import InputError
from mtseg.system.atomic_files import parse_json, write_json
from mtseg.system.quiet_tensorflow import import_tensorflow
from mtseg.tasks.label_space import LabelSpace, parse_tasks

if TYPE_CHECKING:
    import keras

    from mtseg.evaluation.results import Evaluation
    from mtseg.experiments.plan import Experiment
    from mtseg.provenance.fingerprint import Fingerprint
    from mtseg.runs.config import TrainConfig

AUGMENT = "flip,intensity,rotation,scaling,gamma"
"""The kinds of augmentation of these networks. Their amounts are not all those of mtseg-train."""

SETTINGS = {
    "batch": "global_batch_size",
    "lr": "learning_rate",
    "warmup": "warmup_minibatches",
    "optimizer": "optimizer",
    "beta2": "adam_beta_2",
    "dropout": "dropout_rate",
    "momentum": "batch_norm_momentum",
}
"""Name in the settings of a network -> that in `TrainConfig`."""

Priors = Mapping[str, npt.NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class TrainedElsewhere:
    """A network that is to be imported.

    Attributes:
        path: its .npz file.
        num_tasks: how many tasks it was trained for.
        settings: what it was trained with.
    """

    path: Path
    num_tasks: int
    settings: Mapping[str, Any]

    @property
    def minibatches_per_task(self) -> float:
        """Mini-batches, shared equally by its tasks."""
        return float(self.settings["minibatches"] / self.num_tasks)


def read_settings(path: Path, num_tasks: int) -> TrainedElsewhere:
    """Reads the settings of a network from the .json file beside its arrays.

    Raises:
        InputError: if the file is missing or lacks a setting.
    """
    file = path.with_name(f"{path.stem}.json")
    stored = _read_json(file)
    wanted = {"minibatches": (int,), "train_seconds": (int, float), "device": (str,)}
    missing = [name for name in (*wanted, *SETTINGS) if name not in stored]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}. Add what the network had.")
    for name, kinds in wanted.items():
        value = stored[name]
        if type(value) not in kinds or (str not in kinds and not 0 < value < math.inf):
            meant = "a text" if str in kinds else "a number above 0"
            raise InputError(f"{file}: {name} is {value!r}. Give {meant}.")
    return TrainedElsewhere(path, num_tasks, stored)


def read_priors(path: Path, label_space: LabelSpace) -> Priors:
    """Reads how often each class occurs in the training scans: task -> shares, background first.

    Raises:
        InputError: if the file is missing, or does not have every class.
    """
    stored = _read_json(path)
    priors = {}
    for task in (selection.task for selection in label_space.selections):
        counts = stored.get(task.name)
        if (
            not isinstance(counts, list)
            or len(counts) != task.num_classes
            or not all(type(count) is int and count > 0 for count in counts)
        ):
            raise InputError(
                f"{path}: {task.name} has {counts!r}. Give the number of training voxels of "
                f"{', '.join(task.class_names)}."
            )
        priors[task.name] = np.array(counts, float) / sum(counts)
    return priors


def _read_json(path: Path) -> dict[str, Any]:
    remedy = "The text of this script says what belongs there."
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: is missing or not JSON ({type(error).__name__}). {remedy}"
        ) from error
    if not isinstance(stored, dict):
        raise InputError(f"{path}: is not a JSON object. {remedy}")
    return stored


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Reads the arrays of a network: path of the weight -> array, in the order of their numbers.

    Raises:
        InputError: if the file cannot be read without pickle, its keys have another form, or an
            array is not of finite float32 numbers.
    """
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for place, key in enumerate(sorted(file.files)):
                number, bar, name = key.partition("|")
                if number != f"{place:03}" or not bar or name in arrays:
                    raise InputError(
                        f"{path}: has the key {key} in place {place}. Keys are 000|PATH, 001|PATH "
                        "and so on, each path once."
                    )
                arrays[name] = file[key]
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read as an .npz file of arrays ({type(error).__name__}). Write it "
            "with numpy.savez, without objects."
        ) from error
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} is not of finite float32 numbers.")
    return arrays


def set_arrays(
    model: keras.Model, arrays: Mapping[str, npt.NDArray[np.float32]], path: Path
) -> None:
    """Gives a model the arrays of a network, whose names and shapes must be its own.

    Args:
        model: from `mtseg.runs.building.build_model`; it is changed.
        arrays: from `read_arrays`.
        path: the file that they are from, for messages.

    Raises:
        InputError: if there are other arrays than the model has.
    """
    wanted = [(weight.path, tuple(weight.shape)) for weight in model.weights]
    given = [(name, array.shape) for name, array in arrays.items()]
    if len(wanted) != len(given):
        raise InputError(f"{path}: has {len(given)} arrays, this network has {len(wanted)}.")
    for place, (ours, theirs) in enumerate(zip(wanted, given, strict=True)):
        if ours != theirs:
            raise InputError(
                f"{path}: array {place} is {theirs[0]} {theirs[1]}, and this network has {ours[0]} "
                f"{ours[1]} there. Give the arrays of get_weights() of these tasks, in order."
            )
    model.set_weights(list(arrays.values()))


def make_config(networks: Sequence[TrainedElsewhere], tasks: str, data_dir: str) -> TrainConfig:
    """The configuration of the network for all tasks, as if mtseg-experiments had trained it.

    Its length is the shortest that a network had per task, since a plan has one length for all.

    Raises:
        InputError: if networks were trained with different settings, or mtseg has no such setting.
    """
    from mtseg.runs.config import configure

    first = networks[0]
    for other in networks[1:]:
        for name in SETTINGS:
            if other.settings[name] != first.settings[name]:
                raise InputError(
                    f"{other.path}: was trained with {name} {other.settings[name]}, "
                    f"{first.path.name} with {first.settings[name]}. Networks that are compared "
                    "share their settings."
                )
    length = math.floor(min(network.minibatches_per_task for network in networks))
    return configure(
        "best",
        tasks,
        data_dir,
        minibatches_per_task=length,
        evaluate_every=length,
        augment=AUGMENT,
        curves_on="test",
        precision="mixed_bfloat16",
        **{field: first.settings[name] for name, field in SETTINGS.items()},
    )


def import_network(
    network: TrainedElsewhere, experiment: Experiment, priors: Priors, workdir: Path, command: str
) -> None:
    """Writes a network as a run that mtseg-train on JAX would have left: trained, not evaluated.

    Args:
        network: the network.
        experiment: which one of the plan it is.
        priors: class priors of each task's training scans; the run has them in its weights.
        workdir: folder of the run.
        command: the command line, stored with its figures.

    Raises:
        InputError: if the arrays are not those of such a network, or the records of its training
            scans are not prepared.
    """
    config, label_space = experiment.config, parse_tasks(experiment.config.tasks)
    model = load_model(network, config, label_space, priors)
    write_run(
        *(config, label_space, model, experiment.num_minibatches, workdir, command),
        seconds=network.settings["train_seconds"],
        device=network.settings["device"],
    )


def load_model(
    network: TrainedElsewhere, config: TrainConfig, label_space: LabelSpace, priors: Priors
) -> keras.Model:
    """Builds the patch model of a network, with its arrays and natural class priors.

    Raises:
        InputError: if the arrays are not those of such a network.
    """
    from mtseg.batches.logit_adjustment import adjust_to_priors
    from mtseg.runs.building import build_model

    model = build_model(config, label_space)
    set_arrays(model, read_arrays(network.path), network.path)
    bias = model.get_layer("logits").bias
    bias.assign_add(adjust_to_priors(priors, label_space, config.backgrounds))
    return model


def write_run(
    config: TrainConfig,
    label_space: LabelSpace,
    model: keras.Model,
    num_minibatches: int,
    workdir: Path,
    command: str,
    *,
    seconds: float,
    device: str,
    earlier: Sequence[Fingerprint] | None = (),
) -> None:
    """Writes a run that is trained, and not evaluated.

    Args:
        config: of the run.
        label_space: its tasks.
        model: the weights.
        num_minibatches: of its training.
        workdir: folder of the run.
        command: the command line, stored with its figures.
        seconds: of its training.
        device: what trained it.
        earlier: what it was trained on beside the records of its tasks; None if that is not known.

    Raises:
        InputError: if the records of its training scans are not prepared.
    """
    from mtseg.provenance.training_data import write_training_data
    from mtseg.records.reading import check_training_records, read_members
    from mtseg.runs import workdir as run_files
    from mtseg.runs.unevaluated import write_unevaluated

    trained, _, lines = check_training_records(config.data_dir, label_space, "volumes")
    print(*lines, sep="\n", end="\n" if lines else "")
    workdir.mkdir(parents=True, exist_ok=True)
    run_files.write_config(workdir, config, label_space)
    write_training_data(workdir, trained, earlier)
    members = read_members(config.data_dir, label_space)
    write_json(workdir / run_files.SPLITS, {"curves_on": "test", "sources": members})
    write_unevaluated(workdir, model, num_minibatches, seconds, command, device)


def is_written(workdir: Path, num_minibatches: int, command: str) -> bool:
    """Whether a command has written a run before, evaluated or not.

    Args:
        workdir: folder of the run.
        num_minibatches: of its training.
        command: the command line, as `write_run` stores it.

    Raises:
        InputError: if another command has written it: its figures are not those of this one. Where
            the data and the run are does not matter.
    """
    from mtseg.runs.unevaluated import have_last_weights, read_unevaluated
    from mtseg.runs.workdir import read_evaluation

    if not have_last_weights(workdir, num_minibatches):
        return False
    stored = read_unevaluated(workdir) or read_evaluation(workdir) or {}
    if _without_places(stored.get("command", "")) != _without_places(command):
        raise InputError(
            f"{workdir}: has the run of another command ({stored.get('command')}). Give another "
            "--workdir, or remove the folder."
        )
    return True


def _without_places(command: str) -> list[str]:
    """The words of a command line without the folders of data and of the run."""
    words = shlex.split(command)
    for option in {"--data-dir", "--workdir"} & {*words}:
        place = words.index(option)
        del words[place : place + 2]
    return words


def evaluate_network(workdir: Path, data_dir: str) -> None:
    """Evaluates an imported network in full, unless that was done."""
    import keras

    from mtseg.runs.unevaluated import read_unevaluated
    from mtseg.runs.weights import load_trained
    from mtseg.training.reporting import evaluate_run

    if read_unevaluated(workdir) is None:
        return
    evaluate_run(workdir, load_trained(workdir), data_dir)
    keras.backend.clear_session()


def mean_dice_by_task(evaluation: Evaluation, tasks: Sequence[str]) -> dict[str, float | None]:
    """`mean_dice_TASK` -> mean Dice over the classes of the task that have one."""
    means = {}
    for task in tasks:
        of_classes = [
            value
            for name, value in evaluation.mean_dice().items()
            if value is not None and name.startswith(f"{task}/")
        ]
        means[f"mean_dice_{task}"] = sum(of_classes) / len(of_classes) if of_classes else None
    return means


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("networks", type=Path, metavar="NETWORKS", help="folder of the networks")
    parser.add_argument("--tasks", required=True, help="as for mtseg-experiments")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="prepared records")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the experiments")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this experiment alone; may be repeated"
    )
    arguments = parser.parse_args()
    import_tensorflow()
    from mtseg.experiments.compare import compare_networks, comparison_table
    from mtseg.experiments.plan import COMPARISON, REPEAT_SUFFIX, plan_experiments, write_plan
    from mtseg.experiments.results import largest_network, read_results
    from mtseg.runs.config import configure
    from mtseg.runs.unevaluated import have_last_weights

    label_space = parse_tasks(arguments.tasks)
    networks = {}
    for experiment in plan_experiments(configure("best", label_space.spec, arguments.data_dir)):
        stem = experiment.name.removesuffix(REPEAT_SUFFIX) + "-again" * experiment.is_repeat
        if (path := arguments.networks / f"{stem}.npz").is_file():
            networks[experiment.name] = read_settings(path, len(experiment.task_names))
        else:
            print(f"{path}: is not there; the comparison goes without this network.")
    if not networks:
        raise InputError(f"{arguments.networks}: has no network of these tasks.")
    priors = read_priors(arguments.networks / "voxels.json", label_space)
    config = make_config(list(networks.values()), label_space.spec, arguments.data_dir)
    write_plan(arguments.out, config)
    # That of all networks, also if this job has one of them.
    command = shlex.join(
        [
            *("python", "benchmarks/import_networks.py", str(arguments.networks)),
            *("--tasks", arguments.tasks, "--data-dir", arguments.data_dir),
            *("--out", str(arguments.out)),
        ]
    )
    for experiment in plan_experiments(config):
        network = networks.get(experiment.name)
        if network is None or experiment.name not in (arguments.only or networks):
            continue
        print(
            f"{experiment.name}: trained with {network.minibatches_per_task:.0f} mini-batches of "
            f"{network.settings['batch']} per task in {network.settings['train_seconds']:.0f} s "
            f"on {network.settings['device']}; the plan says {config.minibatches_per_task}.",
            flush=True,
        )
        workdir = arguments.out / experiment.name
        if not have_last_weights(workdir, experiment.num_minibatches):
            import_network(network, experiment, priors, workdir, command)
        evaluate_network(workdir, config.data_dir)
    results = read_results(arguments.out)
    comparison = compare_networks(results)
    write_json(arguments.out / COMPARISON, comparison)
    print(f"\n{comparison_table(comparison)}\n")
    largest = largest_network(results).experiment.name
    ratios = {
        f"{largest}_dice_over_{row['task']}": row["multiple"] / row["single"]
        for row in comparison["rows"]
        if (row["class"], row["network"]) == ("all", largest) and row["single"]
    }
    finish("import_networks", ratios, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
