"""mtseg-export: a trained network as a SavedModel, as weights, or as a file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtseg.cli.command import (
    DONE,
    Parser,
    positive,
    run,
)
from mtseg.errors import InputError
from mtseg.runs.manifest import MANIFEST, packaged_models, require_trained, versions
from mtseg.serving.address import MODEL_NAME
from mtseg.system.devices import choose_devices
from mtseg.system.quiet_tensorflow import import_tensorflow


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        "export",
        description="Write a trained network as the next version of a SavedModel, for "
        "mtseg-predict and TensorFlow Serving.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a run of mtseg-train")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="folder of the model; each export adds a version"
    )
    parser.add_argument(
        "--weights",
        choices=("last", "best"),
        default="last",
        help="which weights of the run: last, or best mean Dice on the scans of its "
        "learning curve (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("savedmodel", "weights", "onnx", "litert", "triton"),
        default="savedmodel",
        help="weights: a quarter of the size, but only for mtseg-predict and mtseg-evaluate; onnx "
        "and litert: the network for one tile, for other runtimes; triton: OUT is a model "
        "repository for NVIDIA's Triton (default: %(default)s)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="with --format weights: let --precision auto compute it in int8, which is faster and "
        "changes some labels; compare the scores of mtseg-evaluate --precision int8 first",
    )
    parser.add_argument(
        "--serving",
        metavar="DIR",
        help="in place of OUT: folder for the model and the files that TensorFlow Serving needs, "
        "with a README",
    )
    parser.add_argument(
        "--name",
        default=MODEL_NAME,
        help="with --serving or --format triton: name of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=positive,
        metavar="N",
        help="with --serving: delete all but the newest N versions (default: delete none)",
    )
    parser.add_argument(
        "--gpu-gb",
        type=positive,
        metavar="GB",
        help="with --serving: memory of the GPU that will compute, so that it gets more slices at "
        "once (default: as for a processor)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return run(_export, argv)


def _export(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if (arguments.out is None) == (arguments.serving is None):
        raise InputError("give one of OUT, a folder for the model, and --serving DIR.")
    if arguments.serving is None and arguments.keep:
        raise InputError("--keep goes with --serving DIR.")
    if arguments.serving is None and arguments.gpu_gb:
        raise InputError("--gpu-gb goes with --serving DIR.")
    has_name = arguments.serving is not None or arguments.format == "triton"
    if arguments.name != MODEL_NAME and not has_name:
        raise InputError("--name goes with --serving DIR or --format triton.")
    if arguments.serving is not None and arguments.format != "savedmodel":
        raise InputError("--serving: TensorFlow Serving takes no other --format than savedmodel.")
    if arguments.int8 and arguments.format != "weights":
        raise InputError("--int8 goes with --format weights: OpenVINO computes no other.")
    workdir = Path(arguments.workdir)
    is_model = workdir.is_dir() and ((workdir / MANIFEST).is_file() or bool(versions(workdir)))
    if arguments.workdir in packaged_models() or is_model:
        raise InputError(
            f"{arguments.workdir}: is a model, not a run. Give the --workdir of mtseg-train: only "
            "a run can be exported."
        )
    require_trained(workdir)
    import_tensorflow()
    choose_devices(None)
    if arguments.serving is not None:
        return _export_serving(arguments)
    if arguments.format in ("onnx", "litert"):
        from mtseg.models.portable import export_portable

        path = export_portable(
            arguments.workdir, arguments.out, arguments.format, arguments.weights
        )
        print(f"Wrote {path}: input tile, output probabilities; see the manifest in it.")
        return DONE
    if arguments.format == "triton":
        from mtseg.models.triton import export_triton

        path = export_triton(
            arguments.workdir, arguments.out, arguments.weights, name=arguments.name
        )
        print(f"Wrote {path}. Serve it: tritonserver --model-repository={arguments.out}")
        return DONE
    from mtseg.models.export import export_model, export_weights

    if arguments.format == "weights":
        path = export_weights(
            arguments.workdir, arguments.out, arguments.weights, may_use_int8=arguments.int8
        )
    else:
        path = export_model(arguments.workdir, arguments.out, arguments.weights)
    print(f"Wrote {path}.")
    print(f"Use it: mtseg-predict SCAN.nii.gz --model {arguments.out} -o predictions")
    return DONE


def _export_serving(arguments: argparse.Namespace) -> int:
    from mtseg.serving.folder import export_serving

    path, removed = export_serving(
        arguments.workdir,
        arguments.serving,
        arguments.weights,
        name=arguments.name,
        keep=arguments.keep,
        gpu_bytes=arguments.gpu_gb and arguments.gpu_gb * 10**9,
    )
    print(f"Wrote {path}.")
    if removed:
        print(f"Removed version {', '.join(str(version) for version in removed)}.")
    print(f"Serve it: {arguments.serving}/README.md says how; for example docker compose up -d")
    print(
        f"Use it: mtseg-predict SCAN.nii.gz --server grpc://127.0.0.1:8500/{arguments.name} "
        "-o predictions"
    )
    return DONE
