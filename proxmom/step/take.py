"""`Step`: from what a backend measured to what it must do.

The order of things: observe, ask the step size, solve, write down the scalars for the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxmom.memories import Combination, Previous, mass_name
from proxmom.now import Now
from proxmom.planes import Array, Scalar, Vector, namespace
from proxmom.step import dual, in_norm
from proxmom.step.method import Method
from proxmom.step.records import MEMORY, Inputs, Outcome, Scalars, Solution


@dataclass(frozen=True)
class Step:
    """One step of a method, which a backend asks for the factor of the metric and for what to do."""

    method: Method

    def factor(self, missing: Array) -> Scalar:
        """The factor that the metric carries for what is missing of memory's mass, (T,), or the number 1."""
        return 1 - self.method.facts.beta_max * missing if self.method.mass_in_metric else 1.0

    def take(self, inputs: Inputs) -> Outcome:
        """What to do, from what was measured."""
        method, now = self.method, observe(self.method, inputs)
        lr = inputs.lr
        if method.step_size is not None:
            lr = lr * inputs.scope.spread(method.step_size.factor(now) + 0 * now.step)
        model = in_norm if method.measures == "norm" else dual
        solved = model.solution(method, inputs, lr, now)
        scalars = self._leave(inputs, lr, now, solved)
        if not (method.remembers or method.tracked):
            return Outcome(solved, scalars, lr)
        kept, combinations = self._remember(scalars.rule_scalars, now)
        return Outcome(solved, replace(scalars, rule_scalars=kept), lr, combinations)

    def _leave(self, inputs: Inputs, lr: Array, now: Now, solved: Solution) -> Scalars:
        """The scalars for the next step."""
        method, products, scalars, scope = self.method, inputs.products, inputs.scalars, inputs.scope
        xp, share, mass = namespace(solved.direction), solved.beta, inputs.mass
        beta = share / (share + mass * (1 - share) + (mass == 0)) if method.facts.normalised else share
        # an empty memory has no share yet; its mass then grows as if beta_max were on it
        beta = xp.where(solved.stays, 1.0, xp.where(mass > 0, beta, method.facts.beta_max))
        left = Scalars(
            step=scalars.step + 1,
            last_lr=lr,
            slope_weight=scope.spread(solved.slope_weight),
            missing=scalars.missing * scope.spread(beta),
            rule_scalars=now.scalars,
        )
        if not method.facts.needs_loss:
            return left
        scale = lr / (1 + lr * inputs.weight_decay) if method.decay == "proximal" else lr
        image: Any = solved.along
        if products.dual is not None:
            image = (scope.total(scale[:, None, None] * products.dual) @ solved.direction[..., None])[..., 0]
        image = image * solved.slope_weight[..., None]
        if products.decay is not None:
            image = image + scope.total((scale * inputs.weight_decay)[:, None] * products.decay)
        change = xp.sum(solved.direction * image, axis=-1)
        return replace(left, loss=now.loss, memory_height=share * now.memory_height - change)

    def _remember(self, before: Mapping[str, Array], now: Now) -> tuple[dict[str, Array], dict[str, Array]]:
        """The scalars that rule and step size keep, (S,) each, and the further memories they combine, (S, B) each."""
        method, after, combinations = self.method, dict(before), {}
        for keeper in method.remembers:
            for name, value in keeper.remember(now).items():
                if isinstance(method.memories.get(name), Combination) and isinstance(value, Vector):
                    combinations[name] = 0 * now.step[:, None] + value.coefficients
                elif name in method.scalars and not isinstance(value, Vector):
                    after[name] = 0 * before[name] + value
                else:
                    raise _not_declared(keeper, name, value)
        for name in method.tracked:
            kind = method.memories[name]
            if isinstance(kind, Previous):
                after[mass_name(name)] = now.mass(kind.of)
            elif name in combinations:
                parts = combinations[name]
                after[mass_name(name)] = sum(parts[:, b] * now.mass(other) for b, other in enumerate(method.names))
            else:
                raise ValueError(f"{method.name}.remember(now) must return a Vector for {name!r}, a Combination.")
        return after, combinations


def observe(method: Method, inputs: Inputs) -> Now:
    """What rule and step size may see."""
    products, scalars, scope, weight_decay = inputs.products, inputs.scalars, inputs.scope, inputs.weight_decay
    xp, mass = namespace(scalars.step), inputs.mass
    moved = products.move
    if moved is None:  # what today's metric and memory say of the last move
        last = products.last if products.dual is None else products.dual[:, :, MEMORY]
        moved = scalars.slope_weight[:, None] * last
        if products.decay is not None:
            moved = moved + weight_decay[:, None] * products.decay
        moved = -scalars.last_lr[:, None] * moved
    loss = inputs.loss if method.facts.needs_loss else None  # without needs_loss a previous one would be stale
    previous = loss if scalars.loss is None else scalars.loss
    height = None
    if loss is not None:
        plane_mass = xp.astype(mass > 0, mass.dtype) if method.facts.normalised else mass
        height = scalars.memory_height + plane_mass * (previous - loss)
    return Now(
        method.names,
        dual=None if products.dual is None else scope.total(products.dual),
        last_move=scope.total(moved),
        lr=scope.mean(inputs.lr),
        step=scalars.step,
        mass=mass,
        normalised=method.facts.normalised,
        loss=loss,
        previous_loss=previous,
        memory_height=height,
        memories=method.memories,
        scalars=scalars.rule_scalars or {name: 0 * scalars.step + value for name, value in method.scalars.items()},
        observed=inputs.observed,
        rule=method.name,
    )


def _not_declared(keeper: Any, name: str, value: Any) -> Exception:
    what = f"memories = {{{name!r}: Combination()}}" if isinstance(value, Vector) else f"scalars = {{{name!r}: 0.0}}"
    return ValueError(
        f"{type(keeper).__name__}.remember(now) must return what the class declares, got {name!r}. Declare it: {what}."
    )
