"""One device's share of one step, between the arrays and `proxmom.step`: measure, decide, write down the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from proxmom.step import MEMORY, Outcome, Products, Step
from proxmom.torch.layout import LOSS, MEMORY_HEIGHT, SKIPPED, STEP, Layout
from proxmom.torch.passes import Motion, Numbers

Groups = Sequence[Mapping[str, Any]]  # torch's parameter groups


@dataclass
class Turn:
    """What a step will be on one device; nothing is written yet.

    numbers: for the passes; lr, weight_decay: of each unit, (U,), the latter 0 where decay is coupled; outcome: of
    `Step.take`; sound: whether everything is finite, a flag on the device.
    """

    layout: Layout
    numbers: Numbers
    lr: Tensor
    weight_decay: Tensor
    outcome: Outcome
    sound: Tensor


def measure(layout: Layout, step: Step, groups: Groups, loss: Tensor | None) -> Turn:
    """Inner products, planes, weights: all of a step but its consequences."""
    lr, mu = (_per_unit(layout, groups, key) for key in ("lr", "weight_decay"))
    coupled = step.decay == "coupled"
    decays = any(group["weight_decay"] for group in groups)
    scalars = layout.scalars(loss)
    factor = step.factor(scalars)
    numbers = Numbers(
        coupled=mu if coupled and decays else None,
        factor=factor if isinstance(factor, Tensor) else None,
        own=layout.own(),
        with_x=decays and not coupled,
    )
    mu = 0 * mu if coupled else mu
    sums = layout.meshes.total(layout.passes.measure(numbers))
    products = _products(step, sums, with_x=numbers.with_x)
    outcome = step.take(products, scalars, layout.scope, lr=lr, weight_decay=mu, loss=loss)
    checked = [sums, outcome.linear, outcome.quadratic, *([] if loss is None else [loss])]
    sound = torch.stack([part.isfinite().all() for part in checked]).all()
    return Turn(layout, numbers, lr, mu, outcome, sound)


def commit(turn: Turn, step: Step, sound: Tensor | None) -> None:
    """Move the parameters and write down what the next step needs; all of it only where `sound`, if that is given."""
    layout, outcome, scope = turn.layout, turn.outcome, turn.layout.scope
    proximal = step.decay == "proximal"
    shrink = 1 / (1 + turn.lr * turn.weight_decay) if proximal else 1 - turn.lr * turn.weight_decay
    scale = turn.lr * scope.spread(outcome.kept) * (shrink if proximal else 1)
    direction = torch.stack([scope.spread(column) for column in outcome.direction.unbind(-1)], dim=-1)
    layout.passes.move(turn.numbers, Motion(direction, scale, shrink, sound))
    for part in layout.copies:
        part.arrive()
    new = _new_scalars(turn, step)
    layout.table.copy_(new if sound is None else torch.where(sound, new, layout.table))
    if sound is not None:
        layout.table[:, SKIPPED] += ~sound
    for last_lr in layout.idle:  # what does not move adds nothing to the next step's height
        last_lr.mul_(0 if sound is None else (~sound).to(last_lr.device))
    layout.idle = [] if sound is None else layout.idle


def scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or 0-dim tensor as (1,), in the dtype and on the device of `like`; numbers without waiting for it."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(1)
    return like.new_full((1,), value)


def _per_unit(layout: Layout, groups: Groups, key: str) -> Tensor:
    """A group's setting for each of its units, (U,)."""
    return torch.cat([scalar(group[key], layout.table) for group in groups])[layout.groups]


def _products(step: Step, sums: Tensor, *, with_x: bool) -> Products:
    """See `Passes` for the columns."""
    count, inertia = len(step.names), step.inertia
    pairs = count * (count + 1) // 2
    places = _places(count, sums.device)
    metric, pulled = sums[:, :pairs][:, places], sums[:, pairs : 2 * pairs][:, places]
    return Products(
        dual=metric + inertia * pulled,
        metric=metric,
        pull=pulled[:, :, MEMORY] if inertia else None,
        decay=sums[:, 2 * pairs :] if with_x else None,
    )


@lru_cache
def _places(count: int, device: torch.device) -> Tensor:
    """Where entry (i, j) of a symmetric matrix stands among the entries on and above its diagonal, (B, B)."""
    pairs = {pair: at for at, pair in enumerate(combinations_with_replacement(range(count), 2))}
    rows = [[pairs[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    return torch.tensor(rows, device=device)


def _new_scalars(turn: Turn, step: Step) -> Tensor:
    """The table after this step."""
    table, left, scope = turn.layout.table, turn.outcome.scalars, turn.layout.scope
    loss, height = table[:, LOSS], table[:, MEMORY_HEIGHT]
    if step.facts.needs_loss:
        loss, height = scope.spread(left.loss), scope.spread(left.memory_height)
    columns = [table[:, STEP] + 1, left.last_lr, left.kept, left.missing, loss, height, table[:, SKIPPED]]
    empty = table.new_zeros((len(table), 0))
    own = step.metric.update({**step.metric.start(empty), **turn.layout.own()}, empty)
    return torch.stack([*columns, *(own[name][:, 0] for name in turn.layout.own())], dim=1)
