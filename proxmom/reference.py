"""The same step as a convex problem, for a solver that knows nothing of this project: cvxpy with Clarabel.

The problem is stated in the move z, as written in `Model` and `objective`, and compiled once for each (planes, size).
Where P is no diagonal, z = L w with P⁻¹ = L Lᵀ, the Cholesky factor of P⁻¹ as a matrix: in w the metric is Euclidean.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from proxmom.numpy.optimizer import Model

TOLERANCES = (1e-11, 1e-9, 1e-7)
ZOOMS = (1e-3, 1e-5)
REACH = 1e3


def convex_solver() -> Any:
    """The module cvxpy; ImportError that names what is missing, and the extra, if it or Clarabel is not installed."""
    try:
        import clarabel  # noqa: F401 - cvxpy calls it; where it is missing every trial would fail
        import cvxpy
    except ImportError as error:
        said = f"the convex reference needs the verify extra: pip install 'proxmom[verify]' ({error})."
        raise ImportError(said) from error
    return cvxpy


@lru_cache(maxsize=16)
def _problem(count: int, size: int) -> tuple[Any, Any, dict[str, Any]]:
    """The parametrised problem, its variable, and its parameters by name."""
    cp = convex_solver()
    v, top = cp.Variable(size), cp.Variable()
    of = {"curve": cp.Parameter(size), "tilt": cp.Parameter(size)}
    of |= {"heights": cp.Parameter(count), "slopes": cp.Parameter((count, size))}
    smooth = cp.sum_squares(cp.multiply(of["curve"], v)) / 2 + of["tilt"] @ v
    return cp.Problem(cp.Minimize(top + smooth), [of["heights"] + of["slopes"] @ v <= top]), v, of


def solve_step(model: Model) -> NDArray[np.float64]:
    """The move z that minimises the model's objective, shape (n,), by the convex solver.

    Solved once, and then zoomed in around the solution: an interior-point method leaves an error of the square root
    of its tolerance.

    Args:
        model: from `Optimizer.preview`; what the closed form computed (weights, next_x, ...) is not read. lr > 0.

    Raises:
        ImportError: without cvxpy or Clarabel.
        RuntimeError: if the solver fails.
    """
    if model.diagonal is None:
        return root_of(model) @ solve_step(_euclidean(model))
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    pull = model.inertia * np.abs(model.diagonal * model.memory).max()
    pull += model.weight_decay * np.abs(model.diagonal * model.x).max()
    unit = kappa * (max(np.abs(model.slopes).max(), pull) or 1.0) / model.diagonal  # a natural size of moves
    best = _near(model, np.zeros_like(model.x), unit)
    for zoom in ZOOMS:
        with contextlib.suppress(RuntimeError):  # the answer so far stands
            closer = _near(model, best, zoom * unit)
            best = closer if objective(model, closer) <= objective(model, best) else best
    return best


def root_of(model: Model) -> NDArray[np.float64]:
    """L with P⁻¹ = L Lᵀ, (n, n); LinAlgError where P⁻¹ is not positive definite."""
    return np.asarray(np.linalg.cholesky((model.inverse + model.inverse.T) / 2), dtype=np.float64)


def _euclidean(model: Model) -> Model:
    """The same model of the move w, z = L w."""
    root = root_of(model)
    return replace(
        model,
        diagonal=np.ones_like(model.x),
        slopes=model.slopes @ root,
        x=solve_triangular(root, model.x, lower=True),
        memory=root.T @ model.memory,
    )


def _near(model: Model, center: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The solver's move, in the first unit of three in which it does not break down."""
    for factor in (1.0, 0.1, 10.0):
        try:
            return center + _around(model, center, factor * unit)
        except RuntimeError as error:
            failure = error
    raise failure


def _around(model: Model, center: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best step away from `center`, in units that make the solver's numbers near one."""
    planes = model.heights + model.slopes @ center
    curvature, gradient = _quadratic(model, center)
    worth = (curvature * unit**2).sum()
    problem, v, of = _problem(*model.slopes.shape)
    slopes = model.slopes * unit / worth
    out_of_reach = -REACH * (1 + np.abs(slopes).sum(axis=1).max())  # as good as any lower height while |v| < REACH
    of["heights"].value = np.maximum((planes - planes.max()) / worth, out_of_reach)
    of["slopes"].value = slopes
    of["curve"].value = np.sqrt(curvature / worth) * unit
    of["tilt"].value = gradient * unit / worth
    _solve(problem)
    if v.value is None or np.abs(v.value).max() >= REACH:
        raise RuntimeError(f"the convex solver failed: {problem.status}.")
    return np.asarray(unit * v.value)


def _solve(problem: Any) -> None:
    """Solve as tightly as the solver can: now and then it breaks down near its limits, and succeeds with less."""
    for tolerance in TOLERANCES:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # "may be inaccurate": judged by the objective, not by the status
            try:
                problem.solve(solver="CLARABEL", **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance))
                return
            except convex_solver().SolverError as error:
                failure = error
    raise RuntimeError(f"the convex solver failed: {failure}") from failure


def _quadratic(model: Model, move: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Second derivatives and gradient, each (n,), of the objective's three quadratic terms at a move."""
    eta, mu, p = model.lr, model.weight_decay, np.asarray(model.diagonal)
    weight, rate = model.inertia * eta / (1 + eta * mu), -(1 + eta * mu) / eta * p  # D(z) = rate·z - μ P x
    curvature = p / eta + mu * p + weight * rate**2
    gradient = (
        p * move / eta + mu * p * (model.x + move) + weight * rate * (rate * move - mu * p * model.x - model.memory)
    )
    return curvature, gradient


def objective(model: Model, move: NDArray[np.float64]) -> float:
    """The model's objective at a move z, shape (n,), minus f(x): what the step minimises."""
    if model.diagonal is None:
        return objective(_euclidean(model), solve_triangular(root_of(model), move, lower=True))
    eta, mu, p = model.lr, model.weight_decay, np.asarray(model.diagonal)
    direction = -((1 + eta * mu) / eta) * p * move - mu * p * model.x
    return float(
        (model.heights + model.slopes @ move).max()
        + (p * move**2).sum() / (2 * eta)
        + mu / 2 * (p * (model.x + move) ** 2).sum()
        + model.inertia * eta / (2 * (1 + eta * mu)) * ((direction - model.memory) ** 2).sum()
    )
