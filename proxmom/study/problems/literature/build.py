"""The problem kind `literature`: a function by its name."""

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from proxmom.study.problems.data import Vector
from proxmom.study.problems.literature import cutest, few, many
from proxmom.study.problems.literature.row import Published, Row
from proxmom.study.problems.problem import Problem, make_problem, whole

FUNCTIONS: dict[str, Row] = {**few.ROWS, **many.ROWS, **cutest.ROWS}
AGREEMENT = 1e-10  # of stored minima, relative to f(x0) - f*
DENSE = 50  # more variables than this: Lanczos instead of the whole Hessian


def literature(*, function: str = "Rosenbrock", n: int | None = None) -> Problem:
    """A function of Moré, Garbow and Hillstrom or of CUTEst by its name (`FUNCTIONS`), from its customary start.

    n: None is the customary number of variables; where the minimum is stored for some n alone, it must be one of them.
    optimum is what several methods reach from the start: it may be a local minimum, and not the only one within reach.
    The certificate is 0 where a formula gives it, else 1e-10 (f(x0) - optimum), a mark of its digits and no proof. Some
    functions are convex, but none has bounded curvature: L is the largest absolute eigenvalue of the Hessian at x0,
    only a unit for lr.

    Raises ValueError for an unknown function and for n out of its range, TypeError for arguments of the wrong type.
    """
    if not isinstance(function, str):
        raise TypeError(f"function must be a name, got {function!r} ({type(function).__name__}).")
    if function not in FUNCTIONS:
        raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}, got {function!r}.")
    row = FUNCTIONS[function]
    x0 = np.array(row.start, dtype=float) if isinstance(row.start, tuple) else row.start(_size(function, row, n))
    if n not in (None, x0.size):
        raise ValueError(f"n must be {x0.size} for {function}, which has no other number of variables, got {n}.")
    optimum, objective = _optimum(function, row, x0.size), Published(row.formula)
    certificate = AGREEMENT * (objective(x0)[0] - optimum) if isinstance(row.optimum, dict) else 0.0
    name = f"{function}, n {x0.size}"
    return make_problem(name, objective, x0, curvature(objective, x0), (optimum, certificate), convex=False)


def curvature(objective: Published, x: Vector) -> float:
    """The largest absolute eigenvalue of the Hessian at x (n,), to a hundredth at least."""
    if x.size <= DENSE:
        return float(np.abs(np.linalg.eigvalsh(objective.hessian(x))).max())
    operator = LinearOperator((x.size, x.size), matvec=objective.product(x), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(x.size)
    return float(np.abs(eigsh(operator, k=1, which="LM", v0=start, tol=1e-2, return_eigenvectors=False)[0]))


def _size(function: str, row: Row, n: int | None) -> int:
    n = whole("n", row.n if n is None else n, low=row.low, high=row.high)
    if n % row.multiple:
        raise ValueError(f"n must be a multiple of {row.multiple} for {function}, got {n}.")
    return n


def _optimum(function: str, row: Row, n: int) -> float:
    if not isinstance(row.optimum, dict):
        return row.optimum(n) if callable(row.optimum) else float(row.optimum)
    if n not in row.optimum:
        raise ValueError(f"n must be one of {', '.join(map(str, row.optimum))} for {function}, got {n}.")
    return row.optimum[n]
