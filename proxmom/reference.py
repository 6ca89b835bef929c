"""The same step as a convex problem, for a solver that knows nothing of this project: cvxpy with Clarabel.

The problem is stated in the move z, as written in `Model`, and compiled once for each (planes, size).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.numpy.optimizer import Model

TOLERANCE = 1e-13


def _cvxpy() -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise ImportError("the convex reference needs the verify extra: pip install 'proxmom[verify]'.") from error
    return cvxpy


@lru_cache(maxsize=16)
def _problem(count: int, size: int) -> tuple[Any, Any, dict[str, Any]]:
    """The parametrised problem, its variable, and its parameters by name; every vector has n entries."""
    cp = _cvxpy()
    u, top = cp.Variable(size), cp.Variable()
    of = {name: cp.Parameter(size) for name in ("move", "decay", "decayed", "inertia", "pulled")}
    of["heights"], of["slopes"] = cp.Parameter(count), cp.Parameter((count, size))
    objective = (
        top
        + cp.sum_squares(cp.multiply(of["move"], u)) / 2
        + cp.sum_squares(cp.multiply(of["decay"], u) + of["decayed"]) / 2
        + cp.sum_squares(cp.multiply(of["inertia"], u) + of["pulled"]) / 2
    )
    return cp.Problem(cp.Minimize(objective), [of["heights"] + of["slopes"] @ u <= top]), u, of


def solve_step(model: Model) -> NDArray[np.float64]:
    """The move z that minimises the model's objective, shape (n,), by the convex solver.

    Args:
        model: from `Optimizer.preview`; only x, memory, diagonal, slopes, heights, lr > 0, inertia and weight_decay are read.

    Raises:
        ImportError: without cvxpy.
        RuntimeError: if the solver fails.
    """
    eta, mu, p = model.lr, model.weight_decay, model.diagonal
    kappa = eta / (1 + eta * mu)
    slope = np.abs(model.slopes).max() or 1.0
    # The solver works on numbers near one: z = unit·u, and the objective is divided by worth.
    unit = kappa * max(slope, np.abs(model.memory).max(), mu * np.abs(p * model.x).max()) / p
    worth = max(np.abs(model.heights).max(), slope * np.abs(unit).max())
    root = np.sqrt(worth)
    inertia = np.sqrt(model.inertia * kappa)
    problem, u, of = _problem(*model.slopes.shape)
    of["heights"].value = model.heights / worth
    of["slopes"].value = model.slopes * unit / worth
    of["move"].value = np.sqrt(p / eta) * unit / root
    of["decay"].value = np.sqrt(mu * p) * unit / root
    of["decayed"].value = np.sqrt(mu * p) * model.x / root
    of["inertia"].value = -inertia * (p / kappa) * unit / root
    of["pulled"].value = inertia * (-mu * p * model.x - model.memory) / root
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), TOLERANCE)
    problem.solve(solver="CLARABEL", **tight)
    if u.value is None:
        raise RuntimeError(f"the convex solver failed: {problem.status}.")
    return np.asarray(unit * u.value)


def objective(model: Model, move: NDArray[np.float64]) -> float:
    """The model's objective at a move z, shape (n,), minus f(x): what the step minimises."""
    eta, mu, p = model.lr, model.weight_decay, model.diagonal
    direction = -((1 + eta * mu) / eta) * p * move - mu * p * model.x
    return float(
        (model.heights + model.slopes @ move).max()
        + (p * move**2).sum() / (2 * eta)
        + mu / 2 * (p * (model.x + move) ** 2).sum()
        + model.inertia * eta / (2 * (1 + eta * mu)) * ((direction - model.memory) ** 2).sum()
    )
