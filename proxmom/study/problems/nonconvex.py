"""Three non-convex classics: their L is but a unit for lr, and their f* may be a local minimum.

`smoothness` bounds the gradient's Lipschitz constant for `robust_regression` alone; the others have none, and it is the
largest eigenvalue of the Hessian at a named point. A method that ends in another local minimum misses, or, if that one
is lower, has reached the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from proxmom.study.problems.data import Vector
from proxmom.study.problems.losses import LinearModel, Product
from proxmom.study.problems.optimum import certified_optimum, certify, largest_eigenvalue, local_bound
from proxmom.study.problems.problem import Problem, make_problem, name_part, number, whole


@dataclass(frozen=True)
class GemanMcClure:
    """r² / (2 (1 + r²)): a square near 0 that saturates at ½. Its second derivative lies in [-¼, 1]."""

    curvature_bound: ClassVar[float] = 1.0
    change_bound: ClassVar[float] = 2.4  # of the third derivative, 12 |r| |r² - 1| / (1 + r²)⁴

    def __call__(self, r: Vector) -> tuple[Any, Vector]:
        share = 1 / (1 + r * r)
        return 0.5 * (1 - share).sum(), r * share * share

    def curvature(self, r: Vector) -> Vector:
        return np.asarray((1 - 3 * r * r) / (1 + r * r) ** 3)


@dataclass(frozen=True)
class Rosenbrock:
    """(1 - x_1)² + scale (x_2 - x_1²)²: a curved valley."""

    scale: float

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        u, v = 1 - x[0], x[1] - x[0] ** 2
        gradient = np.array([-2 * u - 4 * self.scale * x[0] * v, 2 * self.scale * v])
        return float(u * u + self.scale * v * v), gradient

    def hessian(self, x: Vector) -> Vector:
        s = self.scale
        return np.array([[2 + s * (12 * x[0] ** 2 - 4 * x[1]), -4 * s * x[0]], [-4 * s * x[0], 2 * s]])

    def product(self, x: Vector) -> Product:
        return _dense_product(self.hessian(x))


@dataclass(frozen=True, eq=False)
class Factorisation:
    """½ ||U Vᵀ - matrix||², where x holds U (rows, rank) and V (columns, rank), row by row."""

    matrix: Vector
    rank: int

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        left, right = self.factors(x)
        rest = left @ right.T - self.matrix
        return 0.5 * float(np.vdot(rest, rest)), np.concatenate([(rest @ right).ravel(), (rest.T @ left).ravel()])

    def factors(self, x: Vector) -> tuple[Vector, Vector]:
        both = x.reshape(-1, self.rank)
        return both[: len(self.matrix)], both[len(self.matrix) :]

    def hessian(self, x: Vector) -> Vector:
        product = self.product(x)
        return np.stack([product(unit) for unit in np.eye(x.size)])

    def product(self, x: Vector) -> Product:
        left, right = self.factors(x)
        rest = left @ right.T - self.matrix

        def apply(v: Vector) -> Vector:
            a, b = self.factors(v)
            moved = a @ right.T + left @ b.T
            return np.concatenate([(moved @ right + rest @ b).ravel(), (moved.T @ left + rest.T @ a).ravel()])

        return apply


def rosenbrock(*, scale: float = 100.0) -> Problem:
    """(1 - x_1)² + scale (x_2 - x_1²)² from the customary (-1.2, 1); f* = 0 at (1, 1), the only stationary point.

    scale > 0; L is the largest eigenvalue of the Hessian at x0.
    """
    objective, x0 = Rosenbrock(number("scale", scale, low=0, exclusive=True)), np.array([-1.2, 1.0])
    smoothness = float(np.linalg.eigvalsh(objective.hessian(x0))[-1])
    return make_problem("Rosenbrock" + name_part(100, scale=scale), objective, x0, smoothness, (0.0, 0.0), convex=False)


def robust_regression(*, n: int = 20, samples: int = 200, outliers: float = 0.2, seed: int = 0) -> Problem:
    """mean ½ r²/(1 + r²), r = aᵀx - target, from x0 = 0: Gaussian features, noise 0.1, and a share of wild targets.

    n >= 1, samples >= 2n, outliers in [0, 0.5]. The minimum is the local one that Newton's method reaches from the
    coefficients the data were made with, certified within its basin; L = largest eigenvalue of mean aaᵀ.
    """
    n, seed = whole("n", n, low=1), whole("seed", seed)
    samples, outliers = whole("samples", samples, low=2 * n), number("outliers", outliers, low=0, high=0.5)
    rng = np.random.default_rng(seed)
    features, made_with = rng.standard_normal((samples, n)), rng.standard_normal(n) / np.sqrt(n)
    wild = 10 * rng.standard_normal(samples) * (np.arange(samples) < outliers * samples)
    objective = LinearModel(
        GemanMcClure(), features, features @ made_with + 0.1 * rng.standard_normal(samples) + wild, 0.0
    )
    smoothness = largest_eigenvalue(features) / samples
    change = GemanMcClure.change_bound * float(np.mean(np.linalg.norm(features, axis=1) ** 3))
    name = f"robust regression, {samples} x {n}" + name_part(0.2, outliers=outliers) + name_part(0, seed=seed)
    found, certificate = certified_optimum(name, objective, made_with, smoothness, local_bound(objective, change))
    return make_problem(name, objective, np.zeros(n), smoothness, (found, certificate), convex=False)


def factorisation(*, rows: int = 30, columns: int = 20, rank: int = 3, noise: float = 0.1, seed: int = 0) -> Problem:
    """½ ||U Vᵀ - matrix||² with a Gaussian matrix of this rank plus noise, scaled to norm 1, from small random U, V.

    rows, columns > rank >= 1, noise >= 0; f* is that of Eckart and Young, half the sum of the squared singular values
    after the first `rank`; L = 2 times the largest singular value, the largest eigenvalue of the Hessian at a balanced
    minimum of zero residual.
    """
    rank, noise, seed = whole("rank", rank, low=1), number("noise", noise, low=0), whole("seed", seed)
    rows, columns = whole("rows", rows, low=rank + 1), whole("columns", columns, low=rank + 1)
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) / np.sqrt(rank)
    matrix += noise * rng.standard_normal((rows, columns))
    objective = Factorisation(matrix / np.linalg.norm(matrix), rank)
    left, values, right = np.linalg.svd(objective.matrix)
    root = np.sqrt(values[:rank])
    minimiser = np.concatenate([(left[:, :rank] * root).ravel(), (right[:rank].T * root).ravel()])
    x0 = 0.1 * rng.standard_normal(minimiser.size)
    name = f"factorisation, {rows} x {columns}, rank {rank}" + name_part(0.1, noise=noise) + name_part(0, seed=seed)
    certified = certify(name, objective, objective(x0)[0], minimiser, _tail_bound(objective, values[rank:]))
    return make_problem(name, objective, x0, 2 * float(values[0]), certified, convex=False)


def _tail_bound(objective: Factorisation, tail: Vector) -> Callable[[Vector, Vector], float]:
    """f(x) - f* from the singular values left out, plus what rounding leaves of a matrix of norm 1."""
    optimum = 0.5 * float(tail @ tail)
    return lambda x, g: abs(objective(x)[0] - optimum) + 64 * np.finfo(float).eps


def _dense_product(hessian: Vector) -> Product:
    return lambda v: np.asarray(hessian @ v)
