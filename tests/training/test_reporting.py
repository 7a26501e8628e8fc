"""What is said of an evaluation."""

from mtseg.evaluation.results import Evaluation, Row
from mtseg.training.reporting import describe_missed


def dice_row(name, subject, value):
    return Row("brain", name, subject, "dice", value)


def test_classes_that_are_not_found_are_named():
    rows = (
        dice_row("white_matter", "a", 0.0),
        dice_row("white_matter", "b", 0.0002),
        dice_row("brain_stem", "a", 0.0),
        dice_row("brain_stem", "b", 0.3),
        dice_row("cerebellum", "a", None),  # absent from the test scans
    )
    line = describe_missed(Evaluation(rows, {}))
    assert line.startswith("warning: Dice is 0 for brain/white_matter: the network does not find")
    assert "mtseg-check" in line
    assert "\n" not in line
    assert describe_missed(Evaluation(rows[2:], {})) == ""
