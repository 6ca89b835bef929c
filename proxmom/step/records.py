"""What a step and a backend hand each other: inner products, scopes and scalars in, an outcome out.

Records and sums over tensors, and no decision: nothing here knows a rule, a metric or a plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from proxmom.planes import Array, namespace

MEMORY = 1  # place of "memory" among the named vectors; the gradient stands at 0


class Products(NamedTuple):
    """What a backend measures, per tensor, of the B named vectors u, v, with M = P⁻¹(I + λP)⁻¹.

    A norm has no inner product: there `dual` and `metric` are None, and either `move` or `last` is given.
    """

    dual: Array | None  # <u, P⁻¹v>, (T, B, B)
    metric: Array | None  # <u, M v>, (T, B, B)
    pull: Array | None  # <u, (I + λP)⁻¹ memory>, (T, B); None without inertia
    decay: Array | None  # <u, x>, (T, B); None without weight decay
    move: Array | None = None  # <u, x_t - x_{t-1}>, (T, B), as it was; None: computed from memory
    last: Array | None = None  # <u, v>, (T, B), v the direction that memory recalls; None: P⁻¹memory


class Atom(NamedTuple):
    """One of the steepest directions that a step in a norm is mixed of: that of a slope (S, B), and its share (S,)."""

    slope: Array
    share: Array


class Glance(NamedTuple):
    """What a look at some elements tells of the way between two slopes in a norm, per tensor.

    pull: of the first slope, (T, B), exact; changes: by what it changes in each of E equal parts of the way, (T, E, B);
    total: by what all of them change the slope's norm, (T,); variance: of that, as far as elements were not seen.
    """

    pull: Array
    changes: Array
    total: Array
    variance: Array


class Narrowing(Protocol):
    """A backend that can look at some elements, and make a part of the way between two slopes (S, B) cheap to ask.

    What `Inputs.pull` says is the same with it and without, up to rounding.
    """

    def glance(self, first: Array, last: Array) -> Glance: ...
    def focus(self, first: Array, last: Array) -> None: ...


class Scope:
    """Which tensors share a model: `membership` is a 0/1 matrix (S, T); None where each tensor has its own.

    A backend may count several tensors that share all scalars as one; `sizes` (T,) then says how many, for the mean.
    """

    def __init__(self, membership: Array | None = None, *, sizes: Array | None = None) -> None:
        self._membership, self._sizes = membership, sizes
        self.shared = membership is not None

    def total(self, per_tensor: Array) -> Array:
        """Sum over the tensors of each scope, (T, ...) -> (S, ...)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        flat = self._membership @ xp.reshape(per_tensor, (per_tensor.shape[0], -1))
        return xp.reshape(flat, (flat.shape[0], *per_tensor.shape[1:]))

    def least(self, per_tensor: Array) -> Array:
        """Minimum over the tensors of each scope, (T,) -> (S,)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        return xp.min(xp.where(self._membership > 0, per_tensor, xp.inf), axis=1)  # those of others do not count

    def spread(self, per_scope: Array) -> Array:
        """Each tensor's copy of its scope's value, (S, ...) -> (T, ...)."""
        if self._membership is None or per_scope.ndim == 1:
            return per_scope if self._membership is None else self._membership.T @ per_scope
        xp = namespace(per_scope)
        flat = self._membership.T @ xp.reshape(per_scope, (per_scope.shape[0], -1))
        return xp.reshape(flat, (flat.shape[0], *per_scope.shape[1:]))

    def mean(self, per_tensor: Array) -> Array:
        """Mean over the tensors of each scope, (T,) -> (S,)."""
        if not self.shared:
            return per_tensor
        sizes = 0 * per_tensor + 1 if self._sizes is None else self._sizes
        return self.total(sizes * per_tensor) / self.total(sizes)

    def divide(self, per_scope: Array) -> Array:
        """Each tensor's equal share of its scope's value, (S, ...) -> (T, ...): `total` gives it back."""
        if not self.shared:
            return per_scope
        each = self.spread(per_scope)
        count = self.total(0 * each + 1)
        return each / self.spread(count)

    def oldest(self, per_tensor: Array, steps: Array) -> Array:
        """Of `per_tensor` (T,), what those tensors of each scope share that have taken most of `steps` (T,), (S,)."""
        if not self.shared:
            return per_tensor
        most = self.spread(-self.least(-steps))
        return -self.least(namespace(steps).where(steps == most, -per_tensor, float("inf")))


@dataclass(frozen=True)
class Scalars:
    """All that one step leaves for the next besides vectors."""

    step: Array  # (S,) steps taken
    last_lr: Array  # (T,) lr of each tensor's last move, 0 before it
    slope_weight: Array  # (T,) 1 - weight of the floors at each tensor's last step
    missing: Array  # (T,) 1 - mass of memory: the product of all past betas
    loss: Array | None = None  # (S,) loss of the last step
    memory_height: Array | None = None  # (S,) aggregated plane at today's x, minus the last loss times its mass
    rule_scalars: Mapping[str, Array] = field(default_factory=dict)  # (S,) each, step size's too; missing at first

    @classmethod
    def start(cls, per_tensor: Array, per_scope: Array, *, memory_from_gradient: bool) -> Scalars:
        """The scalars before the first step.

        Args:
            per_tensor, per_scope: any finite arrays, (T,) and (S,), of the library, dtype and device wanted.
            memory_from_gradient: whether memory has mass 1 from the start, as the metric says; else 0.
        """
        zero = 0 * per_scope
        missing = 0 * per_tensor + (not memory_from_gradient)
        none = 0 * per_tensor
        return cls(step=zero, last_lr=none, slope_weight=none + 1, missing=missing, memory_height=zero)


@dataclass(frozen=True)
class Inputs:
    """All that a step starts from, as a backend gives it."""

    products: Products  # of finite gradients
    scalars: Scalars  # what the last step left
    scope: Scope  # which tensors share a model
    lr: Array  # (T,)
    weight_decay: Array  # (T,), 0 where decay is coupled: the gradient then has it
    loss: Array | None = None  # f(x), (S,), finite
    pull: Callable[[Array], Array] | None = None  # in a norm (S, B) -> (T, B): of slopes Σ ||s||_*^{0 or 1}·<v, u>
    precision: float = 2.0**-52  # > 0, relative, of the coarsest vectors
    narrows: Narrowing | None = None  # in a norm, where the backend can
    pulls: Callable[[Array], Array] | None = None  # as pull, (S, M, B) -> (T, M, B), where it answers many at once
    observed: Mapping[str, Array] = field(default_factory=dict)  # what the step was given, (S,) each, finite

    @cached_property
    def mass(self) -> Array:
        """The mass of memory, (S,)."""
        return 1 - self.scope.least(self.scalars.missing)


@dataclass(frozen=True)
class Solution:
    """The model of planes that was solved, see `proxmom.certify`, and what is active of it.

    direction (S, B): slope of the active model over the planes that have one, v = Σ_b direction_b u_b. slope_weight:
    what those planes weigh, 1 without floors; in a norm how much of the step is taken. stays: whether memory and x stay
    as they are. In a norm quadratic is None, and instead there are the atoms of the step, the gap, (S,), of its model
    above the best, and along, (S, B), products of the named vectors with -z, where the rule looks at the loss.
    """

    direction: Array  # (S, B)
    slope_weight: Array  # (S,)
    stays: Array  # (S,) of bool
    weights: Array  # (S, K)
    heights: Array  # (S, K)
    slopes: Array  # (S, K, B)
    linear: Array  # (S, K), c
    quadratic: Array | None  # (S, K, K), Q
    atoms: tuple[Atom, ...] = ()
    gap: Array | None = None
    along: Array | None = None

    @property
    def beta(self) -> Array:
        """The weight on memory, (S,)."""
        return self.direction[..., MEMORY]


@dataclass(frozen=True)
class Outcome:
    """What the backend must do.

    Memory becomes (v + λP·memory) / (1 + λP), with v the solution's direction, and x moves by
    -lr·slope_weight·P⁻¹memory, with the weight decay asked for; in a norm by the mixture of its atoms, each with its
    steepest direction times ||slope||_*^{0 or 1}, instead of P⁻¹memory. Further memories become what `Memory` says of
    their kind, combinations what is given here: name -> coefficients over the named vectors, (S, B).
    """

    solution: Solution
    scalars: Scalars
    lr: Array  # (T,)
    combinations: Mapping[str, Array] = field(default_factory=dict)
