"""The SavedModel in TensorFlow's C runtime, which is what serves it: no Python, the same labels."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.models.test_signatures import make_scan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("c_api") / "segment"
    library = Path(tf.sysconfig.get_lib())
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Werror", f"-I{tf.sysconfig.get_include()}",
         str(Path(__file__).with_name("segment.c")), "-o", str(path), f"-L{library}",
         "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("shape", "is_ct"),
    [
        pytest.param((9, 12, 7), False, marks=pytest.mark.thorough),
        ((5, 3, 20), True),
    ],
)
def test_the_labels_are_those_of_python(program, serving_folder, shape, is_ct):
    version = serving_folder / "mtseg" / "1"
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((version / "saved_model.pb").read_bytes())
    signature = saved_model.meta_graphs[0].signature_def["serving_default"]
    input_op, _ = signature.inputs["volume"].name.split(":")
    output_op, number = signature.outputs["labels"].name.split(":")

    scan = make_scan(shape, is_ct=is_ct)
    command = [program, version, input_op, output_op, number, *shape]
    run = subprocess.run(list(map(str, command)), input=scan.tobytes(), capture_output=True)
    assert run.returncode == 0, run.stderr
    labels = np.frombuffer(run.stdout, np.uint8).reshape(shape)
    model = tf.saved_model.load(str(version))
    expected = model.signatures["serving_default"](volume=tf.constant(scan[np.newaxis]))["labels"]
    assert labels.any()
    np.testing.assert_array_equal(labels, expected[0])
