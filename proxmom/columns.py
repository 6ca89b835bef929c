"""Tables of text: in columns for a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Rows as lines; a row that is shorter than the first ends in a text that needs no column.

    numbers: whether all columns but the first are aligned to the right.
    """
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    return [GAP.join(_cells(row, widths, numbers)).rstrip() for row in rows]


def markdown_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """The same as a Markdown table, the first row its header."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] + [""] * (len(rows[0]) - len(row)) for row in rows)
    rule = f"|---{('|---:' if numbers else '|---') * (len(head) - 1)}|"
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in body)]


def _cells(row: Sequence[str], widths: Sequence[int], numbers: bool) -> list[str]:
    if len(row) < len(widths):
        return [f"{row[0]:<{widths[0]}}", *row[1:]]
    sides = ["<", *(">" if numbers else "<") * (len(row) - 1)]
    return [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
