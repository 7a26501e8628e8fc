"""A scan is segmented where TensorFlow, Keras and JAX cannot be imported."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mtseg.cli import predict
from mtseg.models.export import export_weights

SCRIPT = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorboard", "keras", "jax", "absl"):
    sys.modules[name] = None
from mtseg.cli.predict import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def segment(random_run, tmp_path_factory):
    """Predicts a small scan in a process of its own: a function of a folder and more arguments."""
    folder = tmp_path_factory.mktemp("without")
    model = folder / "model"
    export_weights(random_run[0], model)
    scan = folder / "scan.nii.gz"
    image = np.random.default_rng(0).integers(20, 900, (14, 12, 10)).astype(np.int16)
    image[:3, :3] = 0
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), scan)
    options = [str(scan), "--model", str(model), "--precision", "float32", "--spacing-mm", "1"]
    options.append("--probabilities")

    def run(name, *arguments, blocked=True):
        out = folder / name
        command = [*options, "-o", str(out), *arguments]
        if not blocked:
            assert predict.main(command) == 0
            return out, ""
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *command], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return out, done.stdout

    return run


def test_from_the_command_to_the_label_file(segment):
    """Labels and probabilities are those that TensorFlow gives."""
    out, printed = segment("out")
    assert "Computing with OpenVINO on" in printed
    expected, _ = segment("expected", "--engine", "tensorflow", blocked=False)
    for name, tolerance in (("labels", 0), ("probabilities", 1 / 255)):
        computed, by_tensorflow = (
            nibabel.load(folder / f"scan_{name}.nii.gz").get_fdata() for folder in (out, expected)
        )
        assert by_tensorflow.std() > 0.1
        np.testing.assert_allclose(computed, by_tensorflow, rtol=0, atol=tolerance + 1e-6)
    for folder, engine in ((out, "openvino"), (expected, "tensorflow")):
        assert json.loads((folder / "scan_verdict.json").read_text())["engine"] == engine


@pytest.mark.parametrize(
    ("name", "extra"),
    [("requirements-predict.txt", "openvino"), ("requirements-client.txt", "client")],
)
def test_the_lists_of_what_prediction_needs_have_the_packages_floors(name, extra):
    root = Path(__file__).parents[2]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    known = setup["options"]["install_requires"] + setup["options.extras_require"][extra]
    lines = (root / name).read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert len(wanted) > 3
    assert set(wanted) <= {line.strip() for line in known.splitlines()}
