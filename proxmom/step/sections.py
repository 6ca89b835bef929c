"""The bracket of two planes in a norm where a backend answers many slopes at once, and nobody waits for its answers.

A question costs a look at all elements, however many slopes it is about: first at weights in equal steps, then at
some that crowd around the place where the dual's derivative would be zero if it were straight. One question more where
numbers are long enough for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxmom.planes import Array, namespace

if TYPE_CHECKING:  # what asks imports this
    from proxmom.step.in_norm import Point, Problem

SLOPES = 32  # in one question; a power of two, as kernels like it
CROWDED = 3  # the power of the distance from the crossing: the nearest weights are (1/SLOPES)**3 of the bracket away
LONG = 1e-10  # precision from which a third question is asked


def bracket(problem: Problem, look: Callable[[Problem, Array], Point]) -> tuple[Point, Point]:
    """The two ends of a bracket of the best weight; twice the same where that is 0 or 1.

    Args:
        problem: of two planes, with `pulls`.
        look: `Problem`, weights (S,) -> the `Point` there.
    """
    xp, zero = namespace(problem.linear), 0 * problem.linear[:, :1]
    wide = _wide(problem)
    b = zero + xp.arange(SLOPES, dtype=zero.dtype, device=zero.device) / (SLOPES - 1)
    low, high, _, _ = _around(look(wide, xp.reshape(b, (-1,))), len(zero))
    for _ in range(1 + (problem.precision < LONG)):
        b = low.b[:, None] + _places(low, high) * (high.b - low.b)[:, None]
        left, right, rising, not_falling = _around(look(wide, xp.reshape(b, (-1,))), len(zero))
        low, high = left.where(rising > 0, low), right.where(not_falling < SLOPES, high)
    return low, high


def _wide(problem: Problem) -> Problem:
    """The problem of every scope `SLOPES` times, (S·M, ...), answered in one question."""
    xp, scopes, pulls = namespace(problem.linear), len(problem.linear), problem.pulls
    assert pulls is not None

    def repeated(value: Array) -> Array:
        shape = (scopes, SLOPES, *value.shape[1:])
        return xp.reshape(xp.broadcast_to(value[:, None], shape), (-1, *value.shape[1:]))

    def pull(slopes: Array) -> Array:
        return xp.reshape(pulls(xp.reshape(slopes, (scopes, SLOPES, -1))), slopes.shape)

    floor = None if problem.floor is None else repeated(problem.floor)
    return replace(
        problem, linear=repeated(problem.linear), slopes=repeated(problem.slopes), floor=floor, pull=pull, pulls=None
    )


def _around(points: Point, scopes: int) -> tuple[Point, Point, Array, Array]:
    """Of points (S·M,) in their order: the last before the derivative is negative, and the first where it is.

    Also how many come before each of the two conditions fails; where the derivative is NaN neither holds, and the two
    points are not the same.
    """
    xp = namespace(points.b)
    signal = xp.reshape(points.signal, (scopes, -1))
    count = signal.shape[1]
    first = count * xp.arange(scopes, dtype=xp.int64, device=signal.device)

    def before(ends: Array) -> Array:
        return xp.sum(xp.astype(xp.cumulative_sum(xp.astype(ends, xp.int64), axis=1) == 0, xp.int64), axis=1)

    def at(place: Array) -> Point:
        index = first + xp.clip(place, 0, count - 1)
        return type(points)(*(xp.take(value, index, axis=0) for value in vars(points).values()))

    rising, not_falling = before(~(signal >= 0)), before(signal < 0)
    return at(rising - 1), at(not_falling), rising, not_falling


def _places(low: Point, high: Point) -> Array:
    """Where in the bracket to look, as shares of it, ascending, (S, M)."""
    fall: Any = low.signal - high.signal
    xp = namespace(fall)
    crossing = xp.where(fall > 0, low.signal / xp.where(fall > 0, fall, 1.0), 0.5)[:, None]
    half = SLOPES // 2
    near = ((xp.arange(half, dtype=fall.dtype, device=fall.device) + 0.5) / half) ** CROWDED
    return xp.concat([crossing * (1 - xp.flip(near)), crossing + (1 - crossing) * near], axis=1)
