"""Metrics that no method should be given: what the guard of `16_quasi_newton.py` is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from proxmom.metrics import Expansion, QuasiNewton

KEPT = 4  # vectors: the last two moves and changes of the gradient


@dataclass(frozen=True)
class Rubbish:
    """P⁻¹ is drawn anew after each step: a random matrix over the last moves and changes, of any length and rank 4.

    It is the identity until the gradient has changed once, as what was forgotten must be.

    Args:
        scale: all of P⁻¹ is `scale` times 10 to a random power within -8 and 8.
        sign: 1 for a positive definite P⁻¹, -1 for a negative definite one, whose steps lead uphill.
        seed: of the draws.
    """

    scale: float = 1.0
    sign: float = 1.0
    seed: int = 0
    memory_from_gradient: ClassVar[bool] = True
    kept: ClassVar[int] = KEPT
    numbers: ClassVar[Mapping[str, float]] = {"seen": 0.0}

    def low_rank(self, gram: Any, numbers: Mapping[str, Any], forecast: Any) -> Expansion:
        """See `proxmom.metrics.LowRank`; for one scope, S = 1."""
        new = bool(gram[0, -1, -1] > 0)
        keeps = np.eye(KEPT, KEPT + 2, k=2 if new else 0)[None]
        seen = numbers["seen"] + new
        if not seen[0]:
            return Expansion(np.ones(1), np.zeros((1, KEPT, KEPT)), keeps, {"seen": seen})
        random = np.random.default_rng([self.seed, int(seen[0])])
        squares = np.diagonal(keeps[0] @ gram[0] @ keeps[0].T)
        root = random.normal(size=(KEPT, KEPT)) / np.sqrt(np.where(squares > 0, squares, np.inf))[:, None]
        size = self.sign * self.scale * 10 ** random.uniform(-8, 8)
        return Expansion(random.uniform(size=1) * size, (size * root @ root.T)[None], keeps, {"seen": seen})


@dataclass(frozen=True)
class Stretched(QuasiNewton):
    """P⁻¹ of `QuasiNewton`, times `factor` once curvature was seen: just below 2, its steps lower f by next to nothing.

    Args:
        factor: > 0.
    """

    factor: float = 1.9999

    def low_rank(self, gram: Any, numbers: Mapping[str, Any], forecast: Any) -> Expansion:
        """See `proxmom.metrics.LowRank`."""
        told = super().low_rank(gram, numbers, forecast)
        factor = np.where(told.numbers["pairs"] > 0, self.factor, 1.0)
        return told._replace(identity=factor * told.identity, middle=factor[:, None, None] * told.middle)
