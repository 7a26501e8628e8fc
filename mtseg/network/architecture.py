"""The sizes of the network, for code that computes with it and for code that only plans.

They are the paper's. This module imports no Keras, so that a scan can be prepared and divided into
tiles without it.

Reference: Moeskops et al., MICCAI 2016, section 3.1.
"""

from __future__ import annotations

from mtseg.scans.patches import PATCH_SIZE

NUM_CONVOLUTIONS = 25
"""Convolutions that the planes share. Each takes one voxel off every side: 51 - 2 × 25 = 1."""

NUM_FEATURES = 32
"""Kernels of each shared convolution, so also the features of each plane."""

KERNEL_SIZE = 3
"""Voxels along each side of these kernels."""

NUM_HEAD_UNITS = 192
"""Nodes of each of the two fully connected layers."""

HALO = PATCH_SIZE // 2
"""Voxels that a patch reaches beyond its centre, in each direction of its plane."""

PLANE_NORMALS = {"axial": 2, "coronal": 1, "sagittal": 0}
"""For each plane, the axis of a volume (I, J, K) that is perpendicular to it. Its order is the
order of the model's inputs."""

BATCH_NORM_EPSILON = 1e-3
"""Added to the variance in batch normalisation: Keras's default. The paper does not say."""
