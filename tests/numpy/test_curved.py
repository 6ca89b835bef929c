"""`Curved` alone: how far the next step goes, and when the metric is forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom import GradientDescent, QuasiNewton
from proxmom.guard.curved import GROWTH, LONGEST, RETRIES
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy.guard import Curved, Guard, Point, Segment
from tests.numpy.functions import fun


def point(x: Any, f: float, g: Any) -> Point:
    x, g = np.atleast_1d(np.asarray(x, dtype=float)), np.atleast_1d(np.asarray(g, dtype=float))
    return Point(x, f, g, ((), f, ()))


def quadratic(x: Any) -> Point:
    return point(x, float(x @ x) / 2, x)


def guarded(x0: Any, lr: float) -> Curved:
    return Curved(Optimizer(np.asarray(x0, dtype=float), GradientDescent(), lr=lr, metric=QuasiNewton()))


def test_a_first_step_that_fails_is_at_least_halved() -> None:
    """The cubic through f and both slopes would go two thirds of the way."""
    guard, old = guarded([0.0], 1.0), point(0.0, 1.0, -1.0)
    guard.step(old.g, old.f)
    assert not guard.keeps(Segment(old, point(1.0, 1.001, 50.0)))
    assert guard.optimizer.lr == LONGEST


def test_a_move_within_the_rounding_of_x_says_nothing_of_curvature() -> None:
    guard = Guard(Optimizer(np.array([1e8]), GradientDescent(), lr=1.0))
    guard.step(np.array([-1.0]), 1.0)
    guard.keeps(Segment(point(1e8, 1.0, -1.0), point(np.nextafter(1e8, 2e8), 0.5, 1.0)))
    assert guard.ratio == np.inf


def test_after_many_failures_it_goes_along_the_gradient_as_far_as_curvature_ever_allowed() -> None:
    guard, here = guarded([4.0, 3.0], 0.1), quadratic(np.array([4.0, 3.0]))
    there = quadratic(guard.step(here.g, here.f))
    assert guard.keeps(Segment(here, there))
    assert guard.ratio == pytest.approx(1.0)
    for _ in range(RETRIES + 1):
        tried = guard.step(there.g, there.f)
        assert not guard.keeps(Segment(there, point(tried, there.f + 1, there.g)))
    assert not guard.optimizer.curved
    assert guard.optimizer.lr == pytest.approx(guard.ratio)
    np.testing.assert_allclose(guard.step(there.g, there.f), there.x - guard.ratio * there.g)


class Sideways:
    """An optimizer whose metric turns the step by a right angle, until it is forgotten."""

    weight_decay, lr, last_lr, curved = 0.0, 1.0, 1.0, True
    x = np.zeros(2)

    def __init__(self) -> None:
        self.forgotten = 0

    def step(self, gradient: Any, loss: float) -> Any:
        self.last_step = -gradient if self.forgotten else np.array([gradient[1], -gradient[0]])
        return self.x + self.last_step

    def bookmark(self) -> None:
        return None

    def undo(self, bookmark: Any, lr: float, *, forget: bool) -> None:
        self.forgotten += forget


def test_a_step_that_is_nearly_level_is_not_taken() -> None:
    optimizer: Any = Sideways()
    guard = Curved(optimizer)
    np.testing.assert_array_equal(guard.step(np.array([3.0, 4.0]), 1.0), [-3.0, -4.0])
    assert optimizer.forgotten == 1


def test_where_the_slope_stayed_the_same_the_next_step_is_ten_times_as_long() -> None:
    """Whatever short step the metric proposes."""
    guard, here = guarded([1.0], 0.01), quadratic(np.array([1.0]))
    for _ in range(3):
        there = quadratic(guard.step(here.g, here.f))
        assert guard.keeps(Segment(here, there))
        here = there
    guard.longest, guard.level = 1.0, 1e-3
    start, far = here.x, GROWTH * guard.level
    assert np.abs(here.g)[0] < far  # the step that leads to the minimum is shorter
    np.testing.assert_allclose(np.abs(guard.step(here.g, here.f) - start), far)


def test_level_is_the_length_of_a_step_that_showed_no_curvature() -> None:
    guard, old = guarded([0.0], 1.0), point(0.0, 1.0, -1.0)
    guard.step(old.g, old.f)
    assert guard.keeps(Segment(old, point(1.0, 0.0, -1.0)))
    assert guard.level == 1.0
    guard.step(np.array([-1.0]), 0.0)
    assert guard.keeps(Segment(point(1.0, 0.0, -1.0), point(2.0, -1.0, -0.9)))
    assert guard.level == 0.0


def test_a_first_step_that_is_much_too_long_takes_one_more_try() -> None:
    result = minimize(fun, np.ones(5), first=1e5, memory="full")
    assert result.success
    assert result.undone <= 2


def test_gmax_is_the_largest_component_and_no_norm() -> None:
    result = minimize(lambda x: (float(x @ x) / 2, x), np.full(100, 1e-3), gmax=1.5e-3)
    assert (result.status, result.nit) == (0, 0)
