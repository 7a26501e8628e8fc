"""Reads commands, code and tables in a document; parses commands with their own parsers."""

import importlib
import re
import shlex


def code_blocks(text, language):
    """The contents of the fenced blocks of a language in Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def keys_in(text, heading):
    """The names in the first columns of all tables under a heading of Markdown text."""
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def commands_in(text):
    """The words of every command of mtseg in the `bash` and `console` blocks of Markdown text."""
    blocks = [*code_blocks(text, "bash"), *code_blocks(text, "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines]
    return [
        shlex.split(line.split(" > ")[0], comments=True)
        for line in lines
        if line.startswith(("mtseg-", "mtseg "))
    ]


def make_parser(name):
    """The parser of a command of mtseg, such as `predict`."""
    modules = {
        "view": "mtseg.viewer.command",
        "serve-dicom": "mtseg.gateway.command",
        "info": "mtseg.__main__",
    }
    if name == "models":
        return importlib.import_module("mtseg.__main__").make_models_parser()
    return importlib.import_module(modules.get(name, f"mtseg.cli.{name}")).make_parser()


def parse(words):
    """The arguments of a command; exits, and so fails the test, if its parser refuses them."""
    name, *arguments = words
    if name == "mtseg":
        name, *arguments = arguments
        if name.startswith("-"):  # the command itself has these
            return None
    return make_parser(name.removeprefix("mtseg-")).parse_args(arguments)
