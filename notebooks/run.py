"""Runs the notebooks and stores them with their outputs.

    python notebooks/run.py                        all of them
    python notebooks/run.py 01_quickstart.ipynb    one

Nothing is stored if an output has an error or a path of this machine. Pictures are stored small.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent

_WIDEST, _NUM_COLOURS = 1000, 64
"""Of a picture that is stored: pixels, and colours."""

_BAD_LINES = re.compile(r"^error:|Traceback|Warning:|absl::|oneDNN|^[IWE]\d{4} ", re.MULTILINE)
"""Lines that no reader should see: errors, warnings, and log lines of TensorFlow."""

_CONTROL, _BAR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]"), re.compile(r"\d%\|")
"""Of a terminal: codes that move its cursor or colour text, and a bar of progress."""

_MACHINE_PATH = re.compile(r"(?<![\w./])/(?:tmp|home|root|work|Users|var|opt|usr)\b[^\s'\"]*")


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Runs a notebook from the first cell to the last, in the folder of the repository.

    Returns:
        The notebook with its outputs, as they are stored. Its file is unchanged.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    before = dict(os.environ)
    # The commands of this environment, the modules of this checkout, and nobody's settings.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before['PATH']}"
    paths = (str(FOLDER.parent), before.get("PYTHONPATH"))
    os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in paths if part)
    resources = {"metadata": {"path": str(FOLDER.parent)}}
    try:
        with tempfile.TemporaryDirectory() as settings:
            os.environ["IPYTHONDIR"] = settings
            client = NotebookClient(notebook, timeout=600, resources=resources, record_timing=False)
            client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    tidy_text(notebook)
    shrink_pictures(notebook)
    return notebook


def find_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with the outputs of a notebook; empty if they may be stored."""
    faults = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
            if output.output_type == "error":
                faults.append(f"cell {number}: raises {output.ename}")
            for text in texts:
                faults += [f"cell {number}: {bad}" for bad in _BAD_LINES.findall(text)]
                faults += [f"cell {number}: {found}" for found in _MACHINE_PATH.findall(text)]
    if not any(cell.get("outputs") for cell in notebook.cells):
        faults.append("has no outputs")
    return faults


def tidy_text(notebook: nbformat.NotebookNode) -> None:
    """Joins what a cell prints, and leaves out its bars of progress."""
    for cell in notebook.cells:
        outputs: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            is_text = output.output_type == "stream"
            if is_text and outputs and outputs[-1].get("name") == output.name:
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                output.text = _without_bars(output.text)
        if cell.cell_type == "code":
            cell.outputs = [each for each in outputs if each.get("text", "some").strip()]


def _without_bars(text: str) -> str:
    """What a terminal shows in the end, without bars and their empty lines."""
    lines = [line.rpartition("\r")[2] for line in _CONTROL.sub("", text).splitlines(keepends=True)]
    kept = [line for line in lines if not _BAR.search(line)]
    return "".join(
        line for n, line in enumerate(kept) if line.strip() or (n and kept[n - 1].strip())
    )


def shrink_pictures(notebook: nbformat.NotebookNode) -> None:
    """Makes the pictures of a notebook smaller, and gives them fewer colours."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" not in data:
                continue
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
            picture.thumbnail((_WIDEST, 10 * _WIDEST))
            file = io.BytesIO()
            picture.quantize(_NUM_COLOURS).save(file, "png", optimize=True)
            data["image/png"] = base64.b64encode(file.getvalue()).decode()


def main(names: list[str]) -> int:
    """Runs the notebooks and stores those without a fault."""
    is_stored = True
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = run_notebook(path)
        if faults := find_faults(notebook):
            print(f"{path.name}: not stored: {'; '.join(faults)}", file=sys.stderr)
            is_stored = False
            continue
        nbformat.write(notebook, path)
        print(f"{path.name}: stored, {path.stat().st_size / 1000:.0f} kB", flush=True)
    return 0 if is_stored else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
