"""Several models as one: their mean, and which models have none."""

import dataclasses

import pytest

from mtseg.errors import InputError
from mtseg.inference.engines.averaging import MeanNetwork
from mtseg.models import ensembles
from mtseg.models.loading import ExportedModel
from mtseg.tasks.label_space import parse_tasks

LABEL_SPACE = parse_tasks("brain,breast,cta")
TASKS = tuple(selection.task for selection in LABEL_SPACE.selections)


def make_model(name, points, model_id, tasks=TASKS):
    return ExportedModel(
        path=name,
        class_names=LABEL_SPACE.class_names,
        class_task=LABEL_SPACE.class_task,
        thresholds=(*[None] * 7, *points),
        label_table=LABEL_SPACE.label_table,
        network=f"network of {name}",
        kept_alive=f"weights of {name}",
        tasks=tasks,
        model_id=model_id,
        out_of_distribution_check="a check",
    )


@pytest.fixture
def models(monkeypatch):
    """Models by the names of their folders, which are loaded in place of real ones."""
    models = {"a": make_model("a", (0.3, 0.5), "1"), "b": make_model("b", (0.405, None), "2")}
    monkeypatch.setattr(ensembles, "load", lambda path, *_: models[str(path)])
    monkeypatch.setattr(ensembles, "find_engine", lambda *_: "openvino")
    return models


def test_an_ensemble_is_the_mean_of_its_models(models):
    joined = ensembles.load_ensemble(["a", "b"])
    assert joined.network == MeanNetwork(("network of a", "network of b"))
    assert joined.kept_alive == ["weights of a", "weights of b"]
    # Operating points in hundredths; a class keeps the point that only one model has.
    assert joined.thresholds == (*[None] * 7, 0.35, 0.5)
    assert joined.path == "a + b"
    # The models' checks know the models' own probabilities, not the mean.
    assert joined.out_of_distribution_check is None


def test_an_ensemble_is_known_by_its_models_in_any_order(models):
    ids = [ensembles.load_ensemble(order).model_id for order in (["a", "b"], ["b", "a"])]
    assert ids[0] == ids[1]
    assert ids[0] not in ("1", "2", None)
    models["b"] = dataclasses.replace(models["b"], model_id=None)
    assert ensembles.load_ensemble(["a", "b"]).model_id is None


def test_models_of_other_classes_are_refused(models):
    models["b"] = make_model("b", (0.4, 0.4), "2", tasks=TASKS[:2])
    with pytest.raises(InputError, match=r"^b: has the tasks brain, breast, and a has brain, bre"):
        ensembles.load_ensemble(["a", "b"])
    coarser = dataclasses.replace(TASKS[0], spacing_mm=2.0)
    (matter, *others) = TASKS[0].classes
    one_piece = dataclasses.replace(matter, largest_component=True)
    postprocessed = dataclasses.replace(TASKS[0], classes=(one_piece, *others))
    for changed in (coarser, postprocessed):
        models["b"] = make_model("b", (0.4, 0.4), "2", tasks=(changed, *TASKS[1:]))
        with pytest.raises(InputError, match=r"^b: has other classes, labels, decisions, voxel"):
            ensembles.load_ensemble(["a", "b"])
    renamed = dataclasses.replace(TASKS[0], title="Brain")  # for readers alone
    models["b"] = make_model("b", (0.4, 0.4), "2", tasks=(renamed, *TASKS[1:]))
    ensembles.load_ensemble(["a", "b"])


def test_an_ensemble_is_the_same_in_any_order(models):
    one_sided = tuple(dataclasses.replace(task, is_symmetric=False) for task in TASKS)
    models["a"] = dataclasses.replace(models["a"], trained_spacing_mm={"breast": 0.5, "cta": 1.0})
    models["b"] = dataclasses.replace(
        models["b"], tasks=one_sided, trained_spacing_mm={"breast": 0.7}
    )
    for order in (["a", "b"], ["b", "a"]):
        joined = ensembles.load_ensemble(order)
        assert joined.trained_spacing_mm == {"breast": pytest.approx(0.6), "cta": 1.0}
        assert not any(task.is_symmetric for task in joined.tasks)


def test_one_model_is_no_ensemble(models):
    with pytest.raises(InputError, match="two models or more"):
        ensembles.load_ensemble(["a"])


def test_what_only_tensorflow_computes_is_computed_by_it(models, monkeypatch):
    monkeypatch.setattr(
        ensembles, "find_engine", lambda path, *_: {"a": "openvino", "b": "tensorflow"}[str(path)]
    )
    assert ensembles.find_engine_of("a") == "openvino"
    assert ensembles.find_engine_of(["a", "b"]) == "tensorflow"
