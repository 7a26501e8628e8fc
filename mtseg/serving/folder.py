"""Writing the folder that TensorFlow Serving serves from.

    DIR/NAME/1/                    the model: versions 1, 2, 3 …
    DIR/NAME/1/assets.extra/tf_serving_warmup_requests
    DIR/models.config              which models are served
    DIR/batching.config            how many requests are computed at once
    DIR/monitoring.config          metrics for Prometheus
    DIR/compose.yaml               a container, bound to this machine
    DIR/README.md                  how to start and how to ask the server

The server checks the folder regularly. A version appears by one rename, so the server never sees
half of it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.errors import InputError
from mtseg.models.export import export_model, exporting_to, versions
from mtseg.models.signatures import CLASSIFY, segment_signature, tile_signature
from mtseg.network.model import HALO, PATCH_SIZE, PLANE_NORMALS
from mtseg.serving.address import MODEL_NAME
from mtseg.system.atomic_files import atomic_write

SERVED_VERSIONS = 2
"""Versions that are served at once: whoever is amid a scan ends it with the one it began with."""


WARM_UP_EDGE = 32
"""Voxels along the edges of the volume and the tile that warm a server up."""


WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"


_TEMPLATES = Path(__file__).parent / "files"
"""In which MODEL stands for a model's name."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def export_serving(
    workdir: str | Path,
    folder: str | Path,
    which: str = "last",
    *,
    name: str = MODEL_NAME,
    keep: int | None = None,
) -> tuple[Path, list[int]]:
    """Writes the next version of a model and all that TensorFlow Serving wants beside it.

    Args:
        workdir: folder of a training run that has been evaluated.
        folder: may hold other models too.
        which: `last` or `best` weights.
        name: of the model.
        keep: older versions are removed so that this many stay; None keeps them all.

    Returns:
        The new version's folder, and the versions that were removed.

    Raises:
        InputError: as `mtseg.models.export.export_model` does; if the name is none, or what it
            needs is not installed.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise InputError(
            f"--name {name!r}: is not a valid name of a model. Use letters, digits, dots, dashes and "
            "underscores, and not digits alone."
        )
    _import_apis()  # before the long work
    with exporting_to(folder):
        version = export_model(
            workdir, folder / name, which, finish=lambda temporary: write_warm_up(temporary, name)
        )
        write_configurations(folder)
        return version, [] if keep is None else prune(folder / name, keep)


def write_warm_up(version: Path, name: str) -> None:
    """Writes requests that the server computes before it takes any, so that no user waits.

    Args:
        version: folder of a version that is not yet in place.
        name: of the model.

    Raises:
        InputError: if what it needs is not installed.
    """
    predict_pb2, prediction_log_pb2 = _import_apis()
    import tensorflow as tf

    edge, with_halo = (WARM_UP_EDGE,) * 3, (WARM_UP_EDGE + 2 * HALO,) * 3
    requests: list[tuple[str, dict[str, np.ndarray]]] = [
        (segment_signature("float32"), {"volume": np.ones((1, *edge), np.float32)})
    ]
    for precision in ("float32", "bfloat16"):
        tile = {
            "tile": np.ones((1, *with_halo), np.float32),
            "intensity_scale": np.ones(1, np.float32),
            "chunk_positions": np.zeros(1, np.int32),
        }
        requests.append((tile_signature(precision), tile))
    patch = np.ones((1, PATCH_SIZE, PATCH_SIZE, 1), np.float32)
    requests.append((CLASSIFY, {plane: patch for plane in PLANE_NORMALS}))
    path = version / WARM_UP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = name, signature
            for key, array in inputs.items():
                # Of equal values one is enough: it fills the shape.
                proto = tf.make_tensor_proto(array.flat[0], shape=array.shape)
                request.inputs[key].CopyFrom(proto)
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString(deterministic=True))


def _import_apis() -> tuple[Any, Any]:
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise InputError(
            "--serving needs packages that are not installed: pip install 'mtseg[serving]'"
        ) from error
    return predict_pb2, prediction_log_pb2


def write_configurations(folder: Path) -> None:
    """Writes what stands beside the models of a folder; each file is replaced whole.

    Args:
        folder: with a folder for each model.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and versions(path))
    files = {"models.config": _models_config(names)}
    for template in sorted(_TEMPLATES.iterdir()):
        files[template.name] = template.read_text().replace("MODEL", names[0])
    for file, text in files.items():
        with atomic_write(folder / file) as temporary:
            temporary.write_text(text)


def prune(model: Path, keep: int) -> list[int]:
    """Removes a model's oldest versions.

    Args:
        model: its folder.
        keep: versions that stay, at least 1.

    Returns:
        Those that were removed.
    """
    removed = versions(model)[:-keep]
    for version in removed:
        # Out of the server's sight first, so that it never sees half a version.
        (model / str(version)).rename(model / f".removing-{version}")
    for temporary in model.glob(".removing-*"):  # those of a process that was killed among them
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
        "# Two versions are served, so that whoever is amid a scan when a new one comes can end\n"
        f"# it with the version that it began with.\nmodel_config_list {{\n{models}}}\n"
    )
