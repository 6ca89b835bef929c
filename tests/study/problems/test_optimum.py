"""Smoothness constants, certified optima, and what is known of the classics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

pytest.importorskip("sklearn")


from proxmom.study.problems import optimum
from proxmom.study.problems.collection import build_problem
from proxmom.study.problems.nonconvex import GemanMcClure
from tests.study.problems.conftest import MORE, QUICK, near


# Smoothness
def test_smoothness_bounds_the_change_of_the_gradient(problem: Any) -> None:
    rng = np.random.default_rng(8)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        x = scale * rng.standard_normal(problem.x0.size)
        y = x + scale * rng.standard_normal(x.size)
        change = np.linalg.norm(problem.fun(x)[1] - problem.fun(y)[1])
        assert change <= problem.smoothness * np.linalg.norm(x - y) * (1 + 1e-9)


REACHED = ["quadratic 1e4", "least squares", "logistic", "softmax, two classes", "huber, large delta"]


@pytest.mark.parametrize("name", REACHED)
def test_smoothness_is_reached(name: str) -> None:
    # By logistic losses and softmax of two at x0 = 0, where every sample has the largest curvature.
    kind, arguments = {**QUICK, **MORE}[name]
    problem = build_problem(kind, **arguments)
    largest = np.linalg.eigvalsh(problem.fun.hessian(problem.x0))[-1]
    assert largest == pytest.approx(problem.smoothness, rel=1e-8)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (30, 1)])
def test_largest_eigenvalue(shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(9).standard_normal(shape)
    exact = np.linalg.norm(matrix, 2) ** 2
    for form in (matrix, sparse.csr_array(matrix)):
        value = optimum.largest_eigenvalue(form)
        assert exact <= value <= exact * (1 + 1e-9)
    monkeypatch.setattr(optimum, "DENSE_LIMIT", 1)
    assert exact <= optimum.largest_eigenvalue(sparse.csr_array(matrix)) <= exact * (1 + 1e-9)


# Optimum
def test_certificate_is_within_its_bound(any_problem: Any) -> None:
    f0, _ = any_problem.fun(any_problem.x0)
    assert 0 <= any_problem.certificate <= 1e-10 * (f0 - any_problem.optimum)


def test_an_independent_solver_finds_the_same_optimum(problem: Any) -> None:
    options = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 0, "gtol": 1e-12, "maxcor": 50}
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options=options)
    f0, _ = problem.fun(problem.x0)
    rounding = 1e-14 * (abs(f0) + abs(problem.optimum))
    assert other.fun >= problem.optimum - problem.certificate - rounding
    assert other.fun - problem.optimum <= 1e-8 * (f0 - problem.optimum)


def test_quadratic_optimum_is_the_closed_form() -> None:
    problem = build_problem("quadratic", condition=1e4, n=20, seed=3)
    solution = np.linalg.solve(problem.fun.matrix, problem.fun.b)
    assert problem.optimum == pytest.approx(-0.5 * problem.fun.b @ solution, rel=1e-12)
    eigenvalues = np.linalg.eigvalsh(problem.fun.matrix)
    assert eigenvalues == pytest.approx(np.geomspace(1e-4, 1, 20), rel=1e-9)
    assert np.array_equal(problem.fun.matrix, problem.fun.matrix.T)


def test_rosenbrock_is_solved_at_one_one() -> None:
    problem = build_problem("rosenbrock")
    value, gradient = problem.fun(np.ones(2))
    assert value == problem.optimum == problem.certificate == np.linalg.norm(gradient) == 0


def test_robust_regression_ends_in_a_local_minimum_and_smoothness_bounds_it() -> None:
    problem = build_problem("robust_regression")
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12})
    assert other.fun == pytest.approx(problem.optimum, rel=1e-9)  # here even from x0
    values = np.linalg.eigvalsh(problem.fun.hessian(other.x))
    assert 0 < values[0] < values[-1] <= problem.smoothness
    bound = optimum.local_bound(problem.fun, 100.0)
    assert np.isfinite(bound(other.x, problem.fun(other.x)[1]))
    assert bound(problem.x0, problem.fun(problem.x0)[1]) == np.inf  # far from a minimum it says nothing


def test_third_derivative_of_geman_mcclure_is_bounded() -> None:
    r = np.linspace(-6, 6, 200_001)
    assert 0.9 * GemanMcClure.change_bound <= np.abs(np.gradient(GemanMcClure().curvature(r), r)).max()
    assert np.abs(np.gradient(GemanMcClure().curvature(r), r)).max() <= GemanMcClure.change_bound


def test_factorisation_has_the_optimum_of_eckart_and_young() -> None:
    problem = build_problem("factorisation", rows=8, columns=6)
    values = np.linalg.svd(problem.fun.matrix, compute_uv=False)
    assert problem.optimum == pytest.approx(0.5 * np.sum(values[3:] ** 2), rel=1e-12)
    other = minimize(problem.fun, problem.x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12})
    assert other.fun == pytest.approx(problem.optimum, rel=1e-9)  # it has no other local minima
    assert 2 * values[0] == pytest.approx(problem.smoothness)


def test_least_squares_without_full_rank_has_no_smoothed_l1() -> None:
    with pytest.raises(ValueError, match=r"full rank, digits has not: take diabetes"):
        build_problem("smoothed_l1", data="digits")


def test_huber_optimum_against_a_convex_solver() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    problem = build_problem("huber", data="synthetic", n=8, samples=60)
    x = cvxpy.Variable(8)
    residuals = problem.fun.matrix @ x - problem.fun.offset
    model = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.huber(residuals, 0.1)) / 120))
    assert model.solve(solver="CLARABEL") == pytest.approx(problem.optimum, rel=1e-7)


@pytest.mark.parametrize("name", ["logistic", "softmax", "least squares", "huber", "huber, synthetic"])
def test_newton_by_conjugate_gradients_reaches_the_same_optimum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, arguments = {**QUICK, **MORE}[name]
    problem = build_problem(kind, **arguments)
    bound = (
        optimum.strong_convexity_bound(problem.fun.l2)
        if problem.fun.l2 > 0
        else optimum.duality_gap_bound(problem.fun.matrix, problem.fun.offset, problem.fun.loss.delta)
    )
    monkeypatch.setattr(optimum, "DENSE_LIMIT", 0)
    found, certificate = optimum.certified_optimum(name, problem.fun, problem.x0, problem.smoothness, bound)
    assert abs(found - problem.optimum) <= certificate + problem.certificate


@pytest.mark.parametrize("delta", [0.1, np.inf])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_duality_gap_bounds_the_distance_from_the_optimum_everywhere(delta: Any, form: Any) -> None:
    kind = "least_squares" if delta == np.inf else "huber"
    problem = build_problem(kind, data="synthetic", n=5, samples=60)
    bound = optimum.duality_gap_bound(form(problem.fun.matrix), problem.fun.offset, delta)
    rng = np.random.default_rng(10)
    for scale in (1e-6, 1e-3, 0.1, 1.0, 100.0):
        x = scale * rng.standard_normal(5)
        f, g = problem.fun(x)
        assert bound(x, g) >= f - problem.optimum - 1e-13 * f  # equality for least squares


def test_strong_convexity_bounds_the_distance_from_the_optimum() -> None:
    problem = build_problem("logistic")
    bound = optimum.strong_convexity_bound(problem.fun.l2)
    for seed in range(5):
        f, g = problem.fun(near(problem, seed))
        assert bound(np.zeros(0), g) >= f - problem.optimum


def test_an_optimum_that_cannot_be_certified_is_an_error() -> None:
    with pytest.raises(optimum.UncertifiedOptimum, match=r"delta 1e-05: f\* must be certified to 1e-10.*raise l2"):
        build_problem("huber", delta=1e-5)


def test_a_wrong_minimiser_is_an_error() -> None:
    problem = build_problem("logistic")
    f0, _ = problem.fun(problem.x0)
    bound = optimum.strong_convexity_bound(problem.fun.l2)
    with pytest.raises(optimum.UncertifiedOptimum, match="logistic: "):
        optimum.certify("logistic", problem.fun, f0, near(problem, 0), bound)


def test_a_start_at_the_optimum_is_an_error(libsvm: Any) -> None:
    # Both classes have the same features: x = 0 is optimal.
    path = libsvm("0 1:1\n1 1:1\n0 2:1\n1 2:1\n")
    with pytest.raises(optimum.UncertifiedOptimum, match="or starts at it"):
        build_problem("logistic", data=path)
