"""The Dockerfile and its page: checked as far as that goes without Docker."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.documented_commands import code_blocks, parse

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "how-to" / "docker.md").read_text(encoding="utf-8")

RUNS = [
    shlex.split(line)
    for block in code_blocks(PAGE, "bash")
    for line in block.splitlines()
    if line.startswith("docker run")
]


def test_the_extras_that_it_installs_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (extras,) = re.findall(r"\*\.whl\)\[([a-z,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) <= set(setup["options.extras_require"])


def test_the_wheel_gets_the_files_that_it_is_made_from():
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in allowed)
    needed = {"mtseg", "datasets", "setup.cfg", "setup.py", "pyproject.toml", "README.md"}
    assert needed <= set(allowed)


def test_none_runs_as_root():
    users = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert len(users) == 2
    assert all(int(user) > 0 for user in users)


def test_what_the_image_for_prediction_has_is_enough_and_small(tmp_path):
    (removal,) = re.findall(r"rm -r [^\\\n]+", DOCKERFILE)
    pytest.importorskip("openvino")
    installed = Path(sys.modules["openvino"].__file__).parent
    left = tmp_path / "openvino"
    shutil.copytree(installed, left, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["sh", "-c", removal], cwd=left, check=True)  # every file is there to be removed
    assert sum(path.stat().st_size for path in left.rglob("*") if path.is_file()) < 105e6
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, openvino\n"
        "assert openvino.__file__.startswith(sys.argv[1])\n"
        "from mtseg.models.loading import load\n"
        "from mtseg.inference.dense import dense_probabilities\n"
        "volume = np.ones((3, 3, 3), np.float32)\n"
        "for precision in ('float32', 'int8'):\n"
        "    network = load(None, precision, 'openvino').network\n"
        "    assert np.allclose(dense_probabilities(network, volume).sum(-1), 1, atol=1e-3)\n"
    )
    command = [sys.executable, "-B", "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_a_documented_container_runs_a_command_that_exists(words):
    image = next(i for i, word in enumerate(words) if re.fullmatch("mtseg(:gpu|:predict)?", word))
    parse(["mtseg", *words[image + 1 :]])
    assert "--network" in words or "view" not in words  # the page answers loopback alone
