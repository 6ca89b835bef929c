"""Many independent runs at once: the package's own step with one scope per run, and a rule that plays given weights.

`Optimizer` takes one step at a time; a statement about a thousand random instances, or about a stationary mean, needs
millions. `Many` hands `proxmom.step.Step` all runs as tensors that each have a model of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from proxmom import Euclidean, Plane, mix
from proxmom.step import MEMORY, Products, Scalars, Scope, Step


class Played:
    """The rule that puts the weight `.beta` on memory, whatever the gradients are: a number, or an array (runs,)."""

    beta_max = 1.0

    def __init__(self, beta: ArrayLike = 0.0) -> None:
        self.beta = beta

    def planes(self, now: Any) -> Sequence[Plane]:
        return (mix(now.gradient_plane, now.memory_plane(0.0), self.beta),)


class Many:
    """N runs in n dimensions with the identity metric and no weight decay.

    Args:
        x0: (N, n).
        rule: any rule that does not look at the loss.
        lr: a number, or (N,); may be set between steps.
        inertia: λ >= 0.
    """

    def __init__(self, x0: NDArray[np.float64], rule: Any, *, lr: ArrayLike, inertia: float = 0.0) -> None:
        self.x, self.rule, self.lr, self.inertia = np.array(x0, dtype=float), rule, lr, inertia
        self.memory = np.zeros_like(self.x)
        self._step = Step(rule, Euclidean(), inertia=inertia, decay="decoupled")
        self._zero = np.zeros(len(self.x))
        self._scalars = Scalars.start(self._zero, self._zero, memory_from_gradient=True)
        self.count, self.effective = 0, self._zero

    def step(self, gradients: NDArray[np.float64]) -> NDArray[np.float64]:
        """One step of every run from its gradient, (N, n). `.effective`, (N,), is then b in d <- b d + (1 - b) g."""
        if self.count == 0:
            self.memory = gradients.copy()
        named = np.stack([gradients, self.memory], axis=1)
        dual = named @ named.swapaxes(1, 2)
        lam, lr = self.inertia, self._zero + self.lr
        products = Products(dual, dual / (1 + lam), dual[:, :, MEMORY] / (1 + lam) if lam else None, None)
        outcome = self._step.take(products, self._scalars, Scope(), lr=lr, weight_decay=self._zero, loss=None)
        self._scalars = outcome.scalars
        blend = np.squeeze(outcome.direction[:, None] @ named, axis=1)
        self.memory = (blend + lam * self.memory) / (1 + lam)
        self.x = self.x - lr[:, None] * self.memory
        self.effective = (outcome.beta + lam) / (1 + lam)
        self.count += 1
        return self.x
