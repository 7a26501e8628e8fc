"""Which engine is chosen, by what is installed and what is asked for."""

import sys

import pytest

from mtseg.errors import InputError
from mtseg.inference.engines import choice
from mtseg.inference.engines.choice import choose_engine


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(choice, "num_cards", lambda: 0)


@pytest.fixture
def without(monkeypatch):
    """A function that makes packages seem not to be installed."""

    def block(*packages):
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)

    return block


def test_the_fastest_that_is_installed_is_chosen(without, monkeypatch):
    assert choose_engine(None, "weights") == "openvino"
    assert choose_engine(None, "weights", devices="cpu") == "openvino"
    assert choose_engine(None, "weights", devices="1,") == "tensorflow"
    assert choose_engine(None, "SavedModel") == "tensorflow"
    assert choose_engine(None, "run") == "tensorflow"
    monkeypatch.setattr(choice, "num_cards", lambda: 1)
    assert choose_engine(None, "weights") == "tensorflow"
    assert choose_engine(None, "weights", devices="cpu") == "openvino"
    without("tensorflow")
    assert choose_engine(None, "weights") == "openvino"


def test_without_openvino_tensorflow_computes(without):
    without("openvino")
    assert choose_engine(None, "weights") == "tensorflow"
    with pytest.raises(InputError, match="not installed: pip install openvino"):
        choose_engine("openvino", "weights")
    without("tensorflow")
    with pytest.raises(InputError, match="pip install openvino h5py"):
        choose_engine(None, "weights")


def test_a_saved_model_needs_tensorflow(without):
    with pytest.raises(InputError, match="--format weights"):
        choose_engine("openvino", "SavedModel")
    without("tensorflow")
    with pytest.raises(InputError, match=r"needs TensorFlow.*--format weights"):
        choose_engine(None, "SavedModel")


def test_int8_asks_for_openvino(without):
    assert choose_engine(None, "weights", precision="int8") == "openvino"
    assert choose_engine("openvino", "weights", devices="cpu", precision="int8") == "openvino"
    for wanted, devices in (("tensorflow", None), (None, "1,")):
        with pytest.raises(InputError, match="--precision int8: only OpenVINO"):
            choose_engine(wanted, "weights", devices, "int8")
    with pytest.raises(
        InputError, match=r"^--precision int8: .*--format weights; this one is a run"
    ):
        choose_engine(None, "run", precision="int8")
    without("openvino")
    with pytest.raises(InputError, match="pip install openvino"):
        choose_engine(None, "weights", precision="int8")


def test_openvino_computes_on_the_processor_alone():
    assert choose_engine("openvino", "weights", devices="cpu") == "openvino"
    with pytest.raises(InputError, match="--devices cpu"):
        choose_engine("openvino", "weights", devices="1")


def test_an_unknown_engine_is_refused():
    with pytest.raises(InputError, match="Give one of tensorflow, openvino"):
        choose_engine("caffe", "weights")
