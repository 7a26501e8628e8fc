"""The folder that TensorFlow Serving reads: models, and the files that configure the server.

    DIR/NAME/1/                    a version of the model; 1, 2, 3 …
    DIR/NAME/1/assets.extra/tf_serving_warmup_requests
    DIR/models.config              which models are served
    DIR/batching.config            how many requests are computed at the same time
    DIR/monitoring.config          metrics for Prometheus
    DIR/compose.yaml               a container that serves to this machine only
    DIR/kubernetes.yaml            servers in a cluster
    DIR/nginx.conf                 an example of TLS and a token in front of a server
    DIR/prometheus-rules.yaml      alerts
    DIR/grafana-dashboard.json     charts
    DIR/README.md                  how to start the server and send requests

A running server looks for new versions from time to time. A version appears by a single rename, so
the server never loads half of one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtseg.errors import InputError
from mtseg.inference.tile_cost import CHUNK_BYTES, chunk_bytes_of_gpu
from mtseg.models.export import export_model, exporting_to, require_model_name
from mtseg.models.signature_names import CLASSIFY, segment_signature, tile_probabilities_signature
from mtseg.network.architecture import HALO, PLANE_NORMALS
from mtseg.runs.manifest import versions
from mtseg.scans.patches import PATCH_SIZE
from mtseg.serving.address import MODEL_NAME
from mtseg.system.atomic_files import atomic_write

SERVED_VERSIONS = 2
"""Number of versions that are served, so that a client in the middle of a scan can finish it with
the version that it began with."""

WARM_UP_EDGE = 32
"""Voxels along each edge of the volume and the tile in the warm-up requests."""

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
"""The file of warm-up requests in a version's folder; TensorFlow Serving fixes its name."""

_TEMPLATES = Path(__file__).parent / "files"
"""Files that are copied beside the models, with the word MODEL replaced by a model's name."""


def export_serving(
    workdir: str | Path,
    folder: str | Path,
    which: str = "last",
    *,
    name: str = MODEL_NAME,
    keep: int | None = None,
    gpu_bytes: int | None = None,
) -> tuple[Path, list[int]]:
    """Writes the next version of a model, and the files that TensorFlow Serving needs beside it.

    Args:
        workdir: folder of a training run that has been evaluated.
        folder: the folder to serve from; it may have other models.
        which: `last` or `best` weights.
        name: name of the model.
        keep: number of versions to keep, at least 1; older ones are removed. None keeps all.
        gpu_bytes: memory of the GPU that will compute; None if it is a processor.

    Returns:
        The new version's folder, and the numbers of the versions that were removed.

    Raises:
        InputError: as `mtseg.models.export.export_model` does; also if the name is not valid, or a
            needed package is not installed.
    """
    folder = Path(folder)
    require_model_name(name)
    _import_protos()  # before the long work, for its error
    with exporting_to(folder):
        version = export_model(
            workdir,
            folder / name,
            which,
            finish=lambda temporary: write_warm_up(temporary, name),
            chunk_bytes=CHUNK_BYTES if gpu_bytes is None else chunk_bytes_of_gpu(gpu_bytes),
        )
        write_configurations(folder)
        return version, [] if keep is None else prune(folder / name, keep)


def write_warm_up(version: Path, name: str) -> None:
    """Writes requests that the server computes before it accepts any, so that no user waits.

    Args:
        version: folder of a version that is still being written.
        name: name of the model.

    Raises:
        InputError: if a needed package is not installed.
    """
    predict_pb2, prediction_log_pb2 = _import_protos()
    import tensorflow as tf

    edge, with_halo = (WARM_UP_EDGE,) * 3, (WARM_UP_EDGE + 2 * HALO,) * 3
    requests: list[tuple[str, dict[str, npt.NDArray[Any]]]] = [
        (segment_signature("float32"), {"volume": np.ones((1, *edge), np.float32)})
    ]
    for precision in ("float32", "bfloat16"):
        tile = {
            "tile": np.ones((1, *with_halo), np.float32),
            "intensity_scale": np.ones(1, np.float32),
            "chunk_positions": np.zeros(1, np.int32),
        }
        requests.append((tile_probabilities_signature(precision), tile))
    patch = np.ones((1, PATCH_SIZE, PATCH_SIZE, 1), np.float32)
    requests.append((CLASSIFY, {plane: patch for plane in PLANE_NORMALS}))
    path = version / WARM_UP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, array in inputs.items():
                # All values are equal, and a tensor's message may state one for its whole shape.
                proto = tf.make_tensor_proto(array.flat[0], shape=array.shape)
                request.inputs[key].CopyFrom(proto)
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString(deterministic=True))


def _import_protos() -> tuple[Any, Any]:
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise InputError(
            "--serving needs packages that are not installed: pip install 'mtseg[serving]'"
        ) from error
    return predict_pb2, prediction_log_pb2


def write_configurations(folder: Path) -> None:
    """Writes the files beside the models of a folder, each atomically.

    Args:
        folder: has a folder for each model, with at least one version.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and versions(path))
    files = {"models.config": _models_config(names)}
    for template in sorted(_TEMPLATES.iterdir()):
        files[template.name] = template.read_text().replace("MODEL", names[0])
    for file, text in files.items():
        with atomic_write(folder / file) as temporary:
            temporary.write_text(text)


def prune(model: Path, keep: int) -> list[int]:
    """Removes the oldest versions of a model.

    Args:
        model: folder of the model.
        keep: number of versions to keep, at least 1.

    Returns:
        The numbers of the versions that were removed.
    """
    removed = versions(model)[:-keep]
    for version in removed:
        # Renamed first, so that the server never loads half a version.
        (model / str(version)).rename(model / f".removing-{version}")
    for temporary in model.glob(".removing-*"):  # also those that a killed command left
        shutil.rmtree(temporary)
    return removed


def _models_config(names: list[str]) -> str:
    models = "".join(
        f"""  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: {SERVED_VERSIONS} }} }}
  }}
"""
        for name in names
    )
    return (
        "# Two versions are served, so that a client in the middle of a scan can finish it with\n"
        f"# the version that it began with.\nmodel_config_list {{\n{models}}}\n"
    )
