"""Measures `mtseg-predict` on each engine, from the command to the label file of one scan.

    pip install 'mtseg[openvino]'
    python benchmarks/engines.py --scan brain.nii.gz --reference labels.nii.gz

It times the whole command, the start of Python included, on TensorFlow and on OpenVINO in turn,
with the packaged network. It prints the processor's seconds too, which depend less on what else the
machine does; how many voxels get another label; and the Dice of both against a manual label map
with the label values of the challenge that the packaged network knows (`--reference`). Last comes
what each engine's packages take on the disk, beside NumPy, SciPy and nibabel with theirs, and what
OpenVINO takes in the Dockerfile's image for prediction. `--precision` is that of OpenVINO;
TensorFlow computes in bfloat16 in place of int8. About 4 minutes on 2 cores; smallest form:
`--size 24 --pairs 1`.

    tensorflow_seconds_over_openvino            above 1: OpenVINO is faster
    tensorflow_processor_seconds_over_openvino  the same for the processor's seconds
    tensorflow_install_bytes_over_openvino      above 1: OpenVINO is smaller
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from comparison import (
    add_pairs_option,
    finish,
    first_real_brain,
    make_parser,
    median_ratio,
    mtseg_command,
    run_benchmark,
    seconds_of,
)

from mtseg.evaluation.metrics import dice
from mtseg.inference.engines.choice import PRECISIONS

ENGINES = ("tensorflow", "openvino")

PACKAGES = {"tensorflow": ("tensorflow", "keras"), "openvino": ("openvino", "h5py")}
"""What an engine needs; what these need is found."""

BESIDE = ("numpy", "scipy", "nibabel")
"""Prediction needs them with every engine."""


def run_command(engine: str, precision: str, scan: Path, out: Path) -> tuple[float, float]:
    """Seconds, and the processor's seconds, of `mtseg-predict` for one scan.

    Args:
        engine: one of `ENGINES`.
        precision: of the convolutions.
        scan: file of the scan.
        out: a folder without results, because a scan that has results is not segmented again.
    """
    command = mtseg_command("predict", str(scan), "-o", str(out), "--engine", engine)
    if engine == "tensorflow" and precision == "int8":
        precision = "bfloat16"
    command += ["--precision", precision]
    before = os.times()
    seconds = seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    after = os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def read_labels(out: Path) -> npt.NDArray[np.uint8]:
    """The label map that a command wrote."""
    (path,) = out.glob("*_labels.nii.gz")
    return np.asarray(nib.load(path).dataobj)


def mean_dice(labels: npt.NDArray[np.uint8], reference: Path) -> float:
    """Mean Dice over the brain's classes against the challenge's manual label map."""
    from mtseg.tasks.label_space import parse_tasks

    task = parse_tasks("brain:miccai2012").selections[0].task
    array = np.asarray(nib.load(reference).dataobj)
    manual = task.map_labels(array, task.source("miccai2012"), reference)
    classes = range(1, task.num_classes)
    values = [dice(manual == index, labels == index) for index in classes]
    return float(np.mean(values))


def installed_bytes(packages: tuple[str, ...]) -> int:
    """Bytes of packages and of all that they need, without what `BESIDE` needs too."""
    beside = _with_needs(BESIDE)
    return sum(
        path.stat().st_size
        for name in _with_needs(packages) - beside
        for file in importlib.metadata.files(name) or ()
        if (path := Path(str(file.locate()))).is_file()
    )


def bytes_left_out() -> int:
    """Bytes of OpenVINO's files that the Dockerfile's image for prediction leaves out."""
    text = (Path(__file__).parents[1] / "Dockerfile").read_text()
    (patterns,) = re.findall(r"rm -r ([^\\\n]+)", text)
    (folder,) = {
        Path(str(file.locate())).parent
        for file in importlib.metadata.files("openvino") or ()
        if str(file) == "openvino/__init__.py"
    }
    found = [path for pattern in patterns.split() for path in folder.glob(pattern)]
    files = [file for path in found for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _with_needs(packages: tuple[str, ...]) -> set[str]:
    """Names of installed packages and of all that they need."""
    found: set[str] = set()
    to_do = list(packages)
    while to_do:
        name = re.sub(r"[-_.]+", "-", to_do.pop()).lower()
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        if name not in found:
            found.add(name)
            to_do += [re.split(r"[^\w.-]", r)[0] for r in requirements if "extra ==" not in r]
    return found


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--scan", type=Path, help="file of a brain")
    parser.add_argument("--reference", type=Path, help="its manual label map of the challenge")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--size", type=int, metavar="N", help="a random scan of N voxels per axis")
    add_pairs_option(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(arguments, Path(name))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Times both engines in turn and prints the ratios."""
    scan: Path | None = arguments.scan or first_real_brain()
    if arguments.size is not None:
        scan = folder / "scan.nii.gz"
        array = np.random.default_rng(0).integers(1, 900, (arguments.size,) * 3).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), scan)
    if scan is None:
        raise SystemExit("error: no scan. Give --scan, or name a folder in MTSEG_REAL_DATA.")
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    processor_s: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for pair in range(arguments.pairs + 1):
        latest = []
        for engine in ENGINES:
            out = folder / f"{engine}{pair}"
            taken = run_command(engine, arguments.precision, scan, out)
            # The first pair reads the libraries from the disk; the others find them in memory.
            if pair:
                seconds[engine].append(taken[0])
                processor_s[engine].append(taken[1])
                latest.append(f"{engine} {taken[0]:.1f} s (processor {taken[1]:.1f} s)")
        if pair:
            print(f"pair {pair}: {', '.join(latest)}", flush=True)
    labels = {engine: read_labels(folder / f"{engine}0") for engine in ENGINES}
    differ = int(np.count_nonzero(labels["tensorflow"] != labels["openvino"]))
    num_labelled = np.count_nonzero(labels["tensorflow"])
    print(f"{scan.name}, {arguments.precision}: {differ} of {num_labelled} labelled voxels differ")
    if arguments.reference is not None:
        of_engines = (
            f"{engine} {mean_dice(labels[engine], arguments.reference):.5f}" for engine in ENGINES
        )
        print(f"mean Dice against {arguments.reference.name}: {', '.join(of_engines)}")
    sizes = {engine: installed_bytes(PACKAGES[engine]) for engine in ENGINES}
    of_engines = (f"{engine} {size / 1e6:.0f} MB" for engine, size in sizes.items())
    print(f"beside NumPy, SciPy and nibabel: {', '.join(of_engines)}")
    left = sizes["openvino"] - bytes_left_out()
    print(f"openvino in the image for prediction: {left / 1e6:.0f} MB")
    ratios = {
        "tensorflow_seconds_over_openvino": median_ratio(*seconds.values()),
        "tensorflow_processor_seconds_over_openvino": median_ratio(*processor_s.values()),
        "tensorflow_install_bytes_over_openvino": sizes["tensorflow"] / sizes["openvino"],
    }
    finish("engines", ratios, {"voxels_that_differ": differ}, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
