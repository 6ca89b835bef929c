"""One function of the literature as a row of a table, and what the formulas share.

A formula takes x (n,) and returns f and the gradient (n,). It is analytic and takes complex x too, so that second
derivatives come without a formula of their own: Im gradient(x + ih v) / h is exact but for rounding (Squire and Trapp,
SIAM Review 40, 1998).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxmom.study.problems.data import Vector
from proxmom.study.problems.losses import Product

Formula = Callable[[Vector], tuple[Any, Vector]]

STEP = 1e-30  # of complex differences, which lose no digits, however small it is


@dataclass(frozen=True)
class Row:
    """A function: its formula, the customary start, and the minimum that this start leads to.

    start: the point, or a function of n; n: the customary number of variables, which must be a multiple of `multiple`
    from `low` to `high`. optimum: a number or a function of n where it is known for every n, else the numbers by n.
    """

    formula: Formula
    start: tuple[float, ...] | Callable[[int], Vector]
    optimum: float | Callable[[int], float] | dict[int, float]
    n: int = 0
    low: int = 2
    high: int = 10_000
    multiple: int = 1


@dataclass(frozen=True, eq=False)
class Published:
    """A formula as an objective; where it overflows f is inf or NaN, without a warning."""

    formula: Formula

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        with np.errstate(all="ignore"):
            f, g = self.formula(x)
        return float(f), g

    def hessian(self, x: Vector) -> Vector:
        product = self.product(x)
        return np.stack([product(unit) for unit in np.eye(x.size)], axis=1)

    def product(self, x: Vector) -> Product:
        return lambda v: np.asarray(self.formula(x + 1j * STEP * v)[1].imag / STEP)


def squares(r: Any, *columns: Any) -> tuple[Any, Vector]:
    """Sum of the squares of the residuals r (m,), and its gradient from the columns (m,) of their Jacobian."""
    r = np.asarray(r)
    return r @ r, 2 * np.array([r @ np.asarray(column) for column in columns])


def constant(value: float) -> Callable[[int], Vector]:
    """The start that has this value in every variable."""
    return lambda n: np.full(n, float(value))


def repeated(*values: float) -> Callable[[int], Vector]:
    """The start that repeats these values."""
    return lambda n: np.resize(np.array(values, dtype=float), n)


def counted(n: int) -> Vector:
    """1, 2, ..., n."""
    return np.arange(1.0, n + 1)
