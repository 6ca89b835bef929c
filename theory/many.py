"""What the derivations ask of many runs at once: given weights on memory, and how many evaluations a rule needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from proxmom import Plane, mix
from proxmom.numpy import Runs

Array = NDArray[np.float64]
Functions = Callable[[Array], tuple[Array, Array]]  # points (N, n) -> values (N,), gradients (N, n)


class Played:
    """The rule that puts the weight `.beta` on memory, whatever the gradients are: a number, or an array (runs,)."""

    beta_max = 1.0

    def __init__(self, beta: ArrayLike = 0.0) -> None:
        self.beta = beta

    def planes(self, now: Any) -> Sequence[Plane]:
        return (mix(now.gradient_plane, now.memory_plane(0.0), self.beta),)


def evaluations(
    function: Functions, starts: Array, rule: Any, lrs: ArrayLike, *, lowest: float = 0.0, target: float, budget: int
) -> Array:
    """Evaluations until (f - lowest) <= target (f(x0) - lowest), (starts, lrs); `budget` where it is not reached.

    Ends when every start has an lr that reached the target: `.min(axis=1)` is exact, other entries may read `budget`.
    """
    rates = np.atleast_1d(np.asarray(lrs, dtype=float))
    many = Runs(np.repeat(starts, len(rates), axis=0), rule, lr=np.tile(rates, len(starts)))
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
