"""Means with intervals, and performance profiles: numbers in, numbers out. nan is a value that is not there."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, nctdtr, stdtrit

Array = NDArray[np.float64]

FEWEST = 3
"""An interval takes at least so many values: resampling two gives their range, Student's t twelve half-widths of it."""
_RESAMPLES = 4000
_CERTAIN = 30.0  # noncentrality from which no test of three values and more misses


@dataclass(frozen=True)
class Interval:
    """A mean over `size` problems, or seeds, with its 95% interval (nan for fewer than `FEWEST` of them)."""

    mean: float
    low: float
    high: float
    size: int


def bootstrap_mean(values: Array, seed: int = 0) -> Interval:
    """Mean of the values that are not nan, with the percentile interval of resampling them."""
    known = values[~np.isnan(values)]
    if known.size < FEWEST:
        return _alone(known)
    picks = np.random.default_rng(seed).integers(known.size, size=(_RESAMPLES, known.size))
    low, high = np.quantile(known[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(known.mean()), float(low), float(high), known.size)


def bootstrap_ratio(values: Array, others: Array, seed: int = 0, paired: bool = True) -> Interval:
    """The ratio of two means, with the percentile interval of resampling both; nan if the other mean is 0.

    paired: whether values belong together, and are resampled together. Neither may have nan.
    """
    size = min(values.size, others.size)
    mean = float(values.mean() / others.mean()) if others.mean() > 0 else np.nan
    if size < FEWEST or np.isnan(mean):
        return Interval(mean, np.nan, np.nan, size)
    random = np.random.default_rng(seed)
    picks = random.integers(values.size, size=(_RESAMPLES, values.size))
    other_picks = picks if paired else random.integers(others.size, size=(_RESAMPLES, others.size))
    above, below = values[picks].mean(axis=1), others[other_picks].mean(axis=1)
    ratios = np.divide(above, below, out=np.full(_RESAMPLES, np.inf), where=below > 0)  # 0 is exceeded by any factor
    said = ratios[(above > 0) | (below > 0)]
    low, high = np.quantile(said, [0.025, 0.975], method="nearest")  # no way halfway to inf
    return Interval(mean, float(low), float(high), size)


def t_mean(values: Array) -> Interval:
    """Mean of the values that are not nan, with Student's interval: for few seeds, where resampling is too narrow."""
    known = values[~np.isnan(values)]
    if known.size < FEWEST:
        return _alone(known)
    half = stdtrit(known.size - 1, 0.975) * known.std(ddof=1) / np.sqrt(known.size)
    return Interval(float(known.mean()), float(known.mean() - half), float(known.mean() + half), known.size)


def size_needed(interval: Interval, distance: float, most: int = 1000) -> float:
    """With how many values of the same mean and spread Student's interval reaches less than `distance` from its mean.

    inf if more than `most` are, or if distance <= 0. interval: of `t_mean`, with an interval.
    """
    spread = (interval.high - interval.mean) / stdtrit(interval.size - 1, 0.975) * np.sqrt(interval.size)
    sizes = np.arange(FEWEST, most + 1)
    enough = sizes[stdtrit(sizes - 1, 0.975) * spread / np.sqrt(sizes) < distance]
    return float(enough[0]) if enough.size else np.inf


def power_of_t(effect: float, size: int) -> float:
    """The chance that Student's two-sided 5% test of `size` normal values says that their mean is not zero.

    effect: that mean in units of their standard deviation. Source: the noncentral t distribution.
    """
    edge, shift = stdtrit(size - 1, 0.975), min(abs(effect) * np.sqrt(size), _CERTAIN)
    return float(1 - nctdtr(size - 1, shift, edge) + nctdtr(size - 1, shift, -edge))


def size_for_power(effect: float, power: float, most: int = 1_000_000) -> float:
    """The least number of values, `FEWEST` or more, with which `power_of_t` is at least `power`; inf beyond `most`."""
    sizes = range(FEWEST, most + 1)
    place = bisect_left(sizes, power, key=lambda size: power_of_t(effect, size))
    return float(sizes[place]) if place < len(sizes) else np.inf


def variance_factors(size: int) -> tuple[float, float]:
    """The variance of `size` normal values lies with 95% certainty between these multiples of its estimate."""
    freedom = size - 1
    return float(freedom / chdtri(freedom, 0.025)), float(freedom / chdtri(freedom, 0.975))


def geometric_mean(values: Array, seed: int = 0) -> Interval:
    """Geometric mean of positive values, with its bootstrap interval."""
    return exponential(bootstrap_mean(np.log(values), seed))


def exponential(logs: Interval) -> Interval:
    """A mean of logarithms as a geometric mean."""
    mean, low, high = np.exp([logs.mean, logs.low, logs.high])
    return Interval(float(mean), float(low), float(high), logs.size)


def last_mean(values: Array) -> Array:
    """Mean over the last axis of the values that are not nan; nan where there is none."""
    known = ~np.isnan(values)
    sizes = known.sum(axis=-1)
    return np.where(sizes, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(sizes, 1), np.nan)


def last_median(values: Array) -> Array:
    """Median over the last axis of the values that are not nan; inf is a value."""
    ordered = np.sort(values, axis=-1)
    size = np.sum(~np.isnan(values), axis=-1)
    low, high = (np.maximum(index, 0)[..., None] for index in ((size - 1) // 2, size // 2))
    pair = [np.take_along_axis(ordered, index, -1)[..., 0] for index in (low, high)]
    return np.asarray((pair[0] + pair[1]) / 2)


def least(values: Array) -> Array:
    """The smallest of each row, nan left out; inf where there is none."""
    return np.asarray(np.where(np.isnan(values), np.inf, values).min(axis=-1))


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


def _alone(known: Array) -> Interval:
    return Interval(float(known.mean()) if known.size else np.nan, np.nan, np.nan, known.size)


def _factors(values: Array) -> Array:
    """Values over the smallest of their problem; inf for misses, nan without a run."""
    smallest = least(values)[:, None]
    return np.asarray(values / np.where(np.isinf(smallest), 1.0, smallest))
