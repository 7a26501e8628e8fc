"""Computes a served model in other versions of TensorFlow, which TensorFlow Serving is built on.

    mtseg-export WORKDIR --serving served
    python -m venv tf219
    tf219/bin/pip install tensorflow-cpu==2.19.1 tensorflow-serving-api==2.19.1
    python benchmarks/serving_versions.py served/mtseg/1 SCAN.nii.gz --python tf219/bin/python

A SavedModel is made by one version of TensorFlow and loaded by a server of another. In every
interpreter, the official messages of that version read mtseg's requests for the middle of the scan,
as a volume and as a tile, and write the answers; the model computes them. It prints how many voxels
get the same label as in the version that runs this script, and the largest difference of a
probability. About 30 seconds a version; smallest form: `--edge 16`.

    VERSION_share_of_equal_labels    1: every voxel has the label of this version
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from comparison import finish, make_parser, run_benchmark

from mtseg.errors import InputError
from mtseg.models.signature_names import segment_signature, tile_probabilities_signature
from mtseg.network.architecture import HALO
from mtseg.scans.preprocessing import prepare_scan
from mtseg.scans.volume import Volume
from mtseg.serving.messages import decode_response, encode_request
from mtseg.system.text_table import format_table

OUTPUTS = ("labels", "probabilities")
"""What is asked for: labels of a volume, and probabilities of a tile."""

_SERVE = """
import sys
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
model, folder, *names = sys.argv[1:]
signatures = tf.saved_model.load(model).signatures
for name in names:
    with open(f"{folder}/{name}.request", "rb") as file:
        request = predict_pb2.PredictRequest.FromString(file.read())
    inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
    outputs = signatures[request.model_spec.signature_name](**inputs)
    response = predict_pb2.PredictResponse()
    for key in request.output_filter:
        response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key].numpy()))
    with open(f"{folder}/{name}.response", "wb") as file:
        file.write(response.SerializeToString())
print(tf.__version__)
"""
"""What runs in every interpreter: the official messages and the model. None has mtseg."""


def write_requests(scan: Path, edge: int, precision: str, folder: Path) -> None:
    """Writes the requests for the middle of a scan, with at most `edge` voxels an axis."""
    image = nib.as_closest_canonical(nib.load(scan))
    array = np.asarray(image.dataobj, np.float32)
    middle = tuple(slice(max(0, (n - edge) // 2), (n + edge) // 2) for n in array.shape)
    volume = array[middle]
    prepared = prepare_scan(Volume(volume, image.affine)).volume.array
    tile = {
        "tile": np.pad(prepared, HALO)[np.newaxis],
        "intensity_scale": np.ones(1, np.float32),
        "chunk_positions": np.zeros(1, np.int32),
    }
    inputs = {
        "labels": (segment_signature(precision), {"volume": volume[np.newaxis]}),
        "probabilities": (tile_probabilities_signature(precision), tile),
    }
    for name in OUTPUTS:
        signature, arrays = inputs[name]
        request = encode_request("mtseg", None, signature, arrays, [name])
        (folder / f"{name}.request").write_bytes(request)


def compute(
    python: str, model: Path, folder: Path
) -> tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Has an interpreter answer the requests in a folder.

    Returns:
        Its version of TensorFlow, labels (1, I, J, K) and probabilities (1, voxels, classes).

    Raises:
        InputError: if it cannot.
    """
    command = [python, "-c", _SERVE, str(model), str(folder), *OUTPUTS]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{python}: cannot compute it: {done.stderr.strip().splitlines()[-1]}")
    found = {}
    for name in OUTPUTS:
        outputs, _ = decode_response((folder / f"{name}.response").read_bytes())
        found |= outputs
    return done.stdout.split()[-1], found["labels"], found["probabilities"]


def main() -> None:
    """Runs the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("model", type=Path, help="a version of a model from mtseg-export --serving")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--python", nargs="+", default=[], help="interpreters with TensorFlow")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--edge", type=int, default=64, help="voxels an axis (%(default)s)")
    arguments = parser.parse_args()
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        write_requests(arguments.scan, arguments.edge, arguments.precision, Path(folder))
        _, expected, probabilities = compute(sys.executable, arguments.model, Path(folder))
        for python in arguments.python:
            version, labels, found = compute(python, arguments.model, Path(folder))
            num_equal = int(np.count_nonzero(labels == expected))
            largest = float(np.abs(found - probabilities).max())
            rows.append([version, f"{labels.size:,}", f"{num_equal:,}", f"{largest:.1e}"])
            ratios[f"{version}_share_of_equal_labels"] = num_equal / labels.size
    print(format_table(("TensorFlow", "voxels", "equal labels", "largest difference"), rows))
    finish("serving_versions", ratios, {}, 1, arguments.json)


if __name__ == "__main__":
    run_benchmark(main)
