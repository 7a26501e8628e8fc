"""Measures the client without TensorFlow, from the command to the label file of one scan.

    mtseg-export WORKDIR --serving served
    python -m venv client && client/bin/pip install --no-deps .
    client/bin/pip install -r requirements-client.txt
    python benchmarks/light_client.py served SCAN.nii.gz --client-python client/bin/python

Each pair runs `mtseg predict --server` in the client's environment and `mtseg predict --model` with
TensorFlow in this one, the start of Python included. The server is that of the tests, on this
machine. It prints the processor's seconds of each command too (the server's are not among the
client's), whether the labels are the same, and what the client's packages take beside NumPy, SciPy
and nibabel. About 3 minutes on 2 cores for a brain; smallest form: `--pairs 1` with a small scan.

    local_seconds_over_client              above 1: the client is faster
    local_processor_seconds_over_client    the same for the processor's seconds
    tensorflow_install_bytes_over_client   above 1: the client is smaller
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from comparison import (
    add_pairs_option,
    finish,
    make_parser,
    median_ratio,
    require_modules,
    run_benchmark,
    seconds_of,
)
from engines import PACKAGES, installed_bytes, read_labels
from serving import serve

from mtseg.errors import InputError
from mtseg.serving.address import MODEL_NAME

_PREDICT = "import sys; from mtseg.cli.predict import main; sys.exit(main())"

_HAS_TENSORFLOW = (
    "import importlib.util, sys; sys.exit(importlib.util.find_spec('tensorflow') is not None)"
)


def run_command(python: str, *arguments: str) -> tuple[float, float]:
    """Seconds, and the processor's seconds, of `mtseg predict` in an interpreter."""
    environment = os.environ.copy()
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)  # its own mtseg, without what is installed here
    before = os.times()
    seconds = seconds_of(
        lambda: subprocess.run(
            [python, "-c", _PREDICT, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd=Path(python).parent,
        )
    )
    after = os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="from mtseg-export --serving")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--client-python", required=True, help="interpreter of the client")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    add_pairs_option(parser, default=3)
    arguments = parser.parse_args()
    client, scan = os.path.abspath(arguments.client_python), str(arguments.scan.absolute())
    require_modules(["mtseg", "grpc"], "Install the client there.", client)
    if subprocess.run([client, "-c", _HAS_TENSORFLOW]).returncode:
        raise InputError(f"{client}: has TensorFlow. Name an interpreter without it.")
    seconds: dict[str, list[float]] = {"local": [], "client": []}
    processor_s: dict[str, list[float]] = {"local": [], "client": []}
    model = str((arguments.folder / MODEL_NAME).absolute())
    with tempfile.TemporaryDirectory() as name, serve(arguments.folder.absolute()) as address:
        commands = {
            "local": (sys.executable, "--model", model, "--engine", "tensorflow"),
            "client": (client, "--server", address),
        }
        for pair in range(arguments.pairs + 1):
            for side, (python, *flags) in commands.items():
                out = Path(name) / f"{side}{pair}"
                how = (scan, "-o", str(out), "--precision", arguments.precision, *flags)
                taken = run_command(python, *how)
                if pair:  # the first one warms the server, and reads libraries from the disk
                    seconds[side].append(taken[0])
                    processor_s[side].append(taken[1])
                    print(
                        f"pair {pair}: {side} {taken[0]:.1f} s (processor {taken[1]:.1f} s)",
                        flush=True,
                    )
        labels = [read_labels(Path(name) / f"{side}0") for side in commands]
    num_other = np.count_nonzero(labels[0] != labels[1])
    print(f"{num_other} of {np.count_nonzero(labels[0])} labelled voxels have another label")
    sizes = [installed_bytes(PACKAGES["tensorflow"]), installed_bytes(("grpcio", "protobuf"))]
    local, light = (f"{size / 1e6:.0f} MB" for size in sizes)
    print(f"beside NumPy, SciPy and nibabel: TensorFlow {local}, the client {light}")
    ratios = {
        "local_seconds_over_client": median_ratio(*seconds.values()),
        "local_processor_seconds_over_client": median_ratio(*processor_s.values()),
        "tensorflow_install_bytes_over_client": sizes[0] / sizes[1],
    }
    floor = {"voxels_with_another_label": int(num_other)}
    finish("light_client", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
