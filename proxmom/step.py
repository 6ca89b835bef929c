"""One step, written once for all backends: inner products -> planes -> weights -> coefficients of the new direction.

A backend keeps the arrays. For each of its T tensors it measures inner products of the named vectors (`Products`), asks
`Step.take` what to do, and then combines and moves (`Outcome`). Everything here has the size of the model of planes:
T tensors, S scopes (one for the whole model, or one per tensor), B named vectors, K planes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from proxmom.metrics import Metric
from proxmom.now import Now
from proxmom.planes import Array, Plane, Scalar, namespace
from proxmom.rules import Facts, Rule
from proxmom.solve import weights as solve

DECAYS = ("coupled", "decoupled", "proximal")
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

    def least(self, per_tensor: Array) -> Array:
        """Minimum over the tensors of each scope, (T,) -> (S,)."""
        if self._membership is None:
            return per_tensor
        xp = namespace(per_tensor)
        return xp.min(xp.where(self._membership > 0, per_tensor, xp.inf), axis=-1)


@dataclass(frozen=True)
class Scalars:
    """All that one step leaves for the next besides vectors."""

    step: Array  # (S,) steps taken
    last_lr: Array  # (T,) lr of each tensor's last move, 0 before it
    kept: Array  # (T,) 1 - weight of the floors at each tensor's last step
    missing: Array  # (T,) 1 - mass of memory: the product of all past betas
    loss: Array | None = None  # (S,) loss of the last step
    memory_height: Array | None = None  # (S,) aggregated plane at today's x, minus the last loss times its mass

    @classmethod
    def start(cls, per_tensor: Array, per_scope: Array, *, memory_from_gradient: bool) -> Scalars:
        """The scalars before the first step; the arguments are any arrays (T,) and (S,) of the right kind."""
        zero = 0 * per_scope
        missing = 0 * per_tensor + (not memory_from_gradient)
        return cls(step=zero, last_lr=0 * per_tensor, kept=0 * per_tensor + 1, missing=missing, memory_height=zero)


@dataclass(frozen=True)
class Outcome:
    """What the backend must do, and what a curious reader may look at.

    With v = Σ_b direction_b u_b over the named vectors: memory becomes (v + λP·memory) / (1 + λP), and x moves by
    -lr·kept·P⁻¹memory, with the weight decay asked for. `beta` is the weight on memory; c, Q, heights, slopes and
    weights are the model that was solved, see `proxmom.certify`.
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


class _Given(NamedTuple):
    """The arguments of `Step.take`, for its parts."""

    products: Products
    scalars: Scalars
    scope: Scope
    lr: Array
    weight_decay: Array
    loss: Array | None


class Step:
    """A rule with its settings, checked once.

    Args:
        rule, metric: what to step with.
        inertia: λ >= 0; must be 0 for rules that look at the loss.
        decay: "coupled" (added to the gradient), "decoupled" (AdamW's) or "proximal".

    Raises:
        ValueError, TypeError: for settings that do not go together.
    """

    def __init__(self, rule: Rule, metric: Metric, *, inertia: float, decay: str) -> None:
        self.rule, self.metric, self.inertia, self.decay = rule, metric, inertia, decay
        self.facts = Facts.of(rule)
        self.names = ("gradient", "memory", *self.facts.memories)
        if isinstance(metric, type) or not callable(getattr(metric, "diagonal", None)):
            raise TypeError(f"metric must be an object like Euclidean() or Adam(), got {metric!r}.")
        if not 0 <= inertia < float("inf"):
            raise ValueError(f"inertia must be >= 0 and finite, got {inertia}.")
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {decay!r}.")
        self._check_pairs()

    def _check_pairs(self) -> None:
        name, metric = type(self.rule).__name__, type(self.metric).__name__
        if self.facts.beta_max == 1 and not self.metric.memory_from_gradient:
            raise ValueError(
                f"{name}: beta_max must be < 1 with {metric}, got 1: memory starts from zero there and would stay zero."
            )
        if self.facts.needs_loss and self.inertia > 0:
            raise ValueError(
                f"{name} looks at the loss, so inertia must be 0, got {self.inertia}: with a floor the last move would "
                "no longer be proportional to memory, and such steps were seen to diverge."
            )
        if self.facts.needs_loss and self.decay == "coupled":
            raise ValueError(
                f"{name} looks at the loss, so decay must be 'decoupled' or 'proximal', got 'coupled': the gradient "
                "would contain a term that the loss does not."
            )

    @property
    def _bounded(self) -> bool:
        """Whether the metric, not the mixture, corrects the mass of a memory that starts from zero."""
        return not (self.facts.normalised or self.metric.memory_from_gradient)

    def factor(self, scalars: Scalars) -> Scalar:
        """The factor that the metric carries for the mass of memory, (T,), or the number 1."""
        return 1 - self.facts.beta_max * scalars.missing if self._bounded else 1.0

    def take(
        self,
        products: Products,
        scalars: Scalars,
        scope: Scope,
        *,
        lr: Array,
        weight_decay: Array,
        loss: Array | None,
    ) -> Outcome:
        """One step.

        Args:
            products: inner products, of finite gradients.
            scalars: what the last step left.
            scope: which tensors share a model.
            lr, weight_decay: of each tensor, (T,); weight_decay is 0 where decay is coupled (the gradient then has it).
            loss: f(x), (S,), finite, or None.
        """
        given = _Given(products, scalars, scope, lr, weight_decay, loss)
        kappa = lr / (1 + lr * weight_decay)
        now = self._look(given)
        heights, slopes, floors = self._stack(self.rule.planes(now), now)
        gram = scope.total(kappa[:, None, None] * products.metric)
        quadratic = slopes @ gram @ namespace(slopes).matrix_transpose(slopes)
        linear = heights
        for strength, row in ((self.inertia, products.pull), (weight_decay, products.decay)):
            if row is not None:
                linear = linear - (slopes @ scope.total((kappa * strength)[:, None] * row)[..., None])[..., 0]
        weights = solve(linear, quadratic, heights=heights, floors=floors)
        if self._bounded:
            weights = self._first_step(weights, slopes, self._mass(scalars, scope))
        direction, kept, stays = self._direction(weights, slopes, heights, linear, floors)
        left = self._leave(given, now, direction, kept, stays)
        return Outcome(direction, kept, direction[..., MEMORY], weights, heights, slopes, linear, quadratic, left)

    def _look(self, given: _Given) -> Now:
        products, scalars, scope, lr, weight_decay, loss = given
        xp = namespace(products.dual)
        move = scalars.kept[:, None] * products.dual[:, :, MEMORY]
        if products.decay is not None:
            move = move + weight_decay[:, None] * products.decay
        mass = self._mass(scalars, scope)
        loss = loss if self.facts.needs_loss else None  # a rule that has not said so must not get a stale previous one
        previous = loss if scalars.loss is None else scalars.loss
        height = None
        if loss is not None:
            plane_mass = xp.astype(mass > 0, mass.dtype) if self.facts.normalised else mass
            height = scalars.memory_height + plane_mass * (previous - loss)
        return Now(
            self.names,
            dual=scope.total(products.dual),
            last_move=-scope.total(scalars.last_lr[:, None] * move),
            lr=scope.mean(lr),
            step=scalars.step,
            mass=mass,
            normalised=self.facts.normalised,
            loss=loss,
            previous_loss=previous,
            memory_height=height,
            rule=type(self.rule).__name__,
        )

    @staticmethod
    def _mass(scalars: Scalars, scope: Scope) -> Array:
        return 1 - scope.least(scalars.missing)

    def _stack(self, planes: Any, now: Now) -> tuple[Array, Array, list[int]]:
        """Heights (S, K), slopes (S, K, B), and which planes are floors."""
        name = type(self.rule).__name__
        planes = list(planes) if isinstance(planes, (tuple, list)) else [planes]
        if not planes or not all(isinstance(plane, Plane) for plane in planes):
            raise TypeError(f"{name}.planes(now) must return a tuple of one to four Planes, got {planes!r}.")
        floors = [k for k, plane in enumerate(planes) if plane.is_floor]
        if len(floors) == len(planes):
            raise ValueError(f"{name}.planes(now) must return at least one plane with a slope, got only lower bounds.")
        if floors and not (self.facts.normalised and self.facts.needs_loss):
            raise ValueError(f"{name} has a floor, so the class must say normalised = True and needs_loss = True.")
        xp = namespace(now.step)
        row = 0 * now.step
        heights = xp.stack([row + plane.height for plane in planes], axis=-1)
        slopes = xp.stack([row[:, None] + plane.slope.coefficients for plane in planes], axis=-2)
        return heights, slopes, floors

    @staticmethod
    def _first_step(weights: Array, slopes: Array, mass: Array) -> Array:
        """While memory is empty (bounded mass) the plane that leans most on it counts: beta = beta_max, as in AdamW."""
        xp = namespace(weights)
        last = weights.shape[-1] - 1 - xp.argmax(xp.flip(slopes[..., MEMORY], axis=-1), axis=-1)
        chosen = xp.arange(weights.shape[-1], device=weights.device) == last[:, None]
        return xp.where(mass[:, None] > 0, weights, xp.astype(chosen, weights.dtype))

    @staticmethod
    def _direction(
        weights: Array, slopes: Array, heights: Array, linear: Array, floors: list[int]
    ) -> tuple[Array, Array, Array]:
        """The active model's slope over the planes that have one, (S, B), their weight, and whether all stays, (S,).

        Where the floor has all the weight, memory stays if f is at or below its bound. Above it only weight decay leads
        there, and then the plane next in line is what memory becomes: averaging goes on, as in the published MoMo.
        """
        xp = namespace(weights)
        blend = (weights[..., None, :] @ slopes)[..., 0, :]
        if not floors:
            return blend, 0 * weights[..., 0] + 1, weights[..., 0] < 0
        sloped = [k for k in range(weights.shape[-1]) if k not in floors]
        kept = sum(weights[..., k] for k in sloped)
        rank = xp.stack([linear[..., k] for k in sloped], axis=-1)
        first = xp.astype(rank == xp.max(rank, axis=-1, keepdims=True), rank.dtype)
        first = first / xp.sum(first, axis=-1, keepdims=True)
        following = sum(first[..., i, None] * slopes[..., k, :] for i, k in enumerate(sloped))
        moves = kept > 0
        direction = xp.where(moves[..., None], blend / xp.where(moves, kept, 1.0)[..., None], following)
        stays = ~moves & (xp.max(xp.stack([heights[..., k] for k in floors], axis=-1), axis=-1) >= 0)
        same = xp.zeros_like(blend)
        same[..., MEMORY] = 1.0
        return xp.where(stays[..., None], same, direction), kept, stays

    def _leave(self, given: _Given, now: Now, direction: Array, kept: Array, stays: Array) -> Scalars:
        """The scalars for the next step."""
        products, scalars, scope, lr, weight_decay, _ = given
        xp = namespace(direction)
        share, mass = direction[..., MEMORY], self._mass(scalars, scope)
        beta = share / (share + mass * (1 - share) + (mass == 0)) if self.facts.normalised else share
        beta = xp.where(stays, 1.0, xp.where(mass > 0, beta, self.facts.beta_max))
        left = Scalars(scalars.step + 1, lr, scope.spread(kept), missing=scalars.missing * scope.spread(beta))
        if not self.facts.needs_loss:
            return left
        scale = lr / (1 + lr * weight_decay) if self.decay == "proximal" else lr
        slope = direction[..., None]
        image = scope.total(scale[:, None, None] * products.dual) @ slope * kept[..., None, None]
        if products.decay is not None:
            image = image + scope.total((scale * weight_decay)[:, None] * products.decay)[..., None]
        change = xp.sum(slope * image, axis=(-2, -1))
        return replace(left, loss=now.loss, memory_height=share * now.memory_height - change)
