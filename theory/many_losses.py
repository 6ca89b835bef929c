"""Many independent runs of a rule that looks at the loss, and how many evaluations each needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from many import Many
from numpy.typing import ArrayLike, NDArray

from proxmom.step import Products, Scope

Array = NDArray[np.float64]
Functions = Callable[[Array], tuple[Array, Array]]  # points (N, n) -> values (N,), gradients (N, n)


class ManyWithLosses(Many):
    """`Many` for any rule: `step` also takes the losses. Identity metric, no weight decay, no inertia."""

    def step(self, gradients: Array, losses: Array | None = None) -> Array:
        """One step of every run from its gradient, (N, n), and loss, (N,)."""
        if self.count == 0:
            self.memory = gradients.copy()
        named = np.stack([gradients, self.memory], axis=1)
        dual = named @ named.swapaxes(1, 2)
        outcome = self._step.take(
            Products(dual, dual, None, None),
            self._scalars,
            Scope(),
            lr=self._zero + self.lr,
            weight_decay=self._zero,
            loss=losses,
        )
        self._scalars = outcome.scalars
        self.memory = np.squeeze(outcome.direction[:, None] @ named, axis=1)
        self.x = self.x - ((self._zero + self.lr) * outcome.kept)[:, None] * self.memory
        self.effective = outcome.beta
        self.count += 1
        return self.x


def evaluations(
    function: Functions, starts: Array, rule: Any, lrs: ArrayLike, *, lowest: float = 0.0, target: float, budget: int
) -> Array:
    """Evaluations until (f - lowest) <= target (f(x0) - lowest), (starts, lrs); `budget` where it is not reached.

    Ends when every start has an lr that reached the target: `.min(axis=1)` is exact, other entries may read `budget`.
    """
    rates = np.atleast_1d(np.asarray(lrs, dtype=float))
    many = ManyWithLosses(np.repeat(starts, len(rates), axis=0), rule, lr=np.tile(rates, len(starts)))
    counts = np.full(len(many.x), budget)
    first = function(many.x)[0] - lowest
    for spent in range(budget):
        losses, gradients = function(many.x)
        gaps = losses - lowest
        counts[(gaps <= target * first) & (counts == budget)] = spent
        if (counts.reshape(len(starts), -1) < budget).any(axis=1).all():
            break
        over = (counts < budget) | ~(gaps <= 1e6 * first)  # done or diverged: such runs stand still
        many.step(np.where(over[:, None], 0.0, gradients), np.where(over, lowest, losses))
    return counts.reshape(len(starts), -1)
