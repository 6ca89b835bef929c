"""Ratios of medians, with what the rounds say about their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
FEWEST = 3  # rounds of which an interval is made


@dataclass(frozen=True)
class Ratio:
    """A ratio and its 95% interval, nan where there are too few rounds for one."""

    value: float
    low: float
    high: float


def ratio(times: Sequence[float], peer: Sequence[float], *, seed: int = 0) -> Ratio:
    """Median of `times` over the median of `peer`, with a bootstrap interval over rounds.

    Args:
        times, peer: seconds, the same rounds in the same order: rounds are drawn as pairs, since a slow one slows both.
        seed: of the draws.

    Raises:
        ValueError: if the rounds are not the same number, or none.
    """
    ours, theirs = np.asarray(times), np.asarray(peer)
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"times and peer must come from the same rounds, got {len(ours)} and {len(theirs)}.")
    value = float(np.median(ours) / np.median(theirs))
    if len(ours) < FEWEST:
        return Ratio(value, np.nan, np.nan)
    picks = np.random.default_rng(seed).integers(len(ours), size=(RESAMPLES, len(ours)))
    drawn = np.median(ours[picks], axis=1) / np.median(theirs[picks], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Ratio(value, float(low), float(high))
