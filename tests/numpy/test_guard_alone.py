"""The guard on points made up for it: how often it waits, how much shorter it asks for, what it starts from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from proxmom import AdaptiveMemory, Alignment, HeavyBall, Secant
from proxmom.guard.curved import BLIND, LONGEST
from proxmom.guard.judge import PATIENCE, STALLED, TRIES
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy.forecast import Forecast
from proxmom.numpy.guard import SHORTEST, Guard, Point, Segment, Unguarded


def point(x: float, f: float, g: float) -> Point:
    return Point(np.array([x]), f, np.array([g]), ((), f, ()))


def guarded(step_size: Any = None, lr: float = 1.0) -> Guard:
    return Guard(Optimizer([0.0], HeavyBall(), lr=lr, step_size=step_size))


def judged(guard: Guard, old: Point, new: Point) -> bool:
    guard.step(old.g, old.f)
    return guard.keeps(Segment(old, new))


def verdicts(guard: Guard, old: Point, new: Point, count: int) -> Iterator[int | None]:
    """After each of so many steps from old to new, all refused."""
    for _ in range(count):
        assert not judged(guard, old, new)
        yield guard.verdict


@pytest.mark.parametrize(("f", "status"), [(2.0, 3), (np.inf, 2)], ids=["finite", "not finite"])
def test_so_many_steps_in_a_row_are_tried(f: float, status: int) -> None:
    guard = guarded()
    assert list(verdicts(guard, point(0, 1, 1), point(-1, f, 1), TRIES)) == [None] * (TRIES - 1) + [status]
    assert (guard.tries, guard.undone) == (TRIES, TRIES)


def test_a_step_that_stands_ends_the_row() -> None:
    guard = guarded()
    assert list(verdicts(guard, point(0, 1, 1), point(-1, 2, 1), TRIES - 1))[-1] is None
    assert judged(guard, point(0, 1, 1), point(-0.5, 0.5, 0.5))
    assert (guard.tries, guard.undone) == (0, TRIES - 1)
    assert list(verdicts(guard, point(-0.5, 0.5, 0.5), point(-1, 2, 1), 1)) == [None]


def test_so_many_steps_within_rounding_lead_nowhere_before_it_ends() -> None:
    here, up = point(0, 1, 1), point(1e-20, 1, 1)
    assert list(verdicts(guarded(), here, up, STALLED)) == [None] * (STALLED - 1) + [3]


@pytest.mark.parametrize("better", [point(-1e-20, 1, 0.5), point(-1, 0.5, 1)], ids=["gradient", "f"])
def test_progress_lets_the_count_begin_anew(better: Point) -> None:
    guard, here = guarded(), point(0, 1, 1)
    assert list(verdicts(guard, here, point(1e-20, 1, 1), STALLED - 1))[-1] is None
    assert judged(guard, here, better)
    up = Point(better.x + 1e-15, better.f, better.g, ((), better.f, ()))
    assert list(verdicts(guard, better, up, STALLED)) == [None] * (STALLED - 1) + [3]


@pytest.mark.parametrize(("f", "weak"), [(1 - 0.021, 0), (1 - 0.019, 1)])
def test_how_much_a_step_along_the_gradient_must_lower_f(f: float, weak: int) -> None:
    """A hundredth of its length over ||g||, 1/2 here, times ||g||², 4."""
    guard = guarded()
    assert judged(guard, point(0, 1, 2), point(-1, f, 2))
    assert guard.weak == weak


def test_so_many_steps_in_a_row_may_lower_f_by_too_little() -> None:
    """Beyond rounding, and the slopes say that the curvature is about one."""
    guard, points = guarded(), [point(-2.0 * (k % 2), 1 - 1e-9 * k, 1 + k % 2) for k in range(PATIENCE + 1)]
    kept = [judged(guard, old, new) for old, new in itertools.pairwise(points)]
    assert kept == [True] * (PATIENCE - 1) + [False]


def length(guard: Guard) -> float:
    """Of the next step, where the slope is one."""
    x = getattr(guard.optimizer, "optimizer", guard.optimizer).x
    return float((x - guard.step(np.ones(1), 1.0))[0])


@pytest.mark.parametrize("step_size", [None, Alignment()])
@pytest.mark.parametrize("tries", [1, 2])
@pytest.mark.parametrize(
    ("f", "factor"),
    [(2.0, 1 / 4), (1.001, 1 / 2.002), (1e3, SHORTEST), (1e300, SHORTEST), (np.inf, BLIND), (np.nan, BLIND)],
)
def test_the_next_try_ends_where_the_parabola_through_both_points_does(
    f: float, factor: float, tries: int, step_size: Any
) -> None:
    """Its slope at the start is -1 there, and at the end of a step of length one f was seen."""
    guard = guarded(step_size)
    assert list(verdicts(guard, point(0, 1, 1), point(-1, f, 1), tries)) == [None] * tries
    assert length(guard) == pytest.approx(factor**tries)


@pytest.mark.parametrize("step_size", [None, Alignment()])
@pytest.mark.parametrize("lr", [1.0, 4.0])
def test_a_step_with_memory_that_fails_is_tried_much_shorter(lr: float, step_size: Any) -> None:
    guard = guarded(step_size, lr)
    assert judged(guard, point(0, 1, 1), point(-1, 0.5, 0.5))
    guard.step(np.array([0.5]), 0.5)
    last = guard.optimizer.last_lr
    assert (last > lr) == (step_size is not None)
    assert not guard.keeps(Segment(point(-1, 0.5, 0.5), point(-2, 3, 1)))
    assert length(guard) == pytest.approx(last * LONGEST / 2)


@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize("first", [-8, -0.01])
def test_after_a_forecast_the_try_is_as_long_as_the_least_curvature_seen_allows(first: float, euclidean: bool) -> None:
    """Where the metric is Euclidean: in another one the ratio of lengths says nothing of lr."""
    optimizer = Forecast(Optimizer([0.0], AdaptiveMemory(), lr=0.1), Secant())
    guard, middle = Guard(optimizer, euclidean), point(first, 0.5, 0.5)
    assert judged(guard, point(0, 1, 1), middle)
    guard.step(middle.g, middle.f)
    steepest = optimizer.steepest_lr
    assert not guard.keeps(Segment(middle, point(first - 1, 3, 1)))
    assert guard.ratio == pytest.approx(min(-2 * first, 2))
    assert length(guard) == pytest.approx(max(steepest, guard.ratio) if euclidean else steepest)


@pytest.mark.parametrize("new", [point(0, 1, 2), point(-1, 0.5, 1), point(-1, 0.5, np.inf)])
def test_only_a_step_along_which_the_gradient_changes_shows_a_curvature(new: Point) -> None:
    guard = guarded()
    judged(guard, point(0, 1, 1), new)
    assert guard.ratio == np.inf
    judged(guard, point(0, 1, 1), point(-1, 0.5, 0.5))
    assert guard.ratio == 2.0


@pytest.mark.parametrize("step_size", [None, Alignment()])
def test_starting_anew_is_a_step_along_the_gradient_of_the_given_length(step_size: Any) -> None:
    guard = guarded(step_size, lr=2.0)
    for g in (1.0, 3.0):
        guard.step(np.array([g]), 1.0)
    x = guard.optimizer.x
    guard.start_anew(0.25)
    np.testing.assert_array_equal(guard.optimizer.x, x)
    np.testing.assert_allclose(guard.step(np.array([4.0]), 1.0), x - 0.25 * 4.0)


def test_before_anything_was_judged_the_last_point_is_the_best() -> None:
    last = point(0, 1, 1)
    assert guarded().best(last) is last
    assert guarded().verdict is None


def test_a_function_without_curvature_is_followed_downwards() -> None:
    result = minimize(lambda x: (float(x.sum()), np.ones_like(x)), [1.0, -2.0], max_iter=60)
    assert not result.success
    assert result.fun < -1e6
    assert result.undone == 0


def test_unguarded_a_run_ends_before_the_first_point_that_is_not_finite() -> None:
    unguarded = Unguarded(Optimizer([0.0], HeavyBall(), lr=1.0))
    assert (unguarded.verdict, unguarded.undone) == (None, 0)
    assert unguarded.keeps(Segment(point(0, 1, 1), point(1, 9, 1)))
    assert unguarded.verdict is None
    for f, g in ((np.nan, 1.0), (1.0, np.inf)):
        assert not unguarded.keeps(Segment(point(0, 1, 1), point(1, f, g)))
        assert unguarded.verdict == 2
    assert unguarded.keeps(Segment(point(0, 1, 1), point(1, 9, 1)))
    assert unguarded.verdict is None
