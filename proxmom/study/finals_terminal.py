"""The tables of training studies as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from textwrap import fill

import numpy as np

from proxmom.study import finals
from proxmom.study.finals import Trained
from proxmom.study.summary import Interval
from proxmom.study.terminal import (
    WIDTH,
    Rows,
    difference_text,
    fitted_table,
    loss_text,
    memory_table,
    ratio_text,
    starred,
)
from proxmom.study.terminal import lines as lines_of


def lines(trained: Trained, reference: str, bold: bool = False) -> list[str]:
    """All tables, with what their numbers are; at most 100 columns wide where names allow it."""
    alone = len(trained.problems) == 1
    parts = [
        *([] if alone else [_losses(trained, reference, bold)]),
        *(_problem(trained, reference, row, bold) for row in (range(len(trained.problems)) if alone else ())),
        *([] if alone else [_signs(trained, reference)]),
        _notes(trained, reference),
        _variants(trained),
        memory_table(finals.memory(trained)),
    ]
    return list(chain.from_iterable(["", *part] for part in parts if part))[1:]


def _losses(trained: Trained, reference: str, bold: bool) -> list[str]:
    """Mean loss of each method on each problem, and its ratio to the reference."""
    means = np.array([[loss.mean for loss in row] for row in finals.over_seeds(trained.losses)])
    ratios = finals.mean_ratios(trained, reference)
    return fitted_table(trained.problems, trained.methods, starred(means, loss_text), ratios, bold, ratio_text)


def _problem(trained: Trained, reference: str, row: int, bold: bool) -> list[str]:
    """The only problem: losses with their intervals, and the paired difference to the reference."""
    losses = finals.over_seeds(trained.losses)[row]
    split = trained.splits[row]
    [stars] = starred(np.array([[loss.mean for loss in losses]]), loss_text)
    differences = finals.differences(trained, reference)[row]
    validation = finals.over_seeds(trained.validation)[row]
    header = ["method", f"{split} loss", "±", "difference", *([] if split == "validation" else ["validation loss"])]
    rows: Rows = [[*header, "lost seeds"]]
    for column, method in enumerate(trained.methods):
        checked = [] if split == "validation" else [loss_text(validation[column].mean)]
        signed = "" if method == reference else _marked(differences[column])
        rows.append([method, stars[column], _half(losses[column]), signed, *checked, _lost(trained, method)])
    return lines_of(rows, bold)


def _half(interval: Interval) -> str:
    return "" if np.isnan(interval.high) else f"{interval.high - interval.mean:.2g}"


def _marked(interval: Interval) -> str:
    """A difference, with an exclamation mark if its interval excludes 0."""
    return difference_text(interval) + ("!" if interval.sign else " ")


def _lost(trained: Trained, method: str) -> str:
    counts = [count for (_, name), count in finals.lost_seeds(trained).items() if name == method]
    return f"{sum(d + f for d, f, _ in counts)} of {sum(size for *_, size in counts)}" if counts else ""


def _signs(trained: Trained, reference: str) -> list[str]:
    """On how many problems each method is lower and higher than the reference, and its lost seeds."""
    columns = zip(*finals.differences(trained, reference), strict=True)
    rows = [["method", "lower on", "higher on", "problems", "lost seeds"]]
    for method, column in zip(trained.methods, columns, strict=True):
        signs = [interval.sign for interval in column]
        known = sum(interval.size > 0 for interval in column)
        rows.append([method, f"{signs.count(-1)}", f"{signs.count(1)}", f"{known}", _lost(trained, method)])
    return lines_of(rows, False)


def _variants(trained: Trained) -> list[str]:
    """Defaults and controls against their own methods."""
    rows = []
    for row in finals.variants(trained):
        alone = [_marked(row.differences[0])] if len(row.differences) == 1 else []
        rows.append([row.name, ratio_text(row.ratio), *alone, f"{row.lower}", f"{row.higher}"])
    alone = ["difference"] if len(trained.problems) == 1 else []
    return lines_of([["variant", "ratio to its method", *alone, "lower on", "higher on"], *rows], False) if rows else []


def _notes(trained: Trained, reference: str) -> list[str]:
    """What the tables' numbers are, wrapped to their width."""
    return fill(" ".join(_sentences(trained, reference)), WIDTH).splitlines()


def _sentences(trained: Trained, reference: str) -> Iterator[str]:
    several = len(trained.problems) > 1
    seeds = "1 seed" if len(trained.seeds) == 1 else f"{len(trained.seeds)} seeds"
    yield f"{trained.measure.capitalize()} after {trained.steps} steps, best point of each method, mean over {seeds};"
    yield "* smallest." if several else "± its 95% interval (Student's t), * smallest."
    if several:
        yield f"ratio: geometric mean over seeds and problems of that loss over the one of {reference!r},"
        yield "with its 95% bootstrap interval over problems;"
        yield "lower, higher: problems where the 95% interval of the paired difference (Student's t) excludes 0."
    else:
        yield f"difference: to {reference!r}, paired by seed, with its 95% interval; ! it excludes 0."
    if any(finals.lost(run) for runs in trained.final.runs.values() for run in runs):
        yield "A lost seed diverged or failed, and counts as the initial loss."
