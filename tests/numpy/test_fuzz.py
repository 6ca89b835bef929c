"""`minimize` on random functions: f never above f(x0), no false success, no exception of ours.

A sample runs with every `make test`. More, and others each time: `PROXMOM_FUZZ=20000 python -m pytest
tests/numpy/test_fuzz.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxmom import Adam, AdaptiveMemory, Alignment, GradientDescent, HeavyBall, Secant
from proxmom.numpy import minimize

MORE = os.environ.get("PROXMOM_FUZZ")
fuzz = settings(max_examples=int(MORE) if MORE else 60, derandomize=not MORE)
Function = Callable[[Any], tuple[float, Any]]
SCALES = st.floats(-150, 150).map(lambda power: 10.0**power)
NEAR = 1e-3  # of ||x0 - minimiser||: how near a success must be where the minimiser is known
STEEPEST = 1e12  # unscaled: from a first gradient beyond it one step may overshoot by so much that nothing shows it


# Unscaled functions, each with its minimum at zero where it has one ---------------------------------------------------


def quadratic(random: Any, n: int) -> Function:
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    matrix = (basis * np.geomspace(10 ** -random.uniform(0, 3), 1, n)) @ basis.T
    return lambda x: (float(x @ matrix @ x) / 2, matrix @ x)


def softplus(random: Any, n: int) -> Function:
    rows = random.normal(size=(3 * n, n))

    def fun(x: Any) -> tuple[float, Any]:
        z = rows @ x
        even = np.logaddexp(0, z) + np.logaddexp(0, -z)
        return float(even.sum() + x @ x / 20), rows.T @ np.tanh(z / 2) + x / 10

    return fun


def exponential(random: Any, n: int) -> Function:
    rates = 10 ** random.uniform(-1, 1.3, size=n)
    return lambda x: (float((np.exp(rates * x) - rates * x).sum()), rates * np.expm1(rates * x))


def power(random: Any, n: int) -> Function:
    p = 2 * int(random.integers(2, 31))
    return lambda x: (float(((x + 1) ** p / p - x).sum()), (x + 1) ** (p - 1) - 1)


def pole(random: Any, n: int) -> Function:
    """Not finite beyond -1."""
    return lambda x: (float((x - np.log1p(x)).sum()), x / (1 + x))


CONVEX = {f.__name__: f for f in (quadratic, softplus, exponential, power, pole)}


def rosen(random: Any, n: int) -> Function:
    a = 10 ** random.uniform(0, 2)

    def fun(x: Any) -> tuple[float, Any]:
        turn = np.r_[x[1:], x[:1]] - x * x
        slope = -4 * a * x * turn + 2 * a * np.r_[turn[-1:], turn[:-1]] + 2 * (x - 1)
        return float(a * turn @ turn + (x - 1) @ (x - 1)), slope

    return fun


def flat(random: Any, n: int) -> Function:
    """Level far out."""
    return lambda x: (float(1 - np.exp(-x @ x / 2)), x * np.exp(-x @ x / 2))


def constant(random: Any, n: int) -> Function:
    level = random.normal()
    return lambda x: (level, 0 * x)


def slope(random: Any, n: int) -> Function:
    """Without a minimum."""
    g = random.normal(size=n)
    return lambda x: (float(g @ x), g.copy())


def bell(random: Any, n: int) -> Function:
    """From a maximum down, without a minimum."""
    return lambda x: (float(-np.log1p(x @ x)), -2 * x / (1 + x @ x))


def kink(random: Any, n: int) -> Function:
    weights = 10 ** random.uniform(-2, 2, size=n)
    return lambda x: (float(weights @ np.abs(x)), weights * np.sign(x))


def steps(random: Any, n: int) -> Function:
    """Jumps everywhere, and the gradient does not know."""
    return lambda x: (float(np.floor(5 * x).sum()) + float(x @ x), 2 * x)


def noisy(random: Any, n: int) -> Function:
    """Another answer each time."""
    size = 10 ** random.uniform(-12, 0)
    return lambda x: (float(x @ x / 2 + size * random.normal()), x + size * random.normal(size=n))


def wrong(random: Any, n: int) -> Function:
    """A gradient of another function."""
    g = random.normal(size=n)
    return lambda x: (float(x @ x / 2), x + g)


def holes(random: Any, n: int) -> Function:
    """Now and then not finite."""

    def fun(x: Any) -> tuple[float, Any]:
        f, g = float(x @ x / 2), x.copy()
        kind = np.floor(np.abs(1e3 * x[0])) % 7
        return (np.nan, g) if kind == 3 else (f, g * np.inf) if kind == 5 else (-np.inf, g) if kind == 6 else (f, g)

    return fun


ANY = {f.__name__: f for f in (rosen, flat, constant, slope, bell, kink, steps, noisy, wrong, holes)}


# Callers --------------------------------------------------------------------------------------------------------------


class Caller:
    """height·fun((x - center) / width) + level, by a caller with the given manners; keeps what it said of each x."""

    def __init__(self, fun: Function, height: float, width: float, level: float, center: Any, manners: str) -> None:
        self.fun, self.height, self.width, self.level, self.center = fun, height, width, level, center
        self.manners, self.buffer = manners, np.zeros_like(center)
        self.first: float | None = None
        self.said: dict[bytes, list[tuple[float, Any]]] = {}

    def __call__(self, x: Any) -> tuple[Any, Any]:
        with np.errstate(all="ignore"):
            f, g = self.fun((x - self.center) / self.width)
            f, g = self.height * f + self.level, np.asarray(g) * (self.height / self.width)
        self.first = f if self.first is None else self.first
        self.said.setdefault((x + 0.0).tobytes(), []).append((f, g.copy()))
        if self.manners == "writes into x":
            x[:] = np.nan
        if self.manners == "one buffer":
            self.buffer[:] = g
            return f, self.buffer
        if self.manners == "view of x":
            x[:] = g
            return np.array([f]), x[...]
        return (np.array(f), g.tolist()) if self.manners == "lists" else (f, g)

    def shown(self, intermediate_result: Any) -> None:
        if self.manners == "writes into what it is shown":
            intermediate_result.x[:] = np.nan
            intermediate_result.jac[:] = np.nan


MANNERS = ("good", "writes into x", "one buffer", "view of x", "lists", "writes into what it is shown")


def sound(caller: Caller, result: Any, gtol: float, x0: Any) -> None:
    """What must hold whatever the function is; everything is read from what the caller said."""
    answers = caller.said[(result.x + 0.0).tobytes()]
    assert any(f == result.fun and np.array_equal(g, result.jac) for f, g in answers) or not np.isfinite(result.fun)
    assert not result.fun > caller.first or not np.isfinite(caller.first)
    assert result.nfev == sum(map(len, caller.said.values())) == len(result.history["fun"])
    assert np.isfinite(result.x).all()
    assert result.success == (result.status == 0)
    if result.success:
        first = caller.said[(x0 + 0.0).tobytes()][0][1]
        unit = np.abs(first).max() or 1.0
        assert np.linalg.norm(result.jac / unit) <= gtol * np.linalg.norm(first / unit) * (1 + 1e-12)


def caller_of(data: Any, kinds: dict[str, Any], seed: int, leveled: bool = True) -> tuple[Caller, Any]:
    random = np.random.default_rng(seed)
    n = data.draw(st.integers(1, 6), label="n")
    fun = kinds[data.draw(st.sampled_from(sorted(kinds)), label="function")](random, n)
    height, width = data.draw(SCALES, label="height"), data.draw(SCALES, label="width")
    center = width * random.normal(size=n) * data.draw(st.sampled_from([0.0, 1.0, 1e3]), label="center")
    level = height * data.draw(st.sampled_from([0.0, 1.0, -1e6]), label="level") if leveled else 0.0
    away = random.normal(size=n) * 10 ** random.uniform(-3, 2)
    manners = data.draw(st.sampled_from(MANNERS), label="manners")
    return Caller(fun, height, width, level, center, manners), center + width * away


@fuzz
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_anything_at_all(data: Any, seed: int) -> None:
    caller, x0 = caller_of(data, {**CONVEX, **ANY}, seed)
    gtol = data.draw(st.sampled_from([1e-8, 1e-3, 0.0]), label="gtol")
    first = data.draw(st.none() | SCALES, label="first")
    result = minimize(caller, x0.copy(), first=first, gtol=gtol, max_iter=200, callback=caller.shown)
    sound(caller, result, gtol, x0)


@fuzz
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_other_rules_step_sizes_and_metrics(data: Any, seed: int) -> None:
    caller, x0 = caller_of(data, {**CONVEX, **ANY}, seed)
    rule = data.draw(st.sampled_from([GradientDescent(), HeavyBall(), AdaptiveMemory()]), label="rule")
    step_size = data.draw(st.sampled_from([Secant(), Alignment()]), label="step size")
    metric = data.draw(st.sampled_from([None, Adam()]), label="metric")
    result = minimize(caller, x0.copy(), rule, step_size=step_size, metric=metric, max_iter=60, callback=caller.shown)
    sound(caller, result, 1e-8, x0)


@fuzz
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_success_on_a_convex_function_is_near_its_minimum(data: Any, seed: int) -> None:
    caller, x0 = caller_of(data, CONVEX, seed, leveled=False)
    result = minimize(caller, x0.copy(), max_iter=500, callback=caller.shown)
    sound(caller, result, 1e-8, x0)
    steepest = np.linalg.norm(caller.fun((x0 - caller.center) / caller.width)[1])
    if result.success and steepest <= STEEPEST:
        unit = np.abs(caller.center).max() + np.abs(x0 - caller.center).max()
        off, size = (np.linalg.norm(x - caller.center / unit) for x in (result.x / unit, x0 / unit))
        assert off <= NEAR * max(size, np.linalg.norm(caller.center / unit))


@pytest.mark.parametrize("kind", sorted(CONVEX))
def test_convex_functions_are_minimised_at_every_scale(kind: str) -> None:
    for seed, (height, width) in enumerate([(1.0, 1.0), (1e-150, 1.0), (1e150, 1e-150), (1e-150, 1e150)]):
        random = np.random.default_rng(seed)
        caller = Caller(CONVEX[kind](random, 4), height, width, 0.0, np.zeros(4), "good")
        result = minimize(caller, -0.9 * width * random.uniform(0, 1, size=4), max_iter=2000)
        assert result.status in (0, 3), result.message  # or as far as the rounding of f and its gradient lets it
        np.testing.assert_allclose(result.x / width, 0, atol=1e-4)
