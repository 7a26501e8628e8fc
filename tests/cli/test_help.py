"""The help of the commands: complete, true and at once."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from mtseg.cli import predict, prepare
from mtseg.errors import InputError
from mtseg.prediction.options import Options
from mtseg.serving.address import ServerOptions
from mtseg.serving.flags import read_server_options

COMMANDS = (
    "check", "evaluate", "experiments", "export", "predict", "prepare", "report", "train",
)  # fmt: skip


def make_parser(command):
    return importlib.import_module(f"mtseg.cli.{command}").make_parser()


def help_of(command):
    return " ".join(make_parser(command).format_help().split())


def test_help_needs_no_tensorflow():
    code = (
        "import importlib, sys\n"
        f"for name in {COMMANDS}: importlib.import_module('mtseg.cli.' + name).make_parser()\n"
        "assert not {'tensorflow', 'keras', 'scipy', 'grpc', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_is_explained(command):
    parser = make_parser(command)
    assert parser.prog == f"mtseg-{command}"
    assert parser.description.endswith(".")
    for action in parser._actions:
        assert action.help, action.option_strings
        assert not action.help.endswith("."), action.help
        # An option that takes a value and is not repeated or required has a default.
        is_optional = action.option_strings and action.nargs != 0 and not action.required
        if is_optional and isinstance(action.default, str | int | float):
            assert "(default: " in action.help, action.option_strings


def test_the_defaults_that_the_help_says_are_those_that_are_used():
    from mtseg.records.schema import PATCHES_PER_CLASS

    assert f"patches per class and subject (default: {PATCHES_PER_CLASS})" in help_of("prepare")
    for help_text in ("in 1e6 bytes (default: 100)", "answered (default: 2)", "(default: 600)"):
        assert help_text in help_of("predict")
    options = ServerOptions()
    assert (options.message_bytes, options.in_flight) == (100_000_000, 2)
    assert options.deadline_seconds == 600


def test_without_server_flags_the_options_are_the_defaults(monkeypatch):
    monkeypatch.delenv("MTSEG_TOKEN", raising=False)
    given = make_parser("predict").parse_args(["scan.nii", "-o", "out"])
    assert read_server_options(given) == ServerOptions()
    more = ["--message-mb", "2", "--retries", "0", "--in-flight", "1"]
    given = make_parser("predict").parse_args(["scan.nii", "-o", "out", *more])
    expected = ServerOptions(message_bytes=2_000_000, retries=0, in_flight=1)
    assert read_server_options(given) == expected


def test_a_token_is_that_of_the_file_or_else_of_the_environment(monkeypatch, tmp_path):
    def read(*flags):
        return read_server_options(make_parser("predict").parse_args(["scan.nii", *flags])).token

    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    monkeypatch.setenv("MTSEG_TOKEN", " of-the-environment\n")
    assert read() == "of-the-environment"
    assert read("--token-file", str(file)) == "of-the-file"
    monkeypatch.setenv("MTSEG_TOKEN", "two words")
    with pytest.raises(InputError, match="is not one word") as caught:
        read()
    assert "two" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--modality", "ct"], "is_ct", True),
        (["--modality", "mr"], "is_ct", False),
        (["--no-postprocessing"], "use_postprocessing", False),
        (["--dicom-seg"], "use_dicom_seg", True),
        (["--probabilities"], "use_probabilities", True),
        (["--preview"], "use_preview", True),
        (["--strict"], "is_strict", True),
        (["--tta", "flip"], "use_flips", True),
        (["--task", "brain"], "task", "brain"),
        (["--spacing-mm", "1.5"], "spacing_mm", 1.5),
        (["--memory-gb", "2"], "memory_bytes", 2e9),
    ],
)
def test_a_flag_of_predict_changes_its_option_alone(flags, field, value):
    read = predict._read_options(make_parser("predict").parse_args(["scan.nii", *flags]))
    assert read == dataclasses.replace(Options(), **{field: value})
    assert read != predict._read_options(make_parser("predict").parse_args(["scan.nii"]))


@pytest.mark.promise("refused input")
@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (predict, ["--retries", "3"], "--retries: is for --server"),
        (predict, ["--token-file", "x"], "--token-file: is for --server"),
        (predict, ["--beam-option=--x=1"], "--beam-option: is for --beam-runner"),
        (prepare, ["--beam-option=--x=1"], "--beam-option: is for --beam-runner"),
        (prepare, ["--patches-per-class", "9"], "--patches-per-class: is for patches, and none"),
        (prepare, ["--num-shards", "2", "--kinds", "volumes"], "--num-shards: is for patches"),
        (prepare, ["--seed", "1"], "--seed: is for patches"),
        (prepare, ["--kinds", "patches,volume"], "--kinds: 'volume' is not one of patches, vol"),
        (predict, ["--server", "grpc://h", "--retries", "-1"], "--retries: must be at least 0"),
        (predict, ["--server", "grpc://h", "--in-flight", "0"], "--in-flight: must be at least 1"),
        (predict, ["--server", "grpc://h", "--model", "m"], "--model and --server: give one"),
        (predict, ["--server", "h"], "server 'h'"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(tmp_path, capsys, command, arguments, expected):
    (tmp_path / "scan.nii").touch()
    first = ["brain"] if command is prepare else [str(tmp_path / "scan.nii"), "-o", str(tmp_path)]
    assert command.main([*first, *arguments]) == 2
    assert expected in capsys.readouterr().err
