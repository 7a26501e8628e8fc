"""The Dockerfile and its page: checked as far as that goes without Docker."""

import configparser
import re
import shlex
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


def test_it_does_not_run_as_root():
    (user,) = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_a_documented_container_runs_a_command_that_exists(words):
    image = next(i for i, word in enumerate(words) if word in ("mtseg", "mtseg:gpu"))
    parse(["mtseg", *words[image + 1 :]])
    assert "--network" in words or "view" not in words  # the page answers loopback alone
