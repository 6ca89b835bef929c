"""What rules are compared on along a run: f(x) >= 0 with its least value 0, x of any even number of coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from proxmom.verify.cases import Vector

Function = Callable[[Vector, np.random.Generator], tuple[float, Vector]]
NOISE = 0.3


def _quadratic(x: Vector, random: np.random.Generator) -> tuple[float, Vector]:
    g = np.logspace(-2, 1, x.size) * x
    return float(g @ x) / 2, g


def _noisy(x: Vector, random: np.random.Generator) -> tuple[float, Vector]:
    f, g = _quadratic(x, random)
    return f, g + NOISE * random.normal(size=x.size)


def _rosenbrock(x: Vector, random: np.random.Generator) -> tuple[float, Vector]:
    """A thousandth of it, in pairs of coordinates."""
    u, v = x[::2], x[1::2]
    bend, g = v - u**2, np.empty_like(x)
    g[::2], g[1::2] = -0.4 * u * bend - 0.002 * (1 - u), 0.2 * bend
    return float((bend**2 / 10 + (1 - u) ** 2 / 1000).sum()), g


def _absolute(x: Vector, random: np.random.Generator) -> tuple[float, Vector]:
    return float(np.abs(x).sum()), np.sign(x)


FUNCTIONS: dict[str, Function] = {
    "a quadratic": _quadratic,
    "a quadratic with noise": _noisy,
    "Rosenbrock's function": _rosenbrock,
    "a sum of absolute values": _absolute,
}
