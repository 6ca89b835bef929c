"""What the runs of a study say, as numbers: no files, no plotting.

One convention holds everywhere: a run that did not reach the target counts as infinity where methods are
ranked, and as ten times the budget where a mean is taken. A pair (problem, method) without runs is nan and is
left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from proxmom.study.store import Run

Array = NDArray[np.float64]

MISS_FACTOR = 10
"""A miss counts as this many times the budget in means."""
BUDGETS = (1, 2, 5, 10, 20)
"""Tuning budgets (points tried) at which the best so far is shown, besides all points."""
_TOLERANCE = 1.2
_RESAMPLES = 4000
_FEWEST_POINTS = 4


@dataclass(frozen=True)
class Interval:
    """A mean over `size` problems with its 95% bootstrap interval (nan for fewer than two problems)."""

    mean: float
    low: float
    high: float
    size: int


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


@dataclass(frozen=True)
class Results:
    """Runs by (problem, method), each list in the order of its points; names in the order to show."""

    problems: tuple[str, ...]
    methods: tuple[str, ...]
    budget: int
    runs: dict[tuple[str, str], tuple[Run, ...]]

    @cached_property
    def best(self) -> dict[tuple[str, str], Run]:
        """The best run of each pair: fewest evaluations to the target, then smallest gap."""
        return {pair: min(runs, key=_rank) for pair, runs in self.runs.items()}

    @cached_property
    def counts(self) -> Array:
        """Evaluations of the best runs, shape (problems, methods): inf for a miss, nan without a run."""
        return self.tabulate(lambda pair: evaluations(self.best[pair]))

    def tabulate(self, value: Callable[[tuple[str, str]], float]) -> Array:
        """`value` of each pair that has runs, shape (problems, methods); nan elsewhere."""
        pairs = [(problem, method) for problem in self.problems for method in self.methods]
        values = [value(pair) if pair in self.runs else np.nan for pair in pairs]
        return np.array(values, dtype=float).reshape(len(self.problems), len(self.methods))


def collect(runs: Iterable[Run], max_evaluations: int) -> Results:
    """Group runs by problem and method, names in the order of their first run."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.problem, run.method].append(run)
    problems, methods = (tuple(dict.fromkeys(names)) for names in zip(*groups, strict=True))
    ordered = {pair: tuple(sorted(group, key=lambda run: run.point_index)) for pair, group in groups.items()}
    return Results(problems, methods, max_evaluations, ordered)


def evaluations(run: Run) -> float:
    """Evaluations until the target was reached; inf where it was not."""
    return float(run.evaluations) if run.status == "reached" else np.inf


def _rank(run: Run) -> tuple[float, float, int]:
    return evaluations(run), np.nan_to_num(run.best_gap, nan=np.inf), run.point_index


def penalised(results: Results) -> Array:
    """Counts for means, shape (problems, methods): a miss is ten times the budget."""
    return np.where(np.isinf(results.counts), MISS_FACTOR * results.budget, results.counts)


def ratios(results: Results, reference: str) -> Array:
    """Evaluations of every method over those of `reference`, shape (problems, methods).

    Raises ValueError if no run belongs to the reference.
    """
    if reference not in results.methods:
        known = ", ".join(repr(name) for name in results.methods)
        raise ValueError(f"reference must be a method with finished runs ({known}), got {reference!r}.")
    counts = penalised(results)
    return counts / counts[:, [results.methods.index(reference)]]


def bootstrap_mean(values: Array, seed: int = 0) -> Interval:
    """Mean of the values that are not nan, with the percentile interval of resampling them."""
    kept = values[~np.isnan(values)]
    if kept.size < 2:
        return Interval(float(kept.mean()) if kept.size else np.nan, np.nan, np.nan, kept.size)
    picks = np.random.default_rng(seed).integers(kept.size, size=(_RESAMPLES, kept.size))
    low, high = np.quantile(kept[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(kept.mean()), float(low), float(high), kept.size)


def geometric_mean(values: Array, seed: int = 0) -> Interval:
    """Geometric mean over problems of positive values, with its bootstrap interval."""
    logs = bootstrap_mean(np.log(values), seed)
    mean, low, high = np.exp([logs.mean, logs.low, logs.high])
    return Interval(float(mean), float(low), float(high), logs.size)


def mean_ratios(results: Results, reference: str, seed: int = 0) -> dict[str, Interval]:
    """Geometric mean over problems of each method's ratio to `reference`."""
    columns = zip(results.methods, ratios(results, reference).T, strict=True)
    return {method: geometric_mean(column, seed) for method, column in columns}


def performance_profile(results: Results, factors: Array) -> Array:
    """Dolan-Moré profile, shape (methods, factors): share of problems solved within factor x the best.

    Problems a method was not run on are not its problems; problems that nothing solved are.
    """
    solved = _factors(results)[:, :, None] <= factors
    return np.asarray(solved.sum(axis=0) / np.sum(~np.isnan(results.counts), axis=0)[:, None], dtype=float)


def profile_factors(results: Results) -> Array:
    """The factors at which some method's profile steps up, ascending, from 1."""
    factors = _factors(results)
    return np.unique(np.append(factors[np.isfinite(factors)], 1.0))


def _factors(results: Results) -> Array:
    """Counts over the smallest count of their problem; inf for misses, nan without a run."""
    solved = np.where(np.isnan(results.counts), np.inf, results.counts)
    fastest = solved.min(axis=1, keepdims=True)
    return np.asarray(results.counts / np.where(np.isinf(fastest), 1.0, fastest))


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

    def excess(pair: tuple[str, str]) -> float:
        if counts_by_lr(results.runs[pair])[0].size == 0:
            return np.nan
        best = results.best[pair].point["lr"]
        gaps = [final_gap(run) for run in results.runs[pair] if 0.1 <= run.point["lr"] / best <= 10]
        return float(np.mean(gaps)) if len(gaps) >= _FEWEST_POINTS else np.nan

    columns = zip(results.methods, results.tabulate(excess).T, strict=True)
    return {method: bootstrap_mean(column, seed) for method, column in columns if not np.isnan(column).all()}


def best_so_far(results: Results, reference: str) -> tuple[tuple[int, ...], Array]:
    """Budgets, and the geometric mean ratio after that many points, shape (methods, budgets).

    The ratio is to the reference tuned with all its points; a pair without a finished run among its first
    points is left out of that mean.
    """
    points = 1 + max(run.point_index for runs in results.runs.values() for run in runs)
    budgets = (*takewhile(lambda budget: budget < points, BUDGETS), points)
    goal = penalised(results)[:, results.methods.index(reference)]
    columns = [penalised(_first_points(results, budget)).T / goal for budget in budgets]
    return budgets, np.array([[geometric_mean(column).mean for column in part] for part in columns]).T


def _first_points(results: Results, budget: int) -> Results:
    early = {pair: tuple(r for r in runs if r.point_index < budget) for pair, runs in results.runs.items()}
    return replace(results, runs={pair: runs for pair, runs in early.items() if runs})


def edges(results: Results) -> list[Edge]:
    """Best runs that sit on the edge of what was tried, plateaus among them marked."""
    return [edge for pair, runs in results.runs.items() for edge in _edges_of(pair, runs, results.best[pair])]


def _edges_of(pair: tuple[str, str], runs: Sequence[Run], best: Run) -> Iterator[Edge]:
    names = [name for name in best.point if len({run.point[name] for run in runs}) > 2]
    for name in names:
        values = np.array([run.point[name] for run in runs], dtype=float)
        for side, extreme in (("smallest", values.min()), ("largest", values.max())):
            if best.point[name] == extreme:
                distance = np.abs(_decades(values) - _decades(values)[values == extreme][0])
                reach = _reach(distance, _as_good(runs, best), stops=len(names) == 1)
                yield Edge(*pair, name, float(extreme), side, bool(reach >= 1))


def _decades(values: Array) -> Array:
    """Values in decades of the scale they were spread over; on a linear one, in fifths of the range."""
    low, high = values.min(), values.max()
    if low > 0 and high / low >= 10:
        return np.log10(values)
    if low >= 0 and high < 1 and (1 - low) / (1 - high) >= 10:
        return -np.log10(1 - values)
    return np.asarray(5 * (values - low) / (high - low))


def _as_good(runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
    if best.status == "reached":
        return np.array([evaluations(run) for run in runs]) <= _TOLERANCE * best.evaluations
    return np.array([run.best_gap for run in runs]) <= _TOLERANCE * best.best_gap


def _reach(distance: Array, good: NDArray[np.bool_], stops: bool) -> float:
    """Distance from the edge to the farthest good point or, if `stops`, to the last before a bad one."""
    order = np.argsort(distance)
    near, good = distance[order], good[order]
    kept = near[: int(np.argmin(good))] if stops and not good.all() else near[good]
    return float(kept.max(initial=0.0))
