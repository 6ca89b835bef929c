"""A problem of a user's own, by import path: what is checked of it, and what is estimated where it does not say.

The file or module is imported, and so runs as code, in every process that evaluates the problem.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
from threadpoolctl import threadpool_limits

from proxmom.lookup import find_factory
from proxmom.study.problems.data import Vector
from proxmom.study.problems.problem import Problem

PRODUCTS = 30  # with the Hessian at x0, for the largest curvature there
RESTARTS = 5  # of the search for the lowest value


@dataclass(frozen=True)
class Own:
    """fun(x) -> (f, gradient), x (n,), of what an import path makes: travels to another process, and is made there.

    text: the import path. folder: where a relative file is. arguments: by name, sorted. source: digest of the file.
    """

    text: str
    folder: str
    arguments: tuple[tuple[str, Any], ...]
    source: str

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        value, gradient = _made(self).fun(x.copy())  # whoever writes into it, or returns one buffer, harms nobody
        return float(value), np.array(gradient, dtype=np.float64)

    def factory(self) -> Callable[..., Any]:
        """The function or class; imports its file or module once, with the libraries that this needs."""
        return find_factory("problem", self.text, {}, folders=[Path(self.folder)])


def is_own(kind: str) -> bool:
    """Whether a kind of problem is an import path."""
    return ":" in kind


def check_own(text: str, folder: Path, arguments: Mapping[str, Any], trains: bool = False) -> None:
    """ValueError if the import path leads nowhere, or what it leads to does not take the arguments.

    trains: whether a study trains it, and so gives it a seed.
    """
    given = [*arguments, *(["seed"] if trains else [])]
    factory = find_factory("problem", text, {}, folders=[folder])
    try:
        inspect.signature(factory).bind(**dict.fromkeys(given))
    except TypeError as error:
        takes = inspect.signature(factory.func)
        hint = " In a study that trains it makes a network and must take seed." if trains else ""
        raise ValueError(
            f"problem {text!r} takes {takes}: {error}, got {', '.join(given) or 'nothing'}.{hint}"
        ) from error


def build_own(text: str, folder: Path, source: str, **arguments: Any) -> Problem:
    """The problem that an import path makes of these arguments, with one thread.

    What it makes has `x0`, (n,), and `fun(x) -> (f, gradient)`, deterministic, and if known `optimum`, the least value,
    `smoothness`, the largest curvature there can be, `name` and `convex`. Without `optimum` the lowest value found by
    L-BFGS-B takes its place, certified by nobody, and the name says so; without `smoothness`, the unit of lr, the
    largest curvature at x0, from differences of gradients.

    Args:
        text: "file.py:name" or "package.module:name", a function or a class.
        folder: where a relative file is looked for, and a file that the argument `data` names.
        source: digest of the file.
        **arguments: of the function or class.

    Raises:
        ValueError: for what cannot be made, and an `x0`, `fun`, `optimum` or `smoothness` that is none.
    """
    arguments = with_path(arguments, folder)
    fun = Own(text, str(folder), tuple(sorted(arguments.items())), source)
    fun.factory()  # first: threads are limited in those libraries alone that are there
    with threadpool_limits(1):
        return _build(fun, arguments)


def _build(fun: Own, arguments: Mapping[str, Any]) -> Problem:
    text, made = fun.text, _made(fun)
    x0, start = _start(fun, made)
    smoothness = _positive(text, "smoothness", getattr(made, "smoothness", None))
    name = str(getattr(made, "name", "") or default_name(text, arguments))
    known = getattr(made, "optimum", None)
    optimum = _lowest(fun, x0) if known is None else float(known)
    if not optimum < start:
        raise ValueError(
            f"problem {text!r}: its optimum must be below f(x0) = {start:g}, got {optimum:g}. Start elsewhere, or give "
            "the object the attribute optimum, its least value."
        )
    x0.flags.writeable = False
    return Problem(
        name if known is not None else f"{name}, optimum estimated",
        fun,
        x0,
        smoothness or _curvature(fun, x0),
        optimum,
        0.0 if known is not None else float("nan"),
        bool(getattr(made, "convex", True)),
    )


@lru_cache(maxsize=16)
def _made(own: Own) -> Any:
    factory = own.factory()
    try:
        made = factory(**dict(own.arguments))
    except Exception as error:
        raise ValueError(f"problem {own.text!r} cannot be made: {type(error).__name__}: {error}.") from error
    for attribute, what in (("x0", "the start, (n,)"), ("fun", "a function x -> (f, gradient)")):
        if not hasattr(made, attribute):
            raise ValueError(
                f"problem {own.text!r} must make an object with {attribute}, {what}, got {type(made).__name__} without."
            )
    return made


def _start(fun: Own, made: Any) -> tuple[Vector, float]:
    """x0 and f there; ValueError for what is no start, or no f and gradient."""
    try:
        x0 = np.array(made.x0, dtype=np.float64)
        value, gradient = fun(x0.copy())
    except Exception as error:
        raise ValueError(
            f"problem {fun.text!r}: fun(x0) must return (f, gradient), a number and an array shaped like x0: it raised "
            f"{type(error).__name__}: {error}."
        ) from error
    if x0.ndim != 1 or not x0.size or not np.isfinite(x0).all():
        raise ValueError(f"problem {fun.text!r}: x0 must be finite and shaped (n,), got shape {x0.shape}.")
    if gradient.shape != x0.shape or not (np.isfinite(gradient).all() and np.isfinite(value)):
        raise ValueError(
            f"problem {fun.text!r}: fun(x0) must return a finite f and a finite gradient shaped {x0.shape} like x0, "
            f"got f = {value:g} and shape {gradient.shape}."
        )
    return x0, value


def _positive(text: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not 0 < float(value) < np.inf:
        raise ValueError(f"problem {text!r}: {name} must be > 0 and finite, got {value}. Leave it out to estimate it.")
    return float(value)


def _curvature(fun: Own, x0: Vector) -> float:
    """The largest curvature at x0 by power iteration, products with the Hessian by differences of gradients."""
    direction = np.random.default_rng(0).standard_normal(x0.size)
    h = 1e-6 * max(1.0, float(np.linalg.norm(x0)))
    largest = 0.0
    for _ in range(PRODUCTS):
        direction /= np.linalg.norm(direction)
        direction = (fun(x0 + h * direction)[1] - fun(x0 - h * direction)[1]) / (2 * h)
        largest = float(np.linalg.norm(direction))
        if not 0 < largest < np.inf:
            raise ValueError(
                f"problem {fun.text!r}: its curvature at x0 is {largest:g}: give the object a smoothness, > 0."
            )
    return largest


def _lowest(fun: Own, x0: Vector) -> float:
    """The lowest value that L-BFGS-B finds from x0, started again where it ended until that helps no more."""
    x, best = x0, np.inf
    options = {"maxcor": 20, "ftol": 0.0, "gtol": 0.0, "maxiter": 20_000, "maxfun": 40_000}
    for _ in range(RESTARTS):
        result = scipy.optimize.minimize(fun, x, jac=True, method="L-BFGS-B", options=options)
        if not result.fun < best:
            break
        x, best = result.x, float(result.fun)
    return best


def with_path(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments, `data` as a path from anywhere if it names a file in the folder."""
    data = arguments.get("data")
    beside = isinstance(data, str) and (folder / data).is_file()
    return {**arguments, "data": str(folder / str(data))} if beside else dict(arguments)


def default_name(text: str, arguments: Mapping[str, Any]) -> str:
    """ "lasso, l1 0.1" of my_problem.py:lasso."""
    given = [f"{key} {Path(value).name if key == 'data' else value}" for key, value in arguments.items()]
    return ", ".join([text.rpartition(":")[2], *given])
