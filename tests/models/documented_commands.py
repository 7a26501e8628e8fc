"""Reads the commands in a document, and parses them with the commands' own parsers."""

import importlib
import re
import shlex


def code_blocks(text, language):
    """The contents of the fenced blocks of a language in Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_in(text):
    """The words of every command of mtseg in the `bash` and `console` blocks of Markdown text."""
    blocks = [*code_blocks(text, "bash"), *code_blocks(text, "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines]
    return [
        shlex.split(line, comments=True) for line in lines if line.startswith(("mtseg-", "mtseg "))
    ]


def parse(words):
    """The arguments of a command; exits, and so fails the test, if its parser refuses them."""
    name, *arguments = words
    if name == "mtseg":
        name, *arguments = arguments
        if name.startswith("-") or name == "info":  # the command itself has these
            return None
    name = name.removeprefix("mtseg-")
    module = "mtseg.viewer.command" if name == "view" else f"mtseg.cli.{name}"
    module = importlib.import_module(module)
    return module.make_parser().parse_args(arguments)
