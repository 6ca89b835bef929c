"""What the search for hyper-parameters says: sensitivity to lr, the best so far, best points at an edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record.ranking import evaluations
from proxmom.study.record.store import Run
from proxmom.study.report import summary
from proxmom.study.report.summary import Array, Interval, Results

BUDGETS = (1, 2, 5, 10, 20)
"""Tuning budgets (points tried) at which the best so far is shown, besides all points."""
_TOLERANCE = 1.2
_FEWEST_POINTS = 4


@dataclass(frozen=True)
class Edge:
    """A best run with the smallest or largest value of `name` that was tried.

    plateau: whether moving a decade away from that edge costs at most 20%, so that nothing is lost there.
    """

    problem: str
    method: str
    name: str
    value: float
    side: str
    plateau: bool


def counts_by_lr(runs: Sequence[Run]) -> tuple[Array, Array]:
    """The lr tried, ascending, in units of 1/L, and evaluations to the target; empty where lr is fixed."""
    pairs = sorted((run.point["lr"], evaluations(run)) for run in runs if "lr" in run.point)
    if len({lr for lr, _ in pairs}) < 2:
        return np.empty(0), np.empty(0)
    lr, counts = np.array(pairs, dtype=float).T
    return lr, counts


def final_gap(run: Run) -> float:
    """Relative gap a run ended with, capped at 1, the initial loss; 1 if it diverged or failed."""
    lost = run.status in ("diverged", "failed") or np.isnan(run.best_gap)
    return 1.0 if lost else min(run.best_gap, 1.0)


def lr_sensitivity(results: Results, seed: int = 0) -> dict[str, Interval]:
    """Mean excess loss for lr up to a decade off its best: 0 if every lr finds the optimum, 1 if none does anything.

    Excess loss is the relative gap a run ended with, capped at 1. The mean is over the runs of a problem whose lr is
    within a factor of ten of the best run's, log-uniform as points are, then over problems. A range around each
    method's own best serves methods with other units of lr and other ranges alike. Methods that nowhere have four
    such runs are left out.
    """

    table = results.tabulate(lambda pair: float(excess_near_best(results, pair).mean()))
    columns = zip(results.methods, table.T, strict=True)
    return {method: summary.bootstrap_mean(column, seed) for method, column in columns if not np.isnan(column).all()}


def excess_near_best(results: Results, pair: tuple[str, str], excess: Callable[[Run], float] = final_gap) -> Array:
    """`excess` of the runs of a pair whose lr is within a factor of ten of the best; [nan] if they are too few."""
    runs = results.runs[pair]
    if counts_by_lr(runs)[0].size == 0:
        return np.array([np.nan])
    best = results.best[pair].point["lr"]
    near = [excess(run) for run in runs if 0.1 <= run.point["lr"] / best <= 10]
    return np.array(near if len(near) >= _FEWEST_POINTS else [np.nan])


def best_so_far(results: Results, reference: str) -> tuple[tuple[int, ...], Array]:
    """`best_so_far_against` the evaluations of `reference`, tuned with all its points."""
    return best_so_far_against(results, summary.penalised(results)[:, results.methods.index(reference)])


def best_so_far_against(
    results: Results, goal: Array, value: Callable[[Results], Array] = summary.penalised
) -> tuple[tuple[int, ...], Array]:
    """Budgets, and the geometric mean ratio to `goal` (problems,) after that many points, shape (methods, budgets).

    value: what is compared, (problems, methods), of the runs that were tried.
    A pair without a finished run among its first points is left out of that mean.
    """
    points = 1 + max(run.point_index for runs in results.runs.values() for run in runs)
    budgets = (*takewhile(lambda budget: budget < points, BUDGETS), points)
    columns = [value(_first_points(results, budget)).T / goal for budget in budgets]
    return budgets, np.array([[summary.geometric_mean(column).mean for column in part] for part in columns]).T


def _first_points(results: Results, budget: int) -> Results:
    early = {pair: tuple(r for r in runs if r.point_index < budget) for pair, runs in results.runs.items()}
    return replace(results, runs={pair: runs for pair, runs in early.items() if runs})


def as_good(runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
    """Which runs are at most 20% behind the best one."""
    if best.status == "reached":
        return np.array([evaluations(run) for run in runs]) <= _TOLERANCE * best.evaluations
    return np.array([run.best_gap for run in runs]) <= _TOLERANCE * best.best_gap


def edges(results: Results, good: Callable[[Sequence[Run], Run], NDArray[np.bool_]] = as_good) -> list[Edge]:
    """Best runs that sit on the edge of what was tried, plateaus among them marked; good: which runs are as good."""
    return [edge for pair, runs in results.runs.items() for edge in _edges_of(pair, runs, results.best[pair], good)]


def _edges_of(
    pair: tuple[str, str], runs: Sequence[Run], best: Run, good: Callable[[Sequence[Run], Run], NDArray[np.bool_]]
) -> Iterator[Edge]:
    names = [name for name in best.point if len({run.point[name] for run in runs}) > 2]
    for name in names:
        values = np.array([run.point[name] for run in runs], dtype=float)
        for side, extreme in (("smallest", values.min()), ("largest", values.max())):
            if best.point[name] == extreme:
                distance = np.abs(_decades(values) - _decades(values)[values == extreme][0])
                reach = _reach(distance, good(runs, best), stops=len(names) == 1)
                yield Edge(*pair, name, float(extreme), side, bool(reach >= 1))


def _decades(values: Array) -> Array:
    """Values in decades of the scale they were spread over; on a linear one, in fifths of the range."""
    low, high = values.min(), values.max()
    if low > 0 and high / low >= 10:
        return np.log10(values)
    if low >= 0 and high < 1 and (1 - low) / (1 - high) >= 10:
        return -np.log10(1 - values)
    return np.asarray(5 * (values - low) / (high - low))


def _reach(distance: Array, good: NDArray[np.bool_], stops: bool) -> float:
    """Distance from the edge to the farthest good point or, if `stops`, to the last before a bad one."""
    order = np.argsort(distance)
    near, good = distance[order], good[order]
    kept = near[: int(np.argmin(good))] if stops and not good.all() else near[good]
    return float(kept.max(initial=0.0))
