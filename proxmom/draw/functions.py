"""Smooth functions to draw on: three of two variables with minimum 0, and a convex one of one variable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxmom.metrics import Euclidean, Metric

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True, eq=False)
class Function:
    """A function of two variables, with what a picture of it needs.

    fun(x) -> (value (...), gradient (2, ...)) for x of shape (2, ...), so that it takes a point or a whole grid.
    minimisers (k, 2); view is a square; start is where a path begins unless told otherwise; lr is a step size with
    which every built-in rule goes down from there, scaled_lr the same for metrics that divide by the gradient's size.
    minimum: the smallest value, None if it is not known. levels of contours are above `base`; grid: points a side.
    """

    name: str
    fun: Callable[[Array], tuple[Array, Array]]
    minimisers: Array
    view: Box
    levels: Array
    start: tuple[float, float]
    lr: float
    scaled_lr: float
    minimum: float | None = 0.0
    base: float = 0.0
    grid: int = 501

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`fun`."""
        return self.fun(x)

    def default_lr(self, metric: Metric | None) -> float:
        """The default step size with this metric (None: Euclidean)."""
        return self.lr if metric is None or isinstance(metric, Euclidean) else self.scaled_lr


def _rotated(condition: float, degrees: float) -> Array:
    """A symmetric matrix with eigenvalues `condition` and 1, the first direction turned by `degrees`."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    axes = np.array([[c, -s], [s, c]])
    return np.asarray(axes * [condition, 1.0] @ axes.T)


_HESSIAN = _rotated(20.0, 30.0)


def quadratic(x: Array) -> tuple[Array, Array]:
    """<x, H x> / 2, condition 20, the axes turned by 30 degrees."""
    gradient = np.tensordot(_HESSIAN, x, 1)
    return 0.5 * np.sum(x * gradient, axis=0), gradient


def rosenbrock(x: Array) -> tuple[Array, Array]:
    """(1 - a)² + 100 (b - a²)²: a flat curved valley between steep walls."""
    a, b = x
    rise = b - a**2
    return (1 - a) ** 2 + 100 * rise**2, np.array([-2 * (1 - a) - 400 * a * rise, 200 * rise])


def himmelblau(x: Array) -> tuple[Array, Array]:
    """(a² + b - 11)² + (a + b² - 7)²: four minima of the same depth."""
    a, b = x
    u, v = a**2 + b - 11, a + b**2 - 7
    return u**2 + v**2, np.array([4 * a * u + 2 * v, 2 * u + 4 * b * v])


FUNCTIONS: dict[str, Function] = {
    "quadratic": Function(
        name="a quadratic of condition 20",
        fun=quadratic,
        minimisers=np.zeros((1, 2)),
        view=(-4.0, 4.0, -3.4, 4.6),
        levels=np.geomspace(0.05, 200, 13),
        start=(-1.0, 4.0),
        lr=0.09,
        scaled_lr=0.2,
    ),
    "rosenbrock": Function(
        name="Rosenbrock's function",
        fun=rosenbrock,
        minimisers=np.ones((1, 2)),
        view=(-1.65, 1.65, -1.0, 2.3),
        levels=np.geomspace(0.5, 2000, 12),
        start=(-1.2, 1.0),
        lr=0.005,
        scaled_lr=0.15,
    ),
    "himmelblau": Function(
        name="Himmelblau's function",
        fun=himmelblau,
        minimisers=np.array(
            [
                [3.0, 2.0],
                [-2.805118086952745, 3.131312518250573],
                [-3.779310253377747, -3.283185991286170],
                [3.584428340330492, -1.848126526964404],
            ]
        ),
        view=(-5.2, 5.2, -5.2, 5.2),
        levels=np.geomspace(1.0, 800, 14),
        start=(0.0, 5.0),
        lr=0.01,
        scaled_lr=0.2,
    ),
}

VALLEY_MINIMUM = 0.25


def valley(x: Array) -> tuple[Array, Array]:
    """1/4 + log((0.8 exp(2x) + 2 exp(-0.8x)) / 2.8) and its derivative, elementwise.

    Convex, with slope -0.8 far to the left and 2 far to the right; the minimiser is 0.
    """
    right, left = np.log(0.8 / 2.8) + 2 * x, np.log(2 / 2.8) - 0.8 * x
    total = np.logaddexp(right, left)
    return VALLEY_MINIMUM + total, 2 * np.exp(right - total) - 0.8 * np.exp(left - total)
