"""Objectives: calling one gives (f, gradient) in one pass; Newton's method also asks for second derivatives.

They are called millions of times, so they check nothing: the builders in `problems.py` did.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy import sparse
from scipy.special import expit

from proxmom.study.problems.data import Matrix, Vector

Product = Callable[[Vector], Vector]


class Objective(Protocol):
    """A function of x (n,): value and gradient, dense Hessian (n, n), and v -> Hessian @ v."""

    def __call__(self, x: Vector) -> tuple[float, Vector]: ...
    def hessian(self, x: Vector) -> Vector: ...
    def product(self, x: Vector) -> Product: ...


class Loss(Protocol):
    """A convex loss of one number, on arrays (n,): sum of values and slopes; second derivatives.

    These lie between 0 and `curvature_bound`.
    """

    @property
    def curvature_bound(self) -> float: ...
    def __call__(self, r: Vector) -> tuple[Any, Vector]: ...
    def curvature(self, r: Vector) -> Vector: ...


@dataclass(frozen=True)
class Logistic:
    """log(1 + exp(r)), where r = -label * prediction."""

    curvature_bound: ClassVar[float] = 0.25

    def __call__(self, r: Vector) -> tuple[Any, Vector]:
        return np.logaddexp(0.0, r).sum(), expit(r)

    def curvature(self, r: Vector) -> Vector:
        return np.asarray(expit(r) * expit(-r))


@dataclass(frozen=True)
class Huber:
    """r²/2 up to |r| = delta, then delta |r| - delta²/2; delta = inf is least squares."""

    curvature_bound: ClassVar[float] = 1.0
    delta: float

    def __call__(self, r: Vector) -> tuple[Any, Vector]:
        slope = np.minimum(np.maximum(r, -self.delta), self.delta)
        return slope @ (r - 0.5 * slope), slope

    def curvature(self, r: Vector) -> Vector:
        return (np.abs(r) <= self.delta).astype(np.float64)


@dataclass(frozen=True)
class SmoothedHinge:
    """max(0, 1 + r), where r = -label * prediction, with its kink replaced by a parabola on 0 <= 1 + r <= width."""

    width: float

    @property
    def curvature_bound(self) -> float:
        return 1 / self.width

    def __call__(self, r: Vector) -> tuple[Any, Vector]:
        slope = np.minimum(np.maximum((1 + r) / self.width, 0.0), 1.0)
        return slope @ (1 + r - 0.5 * self.width * slope), slope

    def curvature(self, r: Vector) -> Vector:
        return np.asarray(((r >= -1) & (1 + r <= self.width)) / self.width)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """½ xᵀAx - bᵀx with A (n, n) symmetric."""

    matrix: Vector
    b: Vector

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        gradient = self.matrix @ x - self.b
        return 0.5 * float(x @ (gradient - self.b)), gradient

    def hessian(self, x: Vector) -> Vector:
        return self.matrix.copy()

    def product(self, x: Vector) -> Product:
        return lambda v: np.asarray(self.matrix @ v)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """mean_i loss(matrix_i x - offset_i) + (l2/2) ||x||², matrix (samples, n) dense or sparse."""

    loss: Loss
    matrix: Matrix
    offset: Vector | float
    l2: float
    transposed: Matrix = field(init=False)
    share: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transposed", self.matrix.T)
        object.__setattr__(self, "share", 1.0 / self.matrix.shape[0])

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        value, slope = self.loss(self.matrix @ x - self.offset)
        gradient = self.transposed @ slope
        gradient *= self.share
        gradient += self.l2 * x
        return self.share * float(value) + 0.5 * self.l2 * float(x @ x), gradient

    def residual(self, x: Vector) -> Vector:
        return np.asarray(self.matrix @ x - self.offset)

    def hessian(self, x: Vector) -> Vector:
        weights = self.share * self.loss.curvature(self.residual(x))
        return weighted_gram(self.matrix, weights) + self.l2 * np.eye(x.size)

    def product(self, x: Vector) -> Product:
        weights = self.share * self.loss.curvature(self.residual(x))
        return lambda v: np.asarray(self.transposed @ (weights * (self.matrix @ v)) + self.l2 * v)


@dataclass(frozen=True, eq=False)
class SmoothedL1:
    """A `LinearModel` plus l1 sum_j [ sqrt(x_j² + width²) - width ]."""

    model: LinearModel
    l1: float
    width: float

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        value, gradient = self.model(x)
        root = np.sqrt(x * x + self.width**2)
        return value + self.l1 * float((root - self.width).sum()), gradient + self.l1 * (x / root)

    def hessian(self, x: Vector) -> Vector:
        return self.model.hessian(x) + np.diag(self._curvature(x))

    def product(self, x: Vector) -> Product:
        product, curvature = self.model.product(x), self._curvature(x)
        return lambda v: product(v) + curvature * v

    def _curvature(self, x: Vector) -> Vector:
        return np.asarray(self.l1 * self.width**2 / (x * x + self.width**2) ** 1.5)


@dataclass(frozen=True, eq=False)
class LogSumExp:
    """width log mean_i exp((matrix_i x - offset_i) / width) + (l2/2) ||x||²: a smoothed maximum."""

    matrix: Vector
    offset: Vector
    width: float
    l2: float

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        scores = (self.matrix @ x - self.offset) / self.width
        shift = scores.max()
        shares = np.exp(scores - shift)
        value = self.width * float(shift + np.log(shares.mean()))
        return value + 0.5 * self.l2 * float(x @ x), (shares @ self.matrix) / shares.sum() + self.l2 * x

    def hessian(self, x: Vector) -> Vector:
        shares, mean = self._moments(x)
        gram = weighted_gram(self.matrix, shares) - np.outer(mean, mean)
        return gram / self.width + self.l2 * np.eye(x.size)

    def product(self, x: Vector) -> Product:
        shares, mean = self._moments(x)

        def apply(v: Vector) -> Vector:
            moved = (shares * (self.matrix @ v)) @ self.matrix - mean * (mean @ v)
            return np.asarray(moved / self.width + self.l2 * v)

        return apply

    def _moments(self, x: Vector) -> tuple[Vector, Vector]:
        scores = (self.matrix @ x - self.offset) / self.width
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        return shares, shares @ self.matrix


@dataclass(frozen=True, eq=False)
class Softmax:
    """mean_i [ logsumexp(W a_i) - (W a_i)[class_i] ] + (l2/2) ||W||², where x is W (classes, p) in one row.

    matrix (samples, p) has the rows a_i; one_hot (classes, samples) marks the class of each.
    """

    curvature_bound: ClassVar[float] = 0.5
    matrix: Matrix
    one_hot: Vector
    l2: float
    transposed: Matrix = field(init=False)
    share: float = field(init=False)
    moments: Vector = field(init=False)

    def __post_init__(self) -> None:
        samples = self.matrix.shape[0]
        object.__setattr__(self, "transposed", self.matrix.T)
        object.__setattr__(self, "share", 1.0 / samples)
        object.__setattr__(self, "moments", self._mean(self.one_hot).ravel())

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        scores = self._scores(x)
        shift = scores.max(axis=0)
        probabilities = np.exp(scores - shift)
        total = probabilities.sum(axis=0)
        probabilities /= total
        value = self.share * float(np.log(total).sum() + shift.sum())
        gradient = self._mean(probabilities).ravel() - self.moments + self.l2 * x
        return value - float(self.moments @ x) + 0.5 * self.l2 * float(x @ x), gradient

    def hessian(self, x: Vector) -> Vector:
        p, classes = self._probabilities(x), range(len(self.one_hot))
        blocks = [
            [weighted_gram(self.matrix, self.share * p[k] * (float(k == j) - p[j])) for j in classes] for k in classes
        ]
        return np.block(blocks) + self.l2 * np.eye(x.size)

    def product(self, x: Vector) -> Product:
        p = self._probabilities(x)

        def apply(v: Vector) -> Vector:
            moved = p * self._scores(v)
            return self._mean(moved - p * moved.sum(axis=0)).ravel() + self.l2 * v

        return apply

    def _scores(self, x: Vector) -> Vector:
        return np.asarray(x.reshape(len(self.one_hot), -1) @ self.transposed)

    def _mean(self, values: Vector) -> Vector:
        return np.asarray(self.share * (values @ self.matrix))

    def _probabilities(self, x: Vector) -> Vector:
        scores = self._scores(x)
        unscaled = np.exp(scores - scores.max(axis=0))
        return np.asarray(unscaled / unscaled.sum(axis=0))


def weighted_gram(matrix: Matrix, weights: Vector) -> Vector:
    """matrixᵀ diag(weights) matrix as a dense (p, p) array."""
    if sparse.issparse(matrix):
        return np.asarray((matrix.T @ sparse.diags_array(weights) @ matrix).toarray())
    return np.asarray((matrix.T * weights) @ matrix)
