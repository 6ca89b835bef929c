"""The NumPy backend: SciPy's conventions, lists of arrays, skipped steps, and errors before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der
from scipy.optimize import minimize as scipy_minimize

from proxmom import Adam, AdaptiveMemory, HeavyBall, Polyak, TruncatedMemory
from proxmom.numpy import Optimizer, minimize, scipy_method

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
            r"gradient of x0's shape, \(5,\), got \(4,\)",
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

    loose, tight = steps(gtol=1e-1), steps(gtol=1e-9)
    assert loose < tight
    assert steps(tol=1e-1) == steps(gtol=1e-9, tol=1e-1) == loose
    assert steps(tol=1e-1, options={"gtol": 1e-9}) == steps(gtol=1e-1, options={"gtol": 1e-9}) == tight


def test_scipy_method_leaves_the_callback_to_scipy() -> None:
    seen: list[Any] = []
    with pytest.raises(ValueError, match=r"callback must be left out .* got .*append.*: give it to scipy\.optimize"):
        scipy_method(callback=seen.append)
    scipy_minimize(fun, np.ones(5), jac=True, method=scipy_method(), callback=lambda xk: seen.append(xk))
    assert seen


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
