"""The documentation site builds without a warning, is complete, and loads nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mtseg
from mtseg.__main__ import COMMANDS
from mtseg.evaluation.results import Evaluation
from tests.models.documented_commands import keys_in, make_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FILES = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built by the documented command."""
    (options,) = re.findall(r"sphinx-build (.+) docs build/site", (DOCS / "conf.py").read_text())
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", *options.split(), "docs", out]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_every_page_is_in_the_site(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_no_page_loads_anything_from_elsewhere(site):
    loading = r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    for page in site.rglob("*.html"):
        assert not re.findall(loading, page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style


def test_every_option_of_every_command_is_in_the_reference(site):
    text = text_of(site / "reference" / "commands.html")
    for name in COMMANDS:
        assert f"mtseg {name}" in text
        for option in make_parser(name)._option_string_actions:
            assert option in text


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in set(mtseg.__all__) - {"__version__"}:
        assert f'id="mtseg.{name}"' in page


def test_the_reference_lists_every_value_of_a_manifest():
    manifest = json.loads((ROOT / "mtseg/models/packaged/manifest.json").read_text())
    assert keys_in(FILES, "Model") == set(manifest)


def test_the_reference_lists_every_value_of_an_evaluation():
    stored = Evaluation((), {}).to_json(model="m", command="c")
    assert set(stored) <= keys_in(FILES, "Evaluation")
