"""`minimize`: SciPy's conventions, what a callback sees, where it stops, and arrays that stay the caller's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der

from proxmom import Adam, AdaptiveMemory, Alignment, ConjugateMemory, HeavyBall, QuasiNewton, Secant, TruncatedMemory
from proxmom.numpy import Optimizer, minimize
from tests.numpy.functions import HESSIAN, fun


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


def test_bad_settings_are_refused_before_the_function_is_called() -> None:
    def never(x: Any) -> Any:
        raise AssertionError("called")

    for settings in ({"lr": -1.0}, {"lr": 1.0, "inertia": -1.0}, {"lr": 1.0, "decay": "x"}, {"lr": 1.0, "gtol": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            minimize(never, np.ones(3), **settings)


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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"memory": "short"}, "memory must be one of 'full', 'low', got 'short'"),
        ({"memory": "low", "lr": 1.0}, "memory must be left out with lr, got memory='low', lr=1.0"),
        ({"memory": "full", "step_size": Alignment()}, "step_size must be None with memory='full'"),
        ({"memory": "low", "metric": QuasiNewton()}, "memory must be 'full' with this metric, got 'low'"),
        ({"memory": "full", "metric": Adam()}, "memory must be 'low' with this metric, got 'full'"),
    ],
)
def test_memory_is_chosen_where_that_makes_sense(settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        minimize(fun, np.ones(5), **settings)


def test_what_is_given_decides_which_memory_it_is() -> None:
    full, low = minimize(fun, np.ones(5), memory="full"), minimize(fun, np.ones(5), memory="low")
    np.testing.assert_array_equal(minimize(fun, np.ones(5)).history["fun"], full.history["fun"])
    np.testing.assert_array_equal(minimize(fun, np.ones(5), ConjugateMemory()).history["fun"], low.history["fun"])
    np.testing.assert_array_equal(minimize(fun, np.ones(5), step_size=Secant()).history["fun"], low.history["fun"])
    assert full.nfev != low.nfev
    few = minimize(fun, np.ones(5), AdaptiveMemory(), metric=QuasiNewton(2))
    assert few.success
    assert minimize(fun, np.ones(5), metric=QuasiNewton(2)).success
