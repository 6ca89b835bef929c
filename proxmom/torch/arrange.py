"""`arrange`: makes the layout of parameters that step together, and their state where there is none.

Done anew only when other parameters step. Histories are compared here alone: afterwards a unit is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proxmom.step import MEMORY, Step
from proxmom.torch.layout import SCALARS, Layout, Member, Part, flat, working
from proxmom.torch.shards import Meshes, is_sharded, local

Home = tuple[Tensor, int]  # the table and the row where a parameter's scalars live
KEPT_NAME = "kept_"  # in front of the names of scalars that rule and step size keep


def arrange(
    members: list[Member],
    state: Mapping[Tensor, dict[str, Any]],
    homes: dict[Tensor, Home],
    step: Step,
    scope: str,
) -> Layout:
    """The layout of these parameters (all on one device); creates state where there is none.

    Parameters whose scalars are views of a table share a unit if they share its row; freshly loaded ones if the values
    are equal. Reading those values waits for the device, once.
    """
    device = members[0][1].device
    kind: dict[str, Any] = {"dtype": accumulator(device, [p.dtype for _, p in members]), "device": device}
    fresh = _fresh(step)
    columns = tuple(fresh)
    units: dict[Hashable, int] = {}
    rows: list[Tensor] = []
    groups, scopes, where, meshes = [], [], [], []
    for index, p in members:
        history, row = _history(p, state[p], homes, columns, fresh)
        shard = Meshes.key(p)
        scope_id = {"model": 0, "group": index, "tensor": id(p)}[scope]
        key = (scope_id, index, shard, history)
        if key not in units:
            units[key] = len(units)
            rows.append(torch.as_tensor(row(), **kind))
            groups.append(index)
            scopes.append(scope_id)
            meshes.append(shard)
        where.append(units[key])
    table = torch.stack(rows)
    parts = [_part(p, state[p], step, unit) for (_, p), unit in zip(members, where, strict=True)]
    for (_, p), unit in zip(members, where, strict=True):
        homes[p] = (table, unit)
        for column, name in enumerate(columns):
            state[p][name] = table[unit, column]
    return Layout(
        members=members,
        parts=parts,
        groups=torch.tensor(groups, device=device),
        table=table,
        membership=_membership(scopes, where, kind),
        meshes=Meshes(meshes, device),
        columns=columns,
        sized=tuple(step.scalars),
        states=[state[p] for _, p in members],
    )


def _fresh(step: Step) -> dict[str, float]:
    """The scalars of a parameter before its first step."""
    row = dict.fromkeys(SCALARS, 0.0) | {"kept": 1.0, "missing": float(not step.metric.memory_from_gradient)}
    own = step.metric.start(torch.zeros(0))
    row |= {KEPT_NAME + name: value for name, value in step.scalars.items()}
    return row | {name: float(value) for name, value in own.items() if not isinstance(value, Tensor)}


def _history(
    p: Tensor, state: dict[str, Any], homes: dict[Tensor, Home], columns: Sequence[str], fresh: dict[str, float]
) -> tuple[Hashable, Callable[[], Any]]:
    """What tells apart parameters that have not stepped together, and how to get the scalars."""
    if not state:
        return "fresh", lambda: list(fresh.values())
    if p in homes:
        table, row = homes[p]
        return (id(table), row), lambda: table[row].clone()
    values = tuple(float(state[name]) for name in columns)
    return values, lambda: values


def _membership(scopes: list[Any], where: list[int], kind: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """See `Layout`."""
    if len(set(scopes)) == len(scopes):
        return None
    rows = [[float(mine == one) for mine in scopes] for one in dict.fromkeys(scopes)]
    sizes = torch.bincount(torch.tensor(where), minlength=len(scopes))
    return torch.tensor(rows, **kind), sizes.to(**kind)


def _part(p: Tensor, state: dict[str, Any], step: Step, unit: int) -> Part:
    names = step.names[MEMORY:]
    vectors = [name for name, value in step.metric.start(torch.zeros(0)).items() if isinstance(value, Tensor)]
    here = local(p).detach()
    order = order_of(here)
    copied = order is None and not here.is_contiguous()
    for name in (*names, *vectors):
        state[name] = _laid_out(state[name], p, order) if name in state else _start(step, p, name)
    x = here.reshape(-1).clone() if copied else flat(here, order)
    rows = {name: flat(local(state[name]), order) for name in (*names, *vectors)}
    return Part(p, unit, order, x, [rows[n] for n in names], {n: rows[n] for n in vectors}, copied, is_sharded(p))


def _start(step: Step, p: Tensor, name: str) -> Tensor:
    """A state vector before the first step, in the parameter's own layout."""
    empty = torch.zeros_like(p, dtype=working(p.dtype), memory_format=torch.preserve_format).detach()
    value: Tensor = empty if name in step.names else step.metric.start(empty)[name]
    return value


def _laid_out(value: Tensor, p: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """A loaded state vector in the parameter's layout, so that all can be read as rows."""
    here = local(value)
    if (here if order is None else here.permute(order)).is_contiguous():
        return value
    return torch.empty_like(p, dtype=value.dtype).detach().copy_(value)


def accumulator(device: torch.device, dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """float64 on the CPU, where the step waits for memory anyway; float32 or better elsewhere."""
    if device.type == "cpu" or torch.float64 in dtypes:
        return torch.float64
    return torch.float32


def order_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The permutation of axes under which a dense tensor is contiguous; None where it is so already, or not dense."""
    if tensor.is_contiguous():
        return None
    order = tuple(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return order if tensor.permute(order).is_contiguous() else None
