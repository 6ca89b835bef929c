"""What the final runs recorded on their way: losses, weights on memory, when a target was met."""

from __future__ import annotations

import numpy as np

from proxmom.study.record.ranking import lost
from proxmom.study.record.run import Run
from proxmom.study.report.compare import adaptive
from proxmom.study.report.results import LEAST, Losses, Pair, Results
from proxmom.study.report.statistics import Array, Interval, exponential, t_mean


def curve_of(results: Losses, pair: Pair, name: str) -> tuple[Array, list[Interval]]:
    """Steps, and mean and t interval over seeds of what was recorded as `name` at them; a seed counts until it ends.

    Of relative gaps they are geometric.
    """
    curves, steps = _curves(results, pair, "step")
    table = np.full((len(curves), steps.size), np.nan)
    for row, curve in zip(table, curves, strict=True):
        _, here, there = np.intersect1d(steps, curve["step"], return_indices=True)
        row[here] = curve[name][there]
    if name == "validation" and results.by_ratio[results.problems.index(pair[0])]:
        return steps, [exponential(t_mean(column)) for column in np.log(np.maximum(table, LEAST)).T]
    return steps, [t_mean(column) for column in table.T]


def betas_of(results: Results, pair: Pair) -> tuple[Array, Array]:
    """Evaluations or steps, and weights on memory at them, (rows, units of all seeds); seeds that ended early are out.

    Nothing for a method that does not change its weight.
    """
    curves, steps = _curves(results, pair, "evaluations" if results.exact else "step")
    betas = [curve["beta"].reshape(steps.size, -1) for curve in curves if len(curve["beta"]) == steps.size > 0]
    if not (_varies(betas) if results.exact else pair[1] in adaptive(results)):
        return np.empty(0), np.empty((0, 0))
    return steps, np.concatenate([np.empty((steps.size, 0)), *betas], axis=1)


def middle_run(results: Losses, pair: Pair) -> Run | None:
    """The final run of the median validation loss among those that finished; None if none did."""
    ended = [run for run in results.final.get(pair, ()) if not lost(run)]
    return sorted(ended, key=lambda run: (results.loss(run), run.seed))[len(ended) // 2] if ended else None


def first_below(results: Losses, target: float) -> tuple[Array, Array]:
    """Steps and seconds at which the validation loss was first recorded at or below `target`, of the final runs.

    Both of shape (problems, methods, seeds): inf for a miss, nan without a run.
    """
    found = {key: _first(curve, target) for key, curve in results.curves.items()}
    return results.of_seeds(lambda run: found[run.key][0]), results.of_seeds(lambda run: found[run.key][1])


def _curves(results: Results, pair: Pair, name: str) -> tuple[list[dict[str, Array]], Array]:
    """The curves of a pair's seeds, and the steps, called `name`, that the longest recorded."""
    curves = [results.curves[run.key] for run in results.final.get(pair, ())]
    return curves, max((curve[name] for curve in curves), key=len, default=np.empty(0))


def _varies(betas: list[Array]) -> bool:
    return any(np.ptp(known) > 1e-9 for beta in betas if (known := beta[np.isfinite(beta)]).size > 1)


def _first(curve: dict[str, Array], target: float) -> tuple[float, float]:
    hits = np.flatnonzero(curve["validation"] <= target)
    return (curve["step"][hits[0]], curve["seconds"][hits[0]]) if hits.size else (np.inf, np.inf)
