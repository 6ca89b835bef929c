"""One device's share of one step, between the arrays and `proxmom.step`: measure, decide, write down the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.metrics.protocol import recalls
from proxmom.planes import Array, namespace
from proxmom.step import MEMORY, Glance, Inputs, Outcome, Products, Scope, Step
from proxmom.torch.layout import LOSS, MEMORY_HEIGHT, SKIPPED, STEP, Layout
from proxmom.torch.passes import Motion, Numbers

Groups = Sequence[Mapping[str, Any]]  # torch's parameter groups


@dataclass
class Plan:
    """What a step will be on one device; nothing is written yet.

    numbers: for the passes; lr, weight_decay: of each unit, (U,), the former as the step size made it, the latter 0
    where decay is coupled; outcome: of `Step.take`; sound: whether everything is finite, a flag where the layout's
    scalars are.
    """

    layout: Layout
    numbers: Numbers
    lr: Array
    weight_decay: Array
    outcome: Outcome
    sound: Any


def plan_step(layout: Layout, groups: Groups, loss: Array | None) -> Plan:
    """Inner products, planes, weights: all of a step but its consequences."""
    step = layout.step
    lr, mu = (_per_unit(layout, groups, key) for key in ("lr", "weight_decay"))
    coupled = step.method.decay == "coupled"
    decays = any(group["weight_decay"] for group in groups)
    scalars = layout.scalars(loss)
    factor = step.factor(scalars)
    numbers = Numbers(
        coupled=mu if coupled and decays else None,
        factor=None if isinstance(factor, float) else factor,
        metric_scalars=layout.metric_scalars(),
        with_x=decays and not coupled,
    )
    mu = 0 * mu if coupled else mu
    if step.method.measures == "low rank":
        layout.passes.check_rates(groups, ("lr",) if coupled else ("lr", "weight_decay"))
    measured = layout.passes.measure(layout, numbers)
    sums = layout.array(measured if layout.meshes is None else layout.meshes.total(measured))
    pull = narrows = pulls = None
    if step.method.measures == "norm":
        products, pull = _in_norm(layout, step, sums, with_x=numbers.with_x), _asked(layout)
        narrows = _Narrowing(layout) if hasattr(layout.passes, "focus") else None
        pulls = _asked_at_once(layout) if hasattr(layout.passes, "pulls") else None
    elif step.method.measures == "low rank":
        products = layout.passes.products(layout, sums, with_x=numbers.with_x)
        sums = products.dual  # a pair that overflows is left out of it
    else:
        places = layout.array(_places(len(step.method.names), layout.device))
        products = _products(step, sums, places, with_x=numbers.with_x)
    with np.errstate(all="ignore"):  # what is not finite is seen below
        outcome = step.take(
            Inputs(products, scalars, layout.scope, lr, mu, loss, pull, layout.precision, narrows, pulls)
        )
    solution = outcome.solution
    decided = solution.gap if solution.quadratic is None else solution.quadratic
    checked = [sums, solution.linear, decided, *([] if loss is None else [loss])]
    if step.method.remembers:
        checked += [*outcome.scalars.rule_scalars.values(), *outcome.combinations.values()]
    xp = namespace(sums)
    if step.method.step_size is not None:
        with np.errstate(over="ignore"):
            checked.append(xp.astype(outcome.lr, xp.float32))  # as it will multiply arrays
    sound = xp.all(xp.stack([xp.all(xp.isfinite(part)) for part in checked]))
    return Plan(layout, numbers, lr=outcome.lr, weight_decay=mu, outcome=outcome, sound=sound)


def commit(plan: Plan, sound: Tensor | None) -> None:
    """Move the parameters and write down what the next step needs; all of it only where `sound`, if that is given."""
    layout, solution, scope = plan.layout, plan.outcome.solution, plan.layout.scope
    step = layout.step
    proximal = step.method.decay == "proximal"
    shrink = 1 / (1 + plan.lr * plan.weight_decay) if proximal else 1 - plan.lr * plan.weight_decay
    scale = plan.lr * scope.spread(solution.slope_weight) * (shrink if proximal else 1)
    combinations = {name: _per_vector(scope, parts) for name, parts in plan.outcome.combinations.items()}
    atoms = [(_per_vector(scope, atom.slope), scope.spread(atom.share)) for atom in solution.atoms]
    motion = Motion(_per_vector(scope, solution.direction), scale, shrink, sound, combinations, atoms)
    layout.passes.move(layout, plan.numbers, motion)
    layout.arrive()
    new = _new_scalars(plan, step)
    layout.rows[:] = new if sound is None else torch.where(sound, new, layout.scalar_rows)
    if sound is not None:
        layout.scalar_rows[:, SKIPPED] += ~sound


def scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or 0-dim tensor as (1,), in the dtype and on the device of `like`; numbers without waiting for it."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(1)
    return like.new_full((1,), value)


def _per_vector(scope: Scope, coefficients: Array) -> Array:
    """Each unit's copy of its scope's coefficients, (S, B) -> (U, B)."""
    columns = [scope.spread(coefficients[:, b]) for b in range(coefficients.shape[1])]
    return namespace(coefficients).stack(columns, axis=-1)


def _per_unit(layout: Layout, groups: Groups, key: str) -> Array:
    """A group's setting for each of its units, (U,)."""
    return layout.array(torch.cat([scalar(group[key], layout.scalar_rows) for group in groups]))[layout.group_of]


def _products(step: Step, sums: Array, places: Array, *, with_x: bool) -> Products:
    """See `Passes` for the columns, and `_places`."""
    count, inertia = len(step.method.names), step.method.inertia
    pairs = count * (count + 1) // 2
    metric, pulled = sums[:, :pairs][:, places], sums[:, pairs : 2 * pairs][:, places]
    rest = 2 * pairs
    return Products(
        dual=metric + inertia * pulled if inertia else metric,
        metric=metric,
        pull=pulled[:, :, MEMORY] if inertia else None,
        decay=sums[:, rest : rest + count] if with_x else None,
        move=sums[:, rest + count :] if step.method.measures == "operator" else None,
    )


def _in_norm(layout: Layout, step: Step, sums: Array, *, with_x: bool) -> Products:
    """See `NormPasses` for the columns."""
    count = len(step.method.names)
    last = sums[:, :count]
    decay = sums[:, count:] if with_x else None
    if recalls(step.method.metric):
        return Products(None, None, None, decay, last=last)
    return Products(None, None, None, decay, move=last)


def _asked(layout: Layout) -> Callable[[Array], Array]:
    """See `Inputs.pull`; over all processes."""

    def pull(slopes: Array) -> Array:
        found = layout.passes.pull(layout, _per_vector(layout.scope, slopes))
        return layout.array(found if layout.meshes is None else layout.meshes.total(found))

    return pull


def _asked_at_once(layout: Layout) -> Callable[[Array], Array]:
    """See `Inputs.pulls`; over all processes."""

    def pulls(slopes: Array) -> Array:
        xp, shape = namespace(slopes), slopes.shape[1:]
        ours = _per_vector(layout.scope, xp.reshape(slopes, (len(slopes), -1)))
        found = layout.passes.pulls(layout, xp.reshape(ours, (len(ours), *shape)))
        found = found.reshape(len(ours), -1)
        found = layout.array(found if layout.meshes is None else layout.meshes.total(found))
        return xp.reshape(found, (len(ours), *shape))

    return pulls


@dataclass(frozen=True)
class _Narrowing:
    """See `Narrowing`; over all processes."""

    layout: Layout

    def glance(self, first: Array, last: Array) -> Glance:
        layout = self.layout
        found = layout.passes.glance(layout, self._both(first, last))
        found = layout.array(found if layout.meshes is None else layout.meshes.total(found))
        count = first.shape[1]
        xp = namespace(found)
        return Glance(
            found[:, :count],
            xp.reshape(found[:, count:-2], (found.shape[0], -1, count)),
            total=found[:, -2],
            variance=found[:, -1],
        )

    def focus(self, first: Array, last: Array) -> None:
        self.layout.passes.focus(self.layout, self._both(first, last))

    def _both(self, first: Array, last: Array) -> Array:
        return namespace(first).stack([_per_vector(self.layout.scope, slopes) for slopes in (first, last)], axis=1)


@lru_cache
def _places(count: int, device: torch.device) -> Tensor:
    """Where entry (i, j) of a symmetric matrix stands among the entries on and above its diagonal, (B, B)."""
    pairs = {pair: at for at, pair in enumerate(combinations_with_replacement(range(count), 2))}
    rows = [[pairs[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    return torch.tensor(rows, device=device)


def _new_scalars(plan: Plan, step: Step) -> Array:
    """The scalars of all units after this step."""
    rows, left, scope = plan.layout.rows, plan.outcome.scalars, plan.layout.scope
    xp = namespace(rows)
    loss, height = rows[:, LOSS], rows[:, MEMORY_HEIGHT]
    if step.method.facts.needs_loss:
        loss, height = scope.spread(left.loss), scope.spread(left.memory_height)
    columns = [rows[:, STEP] + 1, left.last_lr, left.slope_weight, left.missing, loss, height, rows[:, SKIPPED]]
    columns += [scope.spread(left.rule_scalars[name]) for name in plan.layout.rule_scalars]
    scalars = plan.layout.passes.scalars
    if scalars is None:
        empty = rows[:, :0]
        scalars = step.method.metric.update({**step.method.metric.start(empty), **plan.numbers.metric_scalars}, empty)
    return xp.stack([*columns, *(scalars[name][:, 0] for name in plan.numbers.metric_scalars)], axis=1)
