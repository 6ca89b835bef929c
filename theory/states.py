"""Optimizers in the middle of a run: what the derivations check their formulas on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom import Adam, Euclidean, Plane
from proxmom.memories import Average
from proxmom.metrics import Metric
from proxmom.now import Now
from proxmom.numpy import Optimizer
from proxmom.numpy.optimizer import Model

SIZE = 8
Array = NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Planes:
    """Any planes: row k of `rows` holds the coefficients of slope k over gradient, memory, slow and slower memory.

    The two further memories exist so that four slopes can be linearly independent.
    """

    rows: Any
    heights: Any
    memories: Any = field(default_factory=lambda: {"slow": Average(0.3), "slower": Average(0.1)})

    @property
    def beta_max(self) -> float:
        """The most that a plane leans on memory."""
        return max(0.0, float(np.max(np.asarray(self.rows)[:, 1])))

    def planes(self, now: Now) -> Sequence[Plane]:
        names = ("gradient", "memory", "slow", "slower")
        vectors = [now.vector(name) for name in names]
        slopes = [sum((c * v for c, v in zip(row, vectors, strict=True)), start=now.zero) for row in self.rows]
        return tuple(Plane(slope, height) for slope, height in zip(slopes, self.heights, strict=True))


@dataclass(frozen=True)
class FixedDiagonal:
    """A metric that never changes: P = diag(entries)."""

    entries: Any
    memory_from_gradient: bool = True

    def start(self, x: Any) -> dict[str, Any]:
        return {}

    def update(self, state: Any, gradient: Any) -> dict[str, Any]:
        return {}

    def diagonal(self, state: Any, factor: Any) -> Any:
        return factor * np.asarray(self.entries, dtype=float)


def gradient(random: Random, size: int = SIZE) -> Array:
    """A vector whose entries differ by up to two orders of magnitude."""
    return random.normal(size=size) * 10 ** random.uniform(-1, 1, size=size)


def settings(decays: Sequence[str] = ("proximal", "decoupled", "coupled")) -> Iterator[dict[str, Any]]:
    """Every combination of metric, inertia, weight decay and its form."""
    metrics: list[Metric] = [Euclidean(), Adam(beta2=0.9)]
    for metric, inertia, (weight_decay, decay) in product(
        metrics, (0.0, 0.1, 2.0), [(0.0, decays[0]), *((0.3, decay) for decay in decays)]
    ):
        yield {"metric": metric, "inertia": inertia, "weight_decay": weight_decay, "decay": decay}


def underway(rule: Any, random: Random, *, steps: int = 3, loss: float | None = None, **setting: Any) -> Optimizer:
    """An optimizer after a few steps with random gradients and a changing lr."""
    optimizer = Optimizer(random.normal(size=SIZE), rule, lr=1.0, **setting)
    for _ in range(steps):
        optimizer.lr = 10 ** random.uniform(-1.5, 0)
        optimizer.step(gradient(random), loss)
    optimizer.lr = 10 ** random.uniform(-1.5, 0.5)
    return optimizer


def primal(model: Model, move: Array) -> float:
    """The objective of the step at a move z, from plain vectors: the definition, term by term."""
    p, eta, mu, lam = model.diagonal, model.lr, model.weight_decay, model.inertia
    planes = [h + float(s @ move) for h, s in zip(model.heights, model.slopes, strict=True)]
    direction = -(1 + eta * mu) / eta * p * move - mu * p * model.x
    proximal = float(p @ move**2) / (2 * eta)
    decay = mu / 2 * float(p @ (model.x + move) ** 2)
    inertia = lam * eta / (2 * (1 + eta * mu)) * float(((direction - model.memory) ** 2).sum())
    return max(planes) + proximal + decay + inertia


def dual_parts(model: Model) -> tuple[Array, Array, float]:
    """c, Q, and the constant by which the objective exceeds <c, w> - ½ <w, Qw>, from plain vectors."""
    p, eta, mu, lam, d = model.diagonal, model.lr, model.weight_decay, model.inertia, model.memory
    kappa = eta / (1 + eta * mu)
    linear = model.heights - kappa * model.slopes @ (lam * d / (1 + lam * p) + mu * model.x)
    quadratic = kappa * (model.slopes / (p * (1 + lam * p))) @ model.slopes.T
    constant = kappa * lam / 2 * (d**2 / (1 + lam * p)).sum() + mu / (2 * (1 + eta * mu)) * (p * model.x**2).sum()
    return linear, quadratic, float(constant)


def dual(model: Model, weights: Array) -> float:
    """The dual value at weights, constant included: never above `primal`."""
    linear, quadratic, constant = dual_parts(model)
    return float(linear @ weights - weights @ quadratic @ weights / 2) + constant


def move_of(model: Model, direction: Array) -> Array:
    """The move z that amounts to a direction D."""
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    return -kappa * (direction / model.diagonal + model.weight_decay * model.x)
