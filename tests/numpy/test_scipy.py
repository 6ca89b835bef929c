"""`scipy_method`: as a method of `scipy.optimize.minimize`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds, rosen, rosen_der
from scipy.optimize import minimize as scipy_minimize

from proxmom import Adam, AdaptiveMemory, HeavyBall, TruncatedMemory
from proxmom.numpy import minimize, scipy_method
from tests.numpy.functions import fun


def test_fun_and_jac_see_the_same_x() -> None:
    def moves(x: Any) -> float:
        x -= 3
        return float(x @ x) / 2

    for lr in (None, 0.5):
        result = scipy_minimize(moves, np.zeros(2), jac=lambda x: x - 3, method=scipy_method(lr=lr))
        np.testing.assert_allclose(result.x, 3, rtol=1e-6)


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
    assert "No component of the gradient is larger" in said
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


@pytest.mark.parametrize("gtol", [1e-3, 1e-7])
def test_success_is_scipys_absolute_gtol_on_the_largest_component(gtol: float) -> None:
    for x0 in ([100.0, -100.0], [-1.2, 1.0]):
        result = scipy_minimize(
            rosen, x0, jac=rosen_der, method=scipy_method(), options={"gtol": gtol, "maxiter": 5000}
        )
        assert result.success, result.message
        assert np.abs(result.jac).max() <= gtol
        np.testing.assert_allclose(result.x, 1, atol=3e3 * gtol)
        assert f"(gmax {gtol:g})" in result.message


def test_a_huge_first_gradient_makes_no_success_through_scipy() -> None:
    result = scipy_minimize(
        lambda x: float(np.exp(x[0]) - x[0]), [30.0], jac=lambda x: np.exp(x) - 1, method=scipy_method()
    )
    assert result.success
    np.testing.assert_allclose(result.x, 0, atol=1e-5)


def test_gmax_is_a_number_that_may_be_reached() -> None:
    with pytest.raises(ValueError, match="gmax must be >= 0, got -1"):
        minimize(fun, np.ones(5), gmax=-1)
    loose = minimize(fun, np.ones(5), gmax=1e3)
    assert (loose.status, loose.nit) == (0, 0)
    assert not minimize(fun, np.ones(5), gmax=0.0, max_iter=3).success
