"""The corridor: a module imports only those that stand before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CORRIDOR = [
    "errors",
    "aside",
    "digests",
    "startup",
    "memory",
    "machine",
    "resampling",
    "volumes",
    "dicom",
    "dicom_seg",
    "scan_files",
    "scan_lists",
    "done_scans",
    "prepared_scan",
    "task",
    "task_file",
    "tasks",
    "phantom_anatomy",
    "phantoms",
    "layouts",
    "sources",
    "checks",
    "subject",
    "sampling",
    "example_bytes",
    "records",
    "prepared",
    "progress",
    "stopping",
    "processes",
    "staging",
    "preload",
    "preparation",
    "volume_patches",
    "augmentation",
    "input_pipeline",
    "class_priors",
    "activation",
    "batch_norm",
    "dropout",
    "model",
    "config",
    "manifest",
    "workdir",
    "tiles",
    "tile_graph",
    "dense",
    "metrics",
    "surfaces",
    "pictures",
    "scan_statistics",
    "scan_counts",
    "stored_scan",
    "evaluate",
    "comparisons",
    "tables",
    "summaries",
    "optimizers",
    "strategies",
    "checkpoints",
    "training_step",
    "training_figures",
    "train",
    "experiments",
    "budget",
    "verdict",
    "serving_graph",
    "export",
    "portable",
    "server_address",
    "serving_folder",
    "exported",
    "server_connection",
    "served",
    "restoration",
    "probability_file",
    "predict",
    "beam_prediction",
    "unlabelled",
    "report_figures",
    "report_viewer",
    "report_page",
    "report_facts",
    "report",
]

WITHOUT_TENSORFLOW = [
    "comparisons",
    "config",
    "errors",
    "machine",
    "manifest",
    "metrics",
    "phantoms",
    "pictures",
    "progress",
    "sampling",
    "scan_statistics",
    "sources",
    "checks",
    "subject",
    "surfaces",
    "task",
    "task_file",
    "tasks",
    "verdict",
    "volumes",
]


def imported_modules(path):
    """Names of everything a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_place():
    names = {path.stem for path in (ROOT / "mtseg").glob("*.py")} - {"__init__"}
    assert names == set(CORRIDOR)


@pytest.mark.parametrize("name", CORRIDOR)
def test_a_module_imports_only_what_stands_before_it(name):
    place = CORRIDOR.index(name)
    for module in imported_modules(ROOT / "mtseg" / f"{name}.py"):
        assert not module.startswith(("mtseg.cli", "mtseg_datasets")), module
        parts = module.split(".")
        if parts[0] == "mtseg" and len(parts) > 1 and parts[1] in CORRIDOR:
            assert CORRIDOR.index(parts[1]) < place, module


def test_the_model_is_written_in_keras_alone():
    roots = {m.split(".")[0] for m in imported_modules(ROOT / "mtseg" / "model.py")}
    assert roots <= {"__future__", "math", "typing", "keras", "mtseg"}


def test_tensorflow_is_imported_only_by_modules_that_compute_with_it():
    names = ", ".join(f"mtseg.{name}" for name in WITHOUT_TENSORFLOW)
    code = f"import sys, mtseg, {names}; assert not {{'tensorflow', 'keras'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_module_is_longer_than_400_lines():
    for path in [*ROOT.glob("mtseg/**/*.py"), *ROOT.glob("datasets/**/*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path
