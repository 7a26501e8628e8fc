"""The wheel and the sdist, installed away from the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "check", "prepare", "train", "evaluate", "export", "predict", "experiments", "report",
)  # fmt: skip
TASKS = ("brain", "breast", "cta", "heart", "hippocampus")
DATA_FILES = [
    *(
        f"mtseg/models/{folder}/{name}"
        for folder in ("packaged", "packaged/research")
        for name in ("README.md", "SHA256SUMS", "about.json", "manifest.json", "model.weights.h5")
    ),
    "mtseg/experiments/report/page.css",
    "mtseg/experiments/report/slice_viewer.js",
    *(f"mtseg/tasks/files/{task}.toml" for task in TASKS),
    *(
        f"mtseg_datasets/mtseg_{task}/{name}"
        for task in TASKS
        for name in ("README.md", "CITATIONS.bib", "TAGS.txt", f"mtseg_{task}_dataset_builder.py")
    ),
]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Paths of a wheel and an sdist built from the checkout's files."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """An environment for a process that sees the wheel and not the checkout."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target,
         distributions[0]],
        check=True,
    )  # fmt: skip
    return target, os.environ | {"PYTHONPATH": str(target)}


def test_the_wheel_holds_both_packages_with_their_data(distributions):
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    assert set(DATA_FILES) <= names
    assert not {name for name in names if name.startswith(("datasets/", "tests/", "docs/"))}


def test_the_sdist_holds_the_data_files_too(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    expected = {name.replace("mtseg_datasets/", "datasets/") for name in DATA_FILES}
    assert expected <= names


def test_both_packages_import_away_from_the_checkout(installed, tmp_path):
    target, environment = installed
    code = (
        "import mtseg, sys; assert 'tensorflow' not in sys.modules; print(mtseg.__file__);"
        "from mtseg_datasets.mtseg_cta import mtseg_cta_dataset_builder as b; print(b.__file__);"
        "import importlib.util; print(importlib.util.find_spec('datasets'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    mtseg_file, builder_file, name_of_another_package = result.stdout.split("\n")[:3]
    assert mtseg_file.startswith(str(target))
    assert builder_file.startswith(str(target))
    assert name_of_another_package == "None"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["mtseg-{}", "mtseg {}"])
def test_help_needs_no_tensorflow(installed, tmp_path, name, command):
    target, environment = installed
    program, *subcommand = name.format(command).split()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", target / "bin" / program, *subcommand, "--help"],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.startswith(f"usage: {name.format(command)}")
    imported = [line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()]
    assert "mtseg.cli.command" in imported  # what it imports is seen
    assert not {name for name in imported if name.split(".")[0] == "tensorflow"}
