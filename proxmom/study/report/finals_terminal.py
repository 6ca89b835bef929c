"""The tables of training studies as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from textwrap import fill

import numpy as np

from proxmom.study.record.ranking import lost
from proxmom.study.report import finals, finals_compare, finals_tuning
from proxmom.study.report.finals import Trained
from proxmom.study.report.finals_compare import Comparison
from proxmom.study.report.terminal import (
    WIDTH,
    difference_text,
    fitted_table,
    loss_text,
    memory_table,
    ratio_text,
    starred,
    wrapped,
)
from proxmom.study.report.terminal import lines as lines_of


def lines(trained: Trained, reference: str, bold: bool = False) -> list[str]:
    """All tables, with what their numbers are; at most 100 columns wide where names allow it."""
    alone = len(trained.problems) == 1
    parts = [
        *([] if alone else [_losses(trained, reference, bold)]),
        *(_problem(trained, reference, row, bold) for row in (range(len(trained.problems)) if alone else ())),
        *([] if alone else [_signs(trained, reference)]),
        _notes(trained, reference),
        _variants(trained),
        memory_table(finals_compare.memory(trained)),
        _sensitivity(trained),
    ]
    return list(chain.from_iterable(["", *part] for part in parts if part))[1:]


def _losses(trained: Trained, reference: str, bold: bool) -> list[str]:
    """Mean loss of each method on each problem, and its ratio to the reference."""
    means = np.array([[loss.mean for loss in row] for row in finals_compare.means(trained, trained.losses)])
    ratios = finals_compare.mean_ratios(trained, reference)
    return fitted_table(trained.problems, trained.methods, starred(means, loss_text), ratios, bold, ratio_text)


def _problem(trained: Trained, reference: str, row: int, bold: bool) -> list[str]:
    """The only problem: losses with their intervals, and the comparison with the reference."""
    losses = finals_compare.means(trained, trained.losses)[row]
    validation = finals_compare.means(trained, trained.validation)[row]
    pairs = zip(trained.methods, finals_compare.comparisons(trained, reference)[row], strict=True)
    [stars] = starred(np.array([[loss.mean for loss in losses]]), loss_text)
    columns = {
        "method": trained.methods,
        trained.names[row]: stars,
        "from": [loss_text(loss.low) for loss in losses],
        "to": [loss_text(loss.high) for loss in losses],
        "ratio" if trained.gaps[row] else "difference": ["" if m == reference else _marked(pair) for m, pair in pairs],
    }
    if not np.array_equal(trained.losses[row], trained.validation[row], equal_nan=True):
        columns["validation loss"] = [loss_text(loss.mean) for loss in validation]
    if any(diverged + failed for diverged, failed, _ in finals.lost_seeds(trained).values()):
        columns["lost seeds"] = [_lost(trained, method) for method in trained.methods]
    return wrapped([list(columns), *map(list, zip(*columns.values(), strict=True))], bold)


def comparison_text(pair: Comparison) -> str:
    """A difference with its sign, or a ratio with a multiplication sign, and its interval."""
    if not pair.factor:
        return difference_text(pair.interval)
    return "" if np.isnan(pair.interval.mean) else f"×{ratio_text(pair.interval)}"


def _marked(pair: Comparison) -> str:
    """A comparison, with an exclamation mark if its interval says lower or higher."""
    return comparison_text(pair) + ("!" if pair.sign else " ")


def _lost(trained: Trained, method: str) -> str:
    counts = [count for (_, name), count in finals.lost_seeds(trained).items() if name == method]
    return f"{sum(d + f for d, f, _ in counts)} of {sum(size for *_, size in counts)}" if counts else ""


def _signs(trained: Trained, reference: str) -> list[str]:
    """On how many problems each method is lower and higher than the reference, and its lost seeds."""
    columns = zip(*finals_compare.comparisons(trained, reference), strict=True)
    rows = [["method", "lower on", "higher on", "problems", "lost seeds"]]
    for method, column in zip(trained.methods, columns, strict=True):
        signs = [pair.sign for pair in column]
        known = sum(pair.interval.size > 0 for pair in column)
        rows.append([method, f"{signs.count(-1)}", f"{signs.count(1)}", f"{known}", _lost(trained, method)])
    return lines_of(rows, False)


def _variants(trained: Trained) -> list[str]:
    """Defaults and controls against their own methods."""
    rows = []
    for row in finals_compare.variants(trained):
        alone = [_marked(row.pairs[0])] if len(row.pairs) == 1 and not trained.gaps[0] else []
        rows.append([row.name, ratio_text(row.ratio), *alone, f"{row.lower}", f"{row.higher}"])
    alone = ["difference"] if len(trained.problems) == 1 and not trained.gaps[0] else []
    return lines_of([["variant", "ratio to its method", *alone, "lower on", "higher on"], *rows], False) if rows else []


def _sensitivity(trained: Trained) -> list[str]:
    """How much is lost, on average, by an lr within a factor of ten of the best; the least sensitive method first."""
    found = sorted(finals_tuning.lr_sensitivity(trained).items(), key=lambda item: item[1].mean)
    if not found:
        return []
    told = (
        "lr-sensitivity: mean share of the way from the initial to the best validation loss that the points within a "
        "factor of ten of the method's best lr left, with its 95% bootstrap interval over problems or, with one, over "
        "points."
    )
    rows = [["method", "lr-sensitivity"], *([method, ratio_text(value)] for method, value in found)]
    return [*lines_of(rows, False), "", *fill(told, WIDTH).splitlines()]


def _notes(trained: Trained, reference: str) -> list[str]:
    """What the tables' numbers are, wrapped to their width."""
    return fill(" ".join(_sentences(trained, reference)), WIDTH).splitlines()


def _sentences(trained: Trained, reference: str) -> Iterator[str]:
    several = len(trained.problems) > 1
    seeds = "1 seed" if len(trained.seeds) == 1 else f"{len(trained.seeds)} seeds"
    mean = (
        "geometric mean" if all(trained.gaps) else "mean (of relative gaps geometric)" if any(trained.gaps) else "mean"
    )
    yield f"{trained.measure.capitalize()} after {trained.steps} steps, best point of each method, {mean} over {seeds};"
    if several:
        yield "* smallest. ratio: geometric mean over seeds and problems of that loss over the one of"
        yield f"{reference!r}, with its 95% bootstrap interval over problems; lower, higher: problems where the 95%"
        yield "interval (Student's t) of the comparison by seed says so."
    else:
        pair = "ratio" if trained.gaps[0] else "difference"
        yield "from, to: 95% interval (Student's t); * smallest."
        yield f"{pair}: to {reference!r}, paired by seed, with its 95% interval; ! it says lower or higher."
    if any(lost(run) for runs in trained.final.runs.values() for run in runs):
        yield "A lost seed diverged or failed, and counts as the initial loss."
