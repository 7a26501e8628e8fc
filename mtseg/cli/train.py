"""mtseg-train: training records to a trained network."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from mtseg.cli import DEFECT, DONE, command_line, import_tensorflow, run
from mtseg.config import (
    AUGMENTATIONS,
    CLASS_PRIORS,
    DEMO_PHANTOMS,
    INPUTS,
    PRECISIONS,
    PRESETS,
    SCHEDULES,
    STRATEGIES,
    TrainConfig,
    configure,
)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="mtseg-train",
        description="Train one network for several segmentation tasks, and evaluate it.",
        epilog="The same command again goes on where it was stopped. "
        "Watch it: tensorboard --logdir WORKDIR",
    )
    parser.add_argument(
        "--tasks",
        default="brain,breast,cta",
        help="comma list of TASK[:SOURCE] or task files (%(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="paper",
        help="paper: the paper's run, days; fast: a quarter of an hour a task; demo: minutes, "
        "small phantoms (%(default)s)",
    )
    parser.add_argument(
        "--data-dir", help="prepared records; without it, phantoms are prepared where needed"
    )
    parser.add_argument("--workdir", help="folder of this run (mtseg_runs/PRESET)")
    parser.add_argument("--minibatches-per-task", type=int, help="length of the run (25000)")
    parser.add_argument("--global-batch-size", type=int, help="samples in a mini-batch (210)")
    parser.add_argument("--learning-rate", type=float, help="Adam's (0.001)")
    parser.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate (constant)")
    parser.add_argument("--warmup-minibatches", type=int, help="linear rise of the rate (0)")
    parser.add_argument("--adam-beta-2", type=float, help="second moment's decay (0.999)")
    parser.add_argument("--dropout-rate", type=float, help="on the 192-node layers (0.5)")
    parser.add_argument("--batch-norm-momentum", type=float, help="of moving statistics (0.99)")
    parser.add_argument(
        "--class-priors", choices=CLASS_PRIORS, help="that the scores assume (drawn)"
    )
    parser.add_argument(
        "--input",
        choices=INPUTS,
        help="prepared patches, or any voxel of whole scans in memory (patches)",
    )
    parser.add_argument(
        "--augment", help=f"comma list of {', '.join(AUGMENTATIONS)} (none, as in the paper)"
    )
    parser.add_argument(
        "--evaluate-every", type=int, help="mini-batches per task between evaluations (1000)"
    )
    parser.add_argument("--checkpoint-every", type=int, help="mini-batches between them (500)")
    parser.add_argument("--keep", type=int, help="checkpoints kept (2)")
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), help="of the convolutions (float32)"
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="one device, all of this machine, or those of several machines (default)",
    )
    parser.add_argument(
        "--steps-per-call", type=int, help="mini-batches that TensorFlow computes at once (1)"
    )
    parser.add_argument(
        "--deterministic",
        dest="is_deterministic",
        action="store_true",
        default=None,
        help="the same run again has the same weights to the bit",
    )
    parser.add_argument(
        "--num-threads", type=int, help="threads of an operation (TensorFlow chooses)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="record a few mini-batches for TensorBoard"
    )
    parser.add_argument("--seed", type=int, help="of weights, dropout and sample order (0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    is_one_of_several = make_parser().parse_args(argv).strategy == "multiworker"
    try:
        code = run(_train, argv)
    except Exception:
        if not is_one_of_several:
            raise
        traceback.print_exc()
        code = DEFECT
    if is_one_of_several and code != DONE:
        # After TensorFlow's orderly end of this worker the others would wait for it for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _train(argv: list[str]) -> int:
    arguments = vars(make_parser().parse_args(argv))
    preset, given_data_dir = arguments.pop("preset"), arguments.pop("data_dir")
    is_profiling = arguments.pop("profile")
    workdir = Path(arguments.pop("workdir") or f"mtseg_runs/{preset}")
    from mtseg.tasks import parse_tasks

    label_space = parse_tasks(arguments.pop("tasks"))
    default_data_dir = "mtseg_data_demo" if preset == "demo" else "mtseg_data"
    config = configure(preset, label_space.spec, given_data_dir or default_data_dir, **arguments)
    import_tensorflow()
    _announce(config, workdir, [s.spec for s in label_space.selections])
    if given_data_dir is None and config.strategy != "multiworker":
        _prepare_phantoms(config)

    from mtseg.train import train_and_evaluate

    evaluation = train_and_evaluate(
        config, workdir, command_line("mtseg-train", argv), is_profiling=is_profiling
    )
    if evaluation is None:
        return DONE
    print(f"\nDice on scans that were not trained on:\n\n{evaluation.table()}\n")
    print(f"Curves and pictures:  tensorboard --logdir {workdir}")
    print(f"A model to use:       mtseg-export {workdir} mtseg_model")
    return DONE


def _announce(config: TrainConfig, workdir: Path, specs: list[str]) -> None:
    total = config.minibatches_per_task * len(specs)
    print(
        f"Preset {config.preset}: {', '.join(specs)}; {total} mini-batches of "
        f"{config.global_batch_size}, {config.precision}; records in {config.data_dir}, "
        f"results in {workdir}."
    )
    phantoms = [spec for spec in specs if spec.endswith(":phantom")]
    if phantoms:
        print(f"Synthetic scans (phantoms) are used for {', '.join(phantoms)}.")
    if config.preset == "paper":
        print(
            "This is the paper's run: days on a processor; the estimate follows after a few "
            "mini-batches. Shorter: --preset demo (minutes) or --preset fast. "
            "Real scans: mtseg-prepare brain:miccai2012 --manual-dir FOLDER, then "
            "--tasks brain:miccai2012."
        )


def _prepare_phantoms(config: TrainConfig) -> None:
    """Phantoms need no download, so a run without --data-dir makes those that are missing."""
    from mtseg.preparation import prepare
    from mtseg.prepared import prepared_dir
    from mtseg.tasks import parse_tasks

    settings = DEMO_PHANTOMS if config.preset == "demo" else {}
    for selection in parse_tasks(config.tasks).selections:
        for source in selection.sources:
            if source == "phantom":
                prepare(selection.task, source, config.data_dir, **settings)
            else:
                prepared_dir(config.data_dir, selection.task.name, source, "patches")
