"""The network that comes with the package: its files and its card agree with each other."""

import dataclasses
import re
from pathlib import Path

import pytest

from mtseg.inference import verdict
from mtseg.inference.verdict import OutOfDistributionCheck
from mtseg.models.listing import read_about
from mtseg.runs.manifest import PACKAGED, WEIGHTS, packaged_models, read_manifest
from mtseg.runs.weights import load_trained
from mtseg.system.checksums import CHECKSUMS, verify_checksums
from mtseg.tasks.label_space import LabelSpace
from tests.models.documented_commands import commands_in, parse

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Network:
    """A packaged network: its folder, and what is to be compared."""

    folder: Path
    card: str
    manifest: dict

    @property
    def label_space(self):
        return LabelSpace.from_json(self.manifest["label_space"])

    def dice_rows(self):
        """The rows of the card's table of Dice: (task, class) -> the cells after them."""
        rows = re.findall(
            r"^(\w+) +(\w+) +(0\.\d+) +(0\.\d+) +(0\.\d+) +(\d+) +(\S.*)$", self.card, re.MULTILINE
        )
        return {(task, class_name): cells for task, class_name, *cells in rows}

    def data_rows(self):
        """The rows of the card's table of data: task -> its cells."""
        rows = re.findall(
            r"^\| (brain|breast|cta|hippocampus) \| (.+) \|$", self.card, re.MULTILINE
        )
        return {task: [cell.strip() for cell in cells.split("|")] for task, cells in rows}


def read_network(folder):
    return Network(folder, (folder / "README.md").read_text(), read_manifest(folder))


@pytest.fixture(params=packaged_models().values(), ids=list(packaged_models()))
def network(request):
    return read_network(request.param)


@pytest.fixture
def default():
    return read_network(PACKAGED)


def test_the_default_knows_the_papers_tasks_and_the_hippocampus(default):
    names = [s.task.name for s in default.label_space.selections]
    assert names == ["brain", "hippocampus", "breast", "cta"]
    assert set(default.manifest["operating_points"]) == {"pectoral_muscle", "coronary_arteries"}
    # Three backgrounds and two classes more than the paper's network.
    assert load_trained(PACKAGED).model.count_params() == 284_206


def test_it_is_small(network):
    assert (network.folder / WEIGHTS).stat().st_size < 1.5e6


def test_its_files_are_those_that_were_measured(network):
    verify_checksums(network.folder)
    assert len((network.folder / CHECKSUMS).read_text().splitlines()) == 2


def test_it_says_its_licence_and_what_is_synthetic(network):
    about = read_about(network.folder)
    assert set(about) == {"summary", "training", "caution", "licence"}
    for licence in re.findall(r"CC BY[A-Z-]*", network.card):
        assert licence in about["licence"]
    assert "research only" in about["licence"]
    assert "**For research only.**" in network.card
    are_synthetic = [s.sources == ("phantom",) for s in network.label_space.selections]
    assert ("synthetic" in about["caution"]) == any(are_synthetic)


def test_nothing_in_the_card_was_left_to_be_filled_in(network):
    assert "@@" not in network.card


def test_the_dice_of_the_card_are_those_of_the_manifest(network):
    rows, means = network.dice_rows(), network.manifest["mean_dice_on_test_scans"]
    assert {f"{task}/{name}" for task, name in rows} == set(means)
    for (task, name), (mean, least, most, *_) in rows.items():
        assert float(mean) == pytest.approx(means[f"{task}/{name}"], abs=0.0006)
        assert float(least) <= float(mean) <= float(most)


def test_the_operating_points_of_the_card_are_those_of_the_manifest(network):
    shown = {
        name: float(decision.removeprefix("p >= "))
        for (_, name), (*_, decision) in network.dice_rows().items()
        if decision.startswith("p >= ")
    }
    assert shown == pytest.approx(network.manifest["operating_points"])


def test_the_warning_of_the_card_is_that_of_the_manifest(network):
    check = OutOfDistributionCheck.from_json(network.manifest["resemblance"], "card")
    (threshold,) = re.findall(r"^threshold (\d+\.\d)$", network.card, re.MULTILINE)
    assert float(threshold) == round(check.threshold, 1)
    assert f"{verdict.SAFETY_FACTOR} times" in network.card
    num_test = {task: int(cells[2]) for task, cells in network.data_rows().items()}
    assert sum(num_test.values()) == check.num_scans
    for (task, _), (*_, num_scans, _) in network.dice_rows().items():
        assert int(num_scans) == num_test[task]


def test_the_card_says_which_scans_are_synthetic_and_the_licence_of_the_others(network):
    for selection in network.label_space.selections:
        name = selection.task.name
        scans, _, _, licence = network.data_rows()[name]
        if selection.sources == ("phantom",):
            assert scans.startswith("synthetic")
        else:
            assert licence.startswith("CC BY-NC" if name == "brain" else "CC BY-SA")
            assert ("skull-stripped" if name == "brain" else "crops") in scans


def test_the_commands_of_the_card_lead_to_the_default(default):
    """Each command parses, and what it sets is what the text and the manifest say."""
    parsed = [(words[0], vars(parse(words))) for words in commands_in(default.card)]
    assert [name for name, _ in parsed] == [
        *["mtseg-prepare"] * 2,
        *["mtseg-train"] * 2,
        "mtseg-export",
        "mtseg-evaluate",
    ]
    first, second = (arguments for name, arguments in parsed if name == "mtseg-train")
    specs = [spec.partition(":") for spec in second["tasks"].split(",")]
    named = ",".join(f"{name}:{source or 'phantom'}" for name, _, source in specs)
    assert named == default.manifest["training"]["tasks"]
    text = " ".join(default.card.split())
    count, size = first["minibatches_per_task"], first["global_batch_size"]
    assert f"{count} mini-batches of {size} samples per task" in text
    count, size = second["minibatches_per_task"] * len(specs), second["global_batch_size"]
    assert f"{count} of {size} in all" in text
    phantoms = parsed[1][1]
    counts = [str(phantoms[key]) for key in ("num_train", "num_test")]
    assert counts == default.data_rows()["breast"][1:3]


def test_the_commands_of_a_card_are_accepted(network):
    given = [words for words in commands_in(network.card) if parse(words) is not None]
    assert {words[0] for words in given} >= {"mtseg-prepare", "mtseg-export", "mtseg-evaluate"}


def test_the_files_that_the_card_names_exist(network):
    named = set(re.findall(r"\b(?:docs|benchmarks)/[\w/.-]+\.\w+", network.card))
    assert "benchmarks/verdicts.py" in named
    assert all((ROOT / path).is_file() for path in named)
