"""What `import mtseg` offers: few names, and no TensorFlow until one of them needs it."""

import subprocess
import sys

import pytest

import mtseg


def test_the_public_names_are_listed_and_can_be_had():
    assert set(mtseg.__all__) <= set(dir(mtseg))
    for name in mtseg.__all__:
        assert getattr(mtseg, name)


def test_a_public_name_is_the_object_of_its_module():
    from mtseg.errors import InputError
    from mtseg.prediction.outcome import Segmentation
    from mtseg.runs.config import TrainConfig

    assert mtseg.InputError is InputError
    assert mtseg.TrainConfig is TrainConfig
    assert mtseg.Segmentation is Segmentation


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'mtseg' has no attribute 'predict'"):
        _ = mtseg.predict


def test_arguments_of_load_that_would_do_nothing_are_refused():
    from mtseg.serving.address import ServerOptions

    with pytest.raises(mtseg.InputError, match="engine: is for computing in this process"):
        mtseg.load("grpc://localhost:1", engine="openvino")
    with pytest.raises(mtseg.InputError, match="options: are for a server"):
        mtseg.load(options=ServerOptions())


def test_names_are_listed_without_importing_anything_heavy():
    code = (
        "import sys, mtseg; dir(mtseg); mtseg.InputError, mtseg.segment, mtseg.load, mtseg.train\n"
        "assert not {'tensorflow', 'keras', 'nibabel', 'scipy', 'numpy'} & set(sys.modules)\n"
        "mtseg.TrainConfig, mtseg.Segmentation\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
