"""The one command `mtseg`: it finds the others, says what was meant, and what is installed."""

import json
import subprocess
import sys

import pytest

from mtseg import __main__, __version__
from mtseg.__main__ import COMMANDS, main, make_completion
from mtseg.cli import predict


def test_it_lists_its_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_it_prints_its_version_and_so_does_each_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mtseg {__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"mtseg {__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_names_it_as_it_was_called(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mtseg {name} ")
    if name != "info":
        with pytest.raises(SystemExit):
            predict.main(["--help"])
        assert capsys.readouterr().out.startswith("usage: mtseg-predict ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["predcit"], "predcit: no such command. Did you mean predict?"),
        (["segment"], "segment: no such command. Did you mean predict?"),
        (["kidney"], "kidney: no such command. Commands: predict, train, "),
        (["--verbose"], "--verbose: no such option. Name a command first"),
    ],
)
def test_what_is_no_command_is_refused_in_a_line(arguments, line, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {line}")
    assert printed.err.count("\n") == 1


def test_a_scan_without_a_command_is_told_how_to_segment_it(tmp_path, capsys):
    scan = tmp_path / "scan.nii.gz"
    scan.touch()
    assert main([str(scan)]) == 2
    assert capsys.readouterr().err.endswith(f"To segment it: mtseg predict {scan}\n")


def test_info_knows_versions_models_and_extras(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mtseg"] == __version__
    assert found["versions"]["numpy"]
    assert found["processor"]["cores"] >= 1
    known = ["brain", "breast", "cta", "hippocampus"]
    assert sorted(found["models"]["packaged"]["tasks"]) == known
    assert found["extras"]["dicom"] is True
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert f"mtseg {__version__}, Python " in shown
    assert "  breast: pectoral_muscle\n" in shown


def test_info_advises_on_what_is_missing_and_on_gpus_that_are_too_new(monkeypatch):
    from mtseg.api import installation
    from mtseg.system.devices import Card

    cards = [Card("NVIDIA B200", 192 * 10**9, (10, 0))]
    monkeypatch.setattr(installation, "list_cards", lambda: cards)
    extras = {"dicom": ("no_such_module",), "report": ("json",), "openvino": ("json",)}
    monkeypatch.setattr(installation, "EXTRAS", extras)
    found = installation.describe_installation()
    assert found["gpus"] == [
        {
            "name": "NVIDIA B200",
            "memory_gb": 192.0,
            "compute_capability": "10.0",
            "bfloat16": True,
        }
    ]
    (gpu, dicom) = found["advice"]
    assert gpu.startswith("NVIDIA B200: TensorFlow's packages are not built for it. Train with JAX")
    assert dicom == "To read DICOM series: pip install 'mtseg[dicom]'"
    text = installation.format_installation(found)
    assert "GPU 0: NVIDIA B200, 192.0 GB, compute capability 10.0, with bfloat16" in text
    assert "Not installed: dicom (pip install 'mtseg[NAME]')" in text


def test_help_info_and_wrong_usage_need_neither_numpy_nor_tensorflow():
    code = (
        "import contextlib, io, sys\n"
        "from mtseg.__main__ import main\n"
        "for arguments in (['--help'], ['info'], ['predcit'], ['predict', 'none.nii'],\n"
        "                  ['predict', '--modle', 'x'], ['evaluate', 'none'], ['report', 'none'],\n"
        "                  ['evaluate', 'none', 'none'], ['export', 'none', 'x'],\n"
        "                  ['train', '--help']):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(arguments)\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'nibabel', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for command in ('train', 'experiments'):\n"
        "    assert main([command, '--data-dir', 'none', '--tasks', 'brain:miccai2012']) == 2\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'nibabel'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "main(['prepare', 'brain:msd', '--manual-dir', 'none'])  # what its flags mean is first\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_it_is_also_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mtseg", "--version"])
    assert __main__.main() == 0
    assert capsys.readouterr().out == f"mtseg {__version__}\n"


def complete(script, *words):
    """What bash offers after the last of the words."""
    listed = " ".join(f"'{word}'" for word in words)
    ask = f"{script}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _mtseg\n"
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_commands_options_and_values():
    script = make_completion()
    assert complete(script, "mtseg", "pre") == ["predict", "prepare"]
    assert complete(script, "mtseg", "predict", "--no") == ["--no-postprocessing"]
    assert complete(script, "/opt/bin/mtseg-predict", "scan.nii", "--no") == ["--no-postprocessing"]
    assert complete(script, "mtseg", "train", "--preset", "f") == ["fast"]
    assert complete(script, "mtseg", "view", "--pro") == []
    # Nothing offered is a file, by `complete -o default`.
    assert complete(script, "mtseg", "predict", "") == []
    assert complete(script, "mtseg", "predict", "--model", "") == []
    assert complete(script, "mtseg", "no_command", "") == []


def test_info_prints_the_completion(capsys):
    assert main(["info", "--completion"]) == 0
    assert capsys.readouterr().out == make_completion() + "\n"
