"""Turns the blocks of the report (headings, paragraphs, tables, figures) into HTML or Markdown.

The HTML is one file that needs no network connection. Markdown links to PNG files beside it.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mtseg.system.atomic_files import atomic_write

DOTS_PER_INCH = 160
"""Resolution of PNG files."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """The title of a section; `level` is 2, or 3 for a subsection."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Text with `code`, **strong** and [links](https://…) marked as in Markdown."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        caption: what the table shows; marked as in a `Paragraph`.
        head: title of each column.
        rows: cells, as many per row as there are titles.
        num_text_columns: the first columns are aligned left, the others, numbers, right.
    """

    caption: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    num_text_columns: int = 1


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files, without ending.
        figure: the figure itself.
        alternative: what it shows, for readers who cannot see it.
        caption: text below it; marked as in a `Paragraph`.
    """

    name: str
    figure: Figure
    alternative: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Code:
    """Commands and their output."""

    text: str


@dataclasses.dataclass(frozen=True)
class Interactive:
    """HTML that only the HTML page shows; Markdown leaves it out."""

    content: str


Block = Heading | Paragraph | Table | Picture | Code | Interactive


def save_figures(blocks: Sequence[Block], folder: Path, formats: Sequence[str]) -> None:
    """Writes every figure into a folder as `NAME.FORMAT`.

    Args:
        blocks: the report.
        folder: made if missing.
        formats: `png` or `svg`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            for image_format in formats:
                with atomic_write(folder / f"{block.name}.{image_format}") as temporary:
                    temporary.write_bytes(_render(block.figure, image_format))


def _render(figure: Figure, image_format: str) -> bytes:
    file = io.BytesIO()
    # Without a date, the same figure gives the same file.
    metadata = {"Date" if image_format == "svg" else "Software": None}
    figure.savefig(
        file, format=image_format, dpi=DOTS_PER_INCH, facecolor="white", metadata=metadata
    )
    return file.getvalue()


def to_markdown(title: str, blocks: Sequence[Block], figures: str) -> str:
    """The report as Markdown.

    Args:
        title: first heading.
        blocks: the report.
        figures: folder of its PNG files, relative to the Markdown file.
    """
    parts = [f"# {title}"]
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Paragraph(text):
                parts.append(text)
            case Table(caption, head, rows, num_text):
                rule = ["---"] * num_text + ["---:"] * (len(head) - num_text)
                lines = ["| " + " | ".join(row) + " |" for row in [head, rule, *rows]]
                parts.append(f"*{caption}*\n\n" + "\n".join(lines))
            case Picture(name, _, alternative, caption):
                parts.append(f"![{alternative}]({figures}/{name}.png)\n\n*{caption}*")
            case Code(text):
                parts.append(f"```console\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The report as one HTML file, with its figures as SVG inside."""
    headings = [b for b in blocks if isinstance(b, Heading) and b.level == 2]
    contents = "".join(
        f'<li><a href="#{_anchor(h.text)}">{html.escape(h.text)}</a></li>' for h in headings
    )
    body = "\n".join(map(_block_to_html, blocks))
    style = Path(__file__).with_name("page.css").read_text()
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon, a browser would ask the network for one.
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n"
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _block_to_html(block: Block) -> str:
    match block:
        case Heading(text, level):
            name = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{name}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Table():
            return _table_to_html(block)
        case Picture(_, figure, alternative, caption):
            data = base64.b64encode(_render(figure, "svg")).decode()
            return (
                f'<figure><div class="scroll" tabindex="0" role="region" aria-label="Figure">'
                f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alternative)}">'
                f"</div><figcaption>{_inline(caption)}</figcaption></figure>"
            )
        case Code(text):
            return f'<pre tabindex="0">{html.escape(text)}</pre>'
        case Interactive(content):
            return f'<div class="interactive">{content}</div>'


def _table_to_html(table: Table) -> str:
    def cell(tag: str, column: int, text: str, scope: str = "") -> str:
        kind = ' class="figure"' if column >= table.num_text_columns else ""
        return f"<{tag}{scope}{kind}>{html.escape(text)}</{tag}>"

    head = "".join(cell("th", c, text, ' scope="col"') for c, text in enumerate(table.head))
    rows = "".join(
        "<tr>"
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", c, text) for c, text in enumerate(row[1:], start=1))
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.caption)}">'
        f"<table><caption><span>{_inline(table.caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]+)\]\((https?:[^)]+)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
