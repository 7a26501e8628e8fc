"""The benchmark of voxel sizes goes on where it was stopped, of the same code and network."""

import sys

import pytest

from tests.benchmarks.test_benchmarks import load  # noqa: F401


@pytest.mark.slow
def test_a_scan_is_scored_once(load, tmp_path, monkeypatch, capsys):  # noqa: F811
    module = load("recognition")
    words = ["--model", "packaged", "--scans", "1", "--size", "32"]
    words += ["--journal", str(tmp_path / "kept" / "scores.jsonl")]
    monkeypatch.setattr(sys, "argv", ["recognition.py", *words])
    module.main()
    printed = capsys.readouterr().out
    assert printed.startswith("brain     1.21 mm (1.21 of its own)  mean Dice 0.")
    assert "of 1; " in printed

    def score_subject(*_):
        raise AssertionError("it was scored already")

    monkeypatch.setattr(module, "score_subject", score_subject)
    module.main()
    assert capsys.readouterr().out == printed
    monkeypatch.setattr("journal._digest_of_package", lambda: "another")
    with pytest.raises(AssertionError, match="scored already"):
        module.main()
