"""Certified optima: Newton's method until a computable bound on f(x) - f* is small, or a clear error.

A bound is a function of x and the gradient there. Both kinds hold at every x, whatever Newton's method did:
if it went wrong the bound is large, and `certified_optimum` raises.
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg, lsmr, svds

from proxmom.study.problems.data import Matrix, Vector
from proxmom.study.problems.losses import Objective

TOLERANCE = 1e-10  # what every problem must reach, relative to f(x0) - f*
AIM = 1e-13  # where Newton's method stops; the rest is room for rounding
DENSE_LIMIT = 2000  # more variables than this: conjugate gradients instead of a Cholesky factor

Bound = Callable[[Vector, Vector], float]


class UncertifiedOptimum(ValueError):
    """The optimum of a problem could not be certified to a relative 1e-10."""


def certified_optimum(
    name: str, objective: Objective, x0: Vector, smoothness: float, bound: Bound
) -> tuple[float, float]:
    """Value f(x) at the end of Newton's method from x0 (n,), and the certificate: f(x) - f* <= certificate.

    The certificate is bound(x, gradient) plus 4 eps |f(x)| for the rounding of f itself.
    Raises UncertifiedOptimum where it exceeds 1e-10 (f(x0) - f(x)).
    """
    f0, _ = objective(x0)
    x = newton(objective, x0, smoothness, bound)
    return certify(name, objective, f0, x, bound)


def certify(name: str, objective: Objective, f0: float, x: Vector, bound: Bound) -> tuple[float, float]:
    """Value and certificate at x, a point that is claimed to be the minimiser; see `certified_optimum`."""
    f, g = objective(x)
    certificate = bound(x, g) + 4 * np.finfo(float).eps * abs(f)
    if not certificate <= TOLERANCE * (f0 - f):
        raise UncertifiedOptimum(
            f"{name}: f* must be certified to {TOLERANCE:g} (f(x0) - f*) = {TOLERANCE * (f0 - f):.2g}, got "
            f"{certificate:.2g}. The problem is too flat around its optimum, or starts at it: raise l2 or "
            f"delta, lower the condition number, or drop features that others repeat."
        )
    return f, float(certificate)


def newton(objective: Objective, x0: Vector, smoothness: float, bound: Bound, max_iter: int = 200) -> Vector:
    """Damped Newton steps from x0 (n,) until bound <= 1e-13 (f(x0) - f), or until rounding stops progress.

    The Hessian gets a ridge proportional to the gradient, which vanishes at the optimum: steps stay defined
    where a piecewise quadratic is locally flat, and convergence stays superlinear.
    """
    x, (f, g) = x0, objective(x0)
    f0, g0 = f, float(np.linalg.norm(g))
    for _ in range(max_iter):
        relative = float(np.linalg.norm(g)) / g0 if g0 > 0 else 0.0
        if relative <= 1e-6 and bound(x, g) <= AIM * (f0 - f):
            break
        direction = newton_direction(objective, x, g, 1e-3 * smoothness * relative, relative)
        step = _line_search(objective, x, f, g, direction)
        if step is None:
            break
        x, f, g = step
    return x


def newton_direction(objective: Objective, x: Vector, g: Vector, ridge: float, relative: float) -> Vector:
    """-(Hessian + ridge I)⁻¹ g; by conjugate gradients, to min(0.1, relative), for over 2000 variables."""
    if x.size <= DENSE_LIMIT:
        hessian = objective.hessian(x)
        hessian.flat[:: x.size + 1] += ridge
        try:
            return -np.asarray(cho_solve(cho_factor(hessian), g))
        except LinAlgError:
            return -np.asarray(np.linalg.lstsq(hessian, g, rcond=None)[0])
    product = objective.product(x)
    operator = LinearOperator((x.size, x.size), matvec=lambda v: product(v) + ridge * v, dtype=np.float64)
    return -np.asarray(cg(operator, g, rtol=min(0.1, relative), maxiter=2000)[0])


def _line_search(
    objective: Objective, x: Vector, f: float, g: Vector, direction: Vector
) -> tuple[Vector, float, Vector] | None:
    slope = float(g @ direction)
    noise = 8 * np.finfo(float).eps * abs(f)
    for halvings in range(50):
        t = 0.5**halvings
        y = x + t * direction
        fy, gy = objective(y)
        # Near the optimum f no longer resolves a decrease, but the gradient still does.
        if fy <= f + 1e-4 * t * slope - noise or (fy <= f + noise and gy @ gy < 0.25 * (g @ g)):
            return y, fy, gy
    return None


def strong_convexity_bound(modulus: float) -> Bound:
    """f(x) - f* <= ||gradient||² / (2 modulus), where f - (modulus/2) ||x||² is convex.

    It is the minimum over z of f(z) >= f(x) + <gradient, z-x> + (modulus/2) ||z-x||².
    """
    return lambda x, g: float(g @ g) / (2 * modulus)


def local_bound(objective: Objective, change: float) -> Bound:
    """As `strong_convexity_bound`, for a local minimum of a function whose Hessian is Lipschitz with constant `change`.

    With m half the Hessian's smallest eigenvalue at x, f is m-strongly convex within m/change of x. Where the gradient
    is small enough that the minimum over that ball lies inside it, that one is a local minimum of f, and

        f(x) - f(local minimum) <= ||gradient||² / (2m);     elsewhere the bound is infinite.
    """

    def bound(x: Vector, g: Vector) -> float:
        modulus = 0.5 * float(np.linalg.eigvalsh(objective.hessian(x))[0])
        inside = modulus > 0 and 2 * float(np.linalg.norm(g)) / modulus < modulus / change
        return float(g @ g) / (2 * modulus) if inside else np.inf

    return bound


def duality_gap_bound(matrix: Matrix, offset: Vector, delta: float) -> Bound:
    """Duality gap of mean_i h(r_i), r = matrix x - offset (n,), h Huber's loss (delta = inf: least squares).

    For every u with |u_i| <= delta, Fenchel's inequality h(r) >= u r - u²/2 gives, with M the matrix,
    f(z) >= D(u) + <Mᵀu, z>/n and D(u) = -mean(u_i²/2 + u_i offset_i): a lower bound of f where Mᵀu = 0.
    The residuals at x, clipped to delta, are nearly such a u; projecting onto that null space and shrinking
    back into the box makes one. What rounding leaves of Mᵀu is charged for all ||z|| <= 10 max(1, ||x||):

        f(x) - f* <= mean[ ½(c-u)² + (c-u)(r-c) ] + (||x|| + 10 max(1, ||x||)) ||Mᵀu|| / n,  c = clip(r).

    No rank condition is needed, and nothing cancels: the terms of the mean are h(r) + u²/2 - u r >= 0.
    """

    def bound(x: Vector, g: Vector) -> float:
        r = matrix @ x - offset
        c = np.clip(r, -delta, delta)
        u = _onto_null_space(matrix, c)
        largest = float(np.abs(u).max())
        u = u * (delta / largest) if largest > delta else u
        norm = float(np.linalg.norm(x))
        left_over: float = (norm + 10 * max(1.0, norm)) * float(np.linalg.norm(matrix.T @ u)) / r.size
        return float(np.mean(0.5 * (c - u) ** 2 + (c - u) * (r - c))) + left_over

    return bound


def _onto_null_space(matrix: Matrix, c: Vector) -> Vector:
    # Twice, because one projection leaves matrixᵀu at rounding relative to c, not to u's own small part.
    for _ in range(2):
        if sparse.issparse(matrix):
            c = c - matrix @ lsmr(matrix, c, atol=1e-15, btol=1e-15, conlim=0)[0]
        else:
            c = c - matrix @ np.linalg.lstsq(matrix, c, rcond=None)[0]
    return c


def smallest_eigenvalue(matrix: Vector) -> float:
    """Smallest eigenvalue of matrixᵀ matrix for a dense matrix, lowered by what rounding may have added; >= 0."""
    values = np.linalg.eigvalsh(matrix.T @ matrix)
    return max(0.0, float(values[0] - 1e-13 * values[-1]))


def largest_eigenvalue(matrix: Matrix) -> float:
    """Largest eigenvalue of matrixᵀ matrix, raised by a relative 1e-10: rounding cannot make it too small."""
    if not sparse.issparse(matrix) or min(matrix.shape) <= DENSE_LIMIT:
        narrow = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
        gram = narrow.T @ narrow
        value = np.linalg.eigvalsh(gram.toarray() if sparse.issparse(gram) else gram)[-1]
    else:
        start = np.ones(min(matrix.shape))
        value = svds(matrix, k=1, v0=start, return_singular_vectors=False)[0] ** 2
    return (1 + 1e-10) * float(value)
