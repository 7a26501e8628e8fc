"""A model repository for NVIDIA's Triton Inference Server, which computes the network as ONNX.

    OUT/NAME/config.pbtxt          inputs and outputs, and the versions that are served
    OUT/NAME/1/model.onnx          a version of the network; 1, 2, 3 …
    OUT/NAME/1/manifest.json       its classes, operating points, and how scans are prepared

The network takes a tile, as `mtseg.models.portable` describes it, and gives probabilities and
labels: uint8 (I, J, K), combined class index by the decision rule, 0 where the tile is 0. Who asks
prepares the scan and divides it into tiles. Start the server with
`tritonserver --model-repository=OUT`.
"""

from __future__ import annotations

import json
from pathlib import Path

from mtseg.errors import InputError
from mtseg.models.export import exporting_to, make_manifest, require_model_name
from mtseg.models.portable import ONNX, convert_to_onnx, make_portable_function
from mtseg.network.architecture import HALO
from mtseg.runs.manifest import MANIFEST, read_manifest, versions
from mtseg.runs.weights import load_trained
from mtseg.system.atomic_files import atomic_write

CONFIG = "config.pbtxt"
"""The file of a model's configuration; Triton fixes its name."""

WARM_UP_EDGE = 32
"""Voxels along each edge of the tile that the server computes before it accepts requests."""


def export_triton(
    workdir: str | Path, repository: str | Path, which: str = "last", *, name: str
) -> Path:
    """Writes the next version of a model into a model repository.

    Args:
        workdir: folder of a training run that has been evaluated.
        repository: folder of the repository; it may have other models.
        which: `last` or `best` weights.
        name: name of the model.

    Returns:
        The new version's folder. It appears complete, by a single rename.

    Raises:
        InputError: if the run has no such weights or no evaluation yet, the name is not valid or
            that of a model with other classes, or the converter is not installed.
    """
    require_model_name(name)
    workdir, folder = Path(workdir), Path(repository) / name
    trained = load_trained(workdir, which)
    manifest = make_manifest(trained, workdir, which)
    points = manifest["operating_points"]
    thresholds = [points.get(class_name) for class_name in manifest["classes"]]
    content = convert_to_onnx(make_portable_function(trained.model, thresholds))
    with exporting_to(Path(repository)):
        folder.mkdir(exist_ok=True)
        newest = max(versions(folder), default=0)
        # One configuration is for all versions, and the server keeps the newest two.
        if newest and read_manifest(folder / str(newest))["classes"] != manifest["classes"]:
            raise InputError(
                f"{folder}: its version {newest} has other classes, and Triton would serve it no "
                "more. Give another --name."
            )
        version = folder / str(newest + 1)
        with atomic_write(version) as temporary:
            temporary.mkdir()
            (temporary / ONNX).write_bytes(content)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(_configuration(name, len(manifest["classes"])))
    return version


def _configuration(name: str, num_classes: int) -> str:
    edge = WARM_UP_EDGE + 2 * HALO
    return f"""# A tile is a block of a prepared scan with the {HALO} voxels around it.
# manifest.json says how scans are prepared.
name: "{name}"
backend: "onnxruntime"
max_batch_size: 0
input [ {{ name: "tile" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ -1, -1, -1, {num_classes} ] }},
  {{ name: "labels" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ] }}
]
# One tile at a time keeps all cores, or the GPU, busy; each takes memory.
instance_group [ {{ count: 1 }} ]
version_policy {{ latest {{ num_versions: 2 }} }}
model_warmup [
  {{
    name: "a small tile"
    inputs {{
      key: "tile"
      value {{ data_type: TYPE_FP32 dims: [ {edge}, {edge}, {edge} ] zero_data: true }}
    }}
  }}
]
"""
