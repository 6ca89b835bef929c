"""The NumPy backend: SciPy's conventions, lists of arrays, skipped steps, and errors before anything is computed."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds, OptimizeResult, rosen, rosen_der
from scipy.optimize import minimize as scipy_minimize

from proxmom import Adam, AdaptiveMemory, HeavyBall, Polyak, TruncatedMemory
from proxmom.numpy import Optimizer, minimize, scipy_method
from proxmom.numpy.guard import PATIENCE, Guard, Point
from proxmom.rules import Facts

HESSIAN = np.diag(np.logspace(-1, 0, 5))


def fun(x: Any) -> tuple[float, Any]:
    return float(x @ HESSIAN @ x) / 2 + 3, HESSIAN @ x


def test_minimize_converges_and_reports_as_scipy_does() -> None:
    result = minimize(fun, np.ones(5), AdaptiveMemory(), lr=1.0, inertia=0.1)
    assert isinstance(result, OptimizeResult)
    assert result.success
    assert result.status == 0
    assert "gtol" in result.message
    np.testing.assert_allclose(result.x, 0, atol=1e-7)
    np.testing.assert_array_equal(result.jac, fun(result.x)[1])
    assert result.fun == fun(result.x)[0] == result.history["fun"][-1]
    assert np.linalg.norm(result.jac) <= 1e-8 * np.linalg.norm(fun(np.ones(5))[1])
    assert result.nfev == result.njev == result.nit + 1 == len(result.history["fun"])
    assert result.history["beta"].shape == (result.nit,)
    assert result.history["weights"].shape == (result.nit, 2)
    np.testing.assert_allclose(result.history["weights"].sum(axis=1), 1)


def test_the_default_rule_is_adaptive_memory() -> None:
    one, two = minimize(fun, np.ones(5), lr=1.0), minimize(fun, np.ones(5), AdaptiveMemory(), lr=1.0)
    np.testing.assert_array_equal(one.x, two.x)


def test_the_iterates_are_those_of_the_optimizer() -> None:
    optimizer, path = Optimizer(np.ones(5), TruncatedMemory(3.0), lr=1.0, metric=Adam()), []
    for _ in range(7):
        f, g = fun(optimizer.x)
        path.append(optimizer.step(g, f))
    result = minimize(fun, np.ones(5), TruncatedMemory(3.0), lr=1.0, metric=Adam(), max_iter=7, gtol=0)
    np.testing.assert_array_equal(result.x, path[-1])
    assert not result.success
    assert result.status == 1
    assert "max_iter" in result.message


def test_no_steps_is_one_evaluation() -> None:
    result = minimize(fun, np.ones(5), lr=1.0, max_iter=0)
    assert (result.nit, result.nfev, result.fun) == (0, 1, fun(np.ones(5))[0])


def test_with_decay_the_user_sees_f_and_the_stopping_test_sees_the_sum() -> None:
    result = minimize(fun, np.ones(5), lr=1.0, weight_decay=0.5, decay="coupled", max_iter=5000)
    assert result.success
    assert result.fun == fun(result.x)[0]
    assert np.linalg.norm(result.jac + 0.5 * result.x) <= 1e-8 * np.linalg.norm(HESSIAN @ np.ones(5) + 0.5)


def test_callback_in_both_of_scipys_forms() -> None:
    seen: list[Any] = []

    def modern(intermediate_result: OptimizeResult) -> None:
        seen.append(intermediate_result)
        if len(seen) == 4:
            raise StopIteration

    result = minimize(fun, np.ones(5), lr=1.0, callback=modern)
    assert (result.status, result.nit, result.success) == (99, 3, False)
    assert seen[0].beta is None
    assert seen[3].beta == result.history["beta"][-1]
    np.testing.assert_array_equal(seen[3].x, result.x)
    points: list[Any] = []
    minimize(fun, np.ones(5), lr=1.0, max_iter=3, callback=points.append)
    assert len(points) == 3
    np.testing.assert_array_equal(points[0], 1)


def test_what_a_callback_does_to_its_arrays_does_not_matter() -> None:
    def spoil(intermediate_result: OptimizeResult) -> None:
        intermediate_result.x[:] = np.nan

    assert minimize(fun, np.ones(5), lr=1.0, callback=spoil).success


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_minimize_stops_at_the_last_finite_point(bad: str) -> None:
    def breaks(x: Any) -> tuple[float, Any]:
        f, g = fun(x)
        if np.abs(x).max() < 0.5:
            f, g = (np.nan, g) if bad == "loss" else (f, g * np.inf)
        return f, g

    result = minimize(breaks, np.ones(5), HeavyBall(), lr=1.0)
    assert not result.success
    assert result.status == 2
    assert "not finite" in result.message
    assert np.isfinite(result.x).all()
    assert result.fun == fun(result.x)[0]


def test_divergence_to_overflow_is_told() -> None:
    result = minimize(fun, np.ones(5), lr=1e6, max_iter=10_000)
    assert result.status == 2
    assert np.isfinite(result.fun)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad: float, rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    inputs = [(random.normal(size=4), float(random.uniform())) for _ in range(6)]
    clean, dirty = (Optimizer(np.ones(4), rule, lr=0.1, metric=metric) for _ in range(2))
    for g, f in inputs:
        clean.step(g, f)
        before = dirty.x
        np.testing.assert_array_equal(dirty.step(np.array([1, bad, 1, 1]), f), before)
        np.testing.assert_array_equal(dirty.step(g, bad), before)
        dirty.step(g, f)
    np.testing.assert_array_equal(dirty.x, clean.x)
    assert dirty.diagnostics()["skipped"] == 12
    assert dirty.diagnostics()["steps"] == clean.diagnostics()["steps"] == 6


def test_a_gradient_whose_square_overflows_is_skipped() -> None:
    optimizer = Optimizer(np.ones(2), AdaptiveMemory(), lr=0.1)
    np.testing.assert_array_equal(optimizer.step(np.array([1e200, 1.0])), 1)
    assert optimizer.diagnostics()["skipped"] == 1


def test_a_list_of_arrays_is_one_model(rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    flat = Optimizer(np.ones(7), rule, lr=0.1, metric=metric, weight_decay=0.1)
    parts = Optimizer([np.ones((2, 2)), np.ones(()), np.ones(2)], rule, lr=0.1, metric=metric, weight_decay=0.1)
    for _ in range(5):
        g, f = random.normal(size=7), float(random.uniform())
        x = parts.step([g[:4].reshape(2, 2), g[4], g[5:]], f)
        np.testing.assert_array_equal(np.concatenate([part.ravel() for part in x]), flat.step(g, f))
    assert [part.shape for part in parts.x] == [(2, 2), (), (2,)]


def test_shapes_are_kept() -> None:
    for x0 in (np.ones((2, 3)), 2.0, [1.0, 2.0]):
        optimizer = Optimizer(x0, HeavyBall(), lr=0.1)
        assert np.shape(optimizer.step(np.ones(np.shape(x0)))) == np.shape(x0)


def test_the_users_arrays_are_left_alone() -> None:
    x0, g = np.ones(3), np.ones(3)
    optimizer = Optimizer(x0, AdaptiveMemory(), lr=0.1, weight_decay=0.1, decay="coupled")
    x = optimizer.step(g)
    x[:] = 99
    np.testing.assert_array_equal(x0, 1)
    np.testing.assert_array_equal(g, 1)
    assert optimizer.x.max() < 1


def test_preview_is_the_step_and_changes_nothing(rule: Any, metric: Any) -> None:
    random = np.random.default_rng(0)
    optimizer = Optimizer(np.ones(4), rule, lr=0.1, metric=metric)
    for _ in range(4):
        g, f = random.normal(size=4), float(random.uniform())
        model = optimizer.preview(g, f)
        np.testing.assert_array_equal(model.x, optimizer.x)
        np.testing.assert_array_equal(optimizer.step(g, f), model.next_x)
        np.testing.assert_array_equal(optimizer.memory, model.next_memory)
    with pytest.raises(ValueError, match="step would skip"):
        optimizer.preview(np.full(4, np.nan), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Optimizer(np.array([1, np.nan]), HeavyBall(), lr=0.1), r"x0 must be finite"),
        (lambda: Optimizer(np.ones(3), HeavyBall(), lr=0.1).step(np.ones(4)), r"shape of x0, \(3,\), got \(4,\)"),
        (lambda: Optimizer([np.ones(3)], HeavyBall(), lr=0.1).step([np.ones(2)]), r"shape of x0, \[\(3,\)\], got"),
        (lambda: Optimizer(np.ones(3), Polyak(0.0), lr=0.1).step(np.ones(3)), r"Polyak looks at the loss: call step"),
        (
            lambda: setattr(Optimizer(np.ones(3), HeavyBall(), lr=0.1), "lr", -1.0),
            r"lr must be >= 0 and finite, got -1",
        ),
        (lambda: minimize(fun, np.ones(5), lr=1.0, gtol=-1), r"gtol must be >= 0, got -1"),
        (lambda: minimize(fun, np.ones(5), lr=1.0, max_iter=-1), r"max_iter must be >= 0, got -1"),
        (
            lambda: minimize(lambda x: (0.0, np.ones(4)), np.ones(5), lr=1.0),
            r"the gradient, as fun returns it, must have the shape of x0, \(5,\), got \(4,\)",
        ),
        (lambda: minimize(lambda x: 0.0, np.ones(5), lr=1.0), r"fun must return the pair \(f, gradient\), got float"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_settings_are_refused_before_the_function_is_called() -> None:
    def never(x: Any) -> Any:
        raise AssertionError("called")

    for settings in ({"lr": -1.0}, {"lr": 1.0, "inertia": -1.0}, {"lr": 1.0, "decay": "x"}, {"lr": 1.0, "gtol": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            minimize(never, np.ones(3), **settings)


# --- what is kept, and what is called a success --------------------------------------------------------------------


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
        assert guard.keeps(old, new)
        best.append(guard.best(new))
    assert best == [points[0], points[2]]
    guard.step(points[2].g, 1.0)
    lower = point(3, 0.5, -1.0, 1.0)
    assert guard.keeps(points[2], lower)
    assert guard.best(lower) is lower


def test_a_rule_that_is_stuck_starts_anew() -> None:
    """Steps of length zero that are not along the gradient are no sign that f is at its rounding."""
    guard, x = Guard(Optimizer([0.0], HeavyBall(), lr=1.0)), np.zeros(1)
    here = Point(x, 1.0, x - 1, ((), 1.0, ()))
    guard.step(here.g, here.f)
    there = Point(x + 0.5, 0.6, x - 0.5, ((), 0.6, ()))
    assert guard.keeps(here, there)
    kept = 0
    while guard.verdict is None and guard.undone == 0:
        guard.step(there.g, there.f)
        kept += guard.keeps(there, there)
    assert (guard.verdict, guard.undone, kept) == (None, 1, PATIENCE - 1)


# --- what the caller owns, and what is refused ---------------------------------------------------------------------


def _valley(x: Any) -> tuple[float, Any]:
    """Where steps are undone."""
    return float(rosen(x)), rosen_der(x)


def _writes(x: Any) -> tuple[float, Any]:
    f, g = _valley(x)
    x[:] = np.nan
    return f, g


def _view(x: Any) -> tuple[float, Any]:
    f, g = _valley(x)
    x[:] = g
    return f, x[:]


class _Buffer:
    def __init__(self) -> None:
        self.gradient = np.zeros((1, 5))

    def __call__(self, x: Any) -> tuple[float, Any]:
        f, self.gradient[0] = _valley(x)
        return f, self.gradient[0]


@pytest.mark.parametrize("lr", [None, 1e-3])
@pytest.mark.parametrize("caller", [_writes, _view, _Buffer()], ids=["writes into x", "view of x", "one buffer"])
def test_what_the_caller_does_with_its_arrays_does_not_matter(caller: Any, lr: float | None) -> None:
    def spoil(intermediate_result: OptimizeResult) -> None:
        for name in ("x", "jac", "weights"):
            if intermediate_result[name] is not None:
                intermediate_result[name][...] = np.nan

    x0 = np.linspace(-1, 2, 5)
    plain, aliased = minimize(_valley, x0, lr=lr), minimize(caller, x0, lr=lr, callback=spoil)
    assert lr is not None or plain.undone > 0
    for name in ("x", "jac", "fun", "nfev"):
        np.testing.assert_array_equal(plain[name], aliased[name])
    np.testing.assert_array_equal(plain.history["weights"], aliased.history["weights"])


def test_fun_and_jac_see_the_same_x() -> None:
    def moves(x: Any) -> float:
        x -= 3
        return float(x @ x) / 2

    for lr in (None, 0.5):
        result = scipy_minimize(moves, np.zeros(2), jac=lambda x: x - 3, method=scipy_method(lr=lr))
        np.testing.assert_allclose(result.x, 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.ones(3) + 1j, r"must be real numbers, got complex128\. Split complex numbers"),
        (np.ones(3, dtype=np.complex64), r"must be real numbers, got complex64"),
        (np.ma.masked_array(np.ones(3), [True, False, False]), r"must be an array without a mask.*\.filled"),
        (np.ma.masked_array(np.ones(3)), r"must be an array without a mask"),
        (["1", "2", "3"], r"must be real numbers, got (str|list)"),
        ([1.0, None, 2.0], r"must be real numbers, got (list|NoneType)"),
        (np.array(["2020", "2021", "2022"], dtype="datetime64[Y]"), r"must be real numbers, got datetime64"),
    ],
)
def test_what_is_not_plain_real_numbers_is_refused(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match="x0 " + said):
        Optimizer(value, HeavyBall(), lr=0.1)
    with pytest.raises(TypeError, match="x0 " + said):
        minimize(fun, value)
    with pytest.raises(TypeError, match="gradient " + said):
        Optimizer(np.ones(3), HeavyBall(), lr=0.1).step(value)
    with pytest.raises(TypeError, match="the gradient, as fun returns it, " + said):
        minimize(lambda x: (0.0, value), np.ones(3))
    one = value[:1] if isinstance(value, np.ndarray) else [value[1]]
    with pytest.raises(TypeError, match="f, as fun returns it, must be"):
        minimize(lambda x: (one, x), np.ones(3))


@pytest.mark.parametrize("x0", [[1, 2], np.array([1, 2], dtype=np.uint8), np.array([True, True]), np.float32([1, 2])])
def test_integers_and_other_precisions_are_taken_as_float64(x0: Any) -> None:
    result = minimize(lambda x: (float(x @ x), 2 * x), x0)
    assert result.x.dtype == np.float64
    np.testing.assert_allclose(result.x, 0, atol=1e-6)
    optimizer = Optimizer(x0, HeavyBall(), lr=0.1)
    np.testing.assert_allclose(optimizer.step(np.array([1, 2])), np.array(x0) - [0.1, 0.2])


@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("spike", [1e155, 1e160, 1e250])
@pytest.mark.parametrize("at", [0, 3])
def test_one_finite_spike_is_skipped_once(rule: Any, metric: Any, spike: float, inertia: float, at: int) -> None:
    if Facts.of(rule).needs_loss and inertia:
        return
    clean, dirty = (Optimizer(np.ones(3), rule, lr=0.1, metric=metric, inertia=inertia) for _ in range(2))
    for t in range(8):
        if t == at:
            np.testing.assert_array_equal(dirty.step([1.0, spike, 1.0], 2.0), clean.x)
        for optimizer in (clean, dirty):
            optimizer.step(np.array([1.0, -0.5, 0.3]) / (1 + t), 1.0)
    np.testing.assert_array_equal(dirty.x, clean.x)
    np.testing.assert_array_equal(dirty.memory, clean.memory)
    assert (dirty.diagnostics()["skipped"], dirty.diagnostics()["steps"]) == (1, 8)


# --- as a method of scipy.optimize.minimize ------------------------------------------------------------------------


def test_scipy_method() -> None:
    method = scipy_method(AdaptiveMemory(), lr=1e-3, max_iter=4000)
    result = scipy_minimize(rosen, np.zeros(2), jac=rosen_der, method=method)
    np.testing.assert_array_equal(
        result.x, minimize(lambda x: (rosen(x), rosen_der(x)), np.zeros(2), lr=1e-3, max_iter=4000).x
    )
    both = scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(lr=1.0), options={"maxiter": 3})
    assert both.nit == 3
    shifted = scipy_minimize(
        lambda x, a: float((x - a) @ (x - a)),
        np.ones(2),
        args=(3.0,),
        jac=lambda x, a: 2 * (x - a),
        tol=1e-6,
        method=scipy_method(HeavyBall(), lr=0.2),
    )
    np.testing.assert_allclose(shifted.x, 3, atol=1e-4)


def test_scipys_tol_is_gtol_where_the_options_do_not_say_it() -> None:
    def steps(gtol: float = 1e-8, **given: Any) -> int:
        return int(scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(gtol=gtol), **given).nit)

    loose, tight = steps(gtol=1.0), steps(gtol=1e-9)
    assert loose < tight
    assert steps(tol=1.0) == steps(gtol=1e-9, tol=1.0) == loose
    assert steps(tol=1.0, options={"gtol": 1e-9}) == steps(gtol=1.0, options={"gtol": 1e-9}) == tight


def test_scipy_method_leaves_the_callback_to_scipy() -> None:
    seen: list[Any] = []
    with pytest.raises(ValueError, match=r"callback must be left out .* got .*append.*: give it to scipy\.optimize"):
        scipy_method(callback=seen.append)
    scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(), callback=lambda xk: seen.append(xk))
    assert seen


@pytest.mark.parametrize("value", [lambda f: np.array([f]), np.array, lambda f: np.array([[f]]), np.float32])
def test_f_may_be_any_array_of_one_number(value: Any) -> None:
    result = scipy_minimize(lambda x: value(x @ x), [1, 2], jac=lambda x: list(2 * x), method=scipy_method())
    assert isinstance(result.fun, float)
    np.testing.assert_allclose(result.x, 0, atol=1e-6)
    with pytest.raises(ValueError, match=r"f, as fun returns it, must be one number, got an array of shape \(2,\)"):
        scipy_minimize(lambda x: x, [1, 2], jac=lambda x: 2 * x, method=scipy_method())


@pytest.mark.parametrize("x0", [0.0, 5, [0.0], np.array(1), np.ones((1, 1))])
def test_one_variable_and_its_gradient_may_have_any_shape_of_one_number(x0: Any) -> None:
    for slope in (lambda x: 2 * (x - 3), lambda x: [2 * (float(np.ravel(x)[0]) - 3)], lambda x: 2.0 * (x.flat[0] - 3)):
        both = minimize(lambda x, s=slope: ((x - 3) ** 2, s(x)), x0)
        assert both.x.shape == np.shape(x0)
        assert both.success
        scipys = scipy_minimize(lambda x: (x - 3) ** 2, np.ravel(x0), jac=slope, method=scipy_method())
        np.testing.assert_allclose([np.ravel(both.x), np.ravel(scipys.x)], 3, rtol=1e-6)


def test_scipys_options() -> None:
    def run(options: dict[str, Any], **more: Any) -> Any:
        return scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(**more), options=options)

    plain = run({})
    for options in ({"disp": False}, {"maxiter": None}, {"maxfun": None}, {"gtol": None}, {"return_all": False}):
        np.testing.assert_array_equal(run(options).x, plain.x)
    assert run({"maxfun": 7}).nfev == run({"maxfun": 7.0, "maxiter": 100}).nfev == run({"maxiter": 6}).nfev == 7
    assert run({"maxfun": 1}).nit == 0
    assert run({"maxiter": None}, max_iter=4).nfev == run({"maxfun": 50}, max_iter=4).nfev == 5
    assert "maxfun" in run({"maxfun": 3}).message
    points = run({"return_all": True}).allvecs
    assert len(points) == plain.nit + 1
    np.testing.assert_array_equal(points[0], 1)
    np.testing.assert_array_equal(points[-1], plain.x)
    assert len(run({"return_all": True, "maxiter": 0}).allvecs) == 1
    for wrong, said in (
        ({"maxfun": 0}, "maxfun must be >= 1, got 0"),
        ({"maxcor": 5}, "options must be among .*maxcor"),
    ):
        with pytest.raises(ValueError, match=said):
            run(wrong)


def test_disp_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(), options={"disp": True})
    said = capsys.readouterr().out
    assert "the last step was short" in said
    assert "evaluations" in said


@pytest.mark.parametrize("nothing", [(), [], {}, None])
def test_no_constraints_are_none(nothing: Any) -> None:
    for name in ("constraints", "bounds"):
        assert scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(), **{name: nothing}).success


@pytest.mark.parametrize("bounds", [np.zeros((5, 2)), Bounds(0, 1), Bounds(np.zeros(5), np.ones(5)), [(0, 1)] * 5])
def test_bounds_are_refused_by_name(bounds: Any) -> None:
    with pytest.raises(ValueError, match="bounds are not supported by proxmom; leave them out"):
        scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(), bounds=bounds)


@pytest.mark.parametrize("rule", [None, AdaptiveMemory(), TruncatedMemory(3.0)])
def test_methods_and_results_can_be_pickled(rule: Any) -> None:
    method = scipy_method(rule, max_iter=50, metric=Adam() if rule else None, lr=0.1 if rule else None)
    one, two = (
        scipy_minimize(fun, np.ones(5), jac=True, method=m) for m in (method, pickle.loads(pickle.dumps(method)))
    )
    again = pickle.loads(pickle.dumps(copy.deepcopy(one)))
    for other in (two, again):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.history["weights"], other.history["weights"])


def test_scipy_method_refuses_what_it_cannot_do() -> None:
    method = scipy_method(lr=1.0)
    with pytest.raises(ValueError, match="jac must be a function or True"):
        scipy_minimize(rosen, np.zeros(2), method=method)
    with pytest.raises(ValueError, match="bounds are not supported"):
        scipy_minimize(rosen, np.zeros(2), jac=rosen_der, method=method, bounds=[(0, 1), (0, 1)])
    with pytest.raises(ValueError, match="constraints are not supported"):
        scipy_minimize(
            rosen, np.zeros(2), jac=rosen_der, method=method, constraints={"type": "eq", "fun": lambda x: x[0]}
        )
