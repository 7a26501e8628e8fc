"""What TensorFlow cannot compute, and what its errors mean for the user."""

import json
from pathlib import Path

import pytest
import tensorflow as tf

from mtseg.errors import InputError, WorkerLostError
from mtseg.runs.config import TrainConfig
from mtseg.training.engines.strategies import Replicas, make_replicas
from mtseg.training.engines.tensorflow_engine import explain_error

RUN = Path("run")


def replicas(count=2):
    return Replicas(None, count, count, 0, True)


def config(**changes):
    return TrainConfig("breast:phantom", "data", **{"strategy": "multiworker", **changes})


def explain(kind, message, **changes):
    return explain_error(kind(None, None, message), RUN, config(**changes), replicas())


@pytest.mark.parametrize(
    "message",
    [
        "Failed copying input tensor from CPU:0 to GPU:0: CUDA_ERROR_ILLEGAL_ADDRESS",
        "Failed to launch a kernel on /job:worker/replica:0/task:1/device:GPU:0",
        "Blas GEMM launch failed",
        "cuDNN launch failure : input shape ([210,53,53,32])",
    ],
)
def test_a_device_that_failed_is_not_another_worker(message):
    error = explain(tf.errors.InternalError, message + "\n\t [[{{node Conv2D}}]]")
    assert type(error) is RuntimeError
    assert str(error).startswith(f"run: a device of this worker failed: {message}.")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tf.errors.InternalError, "Collective ops is aborted by: task 1 died"),
        (tf.errors.InternalError, "RPC failed: Connection reset by peer"),
        (tf.errors.UnavailableError, "failed to connect to all addresses"),
        (tf.errors.AbortedError, "Cleanup"),
        (tf.errors.CancelledError, "RPC Request was cancelled"),
    ],
)
def test_another_worker_that_was_lost_is_said_so(kind, message):
    error = explain(kind, message)
    assert type(error) is WorkerLostError
    assert "another worker was lost" in str(error)


def test_on_one_machine_an_internal_error_stays_what_it_is():
    assert explain(tf.errors.InternalError, "CUDA_ERROR", strategy="mirrored") is None
    assert explain(tf.errors.InvalidArgumentError, "shapes") is None


@pytest.mark.parametrize("strategy", ["default", "multiworker"])
def test_memory_that_is_too_small_is_one_line_with_the_samples_of_a_device(strategy):
    error = explain(tf.errors.ResourceExhaustedError, "OOM when allocating", strategy=strategy)
    assert type(error) is InputError
    assert "too small for 105 samples" in str(error)  # half of 210


def test_float16_on_several_replicas_is_refused_and_bfloat16_recommended():
    with pytest.raises(InputError, match=r"mixed_float16.*one device only, not on 2.*bfloat16"):
        replicas(2).check(config(precision="mixed_float16"))
    replicas(1).check(config(precision="mixed_float16"))
    replicas(2).check(config(precision="mixed_bfloat16"))


def test_a_mini_batch_that_does_not_divide_names_the_numbers_of_devices_that_do():
    with pytest.raises(InputError, match=r"6, 7 of them \(mtseg-train --devices 7\)") as error:
        replicas(8).check(config(global_batch_size=210))
    assert "multiple of 8" in str(error.value)
    replicas(7).check(config(global_batch_size=210))


@pytest.mark.parametrize(
    ("workers", "kind", "index"),
    [
        (["a:1", "b:1"], "worker", 2),
        (["a:1"], "worker", -1),
        (["a:1"], "worker", "first"),
        (["a:1"], "chief", 0),
        (["a:1"], "evaluator", 0),
        (["a"], "worker", 0),
        ([1], "worker", 0),
        ([], "worker", 0),
        ("a:1", "worker", 0),
    ],
)
def test_a_worker_that_its_cluster_does_not_have_is_refused(monkeypatch, workers, kind, index):
    cluster = {"cluster": {"worker": workers}, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(InputError, match=r"TF_CONFIG: .* does not name the workers"):
        make_replicas("multiworker")
