"""The flags of a training run are the settings of its configuration."""

import argparse
import dataclasses

import pytest

from mtseg.cli.training_flags import (
    add_training_flags,
    prepare_phantoms,
    read_training_flags,
)
from mtseg.errors import InputError
from mtseg.records.writing import prepare
from mtseg.runs.config import TrainConfig, settings
from mtseg.runs.presets import PRESETS
from mtseg.tasks.task_file import read_task, shipped_path

OTHER_VALUES = {int: "7", float: "0.125", str: "flip"}
WEIGHTS = {"task_weights": "cta=3", "source_weights": "cta:phantom=2"}


def make_parser():
    parser = argparse.ArgumentParser(prog="train")
    add_training_flags(parser)
    return parser


def flag_of(name):
    return "--" + name.removeprefix("is_").replace("_", "-")


def test_every_setting_has_one_flag():
    flags = [option for action in make_parser()._actions for option in action.option_strings]
    for field in dataclasses.fields(TrainConfig):
        assert flags.count(flag_of(field.name)) == 1
    assert len(flags) == len(dataclasses.fields(TrainConfig)) + len(["-h", "--help", "--devices"])


@pytest.mark.parametrize("name", sorted(set(settings()) - {"tasks", "data_dir", "preset"}))
def test_a_flag_sets_its_setting_and_its_help_shows_the_default(name):
    setting = settings()[name]
    default = TrainConfig("brain", "data")
    if setting.kind is bool:
        value, given = True, [flag_of(name)]
    else:
        text = setting.choices[-1] if setting.choices else OTHER_VALUES[setting.kind]
        text = WEIGHTS.get(name, text)
        value, given = setting.kind(text), [flag_of(name), text]
    assert getattr(default, name) != value
    config, _ = read_training_flags(vars(make_parser().parse_args(given)))
    assert getattr(config, name) == value
    untouched, _ = read_training_flags(vars(make_parser().parse_args([])))
    assert getattr(untouched, name) == getattr(default, name)
    (action,) = [a for a in make_parser()._actions if flag_of(name) in a.option_strings]
    assert action.help.split(" (")[0].rstrip(")") in setting.description
    if setting.kind in (int, float):
        assert f"{getattr(default, name):g}" in action.help


def test_the_help_shows_what_a_preset_changes():
    help_text = " ".join(make_parser().format_help().split())
    assert "(default: 25000; best: 2500; demo: 190; fast: 1200)" in help_text
    assert PRESETS["demo"]["minibatches_per_task"] == 190


def test_a_strategy_that_a_command_does_not_support_is_refused(capsys):
    parser = argparse.ArgumentParser()
    add_training_flags(parser, without_strategies=("multiworker",))
    with pytest.raises(SystemExit):
        parser.parse_args(["--strategy", "multiworker"])
    assert "invalid choice: 'multiworker'" in capsys.readouterr().err


def test_phantoms_of_other_settings_are_taken_if_their_folder_is_named(tmp_path):
    prepare(
        read_task(shipped_path("breast")), "phantom", tmp_path,
        kinds=("volumes",), num_train=1, num_test=1, size=32,
    )  # fmt: skip
    config = TrainConfig("breast:phantom", str(tmp_path))
    with pytest.raises(InputError) as caught:
        prepare_phantoms(config)
    assert "size of phantoms is the default, was 32" in str(caught.value)
    assert f"To train on what is there, name it: --data-dir {tmp_path}." in str(caught.value)
