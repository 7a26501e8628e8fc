"""The notebooks are stored with their outputs, and run from the first cell to the last."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def run():
    """The script that runs and stores them."""
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(notebook):
    """The kinds of outputs of each cell of code."""
    return [
        {kind for output in cell.outputs for kind in output.get("data", {"text": ""})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_three():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_clean_outputs(path, run):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert run.find_faults(notebook) == []
    assert any("image/png" in of_cell for of_cell in kinds(notebook))
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_public_names_alone(path):
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    imported = re.findall(r"^ *(?:from|import) (mtseg[\w.]*)", code, re.MULTILINE)
    assert set(imported) <= {"mtseg", "mtseg.phantoms"}


def test_outputs_with_an_error_or_a_path_of_the_machine_are_found(run):
    def with_text(text):
        output = nbformat.v4.new_output("stream", text=text)
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])

    assert run.find_faults(with_text("Dice 0.9, in data/scan.nii.gz")) == []
    assert run.find_faults(with_text("error: no such file"))
    assert run.find_faults(with_text("written to /tmp/tmp1234/labels.nii.gz"))
    assert run.find_faults(with_text("I0000 00:00:17 port.cc:153] oneDNN custom operations"))
    assert run.find_faults(nbformat.v4.new_notebook())


def test_bars_of_progress_are_left_out_and_what_is_printed_is_one_text(run):
    texts = [
        "a scan\n",
        "Reading:   0%|    | 0/4\rReading:  50%|██  | 2/4",
        "\r   \rDone\n\n\n",
        "b\n",
    ]
    outputs = [nbformat.v4.new_output("stream", text=text, name="stdout") for text in texts]
    cell = nbformat.v4.new_code_cell(outputs=outputs)
    run.tidy_text(nbformat.v4.new_notebook(cells=[cell]))
    assert [output.text for output in cell.outputs] == ["a scan\nDone\n\nb\n"]


@pytest.mark.slow
# Jupyter's own packages warn of each other's changes.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_clean(path, run):
    notebook = run.run_notebook(path)
    assert run.find_faults(notebook) == []
    assert kinds(notebook) == kinds(nbformat.read(path, as_version=4))
