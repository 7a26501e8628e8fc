"""Finished experiments on the page: what is listed, and what is shown of a test scan."""

import io
import json
import threading

import nibabel as nib
import numpy as np
import pytest

from mtseg.errors import InputError
from mtseg.experiments.stored import StoredExperiments
from mtseg.records.reading import read_selection
from mtseg.viewer import command
from mtseg.viewer.scan import DONE, STORED, StoredScan
from mtseg.viewer.scan_list import ScanList
from mtseg.viewer.web.server import Server
from mtseg.viewer.worker import _begin
from tests.browser import Browser
from tests.experiments.conftest import recorded  # noqa: F401  (a fixture)
from tests.viewer.test_page import choices
from tests.viewer.threshold_computer import wait_until


class InProcess:
    """A computer whose orders the worker's own code carries out, in this process."""

    def __init__(self, path, data_dir):
        self._settings = {"experiments": str(path), "data_dir": str(data_dir)}

    def begin(self, on_event):
        self._answers = io.StringIO()
        self._obey = _begin(self._settings, self._answers)
        self._tell(on_event)

    def run(self, order, on_event):
        result = self._obey(order)
        self._tell(on_event)
        return json.loads(json.dumps(result))

    def stop(self):
        pass

    def _tell(self, on_event):
        for line in self._answers.getvalue().splitlines():
            on_event(json.loads(line))
        self._answers.seek(0)
        self._answers.truncate()


@pytest.fixture
def scans(recorded, tmp_path):  # noqa: F811
    path, config = recorded
    scans = ScanList(InProcess(path, config.data_dir), tmp_path, {})
    scans.add_stored(path, [StoredScan(*scan) for scan in StoredExperiments(path).scans()])
    scans.start()
    yield scans
    scans.close()


def test_networks_and_scans_are_listed_with_their_dice(scans):
    wait_until(lambda: scans.to_json()["model"])
    state = scans.to_json()
    networks = {network["title"]: network["dice"] for network in state["model"]["networks"]}
    assert networks["breast"] == {"breast": pytest.approx(0.89)}
    assert networks["brain (repeat)"] == {"brain": pytest.approx(0.885)}
    assert networks["brain + breast + cta"]["cta"] == pytest.approx(0.874)
    listed = {scan["name"]: (scan["state"], scan["dice"]) for scan in state["scans"]}
    assert len(listed) == 9
    # The first of three scans: 0.90, less 0.016 for two further tasks.
    assert listed["cta: phantom1000"] == (STORED, pytest.approx(0.884))


def test_a_scan_has_its_reference_and_the_labels_of_every_network_for_its_task(scans, recorded):  # noqa: F811
    number = next(s["id"] for s in scans.to_json()["scans"] if s["name"] == "cta: phantom1000")
    scans.try_again(number)
    scan = scans.scan(number)
    wait_until(lambda: scan.state == DONE)
    titles = [of_map["title"] for of_map in scan.result["label_maps"]]
    assert titles[0] == "brain + breast + cta"
    assert sorted(titles[1:]) == ["brain + cta", "breast + cta", "cta"]
    (_, _, selection) = StoredExperiments(recorded[0])._label_space.selections
    subject = next(read_selection(recorded[1].data_dir, selection, "test"))
    shown = nib.load(scan.file("scan.nii"))
    np.testing.assert_array_equal(shown.get_fdata(dtype=np.float32), subject.image)
    np.testing.assert_allclose(shown.affine, subject.affine)
    label = next(c["label"] for c in scans.to_json()["model"]["classes"] if c["task"] == "cta")
    expected = np.where(subject.class_index_map == 1, label, 0)
    for name in ("reference", *(of_map["key"] for of_map in scan.result["label_maps"])):
        of_file = np.asarray(nib.load(scan.file(f"{name}.nii")).dataobj)
        np.testing.assert_array_equal(of_file, expected)
    first = scan.result["label_maps"][0]
    assert first["classes"]["coronary_arteries"]["num_voxels"] == np.count_nonzero(expected)
    assert scan.reference["dice"][first["key"]] == {"coronary_arteries": pytest.approx(0.884)}


def test_a_scan_that_is_dropped_among_experiments_is_refused(tmp_path):
    scans = ScanList(InProcess(tmp_path, tmp_path), tmp_path, {})
    scans.add_stored(tmp_path, [StoredScan("brain", "s1", 0.5)])
    with pytest.raises(InputError, match="To segment a scan, run mtseg view without them"):
        scans.begin_upload("scan.nii")
    assert len(scans.to_json()["scans"]) == 1


def test_what_is_not_there_is_one_line(recorded):  # noqa: F811
    stored = StoredExperiments(recorded[0])
    with pytest.raises(InputError, match="has no test scan gone of cta"):
        stored.read("cta", "gone")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "brain"], "--task: is for scans, not for experiments"),
        (["scan.nii"], "has a folder of experiments. Give it alone"),
    ],
)
def test_flags_for_scans_are_refused(recorded, flags, words, capsys):  # noqa: F811
    assert command.main([str(recorded[0]), *flags, "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.slow
def test_a_browser_shows_the_labels_of_each_network(scans, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"), size=(390, 700))
    with Server(scans) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        try:
            browser.open(server.url)
            browser.wait_for("document.querySelectorAll('.scan').length === 9")
            browser.wait_for("document.querySelectorAll('[name=which]').length === 6")
            browser.wait_for("!document.getElementById('sliders').hidden")
            assert "brain + cta" in browser.text("#networks")
            assert "0.885" in browser.text("#networks")
            assert not browser.run("document.getElementById('drop').checkVisibility()")
            assert not browser.run("document.getElementById('assessment').checkVisibility()")
            offered = choices(browser)
            assert offered[0].startswith("brain + breast + cta, Dice 0.8")
            assert offered[-1] == "Reference"
            browser.run(
                "[...document.querySelectorAll('.choose')]"
                ".find(e => e.textContent.startsWith('cta: phantom1000M')).click()"
            )
            browser.wait_for("document.querySelectorAll('[name=which]').length === 5")
            browser.run("document.querySelectorAll('[name=which]')[4].click()")
            browser.wait_for("document.querySelectorAll('[name=which]')[4].checked")
            assert browser.run("document.documentElement.scrollWidth") <= 390
            assert browser.logged == []
        finally:
            browser.close()
            server.shutdown()
