"""The network that comes with the package: its files agree with each other."""

import re

import pytest

from mtseg.inference.verdict import OutOfDistributionCheck
from mtseg.models.manifest import PACKAGED, WEIGHTS, read_manifest
from mtseg.models.weights import load_trained
from mtseg.system.checksums import CHECKSUMS, verify_checksums
from mtseg.tasks.label_space import LabelSpace

CARD = (PACKAGED / "README.md").read_text()


def test_it_knows_the_papers_tasks():
    manifest = read_manifest(PACKAGED)
    label_space = LabelSpace.from_json(manifest["label_space"])
    assert [s.task.name for s in label_space.selections] == ["brain", "breast", "cta"]
    assert set(manifest["operating_points"]) == {"pectoral_muscle", "coronary_arteries"}
    assert OutOfDistributionCheck.from_json(manifest["resemblance"]).threshold > 0
    assert (
        load_trained(PACKAGED).model.count_params() == 283_627
    )  # two backgrounds more than the paper's


def test_it_is_small():
    assert (PACKAGED / WEIGHTS).stat().st_size < 1.5e6


@pytest.mark.parametrize(
    "text", ["CC BY-NC", "skull-stripped", "synthetic", "mtseg-evaluate", "mtseg-prepare"]
)
def test_the_card_says_what_it_is_made_of(text):
    assert text in CARD


def test_nothing_was_left_to_be_filled_in():
    assert "@@" not in CARD


def test_the_figures_of_the_card_are_those_of_its_manifest():
    for name, mean in read_manifest(PACKAGED)["mean_dice_on_test_scans"].items():
        task, class_name = name.split("/")
        (shown,) = re.findall(rf"^{task} +{class_name} +(0\.\d+) ", CARD, re.MULTILINE)
        assert float(shown) == pytest.approx(mean, abs=0.002)


def test_its_files_are_those_that_were_measured():
    verify_checksums(PACKAGED)
    assert len((PACKAGED / CHECKSUMS).read_text().splitlines()) == 2
