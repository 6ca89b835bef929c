"""What the final runs of training studies recorded on their way: losses, weights on memory, when a target was met."""

from __future__ import annotations

import numpy as np

from proxmom.study.record.ranking import lost
from proxmom.study.record.store import Run
from proxmom.study.report import summary
from proxmom.study.report.finals import LEAST, Pair, Trained
from proxmom.study.report.summary import Array, Interval


def curve_of(trained: Trained, pair: Pair, name: str) -> tuple[Array, list[Interval]]:
    """Steps, and mean and t interval over seeds of what was recorded as `name` at them; a seed counts until it ends.

    Of relative gaps they are geometric.
    """
    curves, steps = _curves(trained, pair)
    table = np.full((len(curves), steps.size), np.nan)
    for row, curve in zip(table, curves, strict=True):
        _, here, there = np.intersect1d(steps, curve["step"], return_indices=True)
        row[here] = curve[name][there]
    if name == "validation" and trained.gaps[trained.problems.index(pair[0])]:
        logs = np.log(np.maximum(table, LEAST))
        return steps, [summary.exponential(summary.t_mean(column)) for column in logs.T]
    return steps, [summary.t_mean(column) for column in table.T]


def betas_of(trained: Trained, pair: Pair) -> tuple[Array, Array]:
    """Steps, and weights on memory at them, (steps, units of all seeds); seeds that ended early are left out."""
    curves, steps = _curves(trained, pair)
    whole = [curve["beta"] for curve in curves if np.array_equal(curve["step"], steps)]
    return steps, np.concatenate([np.empty((steps.size, 0)), *whole], axis=1)


def middle_run(trained: Trained, pair: Pair) -> Run | None:
    """The final run of the median validation loss among those that finished; None if none did."""
    kept = sorted((r for r in trained.final.runs.get(pair, ()) if not lost(r)), key=lambda r: (trained.loss(r), r.seed))
    return kept[len(kept) // 2] if kept else None


def first_below(trained: Trained, target: float) -> tuple[Array, Array]:
    """Steps and seconds at which the validation loss was first recorded at or below `target`, of the final runs.

    Both of shape (problems, methods, seeds): inf for a miss, nan without a run.
    """
    found = {key: _first(curve, target) for key, curve in trained.curves.items()}
    return trained.of_seeds(lambda run: found[run.key][0]), trained.of_seeds(lambda run: found[run.key][1])


def median(values: Array) -> Array:
    """Median over the last axis of the values that are not nan; inf is a value."""
    ordered = np.sort(values, axis=-1)
    size = np.sum(~np.isnan(values), axis=-1)
    low, high = (np.maximum(index, 0)[..., None] for index in ((size - 1) // 2, size // 2))
    pair = [np.take_along_axis(ordered, index, -1)[..., 0] for index in (low, high)]
    return np.asarray((pair[0] + pair[1]) / 2)


def _curves(trained: Trained, pair: Pair) -> tuple[list[dict[str, Array]], Array]:
    """The curves of a pair's seeds, and the steps that the longest recorded."""
    curves = [trained.curves[run.key] for run in trained.final.runs.get(pair, ())]
    return curves, max((curve["step"] for curve in curves), key=len, default=np.empty(0))


def _first(curve: dict[str, Array], target: float) -> tuple[float, float]:
    hits = np.flatnonzero(curve["validation"] <= target)
    return (curve["step"][hits[0]], curve["seconds"][hits[0]]) if hits.size else (np.inf, np.inf)
