"""CG_DESCENT: nonlinear conjugate gradients with guaranteed descent, and its line search, for the comparison.

From the papers, W. W. Hager and H. Zhang, "A new conjugate gradient method with guaranteed descent and an efficient
line search", SIAM J. Optim. 16 (2005) 170-192, and "Algorithm 851: CG_DESCENT", ACM TOMS 32 (2006) 113-137; letters
and steps (I0 to I2, B1 to B3, U0 to U3, S1 to S4, L0 to L3, T1, T2) are theirs. Constants are the defaults that
Algorithm 851 ships. So are four things that its program tells: a parabola starts the first line search too; the point
for it lies at psi_1 psi_2 times the last step; a point met while bracketing ends the search only where the parabola
gave the first one, and f is no higher there; as long as only T1 counts, brackets are those of f less its due fall.

A point of the line is one evaluation, of f and its gradient together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Constants:
    """Defaults as in cg_descent_f.parm, the file of parameters that comes with Algorithm 851."""

    delta: float = 0.1
    sigma: float = 0.9
    epsilon: float = 1e-6
    theta: float = 0.5
    gamma: float = 0.66
    rho: float = 5.0
    eta: float = 0.01
    psi_0: float = 0.01
    psi_1: float = 0.1
    psi_2: float = 2.0
    decay: float = 0.7  # Qdecay, Δ in the papers
    omega: float = 1e-3  # AWolfeFac
    quad_step: bool = True
    quad_cutoff: float = 1e-12
    approximate: bool = False  # AWolfe: whether T2 counts from the start, and not only once f changes little
    rounds: int = 50  # nexpand and nsecant


class Point(NamedTuple):
    """One evaluation on the line x + step d: f, its slope along d, and where."""

    step: float
    value: float
    slope: float
    x: Any
    gradient: Any


class Step(NamedTuple):
    """An accepted step, with what it was judged by."""

    start: Point
    end: Point
    direction: Any
    allowance: float  # ε_k: how much f may rise
    approximate: bool


class _Accepted(Exception):
    def __init__(self, point: Point) -> None:
        self.point = point


def direction(gradient: Any, before: Any, d: Any, eta: float = 0.01) -> Any:
    """-g + max(β^N, η_k) d, from the gradients at both ends of the last step and its direction d (2005, 1.3 to 1.6)."""
    y = gradient - before
    curvature = d @ y
    if not curvature > 0:  # the Wolfe conditions exclude it but for rounding
        return -gradient
    beta = (y - 2 * d * (y @ y) / curvature) @ gradient / curvature
    floor = -1 / (np.linalg.norm(d) * min(eta, float(np.linalg.norm(before))))
    return -gradient + max(beta, floor) * d


@dataclass
class Search:
    """The line search from `start` along d: a point where T1 holds, or T2 where that counts, within `rounds`."""

    fun: Any
    start: Point
    d: Any
    allowance: float
    approximate: bool
    constants: Constants = field(default_factory=Constants)
    ceiling: float = -math.inf  # how high f may be at a point met while bracketing that ends the search

    def evaluate(self, step: float) -> Point:
        x = self.start.x + step * self.d
        value, gradient = self.fun(x)
        return Point(step, value, float(gradient @ self.d), x, gradient)

    def accepts(self, point: Point) -> bool:
        """T1, the Wolfe conditions, or T2, the approximate ones."""
        c, slope = self.constants, self.start.slope
        if not point.slope >= c.sigma * slope:
            return False
        if point.value - self.start.value <= c.delta * point.step * slope:
            return True
        flat = point.slope <= (2 * c.delta - 1) * slope
        return self.approximate and flat and point.value <= self.start.value + self.allowance

    def run(self, guess: float) -> Point | None:
        """L0 to L3 from the guess; None where `rounds` brought no acceptable point."""
        try:
            bounds = self._bracket(guess)
            for _ in range(self.constants.rounds):
                if bounds is None:
                    return None
                a, b = self._secant_squared(*bounds)
                if b.step - a.step > self.constants.gamma * (bounds[1].step - bounds[0].step):
                    a, b = self._update(a, b, (a.step + b.step) / 2)
                bounds = a, b
        except _Accepted as accepted:
            return accepted.point
        return None

    def guess(self, last: float, parabola: bool) -> float:
        """I1 and I2: the minimiser of a parabola through f near the start, if wanted and found; else psi_2 last."""
        c, start = self.constants, self.start
        if parabola:
            near = c.psi_1 * c.psi_2 * last
            value, _ = self.fun(start.x + near * self.d)
            bend = 2 * ((value - start.value) / near - start.slope)
            if value < start.value and bend > 0:
                self.ceiling = start.value
                return float(-start.slope * near / bend)
        return c.psi_2 * last

    def _tilted(self, point: Point) -> float:
        """The slope of what is bracketed: f, or f less the fall that T1 demands."""
        return point.slope if self.approximate else point.slope - self.constants.delta * self.start.slope

    def _low(self, point: Point) -> bool:
        fall = 0.0 if self.approximate else self.constants.delta * point.step * self.start.slope
        return bool(point.value - fall <= self.start.value + self.allowance)

    def _probe(self, step: float, bracketing: bool = False) -> Point:
        point = self.evaluate(step)
        if (not bracketing or point.value <= self.ceiling) and self.accepts(point):
            raise _Accepted(point)
        return point

    def _bracket(self, step: float) -> tuple[Point, Point] | None:
        """B1 to B3."""
        low = self.start
        for _ in range(self.constants.rounds):
            point = self._probe(step, bracketing=True)
            self.ceiling = min(self.ceiling, point.value)
            if self._tilted(point) >= 0:
                return low, point
            if not self._low(point):  # also where f overflowed
                return self._bisect(low, point, bracketing=True)
            low, step = point, self.constants.rho * step
        return None

    def _bisect(self, a: Point, b: Point, bracketing: bool = False) -> tuple[Point, Point] | None:
        """U3: f is low at a and high at b, and falls at both."""
        for _ in range(self.constants.rounds):
            middle = self._probe((1 - self.constants.theta) * a.step + self.constants.theta * b.step, bracketing)
            if self._tilted(middle) >= 0:
                return a, middle
            a, b = (middle, b) if self._low(middle) else (a, middle)
        return None

    def _update(self, a: Point, b: Point, step: float) -> tuple[Point, Point]:
        """U0 to U3: the bracket that the point at `step` leaves of [a, b]."""
        if not a.step < step < b.step:
            return a, b
        point = self._probe(step)
        if self._tilted(point) >= 0:
            return a, point
        return (point, b) if self._low(point) else self._bisect(a, point) or (a, b)

    def _secant_squared(self, a: Point, b: Point) -> tuple[Point, Point]:
        """S1 to S4."""
        first = self._secant(a, b)
        low, high = self._update(a, b, first)
        if first == high.step:
            return self._update(low, high, self._secant(b, high))
        if first == low.step:
            return self._update(low, high, self._secant(a, low))
        return low, high

    def _secant(self, a: Point, b: Point) -> float:
        """Where the line through both slopes is zero; nan, which lies in no bracket, where they are equal."""
        left, right = self._tilted(a), self._tilted(b)
        return (a.step * right - b.step * left) / (right - left) if right != left else math.nan


def first_guess(x: Any, value: float, gradient: Any, psi_0: float = 0.01) -> float:
    """I0: the first step of the first line search."""
    size = np.abs(x).max()
    if size > 0:
        return float(psi_0 * size / np.abs(gradient).max())
    return float(psi_0 * abs(value) / (gradient @ gradient)) if value else 1.0


def steps(fun: Any, x0: Any, constants: Constants | None = None, first: float | None = None) -> Iterator[Step]:
    """The steps from x0, an array of shape (n,), until the gradient vanishes or a line search fails.

    fun(x) gives f and its gradient; first, if given, stands for the last step of the first line search, else I0 does.
    """
    c = constants or Constants()
    value, gradient = fun(x0)
    x, d, approximate = x0, -gradient, c.approximate
    weight = size = 0.0
    last = first_guess(x, value, gradient, c.psi_0) if first is None else first
    change, k = math.inf, 0
    while gradient.any():
        weight = 1 + weight * c.decay
        size += (abs(value) - size) / weight
        start = Point(0.0, value, float(gradient @ d), x, gradient)
        search = Search(fun, start, d, c.epsilon * size, approximate, c)
        end = search.run(search.guess(last, c.quad_step and change > c.quad_cutoff * abs(value)))
        if end is None:
            return
        yield Step(start, end, d, search.allowance, approximate)
        k, last, change = k + 1, end.step, abs(end.value - value)
        approximate = approximate or change <= c.omega * size
        d = direction(end.gradient, gradient, d, c.eta) if k % x.size else -end.gradient
        x, value, gradient = end.x, end.value, end.gradient


def cg_descent(fun: Any, x0: Any) -> None:
    """CG_DESCENT with its authors' constants, until fun stops it or a line search fails."""
    for _ in steps(fun, x0):
        pass
