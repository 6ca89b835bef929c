"""The same step as a convex problem, for a solver that knows nothing of this project: cvxpy with Clarabel.

The problem is stated in the move z, as written in `Model` and `objective`, and compiled once for each (planes, size).
Where P is no diagonal, z = L w with P⁻¹ = L Lᵀ, the Cholesky factor of P⁻¹ as a matrix: in w the metric is Euclidean.
In a norm the solver knows it by its `expression` alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
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
    of its tolerance. In a norm, where z need not be unique, solved once: what counts there is the objective.

    Args:
        model: from `Optimizer.preview`; what the closed form computed (weights, next_x, ...) is not read. lr > 0.

    Raises:
        ImportError: without cvxpy or Clarabel.
        RuntimeError: if the solver fails.
        TypeError: for a norm without an `expression`.
    """
    if model.norm is not None:
        return _step_in_norm(model)
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
    """The model's objective at a move z, shape (n,), minus f(x): what the step minimises, within its bounds."""
    if model.norm is not None:
        top = float((linear_of(model) + model.slopes @ move).max())
        if model.norm.form == "soft":
            top += float((lengths(model.norm, model.shapes, move) ** 2).sum()) / (2 * model.lr)
        return top
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


def linear_of(model: Model) -> NDArray[np.float64]:
    """In a norm: the planes' heights where decay alone leads, (K,)."""
    return np.asarray(model.heights - model.lr * model.weight_decay * (model.slopes @ model.x))


def lengths(norm: Any, shapes: Sequence[tuple[int, ...]], move: NDArray[np.float64]) -> NDArray[np.float64]:
    """The norm of each tensor of a move (n,), by the norm's `expression`, (T,)."""
    cp = convex_solver()
    return np.array([float(length.value) for length in _lengths(cp, norm, shapes, cp.Constant(move))])


def shortest(model: Model) -> float:
    """In a norm: the least length of moves, the longest tensor's over lr, that reach the highest plane without a slope.

    Infinite where none does. Above 1 a move of the hard form cannot reach it.
    """
    planes, flat = linear_of(model), ~model.slopes.any(axis=1)
    if not flat.any():
        return inf
    floor = planes[flat].max()
    above, size = planes[~flat].max(initial=-inf) - floor, np.abs(model.slopes).max()
    if not (above > 0 and size > 0):
        return inf if above > 0 else 0.0
    problem, length, of = _norm_problem(model.norm, int((~flat).sum()), tuple(model.shapes), shortest=True)
    of["heights"].value = (planes[~flat] - floor) / above
    of["slopes"].value = model.slopes[~flat] / size
    _solve(problem)
    return inf if length.value is None else float(length.value) * above / size / model.lr


def _step_in_norm(model: Model) -> NDArray[np.float64]:
    """The solver's move, in units that make its numbers near one."""
    planes, size = linear_of(model), np.abs(model.slopes).max() or 1.0
    unit = model.lr if model.norm.form == "hard" else model.lr * size
    problem, v, of = _norm_problem(model.norm, len(planes), tuple(model.shapes), shortest=False)
    slopes = model.slopes / size
    out_of_reach = -REACH * (1 + np.abs(slopes).sum(axis=1).max())
    of["heights"].value = np.maximum((planes - planes.max()) / (unit * size), out_of_reach)
    of["slopes"].value = slopes
    _solve(problem)
    if v.value is None:
        raise RuntimeError(f"the convex solver failed: {problem.status}.")
    return np.asarray(unit * v.value)


@lru_cache(maxsize=16)
def _norm_problem(
    norm: Any, count: int, shapes: tuple[tuple[int, ...], ...], *, shortest: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """The parametrised problem in a norm, the variable asked for, move or least length, and its parameters by name."""
    check_expression(norm)
    cp = convex_solver()
    size = sum(int(np.prod(shape)) for shape in shapes)
    v, top = cp.Variable(size), cp.Variable()
    of = {"heights": cp.Parameter(count), "slopes": cp.Parameter((count, size))}
    long, planes = _lengths(cp, norm, shapes, v), of["heights"] + of["slopes"] @ v
    if shortest:
        return cp.Problem(cp.Minimize(top), [planes <= 0, *(each <= top for each in long)]), top, of
    if norm.form == "hard":
        return cp.Problem(cp.Minimize(top), [planes <= top, *(each <= 1 for each in long)]), v, of
    price = sum((cp.square(each) for each in long), start=0.0) / 2
    return cp.Problem(cp.Minimize(top + price), [planes <= top]), v, of


def _lengths(cp: Any, norm: Any, shapes: Sequence[tuple[int, ...]], vector: Any) -> list[Any]:
    """The norm's expression of each tensor of a flat one; those of three and more dimensions as (first, all others)."""
    found, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        part = vector[start : start + size]
        flat = (shape[0], size // shape[0]) if len(shape) > 1 else (size,)
        found.append(norm.expression(cp, cp.reshape(part, flat, order="C")))
        start += size
    return found


def check_expression(norm: Any) -> None:
    """TypeError for a norm without what tells a convex solver of it."""
    if not callable(getattr(norm, "expression", None)):
        raise TypeError(
            f"{type(norm).__name__} must have expression(cvxpy, move) for the convex solver, got none. Add it: "
            "it returns the norm of a cvxpy expression of a tensor's shape, as in return cvxpy.norm_inf(move)."
        )
