"""A function of a user in a picture: found by its import path, evaluated point by point, shown where runs go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from proxmom.draw.functions import FUNCTIONS, Array, Box, Function
from proxmom.draw.paths import Trace
from proxmom.lookup import find_factory

Fun = Callable[[Array], tuple[Any, Any]]

GRID = 121  # points a side: it is called for each of them
AIR = 0.15  # around what the runs saw, as a part of it


def find_function(on: str | Fun) -> Function | Fun:
    """One of `FUNCTIONS` by name, or a function by import path: "my_functions.py:valley", "my.module:bowl(a=3)".

    Raises:
        ValueError: for a name or an import path that does not exist.
    """
    if not isinstance(on, str):
        if not callable(on):
            raise ValueError(f"on must be a name, an import path or a function fun(x) -> (f, gradient), got {on!r}.")
        return on
    if ":" not in on and on not in FUNCTIONS:
        known = ", ".join(map(repr, FUNCTIONS))
        raise ValueError(f"on must be one of {known}, or an import path like my_functions.py:valley, got {on!r}.")
    found = find_factory("function", on, FUNCTIONS)
    return found if found.keywords else found.func


def check_function(fun: Fun, start: Array) -> None:
    """Whether this is a function of two variables; ValueError otherwise."""
    try:
        value, gradient = fun(start.copy())
        fits = np.shape(value) == () and np.shape(gradient) == (2,)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"on must be fun(x) -> (f, gradient) for x of shape (2,), but {error}.") from error
    if not fits:
        got = f"{np.shape(value)} and {np.shape(gradient)}"
        raise ValueError(f"on must return f, a number, and its gradient of shape (2,), got shapes {got}.")


def own_function(fun: Fun, lr: float, traces: Sequence[Trace], view: Box | None) -> Function:
    """What a picture needs of `fun`; the view is a square with what the runs saw, unless it is given."""
    view = view or _around(traces)
    left, right, bottom, top = view
    a, b = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
    values = _values(fun, np.array([a, b]))
    known = values[np.isfinite(values)]
    base, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    height = max(high - base, 1e-12)

    def spread(x: Array) -> tuple[Any, Any]:
        return fun(x) if x.ndim == 1 else (_values(fun, x), np.full(x.shape, np.nan))

    return Function(
        name=_name(fun),
        fun=spread,
        minimisers=np.empty((0, 2)),
        view=view,
        levels=np.geomspace(height / 3000, height / 1.2, 12),
        start=(float(traces[0].points[0, 0]), float(traces[0].points[0, 1])),
        lr=lr,
        scaled_lr=lr,
        minimum=None,
        base=base,
        grid=GRID,
    )


def _name(fun: Fun) -> str:
    plain = fun.func if isinstance(fun, partial) else fun
    return str(getattr(plain, "__name__", type(plain).__name__))


def _values(fun: Fun, x: Array) -> Array:
    with np.errstate(all="ignore"):
        values = [float(fun(point)[0]) for point in x.reshape(2, -1).T.copy()]
    return np.reshape(values, x.shape[1:])


def _around(traces: Sequence[Trace]) -> Box:
    """A square around the runs that went down, and all starts."""
    seen = [trace.points for trace in traces if not trace.diverged] + [trace.points[:1] for trace in traces]
    low, high = (getattr(np.concatenate(seen), side)(axis=0) for side in ("min", "max"))
    centre, half = (low + high) / 2, (0.5 + AIR) * float(np.max(high - low)) or 1.0
    (left, bottom), (right, top) = centre - half, centre + half
    return float(left), float(right), float(bottom), float(top)
