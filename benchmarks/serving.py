"""Compares a served model with a local one, and one request in flight with several.

    mtseg-export WORKDIR --serving served
    python benchmarks/serving.py served SCAN.nii.gz

Each pair segments the scan with the model in this process and then with the server, both warm. The
server is that of the tests, a process on this machine, unless `--server` names TensorFlow Serving
with the same model. Throughput is measured with messages of `--small-mb`, so that a scan has many
tiles, for each number of requests in turn. Nothing else should run on the machine. About 5 minutes
on 2 cores for a brain; smallest form: `--pairs 1` with a small scan.

Last, the messages of the scan are compressed as gRPC would do it (gzip, level 6). Compression saves
time only where the network is slower than the printed rate: above it, sending the saved bytes takes
less time than saving them.

    local_seconds_over_served                  below 1: serving costs time
    throughput_of_N_over_1_in_flight           tiles per second with N requests in flight over one
    compressed_bytes_over_plain                of requests and answers
"""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from comparison import add_pairs_option, finish, make_parser, median_ratio, run_benchmark

import mtseg
from mtseg.errors import InputError
from mtseg.inference.dense import with_halo
from mtseg.models.loading import ExportedModel
from mtseg.prediction.pipeline import segment_files
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.volume import Volume
from mtseg.serving.address import MESSAGE_BYTES, MODEL_NAME, ServerOptions


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Starts the server of the tests and yields its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving_front", str(folder)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"grpc://127.0.0.1:{process.stdout.readline().split()[0]}/{MODEL_NAME}"
    finally:
        process.kill()
        process.wait()


def segment(model: ExportedModel, scan: Path, out: Path) -> tuple[float, int, np.ndarray]:
    """Segments a scan: seconds, number of tiles, and uint8 labels (I, J, K)."""
    tiles: list[int] = []
    started = time.perf_counter()
    ((_, outcome),) = segment_files(
        model, [scan], out, on_start=lambda _, work: tiles.append(len(work.plan.tiles))
    )
    seconds = time.perf_counter() - started
    if isinstance(outcome, InputError):
        raise outcome
    return seconds, tiles[0], np.asarray(nib.load(outcome.label_path).dataobj)


def compress_messages(
    served: ExportedModel, local: ExportedModel, scan: Path
) -> tuple[int, int, float]:
    """Compresses the messages of a scan.

    Returns:
        Bytes of the messages, compressed bytes, and seconds for compressing and expanding them.
    """
    image = nib.as_closest_canonical(nib.load(scan))
    volume = Volume(np.asarray(image.dataobj, np.float32), image.affine)
    prepared = prepare_scan(volume).volume.array
    plain = compressed = 0
    seconds = 0.0
    for tile in served.network.plan(prepared).tiles:
        for array in (with_halo(prepared, tile), local.network.run(prepared, tile)):
            body = array.tobytes()
            started = time.perf_counter()
            small = gzip.compress(body, 6)
            gzip.decompress(small)
            seconds += time.perf_counter() - started
            plain, compressed = plain + len(body), compressed + len(small)
    return plain, compressed, seconds


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="from mtseg-export --serving")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--server", help="address of a server of that folder (the tests' own)")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    add_pairs_option(parser, default=3)
    parser.add_argument(
        "--message-mb", type=float, default=MESSAGE_BYTES / 1e6, help="(%(default)g)"
    )
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--small-mb", type=float, default=12.0, help="(%(default)s)")
    arguments = parser.parse_args()
    folder, precision = arguments.folder.absolute(), arguments.precision
    local = mtseg.load(folder / MODEL_NAME, precision)
    server = contextlib.nullcontext(arguments.server) if arguments.server else serve(folder)
    seconds: dict[str, list[float]] = {"local": [], "served": []}
    throughput: dict[int, list[float]] = {number: [] for number in arguments.in_flight}
    with tempfile.TemporaryDirectory() as out, server as address:
        options = ServerOptions(message_bytes=int(arguments.message_mb * 1e6))
        served = mtseg.load(address, precision, options)
        _, _, expected = segment(local, arguments.scan, Path(out))  # warm
        segment(served, arguments.scan, Path(out))
        for pair in range(arguments.pairs):
            for name, model in (("local", local), ("served", served)):
                taken, tiles, labels = segment(model, arguments.scan, Path(out))
                assert np.array_equal(labels, expected), "labels differ"
                seconds[name].append(taken)
            print(
                f"pair {pair + 1}: local {seconds['local'][-1]:.1f} s, served "
                f"{seconds['served'][-1]:.1f} s in {tiles} tiles",
                flush=True,
            )
        models = {}
        for in_flight in arguments.in_flight:
            options = ServerOptions(
                message_bytes=int(arguments.small_mb * 1e6), in_flight=in_flight
            )
            models[in_flight] = mtseg.load(address, precision, options)
            segment(models[in_flight], arguments.scan, Path(out))  # warm, with tiles of this size
        for _ in range(arguments.pairs):
            for in_flight, model in models.items():
                taken, tiles, _ = segment(model, arguments.scan, Path(out))
                throughput[in_flight].append(tiles / taken)
                print(
                    f"{in_flight} in flight: {tiles} tiles in {taken:.1f} s, {tiles / taken:.2f}/s",
                    flush=True,
                )
        plain, compressed, taken = compress_messages(served, local, arguments.scan)
    megabits = 8e-6 * (plain - compressed) / taken
    print(
        f"compression: {plain / 1e6:.0f} MB to {compressed / 1e6:.0f} MB in {taken:.1f} s; it pays "
        f"below {megabits:.0f} Mbit/s"
    )
    ratios = {"local_seconds_over_served": median_ratio(seconds["local"], seconds["served"])}
    ratios |= {
        f"throughput_of_{n}_over_1_in_flight": median_ratio(rates, throughput[1])
        for n, rates in throughput.items()
        if 1 in throughput and n != 1
    }
    ratios["compressed_bytes_over_plain"] = compressed / plain
    floor = {f"{name}_seconds": float(np.median(values)) for name, values in seconds.items()}
    finish("serving", ratios, floor, arguments.pairs, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
