"""The Python in the how-to page runs, from the first line to the last."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mtseg.phantoms.scanner import make_phantom
from tests.models.documented_commands import code_blocks

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "python.md"
README = PAGE.parents[2] / "README.md"


@pytest.mark.slow
def test_the_page_runs(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scan = make_phantom("brain", seed=0, size=32).image
    nib.save(nib.Nifti1Image(scan, np.eye(4)), "scan.nii.gz")
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


def test_the_lines_of_the_readme_are_those_of_the_page():
    (block,) = code_blocks(README.read_text(encoding="utf-8"), "python")
    page = PAGE.read_text(encoding="utf-8")
    for line in block.splitlines():
        for statement in line.split(", "):
            assert statement in page
