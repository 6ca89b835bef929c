"""One device's share of one step, between the arrays and `decision`: measure, decide, write down the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxmom.planes import Array, namespace
from proxmom.step import Glance
from proxmom.torch.decision import Kind, Measured, spread_vectors
from proxmom.torch.layout import Layout
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, cuda
from proxmom.torch.recording import Last

Groups = Sequence[Mapping[str, Any]]  # torch's parameter groups


@dataclass
class Plan:
    """What a step will be on one device; nothing is written yet.

    numbers: for the passes; decided: see `decision.decide`; atoms: in a norm, see `Motion`; sound: whether everything
    is finite, a flag where the layout's scalars are.
    """

    layout: Layout
    numbers: Numbers
    decided: Mapping[str, Array]
    atoms: Sequence[tuple[Array, Array]]
    sound: Any


def plan_step(layout: Layout, groups: Groups, loss: Array | None, observed: Tensor | None = None) -> Plan:
    """Inner products, planes, weights: all of a step but its consequences.

    loss: (1,), or None; observed: (N,), the same for all scopes, or None.
    """
    step, passes, rows = layout.step, layout.passes, layout.rows
    lr, decay = (_per_unit(layout, groups, key) for key in ("lr", "weight_decay"))
    coupled = step.method.decay == "coupled"
    decays = any(group["weight_decay"] for group in groups)
    if decays not in layout.kinds:
        layout.kinds[decays] = Kind(step, layout.columns, decays, diagonal=passes.by_kernels)
    kind = layout.kinds[decays]
    found = layout.decision.numbers(kind, rows)
    numbers = Numbers(
        coupled=decay if coupled and decays else None,
        factor=found.get("factor"),
        diagonal=(found["at_zero"], found["at_one"]) if "at_zero" in found else None,
        metric_scalars={} if passes.by_kernels else kind.metric_scalars(rows),
        with_x=kind.with_x,
    )
    if step.method.measures == "low rank":
        passes.check_rates(groups, ("lr",) if coupled else ("lr", "weight_decay"))
    measured = passes.measure(layout, numbers)
    sums = layout.array(measured if layout.meshes is None else layout.meshes.total(measured))
    seen = None if observed is None else layout.array(observed.to(layout.scalar_rows).expand(layout.scopes, -1))
    decided, atoms = layout.decision.decide(kind, rows, sums, lr, decay, loss, _besides(layout, kind, sums), seen)
    sound = decided["sound"].all()
    return Plan(layout, numbers, decided, atoms, sound)


def _besides(layout: Layout, kind: Kind, sums: Array) -> Measured | None:
    """What metrics that are not element-wise have measured; None for those that are."""
    measures = kind.step.method.measures
    inputs: dict[str, Any] = {}
    if measures == "norm":
        narrows = _Narrowing(layout) if hasattr(layout.passes, "focus") else None
        pulls = _asked_at_once(layout) if hasattr(layout.passes, "pulls") else None
        inputs = {"pull": _asked(layout), "precision": layout.precision, "narrows": narrows, "pulls": pulls}
    products = layout.passes.products(layout, sums, with_x=kind.with_x) if measures == "low rank" else None
    if measures == "diagonal" and layout.passes.scalars is None:
        return None
    return Measured(products, layout.passes.scalars, inputs)


def commit(plan: Plan, sound: Tensor | None, last: Last | None) -> Last:
    """Move the parameters and write down what the next step needs; all of it only where `sound`, if that is given.

    Returns weights and beta of this step, or `last`, those of the last one, where it is not sound.
    """
    layout, decided = plan.layout, plan.decided
    names = layout.step.method.memories
    combinations = {name: decided[key] for name in names if (key := f"combination {name}") in decided}
    motion = Motion(decided["direction"], decided["scale"], decided["shrink"], sound, combinations, plan.atoms)
    layout.passes.move(layout, plan.numbers, motion)
    layout.arrive()
    settled: Last = layout.decision.settle(layout.rows, last, decided, sound)
    return settled


def scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A number or 0-dim tensor as (1,), in the dtype and on the device of `like`; numbers without waiting for it."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(1)
    return like.new_full((1,), value)


def _per_unit(layout: Layout, groups: Groups, key: str) -> Array:
    """A group's setting for each of its units, (U,)."""
    values = [group[key] for group in groups]
    if layout.on_host:
        values = list(map(float, values))
    elif any(isinstance(value, Tensor) for value in values) or cuda.is_capturing(layout.device):
        return torch.cat([scalar(value, layout.scalar_rows) for value in values])[layout.group_of]
    if layout.rates.get(key, ((), None))[0] != values:
        units = layout.scalar_rows.new_tensor(values)[as_tensor(layout.group_of)]
        layout.rates[key] = (values, layout.array(units))
    return layout.rates[key][1]


def _asked(layout: Layout) -> Callable[[Array], Array]:
    """See `Inputs.pull`; over all processes."""

    def pull(slopes: Array) -> Array:
        found = layout.passes.pull(layout, spread_vectors(layout.scope, slopes))
        return layout.array(found if layout.meshes is None else layout.meshes.total(found))

    return pull


def _asked_at_once(layout: Layout) -> Callable[[Array], Array]:
    """See `Inputs.pulls`; over all processes."""

    def pulls(slopes: Array) -> Array:
        xp, shape = namespace(slopes), slopes.shape[1:]
        ours = spread_vectors(layout.scope, xp.reshape(slopes, (len(slopes), -1)))
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
        return namespace(first).stack([spread_vectors(self.layout.scope, slopes) for slopes in (first, last)], axis=1)
