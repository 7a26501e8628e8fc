"""mtseg-view itself: a page in a browser, with the packaged network in a process of its own."""

import configparser
import os
import re
import signal
import subprocess
import sys
import threading

import nibabel as nib
import pytest

from mtseg.cli import predict
from mtseg.errors import InputError
from mtseg.phantoms.scanner import make_phantom
from mtseg.viewer import command
from mtseg.viewer.computer import Cancelled, Computer
from tests.browser import Browser, require_chromium


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.nii"], "missing.nii: no such file or folder. Give the path of a scan, or the"),
        (["--model", "missing"], "missing: no such folder. Give a model, one that mtseg models"),
        (["--model", "tests"], "tests: has no exported model"),
        (["--memory-gb", "0"], "--memory-gb: 0.0 is not an amount"),
        (["--port", "70000"], "--port: 70000 is not a port"),
        (["--reference", "manual.nii"], "--reference: is for one scan, and there are 0"),
        (["setup.py", "--reference", "missing.nii"], "missing.nii: no such file. Give a label map"),
        (["--data-dir", "data"], "--data-dir: is for a folder of experiments"),
        (["--shortcut"], "--no-browser: is not for --shortcut"),
    ],
)
@pytest.mark.promise("refused input")
def test_bad_input_is_one_line(arguments, words, capsys):
    assert command.main([*arguments, "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_every_argument_is_explained():
    parser = command.make_parser()
    for action in parser._actions:
        assert action.help, action.option_strings
        assert not action.help.endswith(".")


@pytest.mark.parametrize("has_desktop", [True, False])
def test_a_shortcut_starts_the_page_with_its_options(has_desktop, tmp_path, monkeypatch, capsys):
    """Read and started as the specification says, with names that all its quoting is for."""
    scripts = tmp_path / """it's 5 % "of" $HOME \\ `x`"""
    scripts.mkdir()
    script = scripts / "mtseg-view"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; exit 2\n')
    script.chmod(0o755)
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "manifest.json").touch()
    monkeypatch.setattr("sys.argv", [str(scripts / "mtseg")])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    if has_desktop:
        (tmp_path / "Desktop").mkdir()
    flags = ["--model", str(tmp_path / "my model"), "--task", "brain", "--port", "8765"]
    assert command.main(["--shortcut", *flags]) == 0
    places = [".local/share/applications", *(["Desktop"] if has_desktop else [])]
    paths = [tmp_path / place / "mtseg-view.desktop" for place in places]
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in paths)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o755] * len(paths)
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str
    parser.read(paths[-1], encoding="utf-8")
    entry = parser["Desktop Entry"]
    assert (entry["Type"], entry["Terminal"]) == ("Application", "true")
    value = re.sub(r"\\(.)", lambda c: {"s": " ", "n": "\n"}.get(c[1], c[1]), entry["Exec"])
    *quoted, dropped = re.findall(r'"(?:[^"\\]|\\.)*"|\S+', value)
    assert dropped == "%F"
    arguments = [re.sub(r"\\(.)", r"\1", word[1:-1]).replace("%%", "%") for word in quoted]
    done = subprocess.run([*arguments, "a scan"], capture_output=True, text=True, input="\n")
    assert done.stdout.splitlines() == [*flags, "a scan", "Press Enter to close."]


def test_a_page_keeps_the_version_that_is_the_newest_when_it_begins(tmp_path, monkeypatch):
    """Its finished scans are shown with the classes of the network that labelled them."""
    for version in "12":
        (tmp_path / "model" / version).mkdir(parents=True)
        (tmp_path / "model" / version / "manifest.json").touch()
    given = []
    monkeypatch.setattr(
        command, "_serve", lambda arguments, *_, **__: given.append(arguments.model)
    )
    assert command.main(["--model", str(tmp_path / "model"), "--no-browser"]) == 0
    assert given == [str(tmp_path / "model" / "2")]


class Page:
    """The command in a process of its own."""

    def __init__(self, temporary, *arguments):
        code = "import sys; from mtseg.viewer.command import main; sys.exit(main())"
        # With this variable, TensorFlow's own lines are shown.
        environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--no-browser", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environment, "TMPDIR": str(temporary)},
        )  # fmt: skip
        self.url = next(
            (line.strip() for line in self.process.stdout if line.startswith("http://")), None
        )

    def end(self, number=signal.SIGTERM):
        """Exit code, and what the command printed since the address."""
        self.process.send_signal(number)
        printed, errors = self.process.communicate(timeout=60)
        return self.process.returncode, printed, errors


@pytest.mark.slow
def test_labels_in_the_browser_are_those_of_mtseg_predict(tmp_path):
    require_chromium()
    phantom = make_phantom("brain", seed=5, size=40)
    scan = tmp_path / "phantom.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), scan)
    page = Page(tmp_path)
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page.url)
        browser.drop(scan)
        browser.wait_for(
            "/^Done/.test(document.querySelector('.chosen .state')?.textContent)", seconds=300
        )
        browser.wait_for("!document.getElementById('sliders').hidden")
        got = bytes(
            browser.run(
                "fetch(document.querySelector('#downloads a[href$=\"_labels.nii.gz\"]').href)"
                ".then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])"
            )
        )
        table = browser.run(
            "fetch(document.querySelector('#downloads a[href$=\"volumes.csv\"]').href)"
            ".then(a => a.text())"
        )
        assert browser.logged == []
        outside = [u for u in browser.requested if not u.startswith((page.url, "data:", "about:"))]
        assert outside == []
    finally:
        browser.close()
        ended = page.end()
    assert ended[0] == 0, ended
    assert "removed" in ended[1]
    assert not [path for path in tmp_path.glob("mtseg-view-*/*") if path.is_dir()]
    assert predict.main([str(scan), "-o", str(tmp_path / "out")]) == 0
    assert got == (tmp_path / "out" / "phantom_labels.nii.gz").read_bytes()
    # The table is the command's too, but for the place of the scan.
    expected = (tmp_path / "out" / "volumes.csv").read_text()
    assert table == expected.replace(f"{scan},", "phantom.nii.gz,")


@pytest.mark.slow
def test_a_computation_is_cancelled_at_once_and_the_next_begins_anew(tmp_path):
    phantom = make_phantom("brain", seed=5, size=64)
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "phantom.nii")
    (tmp_path / "idle").mkdir()
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('ran a file of the scan folder')")
    computer = Computer({"model": None, "devices": None, "task": None}, tmp_path / "idle")
    order = {
        "do": "segment", "folder": str(tmp_path), "scan": "phantom.nii",
        "out": str(tmp_path / "out"), "options": {"task": "brain"},
    }  # fmt: skip
    begun = threading.Event()
    raised = []

    def run():
        try:
            computer.run(order, lambda event: event["event"] == "computing" and begun.set())
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(200)
    computer.stop()
    thread.join(10)
    assert raised
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    with pytest.raises(InputError, match=r"^broken\.nii: .*damaged"):
        computer.run({**order, "scan": "broken.nii"}, lambda event: None)
    computer.stop()


def test_a_process_that_ends_by_itself_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("mtseg.viewer.computer._BEGIN", "import os; os._exit(9)")
    computer = Computer({"model": None, "devices": None, "task": None}, tmp_path)
    with pytest.raises(InputError, match="ended unexpectedly"):
        computer.run({"do": "segment"}, lambda event: None)


def test_a_process_that_ends_in_the_middle_of_a_line_is_one_line(tmp_path, monkeypatch):
    """As of a long result, when the user cancels."""
    begin = """print('{"event": "ready"}\\n{"event": "do', end="", flush=True); input()"""
    monkeypatch.setattr("mtseg.viewer.computer._BEGIN", begin)
    computer = Computer({"model": None, "devices": None, "task": None}, tmp_path)
    with pytest.raises(InputError, match="ended unexpectedly"):
        computer.run({"do": "segment"}, lambda event: None)


@pytest.mark.slow
def test_a_folder_that_is_no_model_ends_the_command(tmp_path):
    (tmp_path / "model").mkdir()
    page = Page(tmp_path, "--model", tmp_path / "model")
    _, errors = page.process.communicate(timeout=200)
    assert page.process.returncode == 2
    (line,) = errors.strip().splitlines()
    assert str(tmp_path / "model") in line


@pytest.mark.slow
@pytest.mark.promise("refused input")
def test_a_task_that_the_network_does_not_have_ends_the_command(tmp_path):
    page = Page(tmp_path, "--task", "brian")
    _, errors = page.process.communicate(timeout=200)
    assert page.process.returncode == 2
    (line,) = errors.strip().splitlines()
    assert "task brian: the model has no such task (did you mean brain?)" in line
