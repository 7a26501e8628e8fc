"""The network that comes with the package: its files and its card agree with each other."""

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
CARD = (PACKAGED / "README.md").read_text()
MANIFEST = read_manifest(PACKAGED)
TRAINING = MANIFEST["training"]
LABEL_SPACE = LabelSpace.from_json(MANIFEST["label_space"])


def dice_rows():
    """The rows of the card's table of Dice: (task, class) -> the cells after them."""
    rows = re.findall(
        r"^(\w+) +(\w+) +(0\.\d+) +(0\.\d+) +(0\.\d+) +(\d+) +(\S.*)$", CARD, re.MULTILINE
    )
    return {(task, class_name): cells for task, class_name, *cells in rows}


def data_rows():
    """The rows of the card's table of data: task's row -> its cells."""
    rows = re.findall(r"^\| (brain|breast|cta) \| (.+) \|$", CARD, re.MULTILINE)
    return {task: [cell.strip() for cell in cells.split("|")] for task, cells in rows}


def test_it_knows_the_papers_tasks():
    assert [s.task.name for s in LABEL_SPACE.selections] == ["brain", "breast", "cta"]
    assert set(MANIFEST["operating_points"]) == {"pectoral_muscle", "coronary_arteries"}
    # Two backgrounds more than the paper's network.
    assert load_trained(PACKAGED).model.count_params() == 283_627


def test_it_is_small():
    assert (PACKAGED / WEIGHTS).stat().st_size < 1.5e6


def test_its_files_are_those_that_were_measured():
    verify_checksums(PACKAGED)
    assert len((PACKAGED / CHECKSUMS).read_text().splitlines()) == 2


@pytest.mark.parametrize("folder", packaged_models().values(), ids=list(packaged_models()))
def test_every_packaged_network_has_a_card_and_says_its_licence(folder):
    verify_checksums(folder)
    card, about = (folder / "README.md").read_text(), read_about(folder)
    assert set(about) == {"summary", "caution", "licence"}
    for licence in re.findall(r"CC BY[A-Z-]*", card):
        assert licence in about["licence"]
    assert "research only" in about["licence"]
    assert "**For research only.**" in card
    space = LabelSpace.from_json(read_manifest(folder)["label_space"])
    are_synthetic = [selection.sources == ("phantom",) for selection in space.selections]
    assert ("synthetic" in about["caution"]) == any(are_synthetic)


def test_nothing_in_the_card_was_left_to_be_filled_in():
    assert "@@" not in CARD


def test_the_dice_of_the_card_are_those_of_the_manifest():
    rows, means = dice_rows(), MANIFEST["mean_dice_on_test_scans"]
    assert {f"{task}/{name}" for task, name in rows} == set(means)
    for (task, name), (mean, least, most, *_) in rows.items():
        assert float(mean) == pytest.approx(means[f"{task}/{name}"], abs=0.0006)
        assert float(least) <= float(mean) <= float(most)


def test_the_operating_points_of_the_card_are_those_of_the_manifest():
    shown = {
        name: float(decision.removeprefix("p >= "))
        for (_, name), (*_, decision) in dice_rows().items()
        if decision.startswith("p >= ")
    }
    assert shown == pytest.approx(MANIFEST["operating_points"])


def test_the_warning_of_the_card_is_that_of_the_manifest():
    check = OutOfDistributionCheck.from_json(MANIFEST["resemblance"], "card")
    (threshold,) = re.findall(r"^threshold (\d+\.\d)$", CARD, re.MULTILINE)
    assert float(threshold) == round(check.threshold, 1)
    assert f"{verdict.SAFETY_FACTOR} times" in CARD
    num_test = {task: int(cells[2]) for task, cells in data_rows().items()}
    assert sum(num_test.values()) == check.num_scans
    for (task, _), (*_, num_scans, _) in dice_rows().items():
        assert int(num_scans) == num_test[task]


def test_the_card_says_which_scans_are_synthetic_and_the_licence_of_the_others():
    for selection in LABEL_SPACE.selections:
        name = selection.task.name
        scans, _, _, licence = data_rows()[name]
        if selection.sources == ("phantom",):
            assert scans.startswith("synthetic")
        else:
            assert licence.startswith("CC BY-NC")
            assert "skull-stripped" in scans


def test_the_commands_of_the_card_made_this_network():
    """Each command parses, and what it sets is what the manifest says."""
    parsed = [(words[0], vars(parse(words))) for words in commands_in(CARD)]
    names = [name for name, _ in parsed]
    assert names == [
        "mtseg-prepare",
        "mtseg-prepare",
        "mtseg-train",
        "mtseg-export",
        "mtseg-evaluate",
    ]
    train = dict(parsed)["mtseg-train"]
    for name in (
        *("preset", "global_batch_size", "learning_rate", "warmup_minibatches", "init_from"),
        *("minibatches_per_task", "evaluate_every", "checkpoint_every", "data_dir"),
    ):
        assert train[name] == TRAINING[name], name
    specs = [spec.partition(":") for spec in train["tasks"].split(",")]
    assert (
        ",".join(f"{name}:{source or 'phantom'}" for name, _, source in specs)
        == (TRAINING["tasks"])
    )
    text = " ".join(CARD.split())
    size, count = TRAINING["global_batch_size"], TRAINING["minibatches_per_task"]
    assert f"{count} mini-batches of {size} samples per task" in text
    phantoms = parsed[1][1]
    assert [str(phantoms[key]) for key in ("num_train", "num_test")] == data_rows()["breast"][1:3]


def test_the_files_that_the_card_names_exist():
    named = set(re.findall(r"\b(?:docs|benchmarks)/[\w/.-]+\.\w+", CARD))
    assert named == {f"benchmarks/{name}.py" for name in ("recognition", "variants", "verdicts")}
    assert all((ROOT / path).is_file() for path in named)
