"""Tables as text: with columns for every command that prints one, and as CSV for files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Beginning of a text that a spreadsheet takes for a formula, and of one with apostrophes before;
the last four are the wide forms of `=+-@`."""


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> str:
    """Lays out a table; every column is as wide as its longest cell.

    Args:
        header: titles of the columns.
        rows: cells as text, as many per row as there are titles.
        left: titles of the columns to align left; the others, numbers, are aligned right.

    Returns:
        Lines without spaces at their end, with two spaces between columns.

    Example:
        >>> print(format_table(("class", "Dice"), [("white_matter", "0.915")], left=("class",)))
        class          Dice
        white_matter  0.915
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def lay_out(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if title in left else cell.rjust(width)
            for title, cell, width in zip(header, line, widths, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(lay_out, lines))


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV text; None is an empty field.

    Names in a table come from files and headers. One that a spreadsheet would take for a formula,
    and carry out, gets an apostrophe in front; `read_csv_text` takes it away. Numbers stay as they
    are.

    Args:
        header: titles of the columns.
        rows: fields, as many per row as there are titles.

    Example:
        >>> format_csv(("subject", "dice"), [("=1+1", 0.5), ("s1", None)])
        "subject,dice\\n'=1+1,0.5\\ns1,\\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_protect(field) for field in row] for row in rows)
    return text.getvalue()


def read_csv_text(field: str) -> str:
    """A field as it was before `format_csv` put an apostrophe in front."""
    return field[1:] if field.startswith("'") and _FORMULA.match(field) else field


def _protect(field: Any) -> Any:
    if not isinstance(field, str) or not _FORMULA.match(field):
        return field
    try:
        float(field)
    except ValueError:
        return f"'{field}"
    return field
