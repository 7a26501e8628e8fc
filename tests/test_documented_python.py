"""The Python in the pages runs, from the first line to the last."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mtseg
from mtseg.evaluation.results import Evaluation, Row
from mtseg.phantoms.scanner import make_phantom
from mtseg.scans.label_files import write_label_map
from mtseg.scans.volume import Volume
from mtseg.tasks.label_space import parse_tasks
from tests.models.documented_commands import code_blocks

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to"
PAGE = HOW_TO / "python.md"
FIRST = ROOT / "docs" / "get-started" / "first-prediction.md"
SHORT = [ROOT / "README.md", ROOT / "docs" / "index.md", FIRST]
"""Pages that show the first lines of the how-to page."""


@pytest.mark.slow
def test_the_page_runs(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scan = make_phantom("breast", seed=9000, size=48)
    nib.save(nib.Nifti1Image(scan.image, scan.affine), "scan.nii.gz")
    Path("records").symlink_to(tiny_data.data_dir)
    names = {}
    for block in code_blocks(PAGE.read_text(encoding="utf-8"), "python"):
        exec(block, names)
    assert Path("labels.nii.gz").is_file()
    assert Path("preview.png").is_file()
    assert list(names["evaluation"].mean_dice()) == ["breast/pectoral_muscle"]
    assert names["scores"].overall_dice() == 1
    np.testing.assert_array_equal(names["both"][0].labels, names["both"][1].labels)
    assert "# The network that comes with mtseg" in capsys.readouterr().out


@pytest.mark.parametrize("short", SHORT, ids=lambda path: path.stem)
def test_the_first_lines_are_those_of_the_page(short):
    *_, block = code_blocks(short.read_text(encoding="utf-8"), "python")
    page = PAGE.read_text(encoding="utf-8")
    for line in block.splitlines():
        for statement in line.split(", "):
            assert statement in page


def test_the_first_scan_is_made_with_its_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    making, _ = code_blocks(FIRST.read_text(encoding="utf-8"), "python")
    exec(making, {})
    scan, reference = nib.load("scan.nii.gz"), nib.load("reference.nii.gz")
    assert scan.shape == reference.shape
    assert np.unique(reference.dataobj).tolist() == [0, 7]


def test_names_are_read_from_a_label_file_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("predictions").mkdir()
    table = parse_tasks("brain").label_table
    grid = Volume(np.zeros((4, 3, 2), np.float32), np.eye(4))
    labels = np.zeros((4, 3, 2), np.uint8)
    write_label_map(Path("predictions/scan_labels.nii.gz"), labels, grid, table)
    (reading,) = code_blocks(
        (HOW_TO / "prediction-results.md").read_text(encoding="utf-8"), "python"
    )
    found = {}
    exec(reading, found)
    assert found["names"][5] == "cerebellum"


def test_the_callback_of_the_page_writes_the_dice_of_each_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks((HOW_TO / "train.md").read_text(encoding="utf-8"), "python")
    evaluation = Evaluation((Row("brain", "cerebellum", "a", "dice", 0.5),), {})

    def train(config, workdir, callbacks):
        (callback,) = callbacks
        callback.on_evaluation(10, evaluation, {})

    monkeypatch.setattr(mtseg, "train", train, raising=False)
    exec(block, {})
    assert Path("dice.csv").read_text() == "10,test,0.5\n"
