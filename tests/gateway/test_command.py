"""mtseg-serve-dicom itself, in processes that are killed, and with senders of another make."""

import contextlib
import functools
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtseg.gateway import command
from mtseg.gateway.serving import Settings
from mtseg.models.export import export_weights
from mtseg.prediction.options import Options
from tests.dicom_files import write_series
from tests.gateway.associations import Archive, associate
from tests.gateway.test_delivery import wait_for

# pynetdicom leaves a socket that could not be connected to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

GATEWAY = "mtseg.gateway.command"


def test_every_argument_is_explained():
    for action in command.make_parser()._actions:
        assert action.help, action.option_strings
        assert not action.help.endswith(".")


@pytest.mark.parametrize("flags", [[], ["--send-warned"]])
def test_labels_with_a_warning_go_out_only_if_asked_for(flags):
    arguments = ["spool", "--allow", "A", "--out", "o", "--task", "cta", "--memory-gb", "2", *flags]
    options = command._read_options(command.make_parser().parse_args(arguments))
    assert options == Options(task="cta", use_dicom_seg=True, is_strict=not flags, memory_bytes=2e9)


@pytest.mark.promise("loopback only")
def test_it_listens_to_this_machine_alone_unless_told_otherwise():
    bind = command.make_parser().parse_args(["spool", "--allow", "A"]).bind
    assert bind == Settings(Path("spool"), ()).address == "127.0.0.1"


@pytest.mark.promise("refused input")
def test_a_port_in_use_is_one_line_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_load", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = [str(tmp_path / "spool"), "--allow", "A", "--out", str(tmp_path / "out")]
        assert command.main([*arguments, "--port", port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}: cannot listen there" in line
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


@pytest.mark.promise("refused input")
def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_NEEDED", ("pydicom", "no_such_package"))
    assert command.main([str(tmp_path / "s"), "--allow", "A", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no_such_package: not installed.")
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def weights(random_run, tmp_path_factory):
    """A model that is loaded quickly."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    export_weights(random_run[0], folder)
    return folder


class Service:
    """The gateway as a service manager runs it: always at one port, and started after each end."""

    def __init__(self, forked, folder, model, archive):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.spool, self.printed = folder / "spool", ""
        self._forked, self._started = forked, None
        self._argv = [
            GATEWAY, self.spool, "--allow", "SCANNER", "--port", self.port, "--model", model,
            "--quiet-s", 3, "--send-to", f"ARCHIVE@127.0.0.1:{archive.port}", "--send-warned",
            "--out", folder / "out",
        ]  # fmt: skip

    def start(self):
        self._started = self._forked.start(self._argv)

    def is_running(self):
        return self._started is not None and not self._started.has_ended()

    def kill(self):
        """Ends it with SIGKILL; what it printed is kept."""
        self._started.kill()
        self._finish()

    def terminate(self):
        """Ends it with SIGTERM, once it listens: its exit code."""
        wait_for(lambda: "listens" in self._started.stdout_path.read_text())
        self._started.terminate()
        return self._finish()

    def _finish(self):
        code, out, err = self._started.finish()
        self.printed += out + err
        assert "Traceback" not in err, err
        return code

    def resident_bytes(self):
        status = Path(f"/proc/{self._started.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def count(self, state):
        return len([path for path in (self.spool / state).glob("*") if path.name != "late"])


def make_series(folder, number):
    """Writes a small series: its files. Sizes differ, so that a mixture of two would show."""
    rng = np.random.default_rng(number)
    array = rng.integers(0, 300, (12, 14, 4 + number % 3)).astype(float)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    uid = f"1.2.826.0.2.{number}"
    return sorted(write_series(folder / str(number), array, affine, series_uid=uid).iterdir())


class Scanner(threading.Thread):
    """Sends series until each object of them is acknowledged, through all that happens.

    Some objects are sent twice, and the first one is damaged now and then before it comes whole.
    """

    def __init__(self, service, all_files, seed):
        super().__init__(daemon=True)
        self.service, self.all_files, self.rng = service, all_files, random.Random(seed)
        self.num_refused = 0

    def run(self):
        for files in self.all_files:
            left = [pydicom.dcmread(file) for file in files]
            left += self.rng.sample(left, 1)
            broken = pydicom.dcmread(files[0])
            broken.PixelData = b"\0" * 10
            while left:
                with contextlib.suppress(RuntimeError), associate(self.service.port) as association:
                    if association.is_established and self.rng.random() < 0.3:
                        status = association.send_c_store(broken).get("Status")
                        self.num_refused += status == 0xC000
                    while left and association.is_established:
                        if association.send_c_store(left[0]).get("Status") != 0x0000:
                            break
                        left.pop(0)
                if left:
                    time.sleep(0.3)  # it is killed, and starts again


def send_and_kill(service, archive, folder, num_series, num_kills, seed):
    """Sends series in two associations at once while the gateway is killed; checks the outcome.

    Returns:
        Resident memory after a fifth of the series and at the end, in bytes; without kills the two
        are of one process.
    """
    all_files = [make_series(folder / "series", number) for number in range(num_series)]
    scanners = [Scanner(service, all_files[half::2], seed + half) for half in (0, 1)]
    rng = random.Random(seed)
    service.start()
    for scanner in scanners:
        scanner.start()
    resident = []
    for number in range(num_kills):
        wanted = (number + 1) * num_series // (num_kills + 1)
        wait_for(lambda n=wanted: service.count("done") >= n - 1, seconds=1000)
        time.sleep(rng.uniform(0, 1.5))
        service.kill()
        service.start()
    wait_for(lambda: service.count("done") >= num_series // 5, seconds=1000)
    resident.append(service.resident_bytes())
    for scanner in scanners:
        scanner.join(1000)
        assert not scanner.is_alive()
    wait_for(lambda: service.count("done") + service.count("failed") >= num_series, seconds=1000)
    resident.append(service.resident_bytes())
    assert service.terminate() == 0
    assert [*(service.spool / "failed").iterdir()] == [service.spool / "failed" / "late"]
    assert not [*service.spool.rglob("*.dcm")]
    uids = {f"1.2.826.0.2.{number}" for number in range(num_series)}
    assert {series: len(of) for series, of in archive.uids_by_series().items()} == dict.fromkeys(
        uids, 1
    )
    for path in (folder / "out").iterdir():
        segmentation = pydicom.dcmread(path)
        (reference,) = segmentation.ReferencedSeriesSequence
        assert path.name == f"{reference.SeriesInstanceUID}_labels.dcm"
        number = int(reference.SeriesInstanceUID.rpartition(".")[2])
        assert len(reference.ReferencedInstanceSequence) == 4 + number % 3
        assert segmentation.SOPInstanceUID in archive.uids_by_series()[reference.SeriesInstanceUID]
        uids.remove(reference.SeriesInstanceUID)
    assert not uids
    assert "Phantom" not in service.printed
    assert scanners[0].num_refused + scanners[1].num_refused > 0
    return resident


@pytest.mark.slow
@pytest.mark.promise("goes on after a kill", kind="killed")
def test_no_series_is_lost_or_sent_twice(forked, weights, tmp_path):
    with Archive() as archive:
        service = Service(forked, tmp_path, weights, archive)
        send_and_kill(service, archive, tmp_path, num_series=6, num_kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.promise("goes on after a kill", kind="killed")
def test_many_series_and_many_kills(forked, weights, tmp_path, record_property, request):
    scale = request.config.getoption("--scale")
    num_kills = max(3, round(45 * scale))
    record_property("cases", num_kills)
    with Archive() as archive:
        service = Service(forked, tmp_path, weights, archive)
        send_and_kill(service, archive, tmp_path, max(12, round(200 * scale)), num_kills, seed=1)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.promise("bounded memory")
def test_memory_does_not_grow_with_the_number_of_series(forked, weights, tmp_path, record_property):
    with Archive() as archive:
        service = Service(forked, tmp_path, weights, archive)
        before, after = send_and_kill(service, archive, tmp_path, 200, num_kills=0, seed=1)
    record_property(
        "shown",
        f"200 DICOM series through one gateway: {before / 1e6:.0f} MB in memory after 40 of them, "
        f"{after / 1e6:.0f} MB after all.",
    )
    assert after < 1.1 * before


@functools.cache
def find_dcmtk(name):
    """A tool of DCMTK; pynetdicom brings others of the same names. None if it is not installed."""
    for folder in os.get_exec_path():
        if path := shutil.which(name, path=folder):
            shown = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if shown.startswith("$dcmtk"):
                return path
    return None


@pytest.mark.slow
def test_the_tools_of_dcmtk_are_answered(forked, weights, tmp_path):
    if find_dcmtk("storescu") is None:
        pytest.skip("DCMTK is not installed")
    files = make_series(tmp_path / "series", 0)

    def call(tool, ae_title, *words):
        how = ["--aetitle", ae_title, "--call", "MTSEG", "127.0.0.1", str(service.port)]
        return subprocess.run([find_dcmtk(tool), *how, *words], capture_output=True, text=True)

    with Archive() as archive:
        service = Service(forked, tmp_path, weights, archive)
        service.start()
        wait_for(lambda: call("echoscu", "SCANNER").returncode == 0)
        assert call("storescu", "SCANNER", *map(os.fspath, files)).returncode == 0
        refused = call("storescu", "OTHER", *map(os.fspath, files))
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stderr
        wait_for(lambda: service.count("done"))
        assert service.terminate() == 0
        assert [len(of) for of in archive.uids_by_series().values()] == [1]
    assert "rejected 'OTHER' at 127.0.0.1" in service.printed
