"""The table of results as plain text: methods or problems as rows, whichever fits the width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill

import numpy as np

from proxmom.study import summary
from proxmom.study.summary import Interval, Results

WIDTH = 100
_GAP = "  "
_BOLD = "\033[1m{}\033[0m"

Rows = list[list[str]]


def number_text(value: float) -> str:
    """Two or three digits, as people write them; "" for nan."""
    if np.isnan(value):
        return ""
    if value < 0.0995:
        return f"{value:.2g}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def interval_text(interval: Interval) -> str:
    """The mean and its interval, as in "0.46 [0.31, 0.70]"; the mean alone where there is no spread."""
    bounds = f" [{number_text(interval.low)}, {number_text(interval.high)}]"
    return number_text(interval.mean) + (bounds if interval.low < interval.high else "")


def count_text(count: float) -> str:
    """Evaluations as a whole number; "miss" for inf, "" for nan."""
    return "" if np.isnan(count) else "miss" if np.isinf(count) else f"{count:.0f}"


def text_table(results: Results, reference: str, bold: bool = False) -> list[str]:
    """Lines of the table; the fewest evaluations of each problem carry a star, and are bold if asked.

    It is at most 100 columns wide unless a single name is too long for that; where neither way round fits,
    the problems are split over several blocks.
    """
    by_method, by_problem = _by_method(results, reference), _by_problem(results, reference)
    if _width(by_method) <= WIDTH:
        return _lines(by_method, bold)
    if _width(by_problem) <= WIDTH:
        return _lines(by_problem, bold)
    return [line for block in _blocks(by_method) for line in [*_lines(block, bold), ""]][:-1]


def variants_table(results: Results) -> list[str]:
    """Lines for defaults and controls against their own methods; none where there are none."""
    rows = [
        [row.name, interval_text(row.ratio), f"{row.fewer}", f"{row.more}", f"{row.ratio.size}"]
        for row in summary.variants(results)
    ]
    return _lines([["variant", "ratio to its method", "fewer on", "more on", "problems"], *rows], False) if rows else []


def memory_table(results: Results) -> list[str]:
    """Lines for the methods that derive their momentum; none where there are none."""
    rows = [[row.method, interval_text(row.beta), interval_text(row.capped)] for row in summary.memory(results)]
    return _lines([["method", "mean weight on memory", "share of steps at the cap"], *rows], False) if rows else []


def notes(results: Results, reference: str, target: float) -> list[str]:
    """What the table's numbers are, wrapped to its width."""
    misses = f" miss: not within {results.budget}, in means {summary.MISS_FACTOR * results.budget}."
    text = (
        f"Gradient evaluations to a relative gap of {target:g}, best run of each method; * fewest."
        f"{misses if np.isinf(results.counts).any() else ''} "
        f"ratio: geometric mean over problems of the evaluations over those of {reference!r}, "
        "with its 95% bootstrap interval."
    )
    return fill(text, WIDTH).splitlines()


def _cells(results: Results) -> Rows:
    """Counts by problem and method, the fewest of each problem with a star."""
    marked = []
    for counts in results.counts:
        fewest = np.where(np.isnan(counts), np.inf, counts).min()
        marked.append([count_text(c) + ("*" if c == fewest < np.inf else " ") for c in counts])
    return marked


def _by_method(results: Results, reference: str) -> Rows:
    ratios = summary.mean_ratios(results, reference)
    columns = zip(results.methods, zip(*_cells(results), strict=True), strict=True)
    rows = [[method, *cells, interval_text(ratios[method])] for method, cells in columns]
    return [["method", *results.problems, "ratio"], *rows]


def _by_problem(results: Results, reference: str) -> Rows:
    ratios = [summary.mean_ratios(results, reference)[method] for method in results.methods]
    rows = [[problem, *cells] for problem, cells in zip(results.problems, _cells(results), strict=True)]
    bounds = [(number_text(ratio.low), number_text(ratio.high)) for ratio in ratios]
    return [
        ["problem", *results.methods],
        *rows,
        ["ratio", *(number_text(ratio.mean) for ratio in ratios)],
        ["  from", *(low for low, _ in bounds)],
        ["  to", *(high for _, high in bounds)],
    ]


def _blocks(rows: Rows) -> list[Rows]:
    """The columns after the first in groups that fit, each group behind the first column."""
    blocks = [[[row[0]] for row in rows]]
    for column in zip(*(row[1:] for row in rows), strict=True):
        wider = [[*row, cell] for row, cell in zip(blocks[-1], column, strict=True)]
        if _width(wider) > WIDTH and len(blocks[-1][0]) > 1:
            blocks.append([[row[0], cell] for row, cell in zip(rows, column, strict=True)])
        else:
            blocks[-1] = wider
    return blocks


def _widths(rows: Rows) -> list[int]:
    """Column widths: the first as wide as its longest entry, the others' headers broken."""
    words = [max(len(part.strip()) for part in _parts(name)) for name in rows[0]]
    cells = [max(len(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    return [max(pair) for pair in zip(words, cells, strict=True)]


def _parts(name: str) -> list[str]:
    """Where a header may be broken: after spaces, underscores and slashes."""
    return re.split(r"(?<=[\s_/])", name)


def _broken(name: str, width: int) -> list[str]:
    lines = [""]
    for part in _parts(name):
        if len((lines[-1] + part).strip()) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return [line.strip() for line in lines]


def _width(rows: Rows) -> int:
    return sum(_widths(rows)) + len(_GAP) * (len(rows[0]) - 1)


def _lines(rows: Rows, bold: bool) -> list[str]:
    widths = _widths(rows)
    header = [_broken(name, width) for name, width in zip(rows[0], widths, strict=True)]
    height = max(map(len, header))
    header = [[""] * (height - len(words)) + words for words in header]
    heads = [_line([words[level] for words in header], widths, False) for level in range(height)]
    return [*heads, "-" * _width(rows), *(_line(row, widths, bold) for row in rows[1:])]


def _line(cells: Sequence[str], widths: Sequence[int], bold: bool) -> str:
    texts = [f"{cells[0]:<{widths[0]}}"]
    for cell, width in zip(cells[1:], widths[1:], strict=True):
        text = f"{cell:>{width}}"
        texts.append(text.replace(cell, _BOLD.format(cell)) if bold and cell.endswith("*") else text)
    return _GAP.join(texts).rstrip()
