"""Runs of a rule on a function of two variables, and the part of the plane that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from proxmom.draw.functions import Array, Box, Function
from proxmom.numpy import minimize
from proxmom.rules import Rule

ROOM = 0.35  # a path that leaves the view widens it by at most this part of it on each side


@dataclass(frozen=True, eq=False)
class Trace:
    """One run: points (m, 2) and values (m,) as far as they are finite, and beta (m - 1,).

    diverged: it broke off, or ended higher than it started and than all that the function's view shows.
    """

    points: Array
    values: Array
    beta: Array
    diverged: bool


def checked_starts(starts: ArrayLike) -> Array:
    """The starts as (k, 2); ValueError if they are no finite points of the plane."""
    points = np.atleast_2d(np.asarray(starts, dtype=np.float64))
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"starts must be a finite point (2,) or points (k, 2), got {starts!r}.")
    return points


def follow(
    fun: Callable[[Array], tuple[Any, Any]], rule: Rule, start: Array, settings: dict[str, Any], high: float = -np.inf
) -> Trace:
    """One run of `minimize` with these settings; `high`: the largest value that the view shows."""
    points: list[Array] = []

    def recorded(x: Array) -> tuple[Any, Any]:
        points.append(x)
        return fun(x)

    with np.errstate(all="ignore"):  # a diverging run overflows on its last step
        result = minimize(recorded, start, rule, **settings)
    path, values = np.array(points), result.history["fun"]
    count = int((np.isfinite(values) & np.isfinite(path).all(axis=1)).sum())
    path, values = path[:count], values[:count]
    diverged = bool(result.status == 2 or values[-1] > max(values[0], high))
    return Trace(path, values, result.history["beta"][: count - 1], diverged)


def run(function: Function, rule: Rule, start: Array, settings: dict[str, Any]) -> Trace:
    """One run of `minimize` with these settings."""

    def fun(x: Array) -> tuple[float, Array]:
        value, gradient = function.fun(x)
        return float(value), gradient

    return follow(fun, rule, start, settings, grid_of(function, function.view)[2].max())


def frame(function: Function, traces: Sequence[Trace]) -> Box:
    """A square with the function's view, all starts, and of each path what is not too far away."""
    low, high = np.array(function.view[::2]), np.array(function.view[1::2])
    room, margin = ROOM * (high - low), 0.03 * (high - low)
    near = [np.clip(trace.points, low - room, high + room) for trace in traces if not trace.diverged]
    shown = np.concatenate([*near, [trace.points[0] for trace in traces]])
    low, high = np.minimum(low, shown.min(axis=0) - margin), np.maximum(high, shown.max(axis=0) + margin)
    centre, half = (low + high) / 2, np.max(high - low) / 2
    (left, bottom), (right, top) = centre - half, centre + half
    return float(left), float(right), float(bottom), float(top)


def grid_of(function: Function, view: Box) -> tuple[Array, Array, Array]:
    """Coordinates and values, (n, n) each."""
    left, right, bottom, top = view
    a, b = np.meshgrid(np.linspace(left, right, function.grid), np.linspace(bottom, top, function.grid))
    return a, b, function.fun(np.array([a, b]))[0]


def inside(points: Array, view: Box) -> NDArray[np.bool_]:
    """Which of the points (m, 2) the view shows, (m,)."""
    left, right, bottom, top = view
    return (left <= points[:, 0]) & (points[:, 0] <= right) & (bottom <= points[:, 1]) & (points[:, 1] <= top)
