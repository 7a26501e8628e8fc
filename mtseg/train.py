"""Training: a configuration and a folder come in, weights, checkpoints and curves leave.

`train_and_evaluate(config, workdir)` is the whole interface. The same call again goes on from the
latest checkpoint.

Reference: Moeskops et al., MICCAI 2016, sections 3.2 and 4.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtseg import workdir as folder
from mtseg.class_priors import score_shift
from mtseg.config import TrainConfig
from mtseg.dense import make_dense_network
from mtseg.errors import InputError
from mtseg.evaluate import Evaluation, evaluate_model
from mtseg.input_pipeline import make_dataset, open_balanced_patches
from mtseg.model import patch_logits_model
from mtseg.prepared import count_test_scans
from mtseg.progress import Progress, format_duration
from mtseg.tasks import LabelSpace, parse_tasks


def train_and_evaluate(config: TrainConfig, workdir: str | Path, command: str = "") -> Evaluation:
    """Trains a network and evaluates it on the test scans of its tasks.

    Args:
        config: what to train.
        workdir: the run's folder; made if missing. A folder that already holds the same
            configuration is gone on with.
        command: the command line, kept with the figures.

    Returns:
        The evaluation after the last mini-batch.

    Raises:
        InputError: if data is not prepared, the folder holds another configuration, or the loss
            is no longer finite.
    """
    workdir = Path(workdir)
    label_space = parse_tasks(config.tasks)
    num_test_scans = count_test_scans(config.data_dir, label_space)
    patches = open_balanced_patches(config.data_dir, label_space, config.seed)
    _claim_workdir(workdir, config, label_space)

    trainer = _Trainer(config, label_space, workdir, num_test_scans)
    total = config.minibatches_per_task * len(label_space.selections)
    evaluate_every = config.evaluate_every * len(label_space.selections)
    start = trainer.restore()
    dataset = make_dataset(patches, config.global_batch_size, start=start, stop=total)
    if start:
        print(f"Going on after mini-batch {start} of {total}.", flush=True)

    evaluation = trainer.stored_evaluation(start) if start == total else None
    losses: list[tf.Tensor] = []
    since = time.monotonic()
    with Progress("Training", total, "mini-batches", done=start) as progress:
        for step, batch in enumerate(trainer.distribute(dataset), start + 1):
            losses.append(trainer.step(*batch))
            is_end = step == total
            is_evaluation = is_end or step % evaluate_every == 0
            is_checkpoint = is_evaluation or step % config.checkpoint_every == 0
            if step == start + 1:
                # The first step traces the graph; the speed is that of the steps after it.
                _ = float(losses[-1])
                progress.say(f"First step after {time.monotonic() - since:.0f} s.")
                since = time.monotonic()
                losses_before_since = 1
            if is_checkpoint or step % 10 == 0:
                loss = _mean_finite_loss(losses, step)
                elapsed = time.monotonic() - since
                speed = (len(losses) - losses_before_since) * config.global_batch_size / elapsed
                trainer.summarise(step, loss, speed)
                left = (total - step) * config.global_batch_size / max(speed, 1e-9)
                if step - start <= 10:
                    progress.say(
                        f"{speed:.0f} samples/s: {total} mini-batches of "
                        f"{config.global_batch_size} take about {format_duration(left)} more, "
                        "evaluations not counted."
                    )
                progress.advance(len(losses), f"loss {loss:.3f}, {speed:.0f} samples/s")
                losses, losses_before_since = [], 0
                since = time.monotonic()
            if is_evaluation:
                evaluation = trainer.evaluate(step, progress, command)
                since = time.monotonic()
            if is_checkpoint:
                trainer.save(step)
    if evaluation is None:
        evaluation = trainer.evaluate(total, None, command)
    return evaluation


def _claim_workdir(workdir: Path, config: TrainConfig, label_space: LabelSpace) -> None:
    """Writes the configuration into a new folder, or checks that an old one has the same."""
    if (workdir / folder.CONFIG).is_file():
        stored, _ = folder.read_config(workdir)
        if differences := stored.differences(config):
            raise InputError(
                f"{workdir}: holds a run of another configuration (there / now: "
                f"{'; '.join(differences)}). Give the same flags to go on with it, or another "
                "--workdir."
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        folder.write_json(workdir / folder.LABEL_SPACE, label_space.to_json())
        folder.write_aside(
            workdir / folder.CONFIG, lambda aside: aside.write_text(config.to_json())
        )
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}). Give another --workdir."
        ) from error


def _mean_finite_loss(losses: list[tf.Tensor], step: int) -> float:
    loss = float(np.mean([float(value) for value in losses]))
    if not np.isfinite(loss):
        raise InputError(
            f"the loss is {loss} within the {len(losses)} mini-batches before number {step}; "
            "training has stopped, and the weights of the checkpoint before are kept. Lower "
            "--learning-rate, or raise --warmup-minibatches."
        )
    return loss


def _mean(dice: dict[str, float | None]) -> float:
    """Mean over the classes that the test scans have; 0 if they have none."""
    known = [value for value in dice.values() if value is not None]
    return float(np.mean(known)) if known else 0.0


def _make_strategy(name: str) -> tf.distribute.Strategy:
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _learning_rate(config: TrainConfig, total: int) -> Any:
    if config.schedule == "constant" and not config.warmup_minibatches:
        return config.learning_rate
    warmup = config.warmup_minibatches
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(total - warmup, 1),
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


class _Trainer:
    """The state of a run: model, optimiser, checkpoints and summaries."""

    def __init__(
        self, config: TrainConfig, label_space: LabelSpace, workdir: Path, num_test_scans: int
    ) -> None:
        self._config, self._label_space, self._workdir = config, label_space, workdir
        self._num_test_scans = num_test_scans
        self._strategy = _make_strategy(config.strategy)
        replicas = self._strategy.num_replicas_in_sync
        if config.global_batch_size % replicas:
            raise InputError(
                f"global_batch_size: {config.global_batch_size} samples cannot be shared equally "
                f"by {replicas} replicas. Give --global-batch-size a multiple of {replicas}."
            )
        keras.utils.set_random_seed(config.seed)
        total = config.minibatches_per_task * len(label_space.selections)
        with self._strategy.scope():
            self._model = folder.build_model(
                config, label_space, precision=config.precision, replicas=replicas
            )
            self._logits = patch_logits_model(self._model)
            self._optimizer = keras.optimizers.Adam(
                _learning_rate(config, total), beta_2=config.adam_beta_2
            )
            self._optimizer.build(self._model.trainable_variables)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Where dropout's masks have come to is no weight, so a checkpoint of the model lacks it.
        weights = {weight.path for weight in self._model.weights}
        dropout = [v.value for v in self._model.variables if v.path not in weights]
        self._checkpoints = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=self._model, optimizer=self._optimizer, step=self._step, dropout=dropout
            ),
            str(workdir / "checkpoints"),
            max_to_keep=config.keep,
        )
        self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        with self._writer.as_default(step=0):
            tf.summary.text("configuration", f"```\n{config.to_json()}```")
        # Evaluated as it will be used: with float32 weights, whatever the precision of training.
        self._evaluated = folder.build_model(config, label_space)
        self._dense = make_dense_network(self._evaluated)
        self._score_shift = (
            score_shift(config.data_dir, label_space)
            if config.class_priors == "natural"
            else np.zeros(label_space.num_classes, np.float32)
        )
        self.step = tf.function(self._distributed_step)

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """The dataset as the strategy's replicas read it."""
        return self._strategy.experimental_distribute_dataset(dataset)

    def _distributed_step(self, planes: dict[str, tf.Tensor], class_index: tf.Tensor) -> tf.Tensor:
        """One mini-batch: forward, backward, update.

        Args:
            planes: float32 (n, 51, 51, 1) for each plane.
            class_index: int32 (n,), combined.

        Returns:
            The mini-batch's mean cross-entropy.
        """
        losses = self._strategy.run(self._replica_step, args=(planes, class_index))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _replica_step(self, planes: dict[str, tf.Tensor], class_index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self._logits(planes, training=True)[:, 0, 0, :]
            losses = keras.losses.sparse_categorical_crossentropy(
                class_index, logits, from_logits=True
            )
            # Divided by the global size, so that summing over replicas gives the mean.
            loss = tf.reduce_sum(losses) / self._config.global_batch_size
        gradients = tape.gradient(loss, self._model.trainable_variables)
        self._optimizer.apply_gradients(
            zip(gradients, self._model.trainable_variables, strict=True)
        )
        return loss

    def restore(self) -> int:
        """Restores the latest checkpoint; returns how many mini-batches it has seen."""
        if self._checkpoints.restore_or_initialize() is None:
            return 0
        return int(self._step.numpy())

    def save(self, step: int) -> None:
        """Writes a checkpoint; the oldest beyond `keep` goes."""
        self._step.assign(step)
        self._checkpoints.save(checkpoint_number=step)

    def summarise(self, step: int, loss: float, samples_per_second: float) -> None:
        """Writes the step's scalars for TensorBoard."""
        with self._writer.as_default(step=step):
            tf.summary.scalar("loss", loss)
            tf.summary.scalar("learning_rate", float(self._optimizer.learning_rate))
            tf.summary.scalar("samples_per_second", samples_per_second)
        self._writer.flush()

    def evaluate(self, step: int, progress: Progress | None, command: str) -> Evaluation:
        """Scores the test scans, and writes figures, pictures and weights."""
        started = time.monotonic()
        self._evaluated.set_weights(self._model.get_weights())
        scores = self._evaluated.get_layer("logits")
        scores.bias.assign_add(self._score_shift)
        with Progress("Evaluating", self._num_test_scans, "scans") as scans:
            evaluation = evaluate_model(
                self._dense,
                self._label_space,
                self._config.data_dir,
                on_picture=lambda task, image: self._write_picture(step, task, image),
                on_scan=lambda name: scans.advance(note=name),
            )
        mean_dice = evaluation.mean_dice()
        with self._writer.as_default(step=step):
            for name, value in mean_dice.items():
                if value is not None:
                    tf.summary.scalar(f"dice/{name}", value)
        self._writer.flush()
        self._keep_weights(step, evaluation, command)
        line = (
            f"After mini-batch {step}: mean Dice {_mean(mean_dice):.3f} over {len(mean_dice)} "
            f"classes (evaluated in {format_duration(time.monotonic() - started)})."
        )
        if progress is None:
            print(line, flush=True)
        else:
            progress.say(line)
        return evaluation

    def _write_picture(self, step: int, task: str, picture: np.ndarray) -> None:
        with self._writer.as_default(step=step):
            tf.summary.image(f"{task}: scan, reference, prediction", picture[np.newaxis])

    def _keep_weights(self, step: int, evaluation: Evaluation, command: str) -> None:
        score = _mean(evaluation.mean_dice())
        curve_path = self._workdir / folder.LEARNING_CURVE
        curve = json.loads(curve_path.read_text()) if curve_path.is_file() else []
        # A run that was killed after its last checkpoint comes here a second time.
        curve = [point for point in curve if point["minibatch"] < step]
        is_best = all(score > point["mean_dice"] for point in curve)
        curve.append({"minibatch": step, "mean_dice": score, "dice": evaluation.mean_dice()})
        for which in ("last", "best") if is_best else ("last",):
            folder.write_aside(
                folder.weights_path(self._workdir, which),
                lambda aside: self._evaluated.save_weights(aside),
            )
        result = evaluation.to_json(model=str(self._workdir), command=command)
        folder.write_json(self._workdir / folder.EVALUATION, result | {"minibatch": step})
        folder.write_json(curve_path, curve)

    def stored_evaluation(self, step: int) -> Evaluation | None:
        """The evaluation of a finished run, so that the same command again is cheap."""
        path = self._workdir / folder.EVALUATION
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        return Evaluation.from_json(stored) if stored.get("minibatch") == step else None
