"""CG_DESCENT: its direction, its line search step by step, and the counts its authors published."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.rivals.support import Watched, cg, dixmaane, manual, power, tridia


def test_its_direction_is_one_of_descent_by_seven_eighths(random: np.random.Generator) -> None:
    """<g, d> <= -7/8 |g|² (2005, theorem 1.1), and no better where y is nearly along g and <d, y> = 4 <d, g>."""
    for _ in range(300):
        before, d, gradient = random.standard_normal((3, 4))
        d *= np.sign((gradient - before) @ d)
        found = cg.direction(gradient, before, d, eta=random.choice([0.01, 10.0]))
        assert found @ gradient <= -7 / 8 * gradient @ gradient * (1 - 1e-9)
    gradient, y = np.array([1.0, 0.0]), np.array([np.cos(1e-3), np.sin(1e-3)])
    d = np.array([1.0, (4 - y[0]) / y[1]])
    assert cg.direction(gradient, gradient - y, d) @ gradient == pytest.approx(-7 / 8)


def test_its_weight_is_cut_off_below() -> None:
    """max(β, η_k), with η_k = -1 / (|d| min(η, |g_k|)): g_k is the gradient before the step."""
    gradient, before, d = np.array([3.0, 0.0]), np.array([2.0, 4.0]), np.array([1.0, 0.1])
    y = gradient - before
    beta = (y - 2 * d * (y @ y) / (d @ y)) @ gradient / (d @ y)
    for eta in (0.2, 100.0):
        floor = -1 / (np.linalg.norm(d) * min(eta, np.linalg.norm(before)))
        assert beta < floor
        assert cg.direction(gradient, before, d, eta) == pytest.approx(-gradient + floor * d)


def test_with_exact_line_searches_it_is_the_method_of_conjugate_gradients(random: np.random.Generator) -> None:
    matrix = random.standard_normal((6, 6))
    matrix = matrix @ matrix.T + np.eye(6)
    x = random.standard_normal(6)
    gradient = matrix @ x
    d, linear = -gradient, -gradient
    for _ in range(5):
        step = -(gradient @ d) / (d @ matrix @ d)
        before, gradient = gradient, gradient + step * matrix @ d
        d = cg.direction(gradient, before, d, eta=1e-9)
        linear = -gradient + gradient @ gradient / (before @ before) * linear
        assert d == pytest.approx(linear, rel=1e-6, abs=1e-9)
    assert np.linalg.norm(gradient - (gradient @ d) / (d @ matrix @ d) * matrix @ d) < 1e-8


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("make", [manual, partial(power, 9), partial(tridia, 60)], ids=["manual", "power", "tridia"])
@pytest.mark.parametrize("parabola", [False, True])
def test_every_accepted_step_meets_the_conditions(make: Any, approximate: bool, parabola: bool) -> None:
    """T1, or T2 once it counts, with ε_k = 1e-6 C_k; directions follow from both gradients, anew every n steps."""
    (fun, x), constants = make(), cg.Constants(approximate=approximate, quad_step=parabola)
    d, weight, size = -fun(x)[1], 0.0, 0.0
    for k, step in enumerate(cg.steps(fun, x, constants), 1):
        f, gradient = fun(x)
        weight = 1 + 0.7 * weight
        size += (abs(f) - size) / weight
        assert step.direction == pytest.approx(d)
        assert step.allowance == pytest.approx(1e-6 * size)
        slope = gradient @ d
        value, after = fun(x + step.end.step * d)
        assert after @ d >= 0.9 * slope
        flatter = step.approximate and after @ d <= -0.8 * slope and value <= f + 1e-6 * size
        assert flatter or value <= f + 0.1 * step.end.step * slope
        assert (step.end.value, step.end.x) == (pytest.approx(value), pytest.approx(x + step.end.step * d))
        d = cg.direction(after, gradient, d) if k % x.size else -after
        x = step.end.x
        if np.abs(after).max() < 1e-7:
            break
    assert np.abs(fun(x)[1]).max() < 1e-7
    assert k > 10


def search(slope: Any, value: Any, approximate: bool = True, **changed: Any) -> tuple[Any, Watched]:
    """A line search on a function of one variable, from 0."""
    watched = Watched(lambda x: (float(value(x[0])), np.array([slope(x[0])])), lambda f, g: False)
    start = cg.Point(0.0, value(0.0), slope(0.0), np.zeros(1), np.array([slope(0.0)]))
    return cg.Search(watched, start, np.ones(1), 0.1, approximate, cg.Constants(**changed)), watched


def test_the_conditions_are_those_of_wolfe_and_the_approximate_ones() -> None:
    for approximate in (False, True):
        made, _ = search(lambda t: t - 1, lambda t: t * t / 2 - t, approximate)
        for value, slope, wolfe, either in (
            (-0.2, -0.5, True, True),
            (-0.2, 5.0, True, True),
            (-0.2, -0.95, False, False),
            (-0.05, -0.5, False, True),
            (0.05, 0.75, False, True),
            (0.05, 0.85, False, False),
            (0.15, 0.5, False, False),
        ):
            found = made.accepts(cg.Point(1.0, value, slope, None, None))
            assert found == (either if approximate else wolfe)


NEVER = {"sigma": -1e9}  # no slope is steep enough: the search shows all it would try


def test_the_line_search_expands_takes_secants_and_halves() -> None:
    """B3; then S1 with S3, whose secant falls outside (U0); then L2, as the bracket shrank by too little."""
    made, watched = search(lambda t: t**3 - 1, lambda t: t**4 / 4 - t, rounds=4, **NEVER)
    made.run(0.1)
    assert np.ravel(watched.points)[:3] == pytest.approx([0.1, 0.5, 2.5])
    left, right = 0.5**3 - 1, 2.5**3 - 1
    first = (0.5 * right - 2.5 * left) / (right - left)
    low = first**3 - 1
    second = (0.5 * low - first * left) / (low - left)  # in the bracket, and beyond the minimiser
    assert np.ravel(watched.points)[3:5] == pytest.approx([first, second])
    assert second - first < (2.5 - 0.5) * 0.66  # so no halving
    made, watched = search(lambda t: t**9 - 1, lambda t: t**10 / 10 - t, rounds=1, **NEVER)
    made.run(2.0)
    assert np.ravel(watched.points) == pytest.approx([2.0, 2 / 512, (2 + 2 / 512) / 2])


def test_the_second_secant_is_that_of_the_end_that_moved() -> None:
    """S2: here the first secant replaces b, so the second goes through the old b and the new."""
    made, watched = search(lambda t: 1 - 2 * np.exp(-2 * t), lambda t: t + np.exp(-2 * t), rounds=1, **NEVER)
    made.run(1.0)
    right = 1 - 2 * np.exp(-2.0)
    first = 1 / (right + 1)
    middle = 1 - 2 * np.exp(-2 * first)
    second = (1.0 * middle - first * right) / (middle - right)
    assert np.ravel(watched.points)[:3] == pytest.approx([1.0, first, second])


def test_a_point_of_the_bracket_ends_the_search_only_below_the_first() -> None:
    """And only after a parabola; -t + t⁸ / 69 meets T1 at 1.8, but is higher there than at 0.36."""
    c = 1.6 / 1.8**8
    for ceiling in (0.0, -np.inf):
        made, watched = search(lambda t: 8 * c * t**7 - 1, lambda t: c * t**8 - t, False)
        made.ceiling = ceiling
        assert made.run(0.36).step < 1.7
        assert np.ravel(watched.points)[:2] == pytest.approx([0.36, 1.8])
    made, _ = search(lambda t: t - 1, lambda t: t * t / 2 - t)
    assert made.guess(0.3, parabola=True) == pytest.approx(1.0)
    assert made.run(1.0).step == 1.0
    assert made.guess(0.3, parabola=False) == 0.6


def test_where_f_rises_though_it_falls_the_bracket_is_halved() -> None:
    """U3, from B2: at 1.5 the function is high and falls."""
    made, watched = search(lambda t: -1 + 8 * t - 6 * t * t, lambda t: -t + 4 * t * t - 2 * t**3, rounds=9, **NEVER)
    made.run(1.5)
    assert np.ravel(watched.points)[:2] == pytest.approx([1.5, 0.75])
    made, _ = search(lambda t: -np.cos(t), lambda t: -np.sin(t), **NEVER)
    low, high = made._update(made.start, made.evaluate(10.0), 5.5)  # so it is at 5.5 here, and rises at 2.75
    assert (low.step, high.step) == (0, 2.75)


PUBLISHED = {  # iterations, and evaluations of f and of the gradient
    "driver 1": (manual(), 1e-8, {}, None, (32, 55, 45)),
    "manual of version 1.1": (manual(), 1e-8, {"approximate": True}, None, (31, 54, 43)),
    "driver 2": (manual(), 1e-8, {"quad_step": False}, None, (35, 39, 74)),
    "driver 3": (manual(), 1e-8, {}, 1.0, (31, 52, 43)),
    "driver 4, rho 1.5": (manual(), 1e-8, {"quad_step": False, "rho": 1.5}, 1e-5, (34, 58, 92)),
    "driver 4, rho 5": (manual(), 1e-8, {"quad_step": False}, 1e-5, (35, 42, 77)),
    "POWER": (power(1000), 1e-6, {}, None, (116, 233, 117)),
    "TRIDIA": (tridia(5000), 1e-6, {}, None, (782, 1565, 783)),
    "DIXMAANE": (dixmaane(6000), 1e-6, {}, None, (302, 605, 303)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_takes_as_many_steps_and_evaluations_as_published(name: str) -> None:
    """Those of the drivers and the table, ACM.stats, that Algorithm 851 comes with.

    They evaluate f alone, or its gradient, where that is enough, and we both: ours lie between the larger and the sum.
    """
    (fun, x0), bound, changed, first, (iterations, functions, gradients) = PUBLISHED[name]
    watched, done = Watched(fun, lambda f, g: False, 10**6), 0
    for step in cg.steps(watched, x0, cg.Constants(**changed), first):
        done += 1
        if np.abs(step.end.gradient).max() <= bound:
            break
    assert done == pytest.approx(iterations, rel=0.01)
    assert max(functions, gradients) * 0.99 <= len(watched.points) <= functions + gradients
