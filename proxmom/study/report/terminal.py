"""The table of results as plain text: methods or problems as rows, whichever fits the width."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

import numpy as np

from proxmom.study.report import summary
from proxmom.study.report.summary import Array, Interval, Memory, Results

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


def loss_text(value: float) -> str:
    """Four digits, for losses are compared in the third, below 0.001 three: "1.234", "1.23e-4"; "" for nan."""
    if np.isnan(value):
        return ""
    return _power(f"{value:.2e}") if 0 < abs(value) < 1e-3 else f"{value:#.4g}".rstrip(".")


def difference_text(interval: Interval) -> str:
    """A difference with its sign and interval, two digits of the latter's width: "-0.0112 [-0.0203, -0.0021]"."""
    ends = [interval.mean, interval.low, interval.high] if interval.low < interval.high else [interval.mean]
    width = (interval.high - interval.low) / 2 if len(ends) > 1 else abs(interval.mean)
    if np.isnan(interval.mean) or width == 0:
        return "" if np.isnan(interval.mean) else "0"
    decimals = max(0, 1 - int(np.floor(np.log10(width))))
    texts = [f"{end:+.{decimals}f}" if decimals < 6 else _power(f"{end:+.1e}") for end in ends]
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(ends) > 1 else "")


def _power(text: str) -> str:
    return text.replace("e-0", "e-")


def interval_text(interval: Interval, text: Callable[[float], str] = number_text) -> str:
    """The mean and its interval, as in "0.46 [0.31, 0.70]"; the mean alone where there is no spread."""
    bounds = f" [{text(interval.low)}, {text(interval.high)}]"
    return text(interval.mean) + (bounds if interval.low < interval.high else "")


def ratio_text(ratio: Interval) -> str:
    """A ratio of losses, which differ by little: three decimals below 10, and its interval."""
    return interval_text(ratio, lambda value: f"{value:.3f}" if 0.1 <= value < 9.995 else number_text(value))


def count_text(count: float) -> str:
    """Evaluations as a whole number; "miss" for inf, "" for nan."""
    return "" if np.isnan(count) else "miss" if np.isinf(count) else f"{count:.0f}"


def text_table(results: Results, reference: str, bold: bool = False) -> list[str]:
    """Lines of the table; the fewest evaluations of each problem carry a star, and are bold if asked.

    It is `fitted_table`: at most 100 columns wide unless a single name is too long for that.
    """
    ratios = summary.mean_ratios(results, reference)
    return fitted_table(results.problems, results.methods, starred(results.counts, count_text), ratios, bold)


def fitted_table(
    problems: Sequence[str],
    methods: Sequence[str],
    cells: Rows,
    ratios: Mapping[str, Interval],
    bold: bool = False,
    text: Callable[[Interval], str] = interval_text,
) -> list[str]:
    """Lines of a table of `cells`, by problem and method, and each method's ratio; what ends with a star may be bold.

    Methods are rows if it is then at most 100 columns wide, else problems; where neither way round fits, the problems
    are split over several blocks.
    """
    by_method = _by_method(problems, methods, cells, {method: text(ratio) for method, ratio in ratios.items()})
    by_problem = _by_problem(problems, methods, cells, ratios)
    if _width(by_method) <= WIDTH:
        return lines(by_method, bold)
    if _width(by_problem) <= WIDTH:
        return lines(by_problem, bold)
    return wrapped(by_method, bold)


def wrapped(rows: Rows, bold: bool) -> list[str]:
    """Rows, the first of them the header, in columns, which are split over several blocks if they are too wide."""
    return [line for block in _blocks(rows) for line in [*lines(block, bold), ""]][:-1]


def starred(table: Array, text: Callable[[float], str]) -> Rows:
    """Values (problems, methods) as text, the smallest of each problem with a star."""
    marked = []
    for values in table:
        least = np.where(np.isnan(values), np.inf, values).min()
        marked.append([text(value) + ("*" if value == least < np.inf else " ") for value in values])
    return marked


def variants_table(results: Results) -> list[str]:
    """Lines for defaults and controls against their own methods; none where there are none."""
    rows = [
        [row.name, interval_text(row.ratio), f"{row.fewer}", f"{row.more}", f"{row.ratio.size}"]
        for row in summary.variants(results)
    ]
    return lines([["variant", "ratio to its method", "fewer on", "more on", "problems"], *rows], False) if rows else []


def memory_table(found: Sequence[Memory]) -> list[str]:
    """Lines for the methods that derive their momentum; none where there are none."""
    rows = [[row.method, interval_text(row.beta), interval_text(row.capped)] for row in found]
    return lines([["method", "mean weight on memory", "share of steps at the cap"], *rows], False) if rows else []


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


def _by_method(problems: Sequence[str], methods: Sequence[str], cells: Rows, ratios: Mapping[str, str]) -> Rows:
    columns = zip(methods, zip(*cells, strict=True), strict=True)
    rows = [[method, *column, ratios[method]] for method, column in columns]
    return [["method", *problems, "ratio"], *rows]


def _by_problem(problems: Sequence[str], methods: Sequence[str], cells: Rows, ratios: Mapping[str, Interval]) -> Rows:
    ordered = [ratios[method] for method in methods]
    bounds = [(number_text(ratio.low), number_text(ratio.high)) for ratio in ordered]
    return [
        ["problem", *methods],
        *([problem, *row] for problem, row in zip(problems, cells, strict=True)),
        ["ratio", *(number_text(ratio.mean) for ratio in ordered)],
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


def lines(rows: Rows, bold: bool) -> list[str]:
    """Rows, the first of them the header, in columns."""
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
