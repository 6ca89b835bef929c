"""Quasi-random points: what a method tries of its hyper-parameters, whatever else the study holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

Point = Mapping[str, float]

SCALES = ("linear", "log", "log1m")


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter of a search: its range, and the scale on which points are uniform.

    scale: "linear"; "log", for low > 0; or "log1m", uniform in log(1 - value), for high < 1.
    """

    name: str
    low: float
    high: float
    scale: str

    def value(self, share: float) -> float:
        """The value at `share` in [0, 1] of the range; 9 digits, so that keys agree across machines."""
        low, high = float(self._warp(self.low)), float(self._warp(self.high))
        return float(f"{self._unwarp(low + share * (high - low)):.9g}")

    def _warp(self, value: float) -> float:
        if self.scale == "log":
            return float(np.log(value))
        return float(np.log(1 - value)) if self.scale == "log1m" else value

    def _unwarp(self, value: float) -> float:
        if self.scale == "log":
            return float(np.exp(value))
        return float(1 - np.exp(value)) if self.scale == "log1m" else value


def sample(dimensions: Sequence[Dimension], count: int, seed: int) -> list[Point]:
    """The first `count` points of a scrambled Sobol sequence, count >= 1.

    It depends on the seed and on the names of the dimensions alone, so other methods never change it, methods
    with the same dimensions try the same shares of their ranges, and a longer sequence begins with the shorter.
    """
    ordered = sorted(dimensions, key=lambda dimension: dimension.name)
    names = ",".join(dimension.name for dimension in ordered)
    digest = hashlib.sha256(f"{seed}:{names}".encode()).digest()
    sampler = qmc.Sobol(len(ordered), seed=np.random.default_rng(int.from_bytes(digest[:8], "big")))
    shares = sampler.random_base2((count - 1).bit_length())[:count]
    return [{d.name: d.value(float(s)) for d, s in zip(ordered, row, strict=True)} for row in shares]
