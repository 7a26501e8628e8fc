"""Packages of a readable size, imports in one direction, and a prompt start of every command."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "mtseg").rglob("__init__.py"))
MODULES = sorted([*ROOT.glob("mtseg/**/*.py"), *ROOT.glob("datasets/**/*.py")])

WITHOUT_TENSORFLOW = [
    "mtseg.batches.balance",
    "mtseg.batches.volume_patches",
    "mtseg.evaluation.metrics",
    "mtseg.evaluation.pictures",
    "mtseg.evaluation.statistics",
    "mtseg.evaluation.surfaces",
    "mtseg.cli.predict",
    "mtseg.inference.decision",
    "mtseg.inference.engines.openvino_engine",
    "mtseg.inference.postprocessing",
    "mtseg.inference.verdict",
    "mtseg.models.loading",
    "mtseg.prediction.pipeline",
    "mtseg.runs.manifest",
    "mtseg.phantoms.scanner",
    "mtseg.records.reading",
    "mtseg.scans.patches",
    "mtseg.scans.preprocessing",
    "mtseg.scans.reading",
    "mtseg.sources.checks",
    "mtseg.sources.find",
    "mtseg.sources.reading",
    "mtseg.system.progress",
    "mtseg.tasks.label_space",
    "mtseg.training.tensorboard",
    "mtseg.runs.config",
]


def imported_modules(path):
    """Names of everything that a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_packages_import_only_those_below_them():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES[1:], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_has_two_to_ten_modules_and_says_what_it_is_for(package):
    modules = [path for path in package.glob("*.py") if path.name != "__init__.py"]
    packages = [path for path in package.glob("*/__init__.py")]
    assert 2 <= len(modules) + len(packages) <= 10
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert docstring, f"{package} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_every_module_that_a_text_imports_or_refers_to_exists():
    """Also in scripts within strings, which nothing else reads before they run."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    names |= {name.removesuffix(".__init__") for name in names}
    texts = [ROOT / "README.md", *MODULES]
    for folder in ("tests", "benchmarks", "docs", "notebooks"):
        texts += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".ipynb")]
    for path in texts:
        for name in re.findall(r"(?:from|import) (mtseg(?:\.[a-z_]+)+)", path.read_text()):
            assert name in names, f"{path}: {name}"
        for name in re.findall(r"`(mtseg(?:\.\w+)+)`", path.read_text()):
            module = max((n for n in names if f"{name}.".startswith(f"{n}.")), key=len)
            if rest := name.removeprefix(module).split(".")[1:]:
                file = ROOT / module.replace(".", "/")
                file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
                assert re.search(rf"\b{rest[0]}\b", file.read_text()), f"{path}: {name}"


@pytest.mark.parametrize("name", ["model", "folding"])
def test_the_network_is_written_in_keras_alone(name):
    path = ROOT / "mtseg" / "network" / f"{name}.py"
    roots = {module.split(".")[0] for module in imported_modules(path)}
    assert roots <= {"__future__", "dataclasses", "math", "typing", "numpy", "keras", "mtseg"}


def test_tensorflow_is_imported_only_by_modules_that_compute_with_it():
    names = ", ".join(WITHOUT_TENSORFLOW)
    code = f"import sys, mtseg, {names}; assert not {{'tensorflow', 'keras'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
