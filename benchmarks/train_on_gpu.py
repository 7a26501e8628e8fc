"""Measures training on a GPU: both engines of mtseg against PyTorch, on the same card in one run.

    pip install 'mtseg[jax]' 'jax[cuda12]' 'tensorflow[and-cuda]' torch
    python benchmarks/train_on_gpu.py

A step is forward, backward and update, of the paper's mini-batch of 210 in bfloat16 with Adam; the
mini-batches are in the card's memory. PyTorch's network is the same, written plainly: eager,
compiled, and compiled with each step as one CUDA graph. All are processes of their own, which take
turns. Then each engine trains for a moment as mtseg-train does, with its input, on phantoms of the
paper's three tasks. From this follows how long the paper's experiment 7 takes at full length, which
is 25,000 mini-batches per task, without its evaluations.

Who cannot use the card is left out, and says so: a TensorFlow without CUDA, for example.
`--torch-python` names another interpreter that has PyTorch; `--without-torch` leaves it out.
Nothing else should use the card. It takes less than five minutes, most of them to compile. Without
a GPU it ends with exit code 2. `--allow-cpu` measures small mini-batches on the processor instead:
that tries the script, and says nothing about a GPU.

    ENGINE_samples_per_s_over_torch       steps, against the fastest of PyTorch
    ENGINE_run_samples_per_s_over_torch   the same of a whole training run, with its input
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comparison import (
    Worker,
    finish,
    make_parser,
    median_ratio,
    mtseg_command,
    require_modules,
    run_benchmark,
)

from mtseg.system.text_table import format_table

FOLDER = Path(__file__).parent
ENGINES = ("tensorflow", "jax")
PRECISION = {"ours": "mixed_bfloat16", "torch": "bfloat16"}
TASKS = ("brain:phantom", "breast:phantom", "cta:phantom")
EXPERIMENT_7_MINIBATCHES = 25_000 * len(TASKS)
PAPER_BATCH_SIZE = 210
NUM_CLASSES = 9
"""Of experiment 7, with background."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How much is measured.

    Attributes:
        samples: of a mini-batch.
        per_call: mini-batches that an engine computes per call from Python.
        minibatches: of one measurement.
        rounds: measurements of each contender.
        size: of the phantoms.
        matrix_size: of the product that shows what the device can compute.
        variants: of PyTorch.
        device: PyTorch's name of it.
    """

    samples: int
    per_call: int
    minibatches: int
    rounds: int
    size: int
    matrix_size: int
    variants: tuple[str, ...]
    device: str


ON_GPU = Form(PAPER_BATCH_SIZE, 10, 100, 7, 96, 8192, ("eager", "compiled", "graphs"), "cuda")
ON_CPU = Form(6, 1, 1, 1, 48, 1024, ("eager",), "cpu")


def find_card() -> str | None:
    """Name of the first GPU that NVIDIA's driver shows; None if there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def engine_command(engine: str, form: Form, *arguments: str) -> list[str]:
    """The command of `engine_worker.py` for an engine."""
    environment = [f"KERAS_BACKEND={engine}"]
    if form is ON_GPU:
        environment.append("MTSEG_NEEDS_GPU=1")
    script = str(FOLDER / "engine_worker.py")
    size = [PRECISION["ours"], str(form.samples), str(form.per_call)]
    return ["env", *environment, sys.executable, script, *arguments, *size]


def torch_command(python: str, *arguments: str) -> list[str]:
    """The command of `torch_worker.py`."""
    return [python, str(FOLDER / "torch_worker.py"), *arguments]


def start(name: str, command: Sequence[str]) -> Worker | None:
    """Starts a contender; None if it cannot compute, whose process has printed why."""
    started = time.perf_counter()
    try:
        worker = Worker(*command)
    except SystemExit:
        print(f"{name}: left out, because its process failed; see above.", flush=True)
        return None
    seconds = time.perf_counter() - started
    print(f"{name}: ready after {seconds:.0f} s, while the others started too.", flush=True)
    return worker


def measure_steps(
    contenders: dict[str, list[str]], form: Form
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of a mini-batch of each contender, and of the card's own products and copies.

    Args:
        contenders: name -> command of a worker. `card` is measured in between.
        form: how much is measured.

    Returns:
        Two dictionaries of one entry per round: contender -> seconds, and `product` and `copy` ->
        seconds.
    """
    seconds: dict[str, list[float]] = {}
    of_card: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(len(contenders)) as pool:
            started = list(pool.map(start, contenders, contenders.values()))
        workers = {
            name: stack.enter_context(worker)
            for name, worker in zip(contenders, started, strict=True)
            if worker is not None
        }
        card = workers.pop("card", None)
        for _ in range(form.rounds):
            for name, worker in workers.items():
                took = worker.run(f"run {form.minibatches}") / form.minibatches
                seconds.setdefault(name, []).append(took)
            if card is not None:
                for number, what in enumerate(("product", "copy")):
                    of_card.setdefault(what, []).append(card.run(f"run {number}"))
    return seconds, of_card


def measure_runs(
    engines: Sequence[str], form: Form, data_dir: Path, input_: str | None
) -> dict[str, float]:
    """Samples per second of a training run of each engine, with its input."""
    rates = {}
    for engine in engines:
        command = engine_command(engine, form, "run", str(data_dir)) + ([input_] if input_ else [])
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{engine}: no training run, because its process failed; see above.", flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        rates[engine] = result["samples_per_s"]
        print(
            f"{engine}, a training run with --input {result['input']}: {rates[engine]:,.0f} "
            f"samples/s, {result['share_waiting']:.0%} of the time waiting for input",
            flush=True,
        )
    return rates


def experiment_7_minutes(samples_per_s: float) -> float:
    """Minutes of the paper's experiment 7, all tasks at full length, at a rate."""
    return EXPERIMENT_7_MINIBATCHES * PAPER_BATCH_SIZE / samples_per_s / 60


def prepare_phantoms(form: Form, folder: Path) -> subprocess.Popen[bytes]:
    """Starts to prepare a few phantoms of each task; the caller waits for the end."""
    arguments = [*TASKS, "--data-dir", str(folder), "--size", str(form.size)]
    command = mtseg_command("prepare", *arguments, "--num-train", "2", "--num-test", "1")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--input", help="of mtseg-train, for the training runs (its default)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES), help="engines")
    parser.add_argument(
        "--allow-cpu", action="store_true", help="without a GPU, try the script on the processor"
    )
    arguments = parser.parse_args()
    card = find_card()
    if card is None and not arguments.allow_cpu:
        print("error: there is no GPU here. --allow-cpu tries the script on the processor.",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(2)
    form = ON_GPU if card else ON_CPU
    print(f"{card or 'No GPU: a tiny form on the processor, which says nothing about one'}.")
    contenders = {name: engine_command(name, form, "step") for name in arguments.only}
    if not arguments.without_torch:
        remedy = "Install it, name another --torch-python, or give --without-torch."
        require_modules(["torch"], remedy, arguments.torch_python)
        for how in form.variants:
            contenders[f"torch {how}"] = torch_command(
                arguments.torch_python, "train", PRECISION["torch"], how, str(form.samples),
                form.device,
            )  # fmt: skip
        contenders["card"] = torch_command(
            arguments.torch_python, "card", form.device, str(form.matrix_size)
        )
    with tempfile.TemporaryDirectory() as folder:
        preparation = prepare_phantoms(form, Path(folder))
        seconds, of_card = measure_steps(contenders, form)
        if preparation.wait():
            raise SystemExit("error: the phantoms could not be prepared; see above.")
        engines = [engine for engine in arguments.only if engine in seconds]
        runs = measure_runs(engines, form, Path(folder), arguments.input)
    report(form, seconds, of_card, runs, arguments, card)


def report(
    form: Form,
    seconds: dict[str, list[float]],
    of_card: dict[str, list[float]],
    runs: dict[str, float],
    arguments: argparse.Namespace,
    card: str | None,
) -> None:
    """Prints the table, the floor, the ratios and what experiment 7 would take."""
    from network_costs import bytes_of_sample, flop_of_sample  # imports TensorFlow

    flop, moved = flop_of_sample(NUM_CLASSES), bytes_of_sample(2)
    rates = {name: form.samples / statistics.median(took) for name, took in seconds.items()}
    rates |= {f"{engine} run": rate for engine, rate in runs.items()}
    rows = [
        [name, f"{rate:,.0f}", f"{rate * flop / 1e12:.2f}", f"{rate * moved / 1e12:.2f}",
         f"{experiment_7_minutes(rate):,.1f}"]
        for name, rate in rates.items()
    ]  # fmt: skip
    floor: dict[str, float | str] = {
        "card": card or "none", "gflop_per_sample": flop / 1e9, "mbyte_per_sample": moved / 1e6,
    }  # fmt: skip
    if of_card:
        floor |= _floor_of_card(form, of_card, flop, moved)
        for name in ("flop", "bytes"):
            rate = float(floor[f"samples_per_s_by_{name}"])
            rows.append([f"floor by {name}", f"{rate:,.0f}", "", "",
                         f"{experiment_7_minutes(rate):,.1f}"])  # fmt: skip
    header = ("", "samples/s", "TFLOP/s", "TB/s", "experiment 7, minutes")
    print(f"\n{format_table(header, rows, left=('',))}")
    print(
        f"A sample: {flop / 1e9:.2f} GFLOP, and {moved / 1e6:.0f} MB if every layer with its "
        "normalisation were one operation. Experiment 7: computed from the rate, without "
        "evaluations."
    )
    torch = [name for name in seconds if name.startswith("torch")]
    ratios: dict[str, float | None] = {}
    for engine in arguments.only:
        if engine in seconds:
            floor[f"{engine}_step_samples_per_s"] = rates[engine]
        if engine in runs:
            floor[f"{engine}_experiment_7_minutes"] = experiment_7_minutes(runs[engine])
        if not torch:
            continue
        best = min((seconds[name] for name in torch), key=statistics.median)
        ratios[f"{engine}_samples_per_s_over_torch"] = (
            median_ratio(best, seconds[engine]) if engine in seconds else None
        )
        ratios[f"{engine}_run_samples_per_s_over_torch"] = (
            runs[engine] * statistics.median(best) / form.samples if engine in runs else None
        )
    finish("train_on_gpu", ratios, floor, form.rounds, arguments.json)


def _floor_of_card(
    form: Form, of_card: dict[str, list[float]], flop: int, moved: int
) -> dict[str, float]:
    """What the device itself reaches, and the samples per second that would follow."""
    product, copy = (statistics.median(of_card[what]) for what in ("product", "copy"))
    flop_per_s = 2 * form.matrix_size**3 / product
    bytes_per_s = 2 * 2 * form.matrix_size**2 / copy  # read and written, two bytes a value
    return {
        "product_tflop_per_s": flop_per_s / 1e12,
        "copy_tbyte_per_s": bytes_per_s / 1e12,
        "samples_per_s_by_flop": flop_per_s / flop,
        "samples_per_s_by_bytes": bytes_per_s / moved,
    }


if __name__ == "__main__":
    run_benchmark(main)
