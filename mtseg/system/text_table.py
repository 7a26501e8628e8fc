"""Tables as lines of text, for every command that prints one."""

from __future__ import annotations

from collections.abc import Sequence


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
