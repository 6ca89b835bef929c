"""What the runs of a study say, as numbers: no files, no plotting.

One convention holds everywhere: a run that did not reach the target counts as infinity where methods are
ranked, and as ten times the budget where a mean is taken. A pair (problem, method) without runs is nan and is
left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from proxmom.study.record.ranking import best_run, evaluations
from proxmom.study.record.store import Run

Array = NDArray[np.float64]

MISS_FACTOR = 10
"""A miss counts as this many times the budget in means."""
_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean over `size` problems, or seeds, with its 95% interval (nan for fewer than two of them)."""

    mean: float
    low: float
    high: float
    size: int


@dataclass(frozen=True)
class Variant:
    """A row of defaults, or a control, against its method.

    ratio: evaluations of the variant over those of the method, geometric mean; fewer, more: on how many problems.
    """

    name: str
    of: str
    ratio: Interval
    fewer: int
    more: int


@dataclass(frozen=True)
class Memory:
    """A method that derives its momentum: means over problems, of its best runs.

    beta: the mean weight on memory. capped: the share of steps with the largest weight allowed.
    """

    method: str
    beta: Interval
    capped: Interval


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
        return {pair: best_run(runs) for pair, runs in self.runs.items()}

    @cached_property
    def counts(self) -> Array:
        """Evaluations of the best runs, shape (problems, methods): inf for a miss, nan without a run."""
        return self.tabulate(lambda pair: evaluations(self.best[pair]))

    @property
    def variant_of(self) -> dict[str, str]:
        """The method of each row that is a variant of one: its defaults, or a control."""
        return {method: runs[0].variant_of for (_, method), runs in self.runs.items() if runs[0].variant_of}

    def without_variants(self) -> Results:
        """The methods themselves; all rows where every one is a variant."""
        kept = tuple(method for method in self.methods if method not in self.variant_of) or self.methods
        return replace(self, methods=kept, runs={pair: runs for pair, runs in self.runs.items() if pair[1] in kept})

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


def penalised(results: Results) -> Array:
    """Counts for means, shape (problems, methods): a miss is ten times the budget."""
    return np.where(np.isinf(results.counts), MISS_FACTOR * results.budget, results.counts)


def ratios(results: Results, reference: str) -> Array:
    """Evaluations of every method over those of `reference`, shape (problems, methods).

    Raises ValueError if no run belongs to the reference.
    """
    refuse_unknown(reference, results.methods)
    counts = penalised(results)
    return counts / counts[:, [results.methods.index(reference)]]


def refuse_unknown(reference: str, methods: Sequence[str]) -> None:
    """Raises ValueError unless `reference` is one of these methods."""
    if reference not in methods:
        known = ", ".join(repr(name) for name in methods)
        raise ValueError(f"reference must be a method with finished runs ({known}), got {reference!r}.")


def bootstrap_mean(values: Array, seed: int = 0) -> Interval:
    """Mean of the values that are not nan, with the percentile interval of resampling them."""
    kept = values[~np.isnan(values)]
    if kept.size < 2:
        return Interval(float(kept.mean()) if kept.size else np.nan, np.nan, np.nan, kept.size)
    picks = np.random.default_rng(seed).integers(kept.size, size=(_RESAMPLES, kept.size))
    low, high = np.quantile(kept[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(kept.mean()), float(low), float(high), kept.size)


def t_mean(values: Array) -> Interval:
    """Mean of the values that are not nan, with Student's interval: for few seeds, where resampling is too narrow."""
    kept = values[~np.isnan(values)]
    if kept.size < 2:
        return Interval(float(kept.mean()) if kept.size else np.nan, np.nan, np.nan, kept.size)
    half = stdtrit(kept.size - 1, 0.975) * kept.std(ddof=1) / np.sqrt(kept.size)
    return Interval(float(kept.mean()), float(kept.mean() - half), float(kept.mean() + half), kept.size)


def geometric_mean(values: Array, seed: int = 0) -> Interval:
    """Geometric mean over problems of positive values, with its bootstrap interval."""
    return exponential(bootstrap_mean(np.log(values), seed))


def exponential(logs: Interval) -> Interval:
    """A mean of logarithms as a geometric mean."""
    mean, low, high = np.exp([logs.mean, logs.low, logs.high])
    return Interval(float(mean), float(low), float(high), logs.size)


def mean_ratios(results: Results, reference: str, seed: int = 0) -> dict[str, Interval]:
    """Geometric mean over problems of each method's ratio to `reference`."""
    columns = zip(results.methods, ratios(results, reference).T, strict=True)
    return {method: geometric_mean(column, seed) for method, column in columns}


def variants(results: Results) -> list[Variant]:
    """Each variant against the method it belongs to, where both have runs."""
    found = []
    for name, of in results.variant_of.items():
        if of in results.methods:
            column = ratios(results, of)[:, results.methods.index(name)]
            found.append(Variant(name, of, geometric_mean(column), int((column < 1).sum()), int((column > 1).sum())))
    return found


def memory(results: Results) -> list[Memory]:
    """The methods whose weight on memory is neither always 0 nor, but for a step in a thousand, always the cap."""
    rows = []
    for method in results.methods:
        best = [run for (_, name), run in results.best.items() if name == method and run.mean_beta]
        if adapts(best):
            beta, capped = (np.array([getattr(run, key) for run in best], float) for key in ("mean_beta", "capped"))
            rows.append(Memory(method, bootstrap_mean(beta), bootstrap_mean(capped)))
    return rows


def adapts(runs: Iterable[Run]) -> bool:
    """Whether the weight on memory is below its cap in more than a step in a thousand of some run."""
    return any((run.capped or 0.0) < 0.999 for run in runs if run.mean_beta)


def shares_within(values: Array, factors: Array) -> Array:
    """Dolan-Moré profile, shape (methods, factors): share of problems solved within factor x the best.

    Problems a method was not run on (nan) are not its problems; problems that nothing solved (inf) are.

    Args:
        values: (problems, methods), of which less is better.
        factors: (factors,), >= 1.
    """
    solved = _factors(values)[:, :, None] <= factors
    return np.asarray(solved.sum(axis=0) / np.sum(~np.isnan(values), axis=0)[:, None], dtype=float)


def steps_of(values: Array) -> Array:
    """The factors at which the profile of these values (problems, methods) steps up, ascending, from 1."""
    factors = _factors(values)
    return np.unique(np.append(factors[np.isfinite(factors)], 1.0))


def _factors(values: Array) -> Array:
    """Values over the smallest of their problem; inf for misses, nan without a run."""
    least = np.where(np.isnan(values), np.inf, values).min(axis=1, keepdims=True)
    return np.asarray(values / np.where(np.isinf(least), 1.0, least))
