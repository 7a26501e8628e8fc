"""Devices, with fakes of TensorFlow's functions: GPUs are hidden from these tests."""

import ctypes
import dataclasses
from types import SimpleNamespace

import pytest
import tensorflow as tf

from mtseg.errors import InputError
from mtseg.runs.config import configure
from mtseg.system import devices, hardware


@dataclasses.dataclass(frozen=True)
class Gpu:
    name: str


@dataclasses.dataclass
class Machine:
    """What TensorFlow would say of a machine's GPUs, and what it was told."""

    names: list
    capability: tuple = (9, 0)
    has_started: bool = False
    limits: list | None = None

    def __post_init__(self):
        self.gpus = [Gpu(f"/physical_device:GPU:{n}") for n in range(len(self.names))]
        self.visible, self.growing = list(self.gpus), []

    def set_visible(self, chosen, kind):
        assert kind == "GPU"
        if self.has_started:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = list(chosen)

    def set_growth(self, gpu, is_on):
        if self.has_started:
            raise RuntimeError("Physical devices cannot be modified after being initialized")
        assert is_on
        self.growing.append(gpu)

    def details(self, gpu):
        return {
            "device_name": self.names[self.gpus.index(gpu)],
            "compute_capability": self.capability,
        }


@pytest.fixture
def machine(monkeypatch):
    def put(*names, **how):
        found = Machine(list(names), **how)
        config = tf.config
        monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: found.gpus)
        monkeypatch.setattr(config, "get_visible_devices", lambda kind=None: found.visible)
        monkeypatch.setattr(config, "set_visible_devices", found.set_visible)
        monkeypatch.setattr(
            config, "get_logical_device_configuration", lambda gpu: found.limits, raising=True
        )
        monkeypatch.setattr(config.experimental, "set_memory_growth", found.set_growth)
        monkeypatch.setattr(config.experimental, "get_device_details", found.details)
        return found

    return put


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, [0, 1, 2, 3]), ("2", [0, 1]), ("0,3", [0, 3]), ("3,", [3]), ("2,1", [1, 2]),
     (" 4 ", [0, 1, 2, 3]), ("cpu", [])],
)  # fmt: skip
def test_gpus_are_chosen_and_their_memory_grows(machine, text, numbers):
    found = machine(*["NVIDIA H200"] * 4)
    devices.choose_devices(text)
    assert found.visible == found.growing == [found.gpus[n] for n in numbers]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", r"--devices 3: TensorFlow finds 2 GPUs, numbers 0 to 1"),
        ("2,", r"--devices 2,: TensorFlow finds 2 GPUs"),
        ("0", "neither a number"),
        ("00", "neither a number"),
        ("999999999", "finds 2 GPUs"),
        ("9" * 5000, "neither a number"),
        ("-1", "neither a number"),
        ("gpu", "neither a number"),
        (",", "neither a number"),
        ("1,,2", "neither a number"),
    ],
)
def test_devices_that_are_not_there_are_refused(machine, text, message):
    machine("NVIDIA H200", "NVIDIA H200")
    with pytest.raises(InputError, match=message):
        devices.choose_devices(text)


def test_several_gpus_are_refused_where_one_computes(machine):
    found = machine("NVIDIA H200", "NVIDIA H200")
    with pytest.raises(InputError, match=r"one GPU computes here.*--strategy mirrored"):
        devices.choose_devices("2", is_one=True)
    devices.choose_devices("1,", is_one=True)
    assert found.visible == [found.gpus[1]]
    found = machine("NVIDIA H200", "NVIDIA H200")
    devices.choose_devices(None, is_one=True)  # nobody asked for both
    assert found.visible == found.gpus


def test_without_gpus_there_is_one_device(machine):
    machine()
    for text in (None, "cpu", "1"):
        devices.choose_devices(text)
    with pytest.raises(InputError, match="finds no GPU"):
        devices.choose_devices("2")


def test_devices_can_not_be_chosen_after_the_start(machine):
    machine("NVIDIA H200", "NVIDIA H200", has_started=True)
    devices.choose_devices(None)  # as they are
    with pytest.raises(InputError, match="before TensorFlow computes"):
        devices.choose_devices("1")


def test_a_line_says_what_computes(machine, monkeypatch):
    machine("NVIDIA H200", "NVIDIA H200")
    assert devices.describe_devices() == "1 GPU: NVIDIA H200"
    assert devices.describe_devices(are_all=True) == "2 GPUs: NVIDIA H200"
    machine("NVIDIA H200", "NVIDIA L4")
    assert devices.describe_devices(are_all=True) == "2 GPUs: NVIDIA H200, NVIDIA L4"
    machine()
    monkeypatch.setattr(hardware, "processor_name", lambda: "AMD EPYC 9654")
    for cores, line in ((2, "2 processor cores"), (1, "1 processor core")):
        monkeypatch.setattr(hardware, "num_cores", lambda cores=cores: cores)
        assert devices.describe_devices() == f"{line}: AMD EPYC 9654"


def test_a_machine_is_described_by_what_computed():
    on_gpu = hardware.describe_machine("1 GPU: NVIDIA H200")
    assert hardware.format_machine(on_gpu).startswith("1 GPU: NVIDIA H200; ")
    on_card = hardware.format_machine(hardware.describe_machine("NVIDIA H200"))
    assert on_card.startswith("NVIDIA H200; ")  # as networks that are imported name theirs
    on_processor = hardware.format_machine(hardware.describe_machine("2 processor cores: EPYC"))
    assert on_processor.startswith(hardware.processor_name())
    # As stored by earlier versions.
    earlier = {name: value for name, value in on_gpu.items() if name != "device"}
    assert hardware.format_machine(earlier) == on_processor


class Driver:
    """In place of NVIDIA's library: a card of 141 GB in which 1 GB is left."""

    def __init__(self, code=0):
        self.code, self.asked = code, []

    def cuInit(self, flags):
        return self.code

    def cuDeviceGet(self, device, number):
        self.asked.append(number)
        device._obj.value = number
        return 0

    def cuDeviceTotalMem_v2(self, total, device):
        total._obj.value = 141_000_000_000
        return 0


def test_the_memory_of_a_gpu_is_what_the_card_has_not_what_tensorflow_left(machine, monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(devices, "_bytes_left", lambda: 10**9)
    found = machine(*["NVIDIA H200"] * 4)
    devices.choose_devices("3,")
    assert devices.gpu_bytes() == 141_000_000_000
    assert driver.asked == [3]
    found.limits = [SimpleNamespace(memory_limit=20_000)]  # in MiB, as TensorFlow was told
    assert devices.gpu_bytes() == 20_000 * 2**20
    found.limits = [SimpleNamespace(memory_limit=None)]
    driver.code = 100  # the driver fails
    assert devices.gpu_bytes() == 10**9


def test_another_vendors_gpu_has_what_tensorflow_reports(machine, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(devices, "_bytes_left", lambda: 10**9)
    machine("AMD Instinct MI300X")
    assert devices.gpu_bytes() == 10**9
    machine()
    assert devices.gpu_bytes() is None


@pytest.mark.parametrize("has_instructions", [True, False])
def test_the_fast_precision_is_that_of_the_device(machine, monkeypatch, has_instructions):
    """Whatever the processor of a machine with a GPU has."""
    monkeypatch.setattr(devices, "has_bfloat16_instructions", lambda: has_instructions)
    found = machine("NVIDIA H200")
    assert configure("fast", "brain", "data").precision == "mixed_bfloat16"
    found.capability = (7, 5)
    assert configure("fast", "brain", "data").precision == "float32"
    machine()
    expected = "mixed_bfloat16" if has_instructions else "float32"
    assert configure("fast", "brain", "data").precision == expected


def test_a_processor_says_whether_it_multiplies_bfloat16(tmp_path):
    (tmp_path / "with").write_text("flags\t\t: fpu avx512_bf16 sse\n")
    (tmp_path / "without").write_text("flags\t\t: fpu sse\n")
    assert hardware.has_bfloat16_instructions(str(tmp_path / "with"))
    assert not hardware.has_bfloat16_instructions(str(tmp_path / "without"))
    assert not hardware.has_bfloat16_instructions(str(tmp_path / "missing"))


def test_tests_see_no_gpu():
    assert tf.config.get_visible_devices("GPU") == []


@pytest.fixture
def jax_machine(monkeypatch):
    """A machine as JAX would see it, and what JAX was told."""
    jax = pytest.importorskip("jax")

    def put(*names, capability="9.0"):
        told = {}
        gpus = [
            SimpleNamespace(platform="gpu", device_kind=name, compute_capability=capability)
            for name in names
        ]
        seen = gpus or [SimpleNamespace(platform="cpu", device_kind="cpu")]
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
        monkeypatch.setattr(devices, "num_cards", lambda: len(names))
        monkeypatch.setattr(jax, "local_devices", lambda: seen)
        monkeypatch.setattr(jax.config, "update", told.__setitem__)
        return told

    return put


def test_jax_is_told_its_devices_before_it_starts(jax_machine):
    told = jax_machine(*["NVIDIA H200"] * 4)
    devices.choose_devices(None)
    assert told == {}
    devices.choose_devices("0,3")
    assert told.pop("jax_cuda_visible_devices") == "0,3"
    devices.choose_devices("cpu")
    assert told == {"jax_platforms": "cpu"}
    with pytest.raises(InputError, match="JAX finds 4 GPUs"):
        devices.choose_devices("5")
    with pytest.raises(InputError, match="one GPU computes here"):
        devices.choose_devices("2", is_one=True)


def test_what_jax_computes_on_is_described_and_has_bfloat16_or_not(jax_machine):
    jax_machine("NVIDIA H200", "NVIDIA H200")
    assert devices.describe_devices() == "1 GPU: NVIDIA H200"
    assert devices.describe_devices(are_all=True) == "2 GPUs: NVIDIA H200"
    assert configure("fast", "breast", "data").precision == "mixed_bfloat16"
    jax_machine("Tesla T4", capability="7.5")
    assert configure("fast", "breast", "data").precision == "float32"
    jax_machine()  # whatever instructions the processor has
    assert "processor core" in devices.describe_devices()
    assert configure("fast", "breast", "data").precision == "float32"
