"""The network: three patches or a whole volume come in, class probabilities leave.

Two models of the same layers. The patch model is trained: it sees three orthogonal patches centred
at a voxel. The dense model runs the same layers over every slice of a volume and gives at every
voxel what the patch model gives there, 833 times cheaper a voxel, because neighbouring patches
share their convolutions.

Volumes are RAS+ with axes (i, j, k). Planes always come in the order axial, coronal, sagittal. An
axial patch has rows i and columns j, a coronal one i and k, a sagittal one j and k.

Reference: Moeskops et al., MICCAI 2016, section 3.1.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from mtseg.batch_norm import FusedBatchNormalization

PATCH_SIZE = 51
"""Voxels along each side of a patch."""

NUM_CONVOLUTIONS = 25
"""Layers of the shared stack. Each takes a voxel off every side: 51 - 2 * 25 = 1."""

NUM_FEATURES = 32
"""Kernels of every layer of the stack, and features that it gives for each plane."""

KERNEL_SIZE = 3
"""Voxels along each side of the stack's kernels."""

NUM_HEAD_UNITS = 192
"""Nodes of each of the two fully connected layers."""

DROPOUT_RATE = 0.5
"""Share of the fully connected layers' outputs that a training step leaves out."""

HALO = PATCH_SIZE // 2
"""Voxels that a patch reaches beyond its centre, in each direction of its plane."""

KERNEL_INITIALIZER = "he_normal"
"""Variance 2 / inputs, for activations that pass their positive half. The paper is silent: this is
the project's choice."""

_PLANE_NORMALS = {"axial": 3, "coronal": 2, "sagittal": 1}
"""For each plane the axis of (1, I, J, K, features) that it is perpendicular to."""

_HEAD = "head"
_SHARED_STACK = "shared_convolutions"


def build_patch_model(
    num_classes: int,
    *,
    dropout_rate: float = DROPOUT_RATE,
    batch_norm_momentum: float = 0.99,
    is_synchronized: bool = False,
) -> keras.Model:
    """Builds the network that is trained: three patches give a voxel's class probabilities.

    Args:
        num_classes: classes of all tasks together, the one shared background included.
        dropout_rate: share of outputs left out after each fully connected layer in training.
        batch_norm_momentum: share of a moving average that a training step keeps. The default is
            Keras's.
        is_synchronized: whether the statistics of a mini-batch are taken over all replicas.

    Returns:
        A functional model. It takes a dictionary of `axial`, `coronal` and `sagittal`, each float32
        (batch, rows, columns, 1), intensities as prepared and zero beyond the scan's border. It
        gives float32 probabilities (batch, rows - 50, columns - 50, num_classes), so
        (batch, 1, 1, num_classes) for patches of 51 × 51. The layer `logits` holds what goes into
        the softmax. With 9 classes there are 283,241 parameters.

    Example:
        >>> model = build_patch_model(9)
        >>> patch = np.zeros((4, 51, 51, 1), "float32")
        >>> model({"axial": patch, "coronal": patch, "sagittal": patch}).shape
        TensorShape([4, 1, 1, 9])
    """
    batch_norm = {"momentum": batch_norm_momentum, "synchronized": is_synchronized}

    # === Inputs ===
    inputs = {name: keras.Input((None, None, 1), name=name) for name in _PLANE_NORMALS}

    # === The convolutions that the three planes share ===
    # One call for the three planes, so that one set of batch statistics serves them all: three
    # calls would normalise each plane by its own in training, but by a pooled average afterwards.
    planes = layers.Concatenate(axis=0, name="planes")(list(inputs.values()))
    features = _build_shared_convolutions(batch_norm)(planes)
    features = ops.split(features, len(inputs), axis=0)
    x = layers.Concatenate(axis=-1, name="features")(features)

    # === Head: fully connected layers as 1×1 convolutions ===
    for number in (1, 2):
        for layer in _head_layers(number, batch_norm, dropout_rate):
            x = layer(x)
    # Under a mixed precision policy the scores and the softmax stay float32.
    x = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    outputs = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="patch_model")


def _build_shared_convolutions(batch_norm: dict[str, Any]) -> keras.Sequential:
    stack = keras.Sequential(name=_SHARED_STACK)
    for number in range(1, NUM_CONVOLUTIONS + 1):
        stack.add(
            layers.Conv2D(
                NUM_FEATURES,
                KERNEL_SIZE,
                use_bias=False,
                kernel_initializer=KERNEL_INITIALIZER,
                name=f"convolution_{number}",
            )
        )
        stack.add(FusedBatchNormalization(name=f"batch_norm_{number}", **batch_norm))
        stack.add(layers.ELU(name=f"elu_{number}"))
    return stack


def _head_layers(number: int, batch_norm: dict[str, Any], dropout_rate: float) -> list[keras.Layer]:
    return [
        layers.Conv2D(
            NUM_HEAD_UNITS,
            1,
            use_bias=False,
            kernel_initializer=KERNEL_INITIALIZER,
            name=f"{_HEAD}_{number}_convolution",
        ),
        FusedBatchNormalization(name=f"{_HEAD}_{number}_batch_norm", **batch_norm),
        layers.ELU(name=f"{_HEAD}_{number}_elu"),
        layers.Dropout(dropout_rate, name=f"{_HEAD}_{number}_dropout"),
    ]


def patch_logits_model(patch_model: keras.Model) -> keras.Model:
    """The same layers up to what goes into the softmax, for a loss that wants logits.

    Args:
        patch_model: from `build_patch_model`.

    Returns:
        A model with the same inputs; it gives float32 (batch, rows - 50, columns - 50, classes).
    """
    return keras.Model(
        patch_model.input, patch_model.get_layer("logits").output, name="patch_logits_model"
    )


def build_dense_model(patch_model: keras.Model) -> keras.Model:
    """Builds the network that segments a whole volume from the layers of a patch model.

    The layers are the same objects, so training the one trains the other. To keep a dense model,
    save the patch model and build it again.

    Args:
        patch_model: from `build_patch_model`, or loaded from a file of one.

    Returns:
        A functional model from `volume`, float32 (1, I, J, K, 1), to probabilities, float32
        (1, I, J, K, num_classes). Beyond the volume's border there are zeros, as for patches. At
        voxels without intensity it gives what the patch model would give there; that they are
        background is a rule of `mtseg.dense`.
    """
    stack = patch_model.get_layer(_SHARED_STACK)
    head = keras.Sequential(
        [layer for layer in patch_model.layers if layer.name.startswith(f"{_HEAD}_")]
        + [patch_model.get_layer("logits"), patch_model.get_layer("probabilities")],
        name=_HEAD,
    )
    volume = keras.Input((None, None, None, 1), batch_size=1, name="volume")
    features = [
        SliceBySlice(stack, axis, NUM_FEATURES, halo=HALO, name=plane)(volume)
        for plane, axis in _PLANE_NORMALS.items()
    ]
    x = layers.Concatenate(axis=-1, name="features")(features)
    num_classes = patch_model.output.shape[-1]
    outputs = SliceBySlice(head, 1, num_classes, name="probabilities")(x)
    return keras.Model(volume, outputs, name="dense_model")


class SliceBySlice(layers.Layer):
    """Runs a two-dimensional model over every slice of a volume, a few slices at a time.

    Args:
        model: takes (1, rows, columns, features), gives (1, rows - 2 · halo, columns - 2 · halo,
            num_features).
        axis: which axis of (1, I, J, K, features) the slices are perpendicular to: 1, 2 or 3.
        num_features: features that `model` gives.
        halo: zeros laid around each slice, so that it keeps its size.
    """

    def __init__(
        self, model: keras.Model, axis: int, num_features: int, *, halo: int = 0, **kwargs: Any
    ) -> None:
        # The model's own layers know which type they compute in.
        super().__init__(autocast=False, **kwargs)
        self._model, self._axis, self._num_features, self._halo = model, axis, num_features, halo
        # Compiled, it would be compiled anew for every size of volume.
        self.supports_jit = False

    def call(self, volume: Any) -> Any:
        """Returns (1, I, J, K, num_features) for (1, I, J, K, features)."""
        padding = ((0, 0), (self._halo, self._halo), (self._halo, self._halo), (0, 0))

        def run(number: Any) -> Any:
            # Slices are taken one by one: mapping over them would first copy the whole volume.
            image = ops.take(volume, number, axis=self._axis)
            return self._model(ops.pad(image, padding), training=False)[0]

        outputs = ops.map(run, ops.arange(ops.shape(volume)[self._axis]))
        return ops.moveaxis(outputs, 0, self._axis - 1)[None]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape with the model's features."""
        return (*input_shape[:-1], self._num_features)
