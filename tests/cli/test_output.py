"""What commands print reaches any terminal."""

import io
import sys

from mtseg.cli.command import DONE, INTERRUPTED, run, start_tensorflow
from mtseg.system.devices import describe_devices


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_command(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    def command(argv):
        print(f"{argv[0]}: done", flush=True)
        return DONE

    assert run(command, ["müller.nii.gz"]) == DONE
    assert raw.getvalue() == b"m\\xfcller.nii.gz: done\n"


def test_a_command_that_is_interrupted_says_how_to_go_on(capsys):
    def command(argv):
        raise KeyboardInterrupt

    assert run(command, []) == INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted: rerun the command to resume.\n"


def test_a_command_that_computes_names_its_device(capsys):
    start_tensorflow(None)
    assert capsys.readouterr().out == f"Computing on {describe_devices()}.\n"
