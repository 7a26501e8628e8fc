"""The paper's settings are the defaults; wrong values are refused by name."""

import pytest

from mtseg.errors import InputError
from mtseg.runs.config import TrainConfig, configure
from mtseg.runs.presets import PRESETS


def test_the_defaults_are_the_papers():
    config = TrainConfig("brain:phantom", "data")
    assert config.global_batch_size == 210
    assert config.minibatches_per_task == 25_000
    assert config.evaluate_every == 1_000
    assert config.learning_rate == 1e-3
    assert config.dropout_rate == 0.5
    assert config.optimizer == "adam"
    assert configure("paper", "brain:phantom", "data") == config


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_valid_and_survives_json(preset):
    config = configure(preset, "brain:phantom", "data", seed=3)
    assert TrainConfig.from_json(config.to_json()) == config


def test_changes_of_none_keep_the_presets_value():
    config = configure("demo", "brain:phantom", "data", learning_rate=None, seed=4)
    assert (config.learning_rate, config.seed) == (PRESETS["demo"]["learning_rate"], 4)


def test_differences_name_the_field_and_both_values():
    here = TrainConfig("brain:phantom", "data")
    there = TrainConfig("brain:phantom", "data", seed=7)
    assert here.differences(there) == ["seed: 0 / 7"]


@pytest.mark.parametrize(("here", "there"), [("auto", "device"), ("device", "volumes")])
def test_who_cuts_patches_of_volumes_makes_no_other_run(here, there):
    volumes, patches = ("volumes", "volumes"), "patches"
    one, other, stored = (
        TrainConfig("brain", "data", input=name) for name in (here, there, patches)
    )
    assert (one.records, other.records) == volumes
    assert one.differences(other) == []
    assert one.differences(stored) == ["input: volumes / patches"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("global_batch_size", 0),
        ("global_batch_size", 2.5),
        ("global_batch_size", True),
        ("learning_rate", -1.0),
        ("learning_rate", float("inf")),
        ("dropout_rate", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("schedule", "step"),
        ("strategy", "many"),
        ("preset", "tiny"),
    ],
)
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        TrainConfig("brain:phantom", "data", **{field: value})


@pytest.mark.parametrize("text", ["", "[]", '{"tasks": "brain"}', '{"tasks": "b", "speed": 9}'])
def test_json_of_another_version_is_refused(text):
    with pytest.raises(InputError, match="not a configuration"):
        TrainConfig.from_json(text)


@pytest.mark.promise("refused input")
@pytest.mark.parametrize("name", ["rotation", "scaling"])
def test_patches_that_were_cut_before_are_not_turned(name):
    with pytest.raises(InputError, match=f"augment: {name} needs whole volumes.*--input volumes"):
        TrainConfig("breast", "data", input="patches", augment=f"flip,{name}")
    TrainConfig("breast", "data", input="patches", augment="flip,gamma")
