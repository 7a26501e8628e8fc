"""Devices of a training run, and which of them computes which samples of a mini-batch.

A mini-batch is divided into equal, consecutive shares, one per replica. So the samples of
mini-batch n are the same on one device and on several.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig
from mtseg.system.atomic_files import parse_json
from mtseg.training.engines.engine import share_equally

_SLURM_PORTS = 10_000
"""The first port of a Slurm job's workers is this plus the last four digits of the job's number."""


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a run, and which of them belong to this process.

    Attributes:
        strategy: TensorFlow's strategy.
        num_replicas: number of replicas of the whole run.
        num_local: number of replicas of this process.
        first_local: number of this process's first replica.
        is_chief: whether this process writes checkpoints, curves and evaluations.
    """

    strategy: tf.distribute.Strategy
    num_replicas: int
    num_local: int
    first_local: int
    is_chief: bool

    def check(self, config: TrainConfig) -> None:
        """Refuses a configuration that these replicas cannot compute.

        Raises:
            InputError: if the mini-batch cannot be divided equally, or several replicas would each
                scale the loss of float16 by themselves.
        """
        self.per_replica_batch_size(config.global_batch_size)
        if config.precision == "mixed_float16" and self.num_replicas > 1:
            # Each replica would decide for itself whether to skip an update: weights become NaN or
            # the replicas wait for each other.
            raise InputError(
                f"precision: mixed_float16 trains on one device only, not on {self.num_replicas}. "
                "Give --precision mixed_bfloat16, which needs no scaling of the loss."
            )

    def per_replica_batch_size(self, global_batch_size: int) -> int:
        """Number of samples of a mini-batch that each replica computes.

        Raises:
            InputError: if the mini-batch cannot be divided equally.
        """
        return share_equally(global_batch_size, self.num_replicas)

    def distribute(
        self,
        make_dataset: Callable[[list[slice]], tf.data.Dataset],
        global_batch_size: int,
    ) -> Iterator[Any]:
        """The mini-batches, divided among the replicas of this process.

        Args:
            make_dataset: takes the rows of a mini-batch that each local replica computes, and
                returns a dataset with one element per replica in turn.
            global_batch_size: number of samples in a mini-batch.
        """
        size = self.per_replica_batch_size(global_batch_size)
        mine = range(self.first_local, self.first_local + self.num_local)
        rows = [slice(replica * size, (replica + 1) * size) for replica in mine]
        if self.num_replicas == 1:
            return iter(make_dataset(rows))
        return iter(self.strategy.distribute_datasets_from_function(lambda _: make_dataset(rows)))


def configure_devices(is_deterministic: bool, num_threads: int) -> None:
    """Sets determinism and threads; call it before TensorFlow computes anything.

    Args:
        is_deterministic: whether the same operations give the same results, bit for bit.
        num_threads: threads of an operation; 0 leaves the choice to TensorFlow.

    Raises:
        InputError: if TensorFlow has already started with another number of threads.
    """
    if is_deterministic:
        tf.config.experimental.enable_op_determinism()
    if num_threads and num_threads != tf.config.threading.get_intra_op_parallelism_threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        except RuntimeError as error:
            raise InputError(
                f"num_threads: {num_threads} must be set before TensorFlow computes anything. "
                "Train in a new process."
            ) from error


def make_replicas(name: str) -> Replicas:
    """Finds the devices of a strategy.

    Args:
        name: `default`: one device; `mirrored`: all devices of this machine; `multiworker`: those
            of several machines, as the environment variable TF_CONFIG or Slurm names them. The
            last must be made before TensorFlow computes anything.

    Raises:
        InputError: if neither TF_CONFIG nor Slurm names the workers, or this worker cannot listen
            on its port.
    """
    if name == "default":
        return Replicas(tf.distribute.get_strategy(), 1, 1, 0, True)
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        return Replicas(strategy, len(devices), len(devices), 0, True)
    resolver = _cluster_resolver()
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except tf.errors.UnknownError as error:
        me = resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id)
        raise InputError(
            f"--strategy multiworker: this worker cannot listen at {me} ({error.message}). "
            "Another program may use the port. Give a free one."
        ) from error
    num_replicas = strategy.num_replicas_in_sync
    num_workers = len(resolver.cluster_spec().as_dict().get("worker", [])) or 1
    num_local = num_replicas // num_workers
    # A cluster may call its first worker `chief`; TensorFlow counts it first.
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    if has_chief:
        num_local = num_replicas // (num_workers + 1)
    is_chief = resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)
    worker = 0 if is_chief else resolver.task_id + int(has_chief)
    return Replicas(strategy, num_replicas, num_local, worker * num_local, is_chief)


def _cluster_resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    if "TF_CONFIG" in os.environ:
        try:
            _require_workers(parse_json(os.environ["TF_CONFIG"]))
        except (ValueError, OverflowError, LookupError, TypeError) as error:
            raise InputError(
                f"TF_CONFIG: {os.environ['TF_CONFIG']!r} does not name the workers. It reads "
                '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}.'
            ) from error
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_PROCID" in os.environ:
        return _SlurmCluster()
    raise InputError(
        "--strategy multiworker: neither TF_CONFIG nor Slurm names the workers. Start it "
        "with srun, or set TF_CONFIG; docs/how-to/train.md shows both."
    )


def _require_workers(cluster: Any) -> None:
    """Refuses the content of a TF_CONFIG that TensorFlow cannot use.

    Raises:
        ValueError: if an address is not `HOST:PORT`, or the number of this worker is out of range.
        LookupError: if there are no workers, or none of the kind that this one is.
        TypeError: if something is of another type.
    """
    jobs, task = cluster["cluster"], cluster["task"]
    addresses = {"worker": jobs["worker"], "chief": jobs.get("chief", [])}
    for of_job in addresses.values():
        if not isinstance(of_job, list):
            raise TypeError("no list of addresses")
        if not all(re.fullmatch(r".+:\d+", address) for address in of_job):
            raise ValueError("no address")
    if int(task["index"]) not in range(len(addresses[task["type"]])):
        raise ValueError("no such worker")


class _SlurmCluster(
    tf.distribute.cluster_resolver.SlurmClusterResolver  # has no types
):
    """The tasks of a Slurm step, each with the devices that Slurm lets it see.

    TensorFlow's own class counts the GPUs of a node with nvidia-smi and divides them among its
    tasks. That fails on a node without nvidia-smi, and Slurm has divided the GPUs already.
    """

    def __init__(self) -> None:
        try:
            # This number of GPUs is not used; it only has to be enough for every task.
            super().__init__(
                gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]),
                gpus_per_task=1,
                auto_set_gpu=False,
                # Jobs that share a node must listen on different ports.
                port_base=_SLURM_PORTS + int(os.environ.get("SLURM_JOB_ID", 0)) % 10_000,
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--strategy multiworker: Slurm does not say who the workers are ({error}). Start "
                "it with srun."
            ) from error

    def num_accelerators(
        self, task_type: Any = None, task_id: Any = None, config_proto: Any = None
    ) -> dict[str, int]:
        """The devices that this process sees, as other clusters count them."""
        cluster = tf.distribute.cluster_resolver.ClusterResolver
        devices: dict[str, int] = cluster.num_accelerators(self, task_type, task_id, config_proto)
        return devices
