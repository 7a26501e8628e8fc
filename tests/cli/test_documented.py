"""Every command in the README and in docs/ is one that the commands accept."""

import re
from pathlib import Path

import pytest

from mtseg.__main__ import COMMANDS
from mtseg.tasks.label_space import parse_tasks
from tests.models.documented_commands import commands_in, make_parser, parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTED = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}")
    for page in PAGES
    for words in commands_in(page.read_text(encoding="utf-8"))
    if "&&" not in words and "..." not in words
]

OF_OTHER_PROGRAMS = {"--user"}.union(
    *(
        re.findall(r'"(--[a-z][\w-]*)"', path.read_text(encoding="utf-8"))
        for path in (ROOT / "benchmarks").glob("*.py")
    )
)
"""Options in the text that are Docker's and those of scripts in benchmarks/."""


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_documented_command_is_accepted(words):
    arguments = parse(words)
    is_preparing = " ".join(words).startswith(("mtseg-prepare", "mtseg prepare"))
    if not is_preparing or not arguments.manual_dir:
        return
    for name in arguments.tasks:
        if ".toml" not in name:
            (selection,) = parse_tasks(name).selections
            assert not selection.is_default  # phantoms would not be prepared beside given scans


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_option_that_a_text_names_exists(page):
    options = {name: set(make_parser(name)._option_string_actions) for name in COMMANDS}
    every_option = set().union(*options.values(), OF_OTHER_PROGRAMS)
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for code in re.findall(r"`([^`]+)`", text):
        command = re.match(r"mtseg[- ]([a-z]+(?:-[a-z]+)*)", code)
        if command or code.startswith("--"):
            known = options[command[1]] if command else every_option
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known, code
