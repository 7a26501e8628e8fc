"""Every command in the README and the how-to pages is one that the commands accept."""

from pathlib import Path

import pytest

from mtseg.tasks.label_space import parse_tasks
from tests.models.documented_commands import commands_in, parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
DOCUMENTED = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}")
    for page in PAGES
    for words in commands_in(page.read_text(encoding="utf-8"))
    if "&&" not in words and "..." not in words
]


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_documented_command_is_accepted(words):
    arguments = parse(words)
    if words[0] != "mtseg-prepare" or not arguments.manual_dir:
        return
    for name in arguments.tasks:
        if ".toml" not in name:
            (selection,) = parse_tasks(name).selections
            assert not selection.is_default  # phantoms would not be prepared beside given scans
