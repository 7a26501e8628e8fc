"""What commands print reaches any terminal."""

import io
import sys

from mtseg.cli.command import DONE, run


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_command(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    def command(argv):
        print(f"{argv[0]}: done", flush=True)
        return DONE

    assert run(command, ["müller.nii.gz"]) == DONE
    assert raw.getvalue() == b"m\\xfcller.nii.gz: done\n"
