"""What the tests of the rivals share: the scripts of experiments/tuning_free, a counter, test functions."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "tuning_free"))  # as when its scripts run
cg, rivals, compare, summaries, variants, overhead = (
    importlib.import_module(name) for name in ("cg_descent", "rivals", "compare", "summaries", "variants", "overhead")
)
Problem = tuple[Callable[[Any], tuple[float, Any]], Any]


class _Stop(Exception):
    pass


class Watched:
    """fun, its points written down; stops where `done`(f, gradient) or after `budget` evaluations."""

    def __init__(self, fun: Any, done: Any, budget: int = 2000) -> None:
        self.fun, self.done, self.budget, self.points, self.reached = fun, done, budget, [], False

    def __call__(self, x: Any) -> tuple[float, Any]:
        if len(self.points) == self.budget:
            raise _Stop
        self.points.append(x.copy())
        value, gradient = self.fun(x)
        self.reached = bool(self.done(value, gradient))
        if self.reached:
            raise _Stop
        return value, gradient

    def run(self, method: Any, x0: Any, *rest: Any) -> int | None:
        """Evaluations until done; None if that never was."""
        with contextlib.suppress(_Stop):
            method(self, x0.copy(), *rest)
        return len(self.points) if self.reached else None


def flat(bound: float) -> Callable[[float, Any], bool]:
    return lambda value, gradient: bool(np.abs(gradient).max() <= bound)


def manual(n: int = 100) -> Problem:
    """The example of CG_DESCENT's manual."""
    root = np.sqrt(np.arange(1, n + 1))
    return lambda x: (float((np.exp(x) - root * x).sum()), np.exp(x) - root), np.ones(n)


def power(n: int) -> Problem:
    i = np.arange(1.0, n + 1)
    return lambda x: (float((i @ x**2) ** 2), 4 * (i @ x**2) * i * x), np.ones(n)


def tridia(n: int) -> Problem:
    i = np.arange(2.0, n + 1)

    def fun(x: Any) -> tuple[float, Any]:
        rest, gradient = 2 * x[1:] - x[:-1], np.zeros(n)
        gradient[0] = 2 * (x[0] - 1)
        gradient[1:] += 4 * i * rest
        gradient[:-1] -= 2 * i * rest
        return float((x[0] - 1) ** 2 + i @ rest**2), gradient

    return fun, np.ones(n)


def dixmaane(n: int) -> Problem:
    m, w = n // 3, np.arange(1, n + 1) / n

    def fun(x: Any) -> tuple[float, Any]:
        a, b, c = x[: 2 * m], x[m:], x[2 * m :]
        gradient = 2 * w * x
        gradient[: 2 * m] += 0.25 * a * b**4
        gradient[m:] += 0.5 * a**2 * b**3
        gradient[:m] += 0.125 * c * w[:m]
        gradient[2 * m :] += 0.125 * x[:m] * w[:m]
        return float(1 + w @ x**2 + 0.125 * (a**2 @ b**4 + (w * x)[:m] @ c)), gradient

    return fun, np.full(n, 2.0)
