"""`minimize(fun, x0)` with nothing tuned: what does not depend on scale, and never a silent wrong answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from proxmom import Adam, AdaptiveMemory, Alignment, ConjugateMemory, HeavyBall
from proxmom.numpy import minimize, scipy_method

Fun = Callable[[Any], tuple[float, Any]]


class Case(NamedTuple):
    """least: the smallest value, None if there is none or it is not known."""

    fun: Fun
    x0: Any
    least: float | None


def quadratic(random: Any) -> Case:
    n, condition = int(random.integers(2, 30)), 10 ** random.uniform(0, 6)
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    eigenvalues, centre = np.geomspace(1 / condition, 1, n), random.normal(size=n)

    def fun(x: Any) -> tuple[float, Any]:
        z = basis.T @ (x - centre)
        return float(eigenvalues @ (z * z)) / 2, basis @ (eigenvalues * z)

    return Case(fun, random.normal(size=n) * 10 ** random.uniform(-2, 3), 0.0)


def logistic(random: Any) -> Case:
    n, m = int(random.integers(2, 10)), 40
    rows, l2 = random.normal(size=(m, n)) * 10 ** random.uniform(-1, 1), 10 ** random.uniform(-4, -1)

    def fun(x: Any) -> tuple[float, Any]:
        z = rows @ x
        value = np.logaddexp(0, z).mean() + l2 / 2 * x @ x
        return float(value), rows.T @ (0.5 + 0.5 * np.tanh(z / 2)) / m + l2 * x

    return Case(fun, random.normal(size=n) * 10 ** random.uniform(-2, 2), None)


def quartic(random: Any) -> Case:
    scales = 10 ** random.uniform(-1, 1, size=int(random.integers(2, 10)))
    return Case(lambda x: (float((scales * x**4).sum()), 4 * scales * x**3), random.normal(size=scales.size) * 10, 0.0)


def kinked(random: Any) -> Case:
    scales = 10 ** random.uniform(-1, 1, size=int(random.integers(2, 10)))
    return Case(lambda x: (float((scales * abs(x)).sum()), scales * np.sign(x)), random.normal(size=scales.size), 0.0)


def narrow(random: Any) -> Case:
    """Finite on x > 0 alone: x - log x."""
    n = int(random.integers(1, 6))

    def fun(x: Any) -> tuple[float, Any]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float((x - np.log(x)).sum()), 1 - 1 / x

    return Case(fun, 10 ** random.uniform(-3, 3, size=n), float(n))


def valley(random: Any) -> Case:
    return Case(lambda x: (float(rosen(x)), rosen_der(x)), random.normal(size=int(random.integers(2, 5))), None)


def waves(random: Any) -> Case:
    n = int(random.integers(1, 6))
    return Case(
        lambda x: (float((0.05 * x * x + np.cos(x)).sum()), 0.1 * x - np.sin(x)), random.normal(size=n) * 10, None
    )


def endless(random: Any) -> Case:
    slope = random.normal(size=3)
    return Case(lambda x: (float(slope @ x), slope.copy()), random.normal(size=3), None)


def scaled(case: Case, of_f: float, of_x: float) -> Case:
    """of_f · f(x / of_x)."""

    def fun(x: Any) -> tuple[float, Any]:
        value, gradient = case.fun(x / of_x)
        return of_f * value, of_f / of_x * gradient

    return Case(fun, of_x * case.x0, None if case.least is None else of_f * case.least)


CONVEX, REST = (quadratic, logistic, quartic, narrow), (kinked, valley, waves, endless)


@pytest.mark.parametrize("seed", range(int(os.environ.get("PROXMOM_FUZZ", 48))))
def test_it_converges_or_says_why_not(seed: int) -> None:
    random = np.random.default_rng([14, seed])
    family = (*CONVEX, *REST)[seed % 8]
    of_f, of_x = 10 ** random.uniform(-8, 8, size=2)
    case = scaled(family(random), of_f, of_x)
    result = minimize(case.fun, case.x0, max_iter=1500)
    start, gradient = case.fun(case.x0)
    value, slope = case.fun(result.x)
    assert (result.fun, result.status == 0) == (value, result.success)
    np.testing.assert_array_equal(result.jac, slope)
    assert np.isfinite(value)
    assert value <= start
    assert result.nfev <= 1501
    assert result.nit + result.undone in (result.nfev - 1, result.nfev)
    norm, first = np.linalg.norm(slope), np.linalg.norm(gradient)
    if result.success:
        assert norm <= 1e-8 * first
    else:
        assert norm > 1e-8 * first
        assert result.status in (1, 2, 3)
        assert result.status != 2 or family is endless  # f falls to -1e150, and squares of lengths overflow
        if family in CONVEX:  # as far as rounding lets it
            assert result.status == 3 or family is quadratic, result.message  # condition numbers go up to 1e6
            assert norm <= 1e-3 * first
    if family is quadratic and result.success and case.least is not None:
        assert value - case.least <= 1e-6 * (start - case.least)
    if family is endless:
        assert not result.success
    if family is kinked:
        assert not result.success


SCALES = [(2.0**20, 1.0, 0.0), (2.0**-20, 1.0, 0.0), (1.0, 2.0**20, 0.0), (2.0**9, 2.0**-30, 0.0), (1.0, 1.0, 8.0)]


@pytest.mark.parametrize(
    "settings", [{}, {"rule": AdaptiveMemory(), "step_size": Alignment()}], ids=["default", "Alignment"]
)
@pytest.mark.parametrize(("of_f", "of_x", "more"), SCALES)
@pytest.mark.parametrize("family", [quadratic, logistic, quartic, valley])
def test_iterates_do_not_depend_on_scale(family: Any, of_f: float, of_x: float, more: float, settings: Any) -> None:
    case = family(np.random.default_rng(3))
    other = scaled(case, of_f, of_x)

    def shifted(x: Any) -> tuple[float, Any]:
        value, gradient = other.fun(x)
        return value + more, gradient

    seen: tuple[list[Any], list[Any]] = ([], [])
    for fun, x0, xs in ((case.fun, case.x0, seen[0]), (shifted, other.x0, seen[1])):
        minimize(fun, x0, max_iter=25, callback=lambda x, xs=xs: xs.append(x), **settings)
    assert len(seen[0]) == len(seen[1]) > 5
    for one, two in zip(*seen, strict=True):
        # powers of two: to the last bit; a constant costs digits of f, which shorten undone steps a little otherwise
        np.testing.assert_allclose(of_x * one, two, rtol=1e-6 if more else 0, atol=0)


@pytest.mark.parametrize("first", 10.0 ** np.arange(-6, 7, 4))
def test_the_first_step_may_have_any_length(first: float) -> None:
    case = quadratic(np.random.default_rng(1))
    for settings in ({}, {"rule": HeavyBall()}, {"metric": Adam(), "rule": ConjugateMemory(beta_max=0.9)}):
        result = minimize(case.fun, case.x0, first=first, max_iter=5000, gtol=1e-4, **settings)
        assert result.success, (settings, result.message)


def test_every_step_size_and_rule_is_guarded() -> None:
    case = logistic(np.random.default_rng(2))
    for rule in (None, AdaptiveMemory(), HeavyBall()):
        for step_size in (None, Alignment()):
            result = minimize(case.fun, case.x0, rule, step_size=step_size, max_iter=3000, gtol=1e-4)
            assert result.success
            assert result.fun == min(result.history["fun"])


def test_a_function_without_a_minimum_is_called_so() -> None:
    result = minimize(lambda x: (float(x.sum()), np.ones(3)), np.zeros(3))
    assert (result.status, result.success) == (2, False)
    assert "may have no minimum" in result.message
    assert result.fun < -1e300


def test_weight_decay_is_judged_with_f() -> None:
    case = logistic(np.random.default_rng(2))
    result = minimize(case.fun, case.x0, weight_decay=0.1, decay="coupled", max_iter=3000)
    np.testing.assert_allclose(result.jac, -0.1 * result.x, atol=1e-6)
    with pytest.raises(ValueError, match="decay must be 'coupled' without lr"):
        minimize(case.fun, case.x0, weight_decay=0.1)


def test_a_wrong_gradient_is_noticed() -> None:
    result = minimize(lambda x: (float(x @ x), -2 * x), np.ones(3))
    assert (result.status, result.success) == (3, False)
    assert result.undone < 40
    assert "the gradient is not that of f" in result.message
    np.testing.assert_allclose(result.x, np.ones(3), rtol=1e-12)


def test_nothing_finite_to_start_with() -> None:
    result = minimize(lambda x: (np.nan, x), np.ones(3))
    assert (result.status, result.nit, result.nfev) == (2, 0, 1)
    result = minimize(lambda x: (0.0, 1e200 * np.ones(3)), np.ones(3), metric=Adam(), rule=HeavyBall())
    assert result.status == 2  # Adam's metric is not scaled, and squares it


def test_a_start_at_the_minimum_is_left_alone() -> None:
    result = minimize(lambda x: (float(x @ x), 2 * x), np.zeros(3))
    assert (result.success, result.nfev, result.undone) == (True, 1, 0)


def test_first_needs_no_lr() -> None:
    for settings in ({"lr": 1.0, "first": 1.0}, {"first": 0.0}, {"first": np.inf}):
        with pytest.raises(ValueError, match="first must be > 0 and finite, and stands for lr"):
            minimize(lambda x: (0.0, x), np.ones(1), **settings)


def test_scipy_takes_it_without_lr() -> None:
    result = scipy_minimize(rosen, np.zeros(3), jac=rosen_der, method=scipy_method())
    assert result.success
    np.testing.assert_allclose(result.x, 1, atol=1e-5)
