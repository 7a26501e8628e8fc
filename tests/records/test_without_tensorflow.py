"""Volumes are read and patches are cut where TensorFlow cannot be imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mtseg.records.prepared import prepared_dir

SCRIPT = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
import numpy as np
from mtseg.batches.volume_patches import open_volumes
from mtseg.records.reading import read_volumes

data_dir, out = sys.argv[1:]
(scan,) = read_volumes(data_dir, "brain", "phantom", "test")
store = open_volumes(data_dir, "brain", "phantom")
patches = store.cut(np.arange(7), store.num_samples // 2)
np.savez(out, image=scan.image, classes=scan.class_index_map, affine=scan.affine, patches=patches)
"""


def test_volumes_are_read_and_cut_without_tensorflow(tiny_data, tmp_path):
    """The same scan as TFDS reads, and the same patches as in a process with TensorFlow."""
    from mtseg.batches.volume_patches import open_volumes

    out = tmp_path / "read.npz"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny_data.data_dir, out],
        check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    read = np.load(out)
    folder = prepared_dir(tiny_data.data_dir, "brain", "phantom", "volumes")
    (by_tfds,) = tfds.builder_from_directory(folder).as_data_source(split="test")
    np.testing.assert_array_equal(read["image"], by_tfds["image"])
    np.testing.assert_array_equal(read["classes"], by_tfds["class_index_map"])
    np.testing.assert_array_equal(read["affine"], by_tfds["affine"])
    store = open_volumes(tiny_data.data_dir, "brain", "phantom")
    expected = store.cut(np.arange(7), store.num_samples // 2)
    assert expected.any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(read["patches"], expected)
