"""The public functions. Each imports what it needs when it is called, so `import mtseg` is instant.

Errors that a user can do something about are raised as `InputError`. A string is a path.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mtseg.errors import InputError

if TYPE_CHECKING:
    import nibabel as nib
    import numpy.typing as npt
    from typing_extensions import TypedDict, Unpack

    from mtseg.api.model import Model
    from mtseg.evaluation.results import Evaluation
    from mtseg.prediction.outcome import Segmentation
    from mtseg.runs.config import TrainConfig
    from mtseg.serving.address import ServerOptions

    Scan = str | os.PathLike[str] | nib.spatialimages.SpatialImage | npt.NDArray[Any]

    class How(TypedDict, total=False):
        """The keyword arguments of `segment`, for its overloads."""

        model: Model | str | os.PathLike[str] | None
        affine: npt.ArrayLike | None
        spacing_mm: Sequence[float] | None
        task: str | None
        modality: str | None
        computed_spacing_mm: float | None
        precision: str | None
        probabilities: bool
        postprocessing: bool
        memory_gb: float | None
        progress: bool | Callable[[float], None]


def load(
    path: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    options: ServerOptions | None = None,
    engine: str | None = None,
) -> Model:
    """Loads a model.

    Args:
        path: folder that `mtseg-export` wrote (its newest version is loaded), one version in it,
            folder of a training run (its last weights are loaded), or the address of a server. None
            is the model that comes with the package.
        precision: `float32` or `bfloat16`. None is the faster one on this machine, and float32 on
            a server.
        options: how to send requests to a server; None uses the defaults.
        engine: what computes in this process, `tensorflow` or `openvino`. None is the fastest that
            is installed: OpenVINO for a weights file where there is no GPU, else TensorFlow.

    Returns:
        The model. From a server, only its description is loaded; the server computes.

    Raises:
        InputError: if there is no model, or it is of another version of mtseg.

    Example:
        >>> model = mtseg.load()
        >>> [task.name for task in model.tasks]
        ['brain', 'breast', 'cta']
        >>> print(model.card.splitlines()[0])
        # The network that comes with mtseg
    """
    from mtseg.serving.address import is_address

    if precision not in (None, "float32", "bfloat16"):
        raise InputError(f"precision: {precision!r} is not one of float32, bfloat16.")
    from mtseg.api.model import Model

    if path is not None and is_address(str(path)):
        _begin_tensorflow()
        from mtseg.serving.remote_model import load_served

        exported = load_served(str(path), precision, options)
    else:
        from mtseg.models import loading

        folder = None if path is None else Path(path)
        engine = loading.find_engine(folder, engine)
        if engine == "tensorflow":
            _begin_tensorflow()
        exported = loading.load(folder, precision, engine)
    fields = dataclasses.fields(exported)
    return Model(**{field.name: getattr(exported, field.name) for field in fields})


@functools.cache
def _load_packaged(precision: str | None) -> Model:
    """The model that comes with the package, loaded once: it does not change."""
    return load(None, precision)


@overload
def segment(scan: Scan, **how: Unpack[How]) -> Segmentation: ...


@overload
def segment(scan: list[Scan] | tuple[Scan, ...], **how: Unpack[How]) -> list[Segmentation]: ...


def segment(
    scan: Scan | list[Scan] | tuple[Scan, ...],
    *,
    model: Model | str | os.PathLike[str] | None = None,
    affine: npt.ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
    task: str | None = None,
    modality: str | None = None,
    computed_spacing_mm: float | None = None,
    precision: str | None = None,
    probabilities: bool = False,
    postprocessing: bool = True,
    memory_gb: float | None = None,
    progress: bool | Callable[[float], None] = False,
) -> Segmentation | list[Segmentation]:
    """Segments scans in memory. The labels are those that `mtseg-predict` writes.

    Args:
        scan: a file, the folder of a DICOM series, an image of nibabel's, or an array (i, j, k); or
            a list or tuple of them, which are segmented in turn.
        model: from `load`, or what `load` takes as its path. None is the model that comes with the
            package. To segment again and again, load it once.
        affine: of an array, voxel index to RAS+ world in mm, (4, 4).
        spacing_mm: of an array, in place of `affine`: the voxel size along i, j and k. The axes
            must lead to the subject's right, to the front and to the head: a flipped scan is
            segmented as if it were not flipped.
        task: name of the task that the scan is for; no voxel gets a class of another. None lets the
            network decide.
        modality: `ct` if intensities are Hounsfield units, else `mr`. None lets the DICOM header
            decide, or the values.
        computed_spacing_mm: isotropic voxel size of the computation. None is that of the task.
        precision: as for `load`; for a model that is not loaded yet.
        probabilities: whether to keep the probability of every class, 4 bytes per voxel and class.
        postprocessing: whether to do the post-processing that the task files ask for.
        memory_gb: memory to use, in 1e9 bytes. None is half of what is free.
        progress: True shows a bar, or prints lines where there is no terminal; a function is called
            with the share that is done, 0 to 1.

    Returns:
        A `Segmentation`, or a list of them in the order of the scans.

    Raises:
        InputError: if a scan, the model or an argument cannot be used. Of several scans, all
            headers are checked before the first scan is computed.

    Example:
        >>> seg = mtseg.segment("scan.nii.gz", task="brain")
        >>> seg.labels.shape == nib.load("scan.nii.gz").shape
        True
        >>> seg.names[5]
        'cerebellum'
        >>> ml = seg.volumes_ml["cerebellum"]
        >>> seg.save("labels.nii.gz").name
        'labels.nii.gz'
        >>> array = nib.load("scan.nii.gz").get_fdata()
        >>> again = mtseg.segment(array, spacing_mm=(1, 1, 1), task="brain")
        >>> (again.labels == seg.labels).all()
        np.True_
    """
    from mtseg.api.model import Model

    if model is None:
        model = _load_packaged(precision)
    elif not isinstance(model, Model):
        model = load(model, precision)
    elif precision not in (None, model.network.precision):
        raise InputError(
            f"precision: the model was loaded in {model.network.precision}. Load it with "
            f"precision={precision!r}."
        )
    result: Segmentation | list[Segmentation] = model.segment(
        scan,
        affine=affine,
        spacing_mm=spacing_mm,
        task=task,
        modality=modality,
        computed_spacing_mm=computed_spacing_mm,
        probabilities=probabilities,
        postprocessing=postprocessing,
        memory_gb=memory_gb,
        progress=progress,
    )
    return result


def train(
    config: TrainConfig, workdir: str | os.PathLike[str] | None = None, **how: Any
) -> Evaluation | None:
    """Trains a network and evaluates it on the scans that are held out.

    Call it again with the same arguments to resume.

    Args:
        config: what to train. Its records must have been prepared (`mtseg-prepare`).
        workdir: folder of the run, made if missing. None is `mtseg_runs/` and the preset's name.
        **how: as for `mtseg.training.loop.train_and_evaluate`, such as `callbacks`.

    Returns:
        The evaluation after the last mini-batch; None if the run was stopped before.

    Raises:
        InputError: as for `mtseg.training.loop.train_and_evaluate`.

    Example:
        >>> config = TrainConfig("breast:phantom", "records", minibatches_per_task=2,
        ...                      global_batch_size=4, evaluate_every=2)
        >>> evaluation = mtseg.train(config, "run")
        breast: each of ...
        >>> sorted(evaluation.mean_dice())
        ['breast/pectoral_muscle']
    """
    from mtseg.system.devices import uses_jax

    if not uses_jax():
        _begin_tensorflow()
    from mtseg.training.loop import train_and_evaluate

    return train_and_evaluate(config, Path(workdir or f"mtseg_runs/{config.preset}"), **how)


def _begin_tensorflow() -> None:
    """Imports TensorFlow without its log lines, and lets its memory on GPUs grow with need."""
    from mtseg.system.devices import let_memory_grow
    from mtseg.system.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    let_memory_grow()
