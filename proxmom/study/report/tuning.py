"""What the search for hyper-parameters says: sensitivity to lr, the best so far, best points at an edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record.ranking import best_run
from proxmom.study.record.run import Run
from proxmom.study.report.results import Pair, Results
from proxmom.study.report.statistics import Array, Interval, bootstrap_mean, bootstrap_ratio, last_mean

BUDGETS = (1, 2, 5, 10, 20)
"""Tuning budgets (points tried) at which the best so far is shown, besides all points."""
_FEWEST_POINTS = 4


@dataclass(frozen=True)
class Edge:
    """A best run with the smallest or largest value of `name` that was tried.

    plateau: whether runs a decade away from that edge are as good, so that nothing is lost there.
    """

    problem: str
    method: str
    name: str
    value: float
    side: str
    plateau: bool


def lr_sensitivity(results: Results, seed: int = 0) -> dict[str, Interval]:
    """Mean excess loss for lr up to a decade off its best: 0 if every lr gets to the best, 1 if none does anything.

    The mean is over the runs of a problem whose lr is within a factor of ten of the best run's, log-uniform as points
    are, then over problems, with its bootstrap interval; with one problem of a training study, over points. A point
    tried with several training seeds is one run here, their mean. A range around each method's own best serves methods
    with other units of lr and other ranges alike. Methods that nowhere have four such runs are left out.
    """
    found = {}
    for method in results.methods:
        if points := list(_near_best(results, method).values()):
            found[method] = bootstrap_mean(points[0] if _alone(results) else _means(points), seed)
    return found


def lr_sensitivity_ratio(results: Results, method: str, over: str, seed: int = 0) -> Interval:
    """The lr-sensitivity of a method over that of another one, with its bootstrap interval; nan where there is none.

    Problems are resampled, the same for both methods, and those are left out where one of them has no sensitivity; with
    one problem of a training study, the points of each method.
    """
    ours, theirs = _near_best(results, method), _near_best(results, over)
    both = [problem for problem in ours if problem in theirs]
    if not both:
        return Interval(np.nan, np.nan, np.nan, 0)
    if _alone(results):
        [problem] = both
        return bootstrap_ratio(ours[problem], theirs[problem], seed, paired=False)
    means = [_means([of[problem] for problem in both]) for of in (ours, theirs)]
    return bootstrap_ratio(means[0], means[1], seed)


def _alone(results: Results) -> bool:
    return len(results.problems) == 1 and not results.exact


def _means(points: list[Array]) -> Array:
    return np.array([each.mean() for each in points])


def _near_best(results: Results, method: str) -> dict[str, Array]:
    """The excess losses near a method's best lr by problem, where there are enough of them."""
    pairs = [(problem, method) for problem in results.problems if (problem, method) in results.tried]
    near = {pair[0]: excess_near_best(results, pair) for pair in pairs}
    return {problem: points for problem, points in near.items() if points.size >= _FEWEST_POINTS}


def excess_near_best(results: Results, pair: Pair) -> Array:
    """The excess loss of the runs of a pair whose lr is within a factor of ten of the best; empty if lr is fixed."""
    runs, best = results.searched[pair], results.best[pair].point
    if len({run.point.get("lr") for run in runs}) < 2:
        return np.empty(0)
    return np.array([results.excess(run) for run in runs if 0.1 <= run.point["lr"] / best["lr"] <= 10])


def best_so_far(results: Results, goal: Array) -> tuple[tuple[int, ...], Array]:
    """Budgets, and the geometric mean ratio of the best of that many points to `goal`, shape (methods, budgets).

    goal: (problems,), say the `points` of the reference. Both are empty if nothing was searched. A pair without a
    finished run among its first points is left out of that mean.
    """
    points = 1 + max((run.point_index for runs in results.tried.values() for run in runs), default=-1)
    budgets = (*takewhile(lambda budget: budget < points, BUDGETS), *([points] if points else []))
    ratios = [results.points_of(_best_of_first(results, budget)).T / goal for budget in budgets]
    means = np.array([np.exp(last_mean(np.log(part))) for part in ratios])
    return budgets, means.reshape(len(budgets), len(results.methods)).T


def edges(results: Results) -> list[Edge]:
    """Best runs that sit on the edge of what was tried, plateaus among them marked."""
    return [edge for pair in results.tried for edge in _edges_of(results, pair)]


def _best_of_first(results: Results, budget: int) -> dict[Pair, Run]:
    early = {pair: [r for r in runs if r.point_index < budget] for pair, runs in results.searched.items()}
    return {pair: best_run(runs) for pair, runs in early.items() if runs}


def _edges_of(results: Results, pair: Pair) -> Iterator[Edge]:
    runs, best = results.searched[pair], results.best[pair]
    names = [name for name in best.point if len({run.point[name] for run in runs}) > 2]
    for name in names:
        values = np.array([run.point[name] for run in runs], dtype=float)
        for side, extreme in (("smallest", values.min()), ("largest", values.max())):
            if best.point[name] == extreme:
                distance = np.abs(_decades(values) - _decades(values)[values == extreme][0])
                reach = _reach(distance, results.as_good(runs, best), stops=len(names) == 1)
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
    reached = near[: int(np.argmin(good))] if stops and not good.all() else near[good]
    return float(reached.max(initial=0.0))
