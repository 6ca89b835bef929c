"""A problem, and what its builders share: checks of arguments, and parts of names."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from proxmom.study.problems.data import Vector
from proxmom.study.problems.losses import Objective


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised: fun(x) -> (f, gradient) for x (n,), deterministic and free of checks.

    x0 is read-only. smoothness: L, an upper bound of the gradient's Lipschitz constant. optimum: the value at
    the minimiser found, at most `certificate` above the true f*; certificate <= 1e-10 (f(x0) - optimum).
    convex: if not, the builders in `nonconvex.py` and `literature` say what smoothness and optimum are.
    """

    name: str
    fun: Callable[[Vector], tuple[float, Vector]]
    x0: Vector
    smoothness: float
    optimum: float
    certificate: float
    convex: bool = True


def make_problem(
    name: str, fun: Objective, x0: Vector, smoothness: float, certified: tuple[float, float], convex: bool = True
) -> Problem:
    """The problem of these parts; certified: optimum and certificate."""
    x0.flags.writeable = False  # the problem is shared by every run of this process
    return Problem(name, fun, x0, smoothness, *certified, convex)


def number(name: str, value: float, low: float, high: float = math.inf, exclusive: bool = False) -> float:
    """`value` as a finite float in [low, high], or in (low, high] if exclusive; an error that names it if not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}).")
    above = value > low if exclusive else value >= low
    if not (math.isfinite(value) and above and value <= high):
        limit = f" and <= {high:g}" if high < math.inf else " and finite"
        raise ValueError(f"{name} must be {'>' if exclusive else '>='} {low:g}{limit}, got {value}.")
    return float(value)


def whole(name: str, value: int, low: float = 0, high: float = math.inf) -> int:
    """`value` if it is a whole number in [low, high]; an error that names it if not."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__}).")
    return int(number(name, value, low, high))


def name_part(default: float, **value: float) -> str:
    """Part of a problem's name: ", key value" unless the value is the default."""
    return "".join(f", {key} {given:g}" for key, given in value.items() if given != default)
