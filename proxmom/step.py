"""One step, written once for all backends: inner products -> planes -> weights -> coefficients of the new direction.

A backend keeps the arrays. For each of its T tensors it measures inner products of the named vectors (`Products`), asks
`Step.take` what to do, and then combines and moves (`Outcome`). Everything here has the size of the model of planes:
T tensors, S scopes (one for the whole model, or one per tensor), B named vectors, K planes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from proxmom.metrics import Metric
from proxmom.now import Now
from proxmom.planes import Array, Plane, Scalar, Vector, namespace
from proxmom.rules import Facts, Rule
from proxmom.solve import weights as solve
from proxmom.stepsize import Habits, StepSize

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


class _Given(NamedTuple):
    """The arguments of `Step.take`, for its parts."""

    products: Products
    scalars: Scalars
    scope: Scope
    lr: Array
    weight_decay: Array
    loss: Array | None


class _Solved(NamedTuple):
    """The solution of one model, see `Outcome`; stays: whether memory and x stay, (S,)."""

    direction: Array
    kept: Array
    stays: Array
    weights: Array
    heights: Array
    slopes: Array
    linear: Array
    quadratic: Array


@lru_cache
def _column(values: tuple[float, ...], xp: Any, dtype: Any, where: Any) -> Array:
    """Numbers as a column, made once: on a device they would be waited for."""
    return xp.asarray(values, dtype=dtype, device=where)[:, None]


class Step:
    """A rule with its settings, checked once.

    Args:
        rule, metric: what to step with.
        inertia: λ >= 0; must be 0 for rules that look at the loss.
        decay: "coupled" (added to the gradient), "decoupled" (AdamW's) or "proximal".
        step_size: what multiplies lr, see `proxmom.stepsize`; None: nothing does, or the rule itself if it can.

    Raises:
        ValueError, TypeError: for settings that do not go together.
    """

    def __init__(
        self, rule: Rule, metric: Metric, *, inertia: float, decay: str, step_size: StepSize | None = None
    ) -> None:
        self.rule, self.metric, self.inertia, self.decay = rule, metric, inertia, decay
        self.facts = Facts.of(rule)
        own: Any = rule if hasattr(rule, "factor") else None
        self.step_size: StepSize | None = own if step_size is None else step_size
        self.habits = Habits() if self.step_size is None else Habits.of(self.step_size)
        self.memories = self._joined("memories")
        self.scalars = self._joined("scalars")
        self.names = ("gradient", "memory", *self.memories)
        if isinstance(metric, type) or not callable(getattr(metric, "diagonal", None)):
            raise TypeError(f"metric must be an object like Euclidean() or Adam(), got {metric!r}.")
        if not 0 <= inertia < float("inf"):
            raise ValueError(f"inertia must be >= 0 and finite, got {inertia}.")
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {decay!r}.")
        self._check_pairs()

    def _joined(self, kind: str) -> dict[str, float]:
        """What rule and step size declare, together."""
        ours, theirs = getattr(self.facts, kind), getattr(self.habits, kind)
        for name in ours.keys() & theirs.keys():
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{kind} of rule and step size must agree on {name!r}, got {ours[name]} and {theirs[name]}."
                )
        return {**ours, **theirs}

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
        now = self._look(given)
        if self.step_size is None:
            return self._outcome(given, now, self._solve(given, now))
        if self.habits.finish is None:
            return self._sized(given, now, self.step_size)
        reach, again = self.habits.finish(now)
        blend = self._blend(scope.spread(reach), now)
        finished = self._finished(given, now, scope.spread(reach), blend)
        out = self._sized(finished, self._look(finished, now.scalars), self.step_size)
        return self._late(given, finished, out, scope.spread(reach), again, self._blend(reach, now))

    def _sized(self, given: _Given, now: Now, step_size: StepSize) -> Outcome:
        """The step at the length that the step size says."""
        scope, lr = given.scope, given.lr
        factor = step_size.factor(now) + 0 * now.step
        given = given._replace(lr=lr * scope.spread(factor))
        solved = self._solve(given, now)
        if self.habits.along is not None:
            factor = self.habits.along(now, Vector(solved.direction))
            given = given._replace(lr=lr * scope.spread(factor))
        return self._outcome(given, now, solved)

    def _solve(self, given: _Given, now: Now) -> _Solved:
        """The direction, at the given lr."""
        products, scalars, scope, lr, weight_decay, _ = given
        kappa = lr / (1 + lr * weight_decay)
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
        return _Solved(direction, kept, stays, weights, heights, slopes, linear, quadratic)

    def _outcome(self, given: _Given, now: Now, solved: _Solved) -> Outcome:
        direction, kept, stays, weights, heights, slopes, linear, quadratic = solved
        left = self._leave(given, now, direction, kept, stays)
        beta = direction[..., MEMORY]
        return Outcome(direction, kept, beta, weights, heights, slopes, linear, quadratic, left, given.lr)

    def _blend(self, reach: Array, now: Now) -> Array:
        """The named vectors where the last step is `reach` (N,) times as long, over those that are, (N, B, B)."""
        xp, previous = namespace(reach), self.names.index("previous")
        turn = xp.zeros_like(reach[:, None, None] + now.products[:1])
        turn[:, 0, 0], turn[:, 0, previous] = reach - 1, 1 - reach
        return turn + xp.eye(len(self.names), dtype=turn.dtype, device=turn.device)

    def _finished(self, given: _Given, now: Now, reach: Array, blend: Array) -> _Given:
        """What would have been measured there, (T,) and (T, B, B); on a quadratic exactly."""
        products, scalars, scope, *_ = given
        xp = namespace(blend)
        last = -(scalars.last_lr * scalars.kept)[:, None] * products.dual[:, :, MEMORY]
        more = (reach - 1)[:, None]

        def rows(array: Array | None) -> Array | None:
            return None if array is None else (blend @ array[..., None])[..., 0]

        def both(array: Array) -> Array:
            return blend @ array @ xp.matrix_transpose(blend)

        measured = Products(
            both(products.dual),
            both(products.metric),
            rows(products.pull),
            None if products.decay is None else rows(products.decay + more * last),
        )
        scalars = replace(scalars, last_lr=scalars.last_lr * reach)
        if not self.facts.needs_loss:
            return given._replace(products=measured, scalars=scalars)
        moved = scope.total(more * last)
        scalars = replace(scalars, memory_height=scalars.memory_height + moved[:, MEMORY])
        return given._replace(products=measured, scalars=scalars, loss=now.loss + moved[:, 0] / 2)

    def _late(self, given: _Given, finished: _Given, out: Outcome, reach: Array, again: Array, blend: Array) -> Outcome:
        """The outcome in terms of what was measured; where `again`, only the last step becomes longer."""
        scalars, scope, xp = given.scalars, given.scope, namespace(again)
        wait = scope.spread(xp.astype(again, reach.dtype)) > 0
        stay = xp.zeros_like(out.direction)
        stay[:, MEMORY] = 1.0
        further = self._averages(blend)
        names = xp.eye(len(self.names), dtype=further.dtype, device=further.device)[None, MEMORY + 1 :]
        left, before, old = out.scalars, finished.scalars, self._own(scalars)
        kept_scalars = replace(
            left,
            last_lr=xp.where(wait, before.last_lr, left.last_lr),
            kept=xp.where(wait, scalars.kept, left.kept),
            missing=xp.where(wait, scalars.missing, left.missing),
            own={**left.own, **{name: xp.where(again, old[name], left.own[name]) for name in self.facts.scalars}},
        )
        if self.facts.needs_loss:
            kept_scalars = replace(
                kept_scalars,
                loss=left.loss if scalars.loss is None else xp.where(again, scalars.loss, left.loss),
                memory_height=xp.where(again, before.memory_height, left.memory_height),
            )
        return replace(
            out,
            direction=xp.where(again[:, None], stay, (out.direction[:, None] @ blend)[:, 0]),
            beta=xp.where(again, 1.0, out.beta),
            slopes=out.slopes @ blend,
            scalars=kept_scalars,
            lr=xp.where(wait, 0.0, out.lr),
            finish=(reach - 1) * scalars.last_lr * scalars.kept,
            further=xp.where(again[:, None, None], names, further),
        )

    def _averages(self, blend: Array) -> Array:
        """The further memories after a step, averaged with the gradient of `blend`, (S, M, B)."""
        xp = namespace(blend)
        names = xp.eye(len(self.names), dtype=blend.dtype, device=blend.device)[None, MEMORY + 1 :]
        return names + _column(tuple(self.memories.values()), xp, blend.dtype, blend.device) * (blend[:, :1] - names)

    def _look(self, given: _Given, own: Mapping[str, Array] | None = None) -> Now:
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
        last_step = unit = None
        if self.step_size is not None:
            last_step = -scope.total((scalars.last_lr * scalars.kept)[:, None] * products.dual[:, :, MEMORY])
            unit = scope.total(lr[:, None, None] * products.dual)
        return Now(
            self.names,
            last_step=last_step,
            unit=unit,
            kept=self._own(scalars) if own is None else own,
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

    def _own(self, scalars: Scalars) -> dict[str, Array]:
        """The scalars of rule and step size; before the first step those that they start with."""
        start = {name: 0 * scalars.step + value for name, value in self.scalars.items()}
        return {**start, **scalars.own}

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
        if self.scalars:
            left = replace(left, own=dict(now.scalars))
        if not self.facts.needs_loss:
            return left
        scale = lr / (1 + lr * weight_decay) if self.decay == "proximal" else lr
        slope = direction[..., None]
        image = scope.total(scale[:, None, None] * products.dual) @ slope * kept[..., None, None]
        if products.decay is not None:
            image = image + scope.total((scale * weight_decay)[:, None] * products.decay)[..., None]
        change = xp.sum(slope * image, axis=(-2, -1))
        return replace(left, loss=now.loss, memory_height=share * now.memory_height - change)
