"""Methods compared: means over seeds, pairs of seeds, variants, weights on memory.

Methods share initial weights and batches, so differences and ratios are taken seed by seed. Intervals over seeds are
Student's t, since resampling a few seeds gives too narrow ones; those over problems are bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from proxmom.study.report.results import LEAST, Losses, Results
from proxmom.study.report.statistics import Array, Interval, bootstrap_mean, exponential, last_mean, t_mean


@dataclass(frozen=True)
class Comparison:
    """A method against another on one problem, its mean over pairs of seeds with their t interval.

    factor: whether it is the geometric mean of ratios, as of relative gaps, and not the mean difference of losses.
    exact: whether the mean itself is certain.
    """

    interval: Interval
    factor: bool
    exact: bool = False

    @property
    def sign(self) -> int:
        """-1 or 1 if the whole interval says lower or higher, else 0."""
        equal = 1.0 if self.factor else 0.0
        low, high = [self.interval.mean] * 2 if self.exact else (self.interval.low, self.interval.high)
        return int(low > equal) - int(high < equal)


@dataclass(frozen=True)
class Variant:
    """A row of defaults, or a control, against its method.

    ratio: of values, as `mean_ratios`. pairs: by problem, as `comparisons`; lower, higher: on how many problems it is.
    """

    name: str
    of: str
    ratio: Interval
    pairs: tuple[Comparison, ...]
    lower: int
    higher: int


@dataclass(frozen=True)
class MemoryWeight:
    """A method that derives its momentum: means over problems, of its final runs.

    beta: the mean weight on memory. capped: the share of steps with the largest weight allowed.
    """

    method: str
    beta: Interval
    capped: Interval


def means(results: Losses, losses: Array) -> list[list[Interval]]:
    """Mean and t interval over seeds of losses (problems, methods, seeds); of relative gaps geometric ones."""
    return [
        [exponential(t_mean(np.log(np.maximum(seeds, LEAST)))) if gap else t_mean(seeds) for seeds in row]
        for row, gap in zip(losses, results.by_ratio, strict=True)
    ]


def comparisons(results: Results, reference: str) -> list[list[Comparison]]:
    """The value of each method against that of `reference`, as lists of problems of methods.

    Raises ValueError if the reference has no final run.
    """
    tables = {factor: by_seed(results, reference, factor) for factor in set(results.by_ratio)}
    return [tables[factor][row] for row, factor in enumerate(results.by_ratio)]


def by_seed(results: Results, reference: str, factor: bool) -> list[list[Comparison]]:
    """The same as ratios, or as differences, on every problem.

    Raises ValueError if the reference has no final run.
    """
    if factor:
        logs = log_ratios(results, reference)
        return [[Comparison(exponential(t_mean(seeds)), True, results.exact) for seeds in row] for row in logs]
    return [[Comparison(t_mean(seeds), False) for seeds in row] for row in differences(results, reference)]


def signs(results: Results, reference: str) -> dict[str, tuple[int, int, int]]:
    """By method, on how many problems it is lower than `reference`, higher, and compared at all."""
    columns = zip(*comparisons(results, reference), strict=True)
    return {method: _signs(column) for method, column in zip(results.methods, columns, strict=True)}


def log_ratios(results: Results, reference: str) -> Array:
    """Logarithms of each value over that of `reference`, shape (problems, methods, seeds).

    Raises ValueError if the reference has no final run.
    """
    return np.asarray(np.log(results.counted / results.counted[:, _column(results, reference)]))


def differences(results: Results, reference: str) -> Array:
    """Each value less that of `reference`, shape (problems, methods, seeds); raises as `log_ratios`."""
    return np.asarray(results.values - results.values[:, _column(results, reference)])


def mean_ratios(results: Results, reference: str) -> dict[str, Interval]:
    """Geometric mean of each method's value over that of `reference`, over seeds and then over problems.

    Its interval is `over_problems`'s.
    """
    columns = np.moveaxis(log_ratios(results, reference), 1, 0)
    return {m: exponential(over_problems(column)) for m, column in zip(results.methods, columns, strict=True)}


def over_problems(values: Array) -> Interval:
    """Mean of values (problems, seeds) over seeds and then problems, with its bootstrap interval over problems.

    With one problem the interval is Student's over its seeds.
    """
    if len(values) == 1:
        return replace(t_mean(values[0]), size=int(not np.isnan(values).all()))
    return bootstrap_mean(last_mean(values))


def variants(results: Results) -> list[Variant]:
    """Each variant against the method it belongs to, where both have final runs."""
    found = []
    for name, of in results.variant_of.items():
        if {name, of} <= set(results.ran):
            column = tuple(row[results.methods.index(name)] for row in comparisons(results, of))
            found.append(Variant(name, of, mean_ratios(results, of)[name], column, *_signs(column)[:2]))
    return found


def memory_weights(results: Results) -> list[MemoryWeight]:
    """The weights on memory of the methods that change it; intervals over problems."""
    tables = [results.of_seeds(lambda run: run.mean_beta), results.of_seeds(lambda run: run.capped)]
    return [
        MemoryWeight(method, *(over_problems(table[:, results.methods.index(method)]) for table in tables))
        for method in adaptive(results)
    ]


def adaptive(results: Results) -> tuple[str, ...]:
    """The methods whose weight on memory is neither always 0 nor, but for a step in a thousand, always the cap."""
    runs = [run for found in results.final.values() for run in found if run.mean_beta and (run.capped or 0.0) < 0.999]
    return tuple(method for method in results.methods if any(run.method == method for run in runs))


def _column(results: Results, reference: str) -> list[int]:
    if reference not in results.ran:
        known = ", ".join(repr(name) for name in results.ran)
        raise ValueError(f"reference must be a method with finished runs ({known}), got {reference!r}.")
    return [results.methods.index(reference)]


def _signs(pairs: Sequence[Comparison]) -> tuple[int, int, int]:
    found = [pair.sign for pair in pairs]
    return found.count(-1), found.count(1), sum(pair.interval.size > 0 for pair in pairs)
