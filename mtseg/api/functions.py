"""The public functions. Each imports what it needs when it is called, so `import mtseg` is instant.

Errors that a user can do something about are raised as `InputError`. A string is a path.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
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

        model: Model | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
        affine: npt.ArrayLike | None
        spacing_mm: Sequence[float] | None
        task: str | None
        modality: str | None
        computed_spacing_mm: float | None
        precision: str | None
        probabilities: bool
        tta: str | None
        postprocessing: bool
        memory_gb: float | None
        progress: bool | Callable[[float], None]


def load(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    precision: str | None = None,
    options: ServerOptions | None = None,
    engine: str | None = None,
) -> Model:
    """Loads a model.

    Args:
        path: folder that `mtseg-export` wrote (its newest version is loaded), one version in it,
            folder of a training run (its last weights are loaded), or the address of a server. A
            list of folders is an ensemble: the models must have the same classes, and their
            probabilities are averaged. A name that `mtseg models` lists is one of those that come
            with the package; None is the default.
        precision: `float32`, `bfloat16` or, on OpenVINO, `int8`. None is the fastest on this
            machine, int8 only if the model allows it, and float32 on a server.
        options: how to send requests to a server; None uses the defaults.
        engine: what computes in this process, `tensorflow` or `openvino`. None is the fastest that
            is installed: OpenVINO for a weights file where there is no GPU, else TensorFlow.

    Returns:
        The model. From a server, only its description is loaded; the server computes.

    Raises:
        InputError: if there is no model, it is of another version of mtseg, or `options` are given
            for a folder or `engine` for a server.

    Example:
        >>> model = mtseg.load()
        >>> [task.name for task in model.tasks]
        ['brain', 'hippocampus', 'breast', 'cta']
        >>> print(model.card.splitlines()[0])
        # The network that comes with mtseg
    """
    from mtseg.inference.engines.choice import PRECISIONS
    from mtseg.serving.address import is_address

    if precision not in (None, *PRECISIONS):
        raise InputError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}.")
    from mtseg.api.model import Model

    if isinstance(path, str | os.PathLike) and is_address(str(path)):
        from mtseg.serving.remote_model import load_served

        if engine is not None:
            raise InputError(
                "engine: is for computing in this process. Leave it out: a server has its own."
            )
        exported = load_served(str(path), precision, options)
    else:
        from mtseg.models.ensembles import find_engine_of, load_models

        if options is not None:
            raise InputError("options: are for a server. Give its address, or leave them out.")
        engine = find_engine_of(path, engine, None, precision)
        if engine == "tensorflow":
            _begin_tensorflow()
        exported = load_models(path, precision, engine)
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
    model: Model | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    affine: npt.ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
    task: str | None = None,
    modality: str | None = None,
    computed_spacing_mm: float | None = None,
    precision: str | None = None,
    probabilities: bool = False,
    tta: str | None = None,
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
        tta: `flip` averages the probabilities of the scan and of its mirror image, left and right
            exchanged, in twice the time; for tasks whose files allow it.
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
        tta=tta,
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


def evaluate(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "test",
    weights: str = "last",
    tta: str | None = None,
    precision: str | None = None,
    allow_training_scans: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Evaluates a trained network on prepared scans, as `mtseg-evaluate` does.

    Lines about what is scored, and what has changed in the records, are printed.

    Args:
        path: folder of a training run, or of weights that `mtseg-export --format weights` wrote.
            A list of them is an ensemble, as for `load`. A name that `mtseg models` lists is one of
            those that come with the package; None is the default.
        data_dir: folder of prepared records. None is that of its training.
        split: `test` or `validation`.
        weights: of a run: `last` or `best`.
        tta: `flip` as for `segment`; every task of the network must allow it.
        precision: `float32`, `bfloat16`, or `int8`, which needs OpenVINO. None is the faster one of
            the first two on this machine.
        allow_training_scans: whether scans that the run was trained on are scored; otherwise they
            are refused.
        progress: whether a bar is shown.

    Returns:
        The figures: `mean_dice()` by task and class, `rows` of all scans, `to_csv()`.

    Raises:
        InputError: if the network, the records or an argument cannot be used.

    Example:
        >>> evaluation = mtseg.evaluate("run")
        >>> {row.metric for row in evaluation.rows} >= {"dice", "hd95_mm", "volume_predicted_ml"}
        True
    """
    from mtseg.inference.engines.choice import PRECISIONS

    for name, value, choices in (
        ("split", split, ("test", "validation")),
        ("weights", weights, ("last", "best")),
        ("tta", tta, (None, "flip")),
        ("precision", precision, (None, *PRECISIONS)),
    ):
        if value not in choices:
            listed = ", ".join(choice for choice in choices if choice)
            raise InputError(f"{name}: {value!r} is not one of {listed}.")
    _begin_tensorflow()
    from mtseg.api.evaluation import evaluate_trained
    from mtseg.runs.manifest import locate_model

    paths = [path] if isinstance(path, str | os.PathLike) else path or ()
    return evaluate_trained(
        [locate_model(each) for each in paths],
        data_dir=None if data_dir is None else str(data_dir),
        split=split,
        which=weights,
        use_flips=tta == "flip",
        precision=precision,
        may_score_training_scans=allow_training_scans,
        is_quiet=not progress,
    )


def evaluate_files(
    predictions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    references: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    task: str | None = None,
    names: Mapping[int, str] | None = None,
    prediction_ending: str = "",
    reference_ending: str = "",
) -> Evaluation:
    """Scores label files against references, as `mtseg evaluate PREDICTIONS REFERENCES` does.

    It needs no network and no TensorFlow. A reference with flipped or swapped axes is turned; one
    on another grid is refused.

    Args:
        predictions: a label file, a folder of them, or a list of files.
        references: likewise. Two lists have the same order; two folders the same names, of which
            the endings and `_labels` are left out.
        task: name or file of a task, whose classes are scored. With a source, such as
            `brain:miccai2012`, the references have the labels of that source.
        names: label -> name of its class, in place of a task. None takes the names in the header of
            the first prediction.
        prediction_ending: in a folder, the end of the names of label files, such as
            `_SS_labels.nii.gz`; files without it are left out.
        reference_ending: likewise of the references, such as `_glm.nii.gz`.

    Returns:
        Dice, precision, recall, surface distances and volumes of each file and class; a figure that
        is undefined is None.

    Raises:
        InputError: if a file cannot be used or has no counterpart, or an argument would do nothing:
            `names` beside `task`, or an ending where files are given.

    Example:
        >>> evaluation = mtseg.evaluate_files("labels.nii.gz", "labels.nii.gz")
        >>> evaluation.overall_dice()
        1.0
    """
    from mtseg.api.label_files import pair_files, score_files

    pairs = pair_files(predictions, references, prediction_ending, reference_ending)
    return score_files(pairs, task, names)


def _begin_tensorflow() -> None:
    """Imports TensorFlow without its log lines, and lets its memory on GPUs grow with need."""
    from mtseg.system.devices import let_memory_grow
    from mtseg.system.quiet_tensorflow import import_tensorflow

    import_tensorflow()
    let_memory_grow()
