"""The tables of results as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from textwrap import fill

import numpy as np

from proxmom.columns import GAP, columns
from proxmom.study.report import tuning
from proxmom.study.report.compare import Comparison, comparisons, mean_ratios, means, memory_weights, signs, variants
from proxmom.study.report.results import MISS_FACTOR, Counts, Losses, Results
from proxmom.study.report.statistics import Array, Interval, least
from proxmom.study.report.text import (
    comparison_text,
    few_text,
    interval_text,
    loss_text,
    number_text,
    ratio_text,
    value_text,
)

WIDTH = 100

Rows = list[list[str]]


def tables(results: Results, reference: str, bold: bool = False) -> list[str]:
    """Lines of all tables, with what their numbers are; at most 100 columns wide where names allow it."""
    losses = results if isinstance(results, Losses) else None
    alone = losses is not None and len(results.problems) == 1
    parts = [
        _problem(losses, reference, bold) if losses and alone else text_table(results, reference, bold),
        _signs(losses, reference) if losses and not alone else [],
        fill(" ".join(filter(None, [*_sentences(results, reference), few_text(results)])), WIDTH).splitlines(),
        _variants(results),
        _memory(results),
        _sensitivity(losses) if losses else [],
    ]
    return list(chain.from_iterable(["", *part] for part in parts if part))[1:]


def text_table(results: Results, reference: str, bold: bool = False) -> list[str]:
    """Lines of the values by problem and method, the least of each problem starred, and each method's ratio.

    Methods are rows if it is then at most 100 columns wide, else problems; where neither way round fits, the problems
    are split over several blocks.
    """
    ratios, cells = mean_ratios(results, reference), _starred(results, _shown(results))
    by_cells = zip(results.methods, zip(*cells, strict=True), strict=True)
    rows = [[method, *column, ratio_text(ratios[method], results.exact)] for method, column in by_cells]
    by_method = [["method", *results.problems, "ratio"], *rows]
    by_problem = _by_problem(results, cells, ratios)
    if _width(by_method) > WIDTH >= _width(by_problem):
        return _lines(by_problem, bold)
    return _wrapped(by_method, bold)


def _shown(results: Results) -> Array:
    """What a table shows of each pair, shape (problems, methods)."""
    if isinstance(results, Losses):
        return np.array([[loss.mean for loss in row] for row in means(results, results.values)])
    return results.values[..., 0]


def _starred(results: Results, table: Array) -> Rows:
    """Values (problems, methods) as text, the smallest of each problem with a star."""
    ends = np.where((table == least(table)[:, None]) & np.isfinite(table), "*", " ")
    return [
        [value_text(results, v) + str(end) for v, end in zip(*row, strict=True)]
        for row in zip(table, ends, strict=True)
    ]


def _problem(results: Losses, reference: str, bold: bool) -> list[str]:
    """The only problem: losses with their intervals, and the comparison with the reference."""
    [losses], [validation] = (means(results, values) for values in (results.values, results.validation))
    pairs = zip(results.methods, comparisons(results, reference)[0], strict=True)
    table = {
        "method": results.methods,
        results.names[0]: _starred(results, _shown(results))[0],
        "from": [loss_text(loss.low) for loss in losses],
        "to": [loss_text(loss.high) for loss in losses],
        "ratio" if results.by_ratio[0] else "difference": [
            "" if m == reference else _marked(pair) for m, pair in pairs
        ],
    }
    if not np.array_equal(results.values, results.validation, equal_nan=True):
        table["validation loss"] = [loss_text(loss.mean) for loss in validation]
    if any(diverged + failed for diverged, failed, _ in results.lost_seeds.values()):
        table["lost seeds"] = [_lost(results, method) for method in results.methods]
    return _wrapped([list(table), *map(list, zip(*table.values(), strict=True))], bold)


def _marked(pair: Comparison) -> str:
    """A comparison, with an exclamation mark if its interval says lower or higher."""
    return comparison_text(pair) + ("!" if pair.sign else " ")


def _lost(results: Losses, method: str) -> str:
    counts = [count for (_, name), count in results.lost_seeds.items() if name == method]
    return f"{sum(d + f for d, f, _ in counts)} of {sum(size for *_, size in counts)}" if counts else ""


def _signs(results: Losses, reference: str) -> list[str]:
    """On how many problems each method is lower and higher than the reference, and its lost seeds."""
    rows = [[m, *map(str, counts), _lost(results, m)] for m, counts in signs(results, reference).items()]
    return _lines([["method", "lower on", "higher on", "problems", "lost seeds"], *rows])


def _variants(results: Results) -> list[str]:
    """Defaults and controls against their own methods; none where there are none."""
    alone = ["difference"] if results.by_ratio == (False,) else []
    ends = ["fewer on", "more on", "problems"] if results.exact else ["lower on", "higher on"]
    rows = [["variant", "ratio to its method", *alone, *ends]]
    for row in variants(results):
        counts = [str(count) for count in (row.lower, row.higher, row.ratio.size)[: len(ends)]]
        pairs = [_marked(row.pairs[0]) for _ in alone]
        rows.append([row.name, ratio_text(row.ratio, results.exact), *pairs, *counts])
    return _lines(rows) if len(rows) > 1 else []


def _memory(results: Results) -> list[str]:
    """The methods that derive their momentum; none where there are none."""
    rows = [[row.method, interval_text(row.beta), interval_text(row.capped)] for row in memory_weights(results)]
    return _lines([["method", "mean weight on memory", "share of steps at the cap"], *rows]) if rows else []


def _sensitivity(results: Losses) -> list[str]:
    """How much is lost, on average, by an lr within a factor of ten of the best; the least sensitive method first."""
    found = sorted(tuning.lr_sensitivity(results).items(), key=lambda item: item[1].mean)
    if not found:
        return []
    told = (
        "lr-sensitivity: mean share of the way from the initial to the best validation loss that the points within a "
        "factor of ten of the method's best lr left, with its 95% bootstrap interval over problems or, with one, over "
        "points."
        + (f" A point's loss is the mean over {results.search_seeds} seeds." if results.search_seeds > 1 else "")
    )
    rows = [["method", "lr-sensitivity"], *([method, ratio_text(value)] for method, value in found)]
    return [*_lines(rows), "", *fill(told, WIDTH).splitlines()]


def _sentences(results: Results, reference: str) -> Iterator[str]:
    """What the tables' numbers are."""
    if isinstance(results, Losses):
        yield from _sentences_of_losses(results, reference)
        return
    assert isinstance(results, Counts)
    yield f"Gradient evaluations to a relative gap of {results.target:g}, best run of each method; * fewest."
    if np.isinf(results.counts).any():
        yield f"miss: not within {results.limit}, in means {MISS_FACTOR * results.limit}."
    yield f"ratio: geometric mean over problems of the evaluations over those of {reference!r}, with its 95%"
    yield "bootstrap interval."


def _sentences_of_losses(results: Losses, reference: str) -> Iterator[str]:
    gaps = results.by_ratio
    seeds = "1 seed" if len(results.seeds) == 1 else f"{len(results.seeds)} seeds"
    mean = "geometric mean" if all(gaps) else "mean (of relative gaps geometric)" if any(gaps) else "mean"
    tried = f" by the mean validation loss of {results.search_seeds} seeds" if results.search_seeds > 1 else ""
    yield f"{results.measure.capitalize()} after {results.limit} steps, best point of each method{tried}, {mean} over"
    yield f"{seeds};"
    if len(results.problems) > 1:
        yield "* smallest. ratio: geometric mean over seeds and problems of that loss over the one of"
        yield f"{reference!r}, with its 95% bootstrap interval over problems; lower, higher: problems where the 95%"
        yield "interval (Student's t) of the comparison by seed says so."
    else:
        yield "from, to: 95% interval (Student's t); * smallest."
        pair = "ratio" if gaps[0] else "difference"
        yield f"{pair}: to {reference!r}, paired by seed, with its 95% interval; ! it says lower or higher."
    if any(diverged + failed for diverged, failed, _ in results.lost_seeds.values()):
        yield "A lost seed diverged or failed, and counts as the initial loss."


def _by_problem(results: Results, cells: Rows, ratios: Mapping[str, Interval]) -> Rows:
    ordered = [ratios[method] for method in results.methods]
    bounds = [(number_text(ratio.low), number_text(ratio.high)) for ratio in ordered]
    return [
        ["problem", *results.methods],
        *([problem, *row] for problem, row in zip(results.problems, cells, strict=True)),
        ["ratio", *(number_text(ratio.mean) for ratio in ordered)],
        ["  from", *(low for low, _ in bounds)],
        ["  to", *(high for _, high in bounds)],
    ]


def _wrapped(rows: Rows, bold: bool) -> list[str]:
    """Lines of the rows, their columns split over several blocks, each behind the first one, if they are too wide."""
    blocks = [[[row[0]] for row in rows]]
    for column in zip(*(row[1:] for row in rows), strict=True):
        wider = [[*row, cell] for row, cell in zip(blocks[-1], column, strict=True)]
        if _width(wider) > WIDTH and len(blocks[-1][0]) > 1:
            blocks.append([[row[0], cell] for row, cell in zip(rows, column, strict=True)])
        else:
            blocks[-1] = wider
    return [line for block in blocks for line in [*_lines(block, bold), ""]][:-1]


def _lines(rows: Rows, bold: bool = False) -> list[str]:
    """Rows in columns, a line under the first of them, the header; what ends with a star may be bold."""
    header = [_broken(name, width) for name, width in zip(rows[0], _widths(rows), strict=True)]
    height = max(map(len, header))
    heads = zip(*([""] * (height - len(words)) + words for words in header), strict=True)
    lines = columns([*map(list, heads), *rows[1:]], numbers=True)
    body = [re.sub(r"\S+\*(?= |$)", "\033[1m\\g<0>\033[0m", line) if bold else line for line in lines[height:]]
    return [*lines[:height], "-" * _width(rows), *body]


def _width(rows: Rows) -> int:
    return sum(_widths(rows)) + len(GAP) * (len(rows[0]) - 1)


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
