"""The guard of `minimize`: no rise is kept, and nothing is called a success that is none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from proxmom import HeavyBall
from proxmom.guard.judge import PATIENCE
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy.guard import Guard, Point, Segment


def poisson(seed: int) -> tuple[Any, Any, Any]:
    """f, its second derivatives and a start where f is huge: a regression with covariates of size 100; convex."""
    random = np.random.default_rng(seed)
    rows, counts = 100 * random.normal(size=(12, 3)), random.poisson(1.0, size=12)

    def loss(w: Any) -> tuple[float, Any]:
        with np.errstate(over="ignore"):
            means = np.exp(rows @ w)
        return float(means.sum() - counts @ (rows @ w)), rows.T @ (means - counts)

    return loss, lambda w: (rows.T * np.exp(rows @ w)) @ rows, random.normal(size=3) / 20


@pytest.mark.parametrize("seed", range(6))
def test_exponential_losses_are_minimised_and_no_rise_is_kept(seed: int) -> None:
    loss, curvature, x0 = poisson(seed)
    values: list[float] = []
    result = minimize(loss, x0, callback=lambda intermediate_result: values.append(intermediate_result.fun))
    assert result.success, result.message
    step = np.linalg.solve(curvature(result.x), result.jac)  # Newton's, which says how far the minimum still is
    assert np.linalg.norm(step) <= 1e-3 * np.linalg.norm(x0)
    assert np.diff(values).max() <= 1e-14 * abs(values[0])


@pytest.mark.parametrize(("degree", "start"), [(20, -1.0), (60, -1.0), (100, -1.02), (300, -1.0)])
def test_high_powers_are_minimised_from_the_steep_side(degree: int, start: float) -> None:
    def loss(x: Any) -> tuple[float, Any]:
        with np.errstate(over="ignore"):
            return float(x[0] ** degree / degree - x[0]), x ** (degree - 1) - 1

    result = minimize(loss, [start])
    assert result.success
    np.testing.assert_allclose(result.x, 1, rtol=1e-5)


@pytest.mark.parametrize("values", [(1e250, np.inf), (1e250, 1e250), (np.nan, 1.0), (1e300, 1e300)])
def test_whatever_overflows_no_rise_is_kept(values: tuple[float, float]) -> None:
    """Beyond 0.9 f and gradient are huge, so that norms, differences or their squares overflow."""

    def loss(x: Any) -> tuple[float, Any]:
        return (values[0], np.full(3, values[1])) if x[0] < 0.9 else (float(x @ x) / 2, x)

    result = minimize(loss, np.ones(3), max_iter=200)
    assert result.fun <= 1.5
    assert not result.success


@pytest.mark.parametrize("rate", [1.0, 3.0, 8.0, 20.0])
@pytest.mark.parametrize("start", [5.0, 30.0])
def test_a_huge_first_gradient_makes_no_success(rate: float, start: float) -> None:
    result = minimize(lambda x: (float(np.exp(rate * x[0]) - x[0]), rate * np.exp(rate * x) - 1), [start])
    assert result.success or rate * start > 200  # from 1e86 and more it says that it did not get there
    if result.success:
        np.testing.assert_allclose(result.x, -np.log(rate) / rate, atol=1e-5)


@pytest.mark.parametrize("x0", [[100.0, -100.0], [-30.0, 5.0], [-70.0, 70.0]])
def test_a_step_short_by_chance_makes_no_success(x0: Any) -> None:
    result = minimize(lambda x: (rosen(x), rosen_der(x)), x0, max_iter=3000)
    assert result.success
    np.testing.assert_allclose(result.x, 1, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-155, 1e140, 1e300])
@pytest.mark.parametrize("start", [0.0, 1e-50, 1e-3])
def test_scales_do_not_matter(scale: float, start: float) -> None:
    result = minimize(lambda x: (float(scale * (x[0] - 3) ** 2), 2 * scale * (x - 3)), [start])
    assert result.success
    np.testing.assert_allclose(result.x, 3, rtol=1e-6)


@pytest.mark.parametrize("power", [-500, -40, 40, 500])
def test_f_scaled_by_a_power_of_two_is_the_same_run(power: int) -> None:
    def loss(x: Any, power: int) -> tuple[float, Any]:
        return float(np.ldexp(rosen(x), power)), np.ldexp(rosen_der(x), power)

    one, two = (minimize(lambda x, p=p: loss(x, p), [-1.2, 1.0, 0.3]) for p in (0, power))
    np.testing.assert_array_equal(one.x, two.x)
    assert one.nfev == two.nfev


@pytest.mark.parametrize("level", [1e6, -1e9, 1e12])
@pytest.mark.parametrize("off", [1e-7, 1e-6, 1e-9])
def test_a_warm_start_within_the_rounding_of_f_is_not_left_for_a_worse_point(level: float, off: float) -> None:
    curvature = np.array([1.0, 0.2, 0.01])

    def loss(x: Any) -> tuple[float, Any]:
        return float(level + (x - 3) @ (curvature * (x - 3)) / 2), curvature * (x - 3)

    x0 = 3 + off * np.array([1.0, 0.0, -1.0])
    result = minimize(loss, x0)
    assert np.linalg.norm(result.jac) <= np.linalg.norm(loss(x0)[1])
    assert result.fun <= loss(x0)[0]
    assert np.abs(result.x - 3).max() <= 3 * off


@pytest.mark.parametrize("level", [1e6, -1e9, 1e14])
@pytest.mark.parametrize("off", [1e-7, -1e-6, 1e-4])
def test_within_the_rounding_of_f_the_slopes_lead_on(level: float, off: float) -> None:
    result = minimize(lambda x: (float(level + (x - 3) @ (x - 3) / 2), x - 3), [3 + off, 3.0])
    assert result.success
    assert np.abs(result.x - 3).max() <= 1e-6 * abs(off)


def test_of_points_that_f_cannot_tell_apart_the_flattest_is_the_best() -> None:
    guard = Guard(Optimizer([0.0, 0.0], HeavyBall(), lr=1.0))

    def point(x: float, f: float, *g: float) -> Point:
        return Point(np.array([x, 0.0]), f, np.array(g), ((), f, ()))

    points = [point(0, 1.0, -1e-20, 1e-20), point(1, 1.0, -1e-20, 2e-20), point(2, 1.0, -1e-20, 9e-21)]
    best = []
    for old, new in itertools.pairwise(points):
        guard.step(old.g, old.f)
        assert guard.keeps(Segment(old, new))
        best.append(guard.best(new))
    assert best == [points[0], points[2]]
    guard.step(points[2].g, 1.0)
    lower = point(3, 0.5, -1.0, 1.0)
    assert guard.keeps(Segment(points[2], lower))
    assert guard.best(lower) is lower


def test_a_rule_that_is_stuck_starts_anew() -> None:
    """Steps of length zero that are not along the gradient are no sign that f is at its rounding."""
    guard, x = Guard(Optimizer([0.0], HeavyBall(), lr=1.0)), np.zeros(1)
    here = Point(x, 1.0, x - 1, ((), 1.0, ()))
    guard.step(here.g, here.f)
    there = Point(x + 0.5, 0.6, x - 0.5, ((), 0.6, ()))
    assert guard.keeps(Segment(here, there))
    kept = 0
    while guard.verdict is None and guard.undone == 0:
        guard.step(there.g, there.f)
        kept += guard.keeps(Segment(there, there))
    assert (guard.verdict, guard.undone, kept) == (None, 1, PATIENCE - 1)
