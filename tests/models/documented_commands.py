"""Reads the commands in a document, and parses them with the commands' own parsers."""

import importlib
import re
import shlex


def code_blocks(text, language):
    """The contents of the fenced blocks of a language in Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_in(text):
    """The words of every `mtseg-…` command in the `bash` and `console` blocks of Markdown text."""
    blocks = [*code_blocks(text, "bash"), *code_blocks(text, "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("mtseg-")]


def parse(words):
    """The arguments of a command; exits, and so fails the test, if its parser refuses them."""
    name, *arguments = words
    module = importlib.import_module(f"mtseg.cli.{name.removeprefix('mtseg-')}")
    return module.make_parser().parse_args(arguments)
