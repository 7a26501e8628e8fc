"""The notebooks run from the first cell to the last."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = [
    pytest.mark.slow,
    # Jupyter's own packages warn of each other's changes.
    pytest.mark.filterwarnings("default"),
]


def test_there_are_three():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_clean(path, monkeypatch, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    # The commands of this environment, and settings of nobody else's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # none are kept in the files
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
        and any(line.startswith("error:") for line in output.text.splitlines())
    ]
    assert not printed
