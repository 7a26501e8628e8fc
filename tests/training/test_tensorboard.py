"""What TensorBoard shows of a run, read back from its files by TensorBoard itself."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_ndarray

from mtseg.errors import InputError
from mtseg.evaluation.results import Evaluation, Row
from mtseg.runs.config import TrainConfig, configure
from mtseg.tasks.label_space import parse_tasks
from mtseg.training.callbacks import RunStart
from mtseg.training.tensorboard import FOLDER, EventFile, TensorBoard, hyperparameters
from tests.event_files import scalars_of

PAPERS_WAY = TrainConfig("brain:phantom,breast:phantom", "data")
CURVE = {
    "num_predicted": list(range(100, -1, -1)),
    "num_overlap": [min(number, 40) for number in range(100, -1, -1)],
    "num_reference": 40,
}


def read_events(workdir):
    events = EventAccumulator(str(workdir / FOLDER), size_guidance={"tensors": 0})
    events.Reload()
    return events


def dice_row(task, name, subject, value):
    return Row(task, name, subject, "dice", value)


def test_tensorboard_and_tensorflow_read_what_was_written(tmp_path):
    events = EventFile(tmp_path / "tensorboard")
    events.write(0, text_pb("configuration", "a text"))
    events.write(10, scalar_pb("loss", 0.5), scalar_pb("learning_rate", 0.25))
    # Without closing it: a run may be watched, or killed, at any time.
    events.write(20, scalar_pb("loss", 0.125))
    assert scalars_of(tmp_path, "loss") == {10: 0.5, 20: 0.125}
    assert set(read_events(tmp_path).Tags()["tensors"]) == {
        "configuration",
        "loss",
        "learning_rate",
    }


def test_a_resumed_run_begins_another_file(tmp_path):
    for step in (1, 2):
        EventFile(tmp_path / "tensorboard").write(step, scalar_pb("loss", float(step)))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert scalars_of(tmp_path, "loss") == {1: 1.0, 2: 2.0}


def test_dice_of_each_class_and_its_mean_over_classes(tmp_path):
    rows = (
        dice_row("brain", "white_matter", "a", 0.8),
        dice_row("brain", "white_matter", "b", 0.6),
        dice_row("brain", "brain_stem", "a", 0.3),
        dice_row("brain", "brain_stem", "b", None),
        dice_row("brain", "cerebellum", "a", None),  # absent from all scans
        dice_row("breast", "pectoral_muscle", "c", 0.95),
    )
    TensorBoard(PAPERS_WAY, tmp_path).on_evaluation(7, Evaluation(rows, {}), {})
    events = read_events(tmp_path)
    shown = {}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)
        assert event.step == 7
        shown[tag] = float(make_ndarray(event.tensor_proto))
    assert shown == pytest.approx(
        {
            "dice/brain/white_matter": 0.7,
            "dice/brain/brain_stem": 0.3,
            "dice/breast/pectoral_muscle": 0.95,
            "mean_dice/brain": 0.5,
            "mean_dice/breast": 0.95,
            "mean_dice/all_tasks": 0.65,  # over three classes, as in the learning curve
        }
    )


def test_precision_recall_is_a_curve_of_the_pr_plugin(tmp_path):
    evaluation = Evaluation(
        (dice_row("breast", "pectoral_muscle", "a", 0.75),),
        {"pectoral_muscle": 0.6},
        {"pectoral_muscle": CURVE},
        {"breast": [[50, 10], [5, 35]]},
    )
    TensorBoard(PAPERS_WAY, tmp_path).on_evaluation(7, evaluation, {})
    events = read_events(tmp_path)
    tag = "precision_recall/breast/pectoral_muscle"
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "pr_curves"
    (event,) = events.Tensors(tag)
    right, wrong, rejected, missed, precision, recall = make_ndarray(event.tensor_proto)
    assert event.step == 7
    # Everything is predicted at threshold 0: all 40 are found among 100.
    assert (right[0], wrong[0], rejected[0], missed[0]) == (40, 60, 0, 0)
    assert precision[0] == pytest.approx(0.4)
    # At 0.8 twenty are, all of them right.
    assert (right[80], wrong[80], rejected[80], missed[80]) == (20, 0, 60, 20)
    assert (precision[80], recall[80]) == (1, 0.5)


def test_a_class_that_no_test_scan_has_gives_no_curve(tmp_path):
    curve = {"num_predicted": [0] * 101, "num_overlap": [0] * 101, "num_reference": 0}
    evaluation = Evaluation(
        (dice_row("cta", "coronary_arteries", "a", None),),
        {},
        {"coronary_arteries": curve},
        {"cta": [[50, 0], [0, 0]]},
    )
    TensorBoard(PAPERS_WAY, tmp_path).on_evaluation(1, evaluation, {})
    assert read_events(tmp_path).Tags()["tensors"] == []


@pytest.mark.parametrize(
    ("curves_on", "split", "prefix", "title"),
    [
        ("test", "test", "", "breast: scan, reference, prediction"),
        ("test", "train", "train/", "breast, train: scan, reference, prediction"),
        ("validation", "test", "test/", "breast, test: scan, reference, prediction"),
        (
            "validation",
            "validation",
            "validation/",
            "breast, validation: scan, reference, prediction",
        ),
    ],
)
def test_pictures_and_names_say_of_which_scans_they_are(tmp_path, curves_on, split, prefix, title):
    config = TrainConfig("breast:phantom", "data", curves_on=curves_on)
    picture = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    evaluation = Evaluation((dice_row("breast", "pectoral_muscle", "a", 0.5),), {}, split=split)
    TensorBoard(config, tmp_path).on_evaluation(3, evaluation, {"breast": picture})
    events = read_events(tmp_path)
    assert set(events.Tags()["tensors"]) == {
        title,
        f"dice/{prefix}breast/pectoral_muscle",
        f"mean_dice/{prefix}breast",
        f"mean_dice/{prefix}all_tasks",
    }
    (event,) = events.Tensors(title)
    columns, rows, png = make_ndarray(event.tensor_proto)
    assert (int(columns), int(rows)) == (5, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), picture)


def test_hyperparameters_are_the_main_settings_and_those_that_differ_from_the_preset():
    config = configure(
        "fast", "breast", "data", precision="float32", curves_on="validation", dropout_rate=0.3,
        evaluate_every=7,
    )  # fmt: skip
    assert hyperparameters(config) == {
        "preset": "fast",
        "tasks": "breast",
        "minibatches_per_task": 1200,
        "global_batch_size": 35,
        "learning_rate": 5e-3,
        "optimizer": "muon",
        "precision": "float32",
        "seed": 0,
        "dropout_rate": 0.3,
    }
    assert hyperparameters(TrainConfig("breast", "data", input="patches"))["input"] == "patches"
    assert "input" not in hyperparameters(TrainConfig("breast", "data", input="volumes"))


def test_tensorboard_compares_runs_by_settings_and_mean_dice(tmp_path):
    """By the code that TensorBoard's page of hyperparameters is made with."""
    label_space = parse_tasks("breast")
    for name, rate, dice in (("one", 1e-3, 0.8), ("two", 2e-3, 0.9)):
        config = TrainConfig("breast", "data", learning_rate=rate, dropout_rate=0.2)
        shown = TensorBoard(config, tmp_path / name)
        shown.on_start(RunStart(config, label_space, tmp_path / name, 0, 100))
        rows = (dice_row("breast", "pectoral_muscle", "a", dice),)
        shown.on_evaluation(100, Evaluation(rows, {}), {})
        # A run that is resumed has written its settings before.
        TensorBoard(config, tmp_path / name).on_start(
            RunStart(config, label_space, tmp_path / name, 50, 100)
        )
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(tmp_path))))
    request = RequestContext()
    written = context.hparams_metadata(request, "")
    assert len(written) == 2
    experiment = context.experiment_from_metadata(
        request, "", True, written, context.hparams_from_data_provider(request, "", None)
    )
    differs = {info.name: info.differs for info in experiment.hparam_infos}
    assert [name for name, is_other in differs.items() if is_other] == ["learning_rate"]
    assert {"preset", "optimizer", "dropout_rate"} < differs.keys()
    assert "mean_dice/all_tasks" in {info.name.tag for info in experiment.metric_infos}


@pytest.mark.promise("damage is noticed")
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / FOLDER).write_text("not a folder")
    with pytest.raises(InputError, match=r"Make room or use another folder"):
        TensorBoard(PAPERS_WAY, tmp_path)
