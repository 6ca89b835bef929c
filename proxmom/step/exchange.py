"""What step and backend hand each other: inner products, scopes and scalars in, an outcome out.

Records and sums over tensors, and no decision: nothing here knows a rule, a metric or a plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxmom.planes import Array, namespace

MEMORY = 1  # place of "memory" among the named vectors; the gradient stands at 0


class Products(NamedTuple):
    """What a backend measures, per tensor, of the B named vectors u, v, with M = P⁻¹(I + λP)⁻¹."""

    dual: Array  # <u, P⁻¹v>, (T, B, B)
    metric: Array  # <u, M v>, (T, B, B)
    pull: Array | None  # <u, (I + λP)⁻¹ memory>, (T, B); None without inertia
    decay: Array | None  # <u, x>, (T, B); None without weight decay


class Scope:
    """Which tensors share a model: `membership` is a 0/1 matrix (S, T); None where each tensor has its own.

    A backend may count several tensors that share all scalars as one; `sizes` (T,) then says how many, for the mean.
    """

    def __init__(self, membership: Array | None = None, *, sizes: Array | None = None) -> None:
        self._membership = membership
        self._shares = None if membership is None or sizes is None else membership * sizes

    def total(self, per_tensor: Array) -> Array:
        """Sum over the tensors of each scope, (T, ...) -> (S, ...)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        flat = self._membership @ xp.reshape(per_tensor, (per_tensor.shape[0], -1))
        return xp.reshape(flat, (flat.shape[0], *per_tensor.shape[1:]))

    def mean(self, per_tensor: Array) -> Array:
        """Mean over the tensors of each scope, (T,) -> (S,)."""
        if self._membership is None:
            return per_tensor
        shares = self._membership if self._shares is None else self._shares
        return shares @ per_tensor / namespace(per_tensor).sum(shares, axis=-1)

    def spread(self, per_scope: Array) -> Array:
        """Each tensor's copy of its scope's value, (S,) -> (T,)."""
        return per_scope if self._membership is None else self._membership.T @ per_scope

    def spread_all(self, per_scope: Array) -> Array:
        """As `spread`, for any number of axes after the first, (S, ...) -> (T, ...)."""
        if self._membership is None:
            return per_scope
        xp = namespace(per_scope)
        flat = self._membership.T @ xp.reshape(per_scope, (per_scope.shape[0], -1))
        return xp.reshape(flat, (flat.shape[0], *per_scope.shape[1:]))

    def least(self, per_tensor: Array) -> Array:
        """Minimum over the tensors of each scope, (T,) -> (S,)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        return xp.min(xp.where(self._membership > 0, per_tensor, xp.inf), axis=-1)

    def oldest(self, per_tensor: Array, steps: Array) -> Array:
        """Of `per_tensor` (T,), what those tensors of each scope share that have taken most of `steps` (T,), (S,)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        most = -self.least(-steps)
        chosen = self._membership * xp.astype(steps == self.spread(most), per_tensor.dtype)
        return xp.sum(xp.where(chosen > 0, per_tensor, 0.0), axis=-1) / xp.sum(chosen, axis=-1)


@dataclass(frozen=True)
class Scalars:
    """All that one step leaves for the next besides vectors."""

    step: Array  # (S,) steps taken
    last_lr: Array  # (T,) lr of each tensor's last move, 0 before it
    kept: Array  # (T,) 1 - weight of the floors at each tensor's last step
    missing: Array  # (T,) 1 - mass of memory: the product of all past betas
    loss: Array | None = None  # (S,) loss of the last step
    memory_height: Array | None = None  # (S,) aggregated plane at today's x, minus the last loss times its mass
    own: Mapping[str, Array] = field(default_factory=dict)  # (S,) each, of rule and step size; may be missing at first

    @classmethod
    def start(cls, per_tensor: Array, per_scope: Array, *, memory_from_gradient: bool) -> Scalars:
        """The scalars before the first step.

        Args:
            per_tensor, per_scope: any finite arrays, (T,) and (S,), of the library, dtype and device wanted.
            memory_from_gradient: whether memory has mass 1 from the start, as the metric says; else 0.
        """
        zero = 0 * per_scope
        missing = 0 * per_tensor + (not memory_from_gradient)
        return cls(step=zero, last_lr=0 * per_tensor, kept=0 * per_tensor + 1, missing=missing, memory_height=zero)


@dataclass(frozen=True)
class Outcome:
    """What the backend must do, and what a curious reader may look at.

    First x moves by -finish·P⁻¹memory, if there is any. With v = Σ_b direction_b u_b over the named vectors, memory
    becomes (v + λP·memory) / (1 + λP), and x moves by -lr·kept·P⁻¹memory, with the weight decay asked for. Further
    memories become the combinations `further`; None: each is averaged with the gradient, as `Facts` says. `beta` is the
    weight on memory; c, Q, heights, slopes and weights are the model that was solved, see `proxmom.certify`.
    """

    direction: Array  # (S, B)
    kept: Array  # (S,)
    beta: Array  # (S,)
    weights: Array  # (S, K)
    heights: Array  # (S, K)
    slopes: Array  # (S, K, B)
    linear: Array  # (S, K)
    quadratic: Array  # (S, K, K)
    scalars: Scalars
    lr: Array  # (T,)
    finish: Array | None = None  # (T,)
    further: Array | None = None  # (S, M, B)
