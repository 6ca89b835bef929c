"""`arrange`: makes the layouts of parameters that step together, from what stands in their state, or from nothing.

Done anew only when other parameters step, or when somebody has put something else into state or parameters. Whatever is
found is looked at before anything is written: what fits is used, what can be converted is, the rest is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor

from proxmom.metrics.protocol import check_shape, kind_of
from proxmom.step import Step
from proxmom.torch.entries import Entries, is_fresh, sees_pieces
from proxmom.torch.layout import KEPT, Layout, Member, Part, flat, working
from proxmom.torch.memory import Spans, is_dense, order_of, repeats, require_storage
from proxmom.torch.shards import Meshes, check_whole, is_sharded, local, sharded_like, stacked_like

State = MutableMapping[Any, dict[str, Any]]
Groups = Sequence[Mapping[str, Any]]  # torch's parameter groups


def arrange(
    param_groups: Groups, params: Sequence[Tensor], idle: Sequence[bool], state: State, step: Step, scope: str
) -> list[Layout]:
    """One layout for each device, the CPU's first, where scalars may be looked at; creates state where there is none.

    Parameters whose scalars are the same tensors, or have equal values, share a unit. Values are compared only where
    that is not clear already; reading them waits for the device, once.

    Args:
        param_groups: torch's; params: all of their parameters; idle: which of these have no gradient and do not step.
        state: the optimizer's; step: what keeps it; scope: "model", "group" or "tensor".

    Raises:
        RuntimeError: for parameters that cannot be stepped: not real, freed, sharing memory within themselves, or on
            several devices with one model for them.
        ValueError, TypeError: for state that does not fit its parameter.
    """
    indices, names = indices_of(param_groups), names_of(param_groups)
    first = {id(p): place for place, p in reversed(list(enumerate(params)))}  # each once
    members = [(indices[i], i, p) for i, p in enumerate(params) if not idle[i] and first[id(p)] == i]
    devices = {local(p).device for _, _, p in members}
    if scope != "tensor" and len(devices) > 1:
        got = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"parameters must be on one device with scope {scope!r}, got {got}. Use scope='tensor'.")
    layouts = []
    for device in sorted(devices, key=lambda device: (device.type != "cpu", str(device))):
        there = [member for member in members if local(member[2]).device == device]
        layouts.append(_layout(there, [names[place] for _, place, _ in there], state, step, scope))
    return layouts


def indices_of(groups: Groups) -> list[int]:
    """The parameter group of each parameter."""
    return [index for index, group in enumerate(groups) for _ in group["params"]]


def names_of(groups: Groups) -> list[str]:
    """What messages call the parameters: their names where they were given, else their number."""
    named = [group.get("param_names", [None] * len(group["params"])) for group in groups]
    return [name or f"parameter {place}" for place, name in enumerate(name for names in named for name in names)]


def at_rest(
    groups: Groups, params: Sequence[Tensor], idle: Sequence[bool], state: State, scope: str, among: Collection[int]
) -> list[Tensor]:
    """Of parameters that stay where others of their model move, the lr of the last move.

    among: the groups of one metric.
    """
    indices = indices_of(groups)
    moving = {index for index, rests in zip(indices, idle, strict=True) if not rests and index in among}
    shared = {"model": set(among) if moving else set(), "group": moving, "tensor": set()}[scope]
    resting, others = [], set()
    for p, index, rests in zip(params, indices, idle, strict=True):
        entry = state[p] if rests and p in state else {}
        if isinstance(last_lr := entry.get("last_lr"), Tensor):
            if index in shared:
                resting.append(entry)
            else:
                others.add(last_lr.data_ptr())
    for entry in resting:
        if entry["last_lr"].data_ptr() in others:  # somebody has given one of the two the other's state
            entry["last_lr"] = entry["last_lr"].clone()
    return list({id(entry["last_lr"]): entry["last_lr"] for entry in resting}.values())


def _layout(members: Sequence[Member], names: Sequence[str], state: State, step: Step, scope: str) -> Layout:
    """The layout of parameters on one device; names: what messages call them."""
    entries = Entries.of(step, members[0][2])
    for (_, _, p), name in zip(members, names, strict=True):
        _check_parameter(p, name)
        if not sees_pieces(step.method.metric):
            check_whole(p, name, type(step.method.metric).__name__)
        check_shape(step.method.metric, tuple(p.shape), name)
        entries.check(state.get(p, {}), p, name)
    device = local(members[0][2]).device
    kind: dict[str, Any] = {"dtype": accumulator(device, [p.dtype for _, _, p in members]), "device": device}
    rows, groups, scopes, meshes, where = _units(members, state, entries.fresh, scope, kind)
    scalar_rows = torch.stack(rows)
    states = [state.setdefault(p, {}) for _, _, p in members]
    _create(members, states, entries, step)
    places = [tuple(entries.fresh).index(name) for name in entries.numbers]
    rows_of_state = [own_storage(row).unbind() for row in scalar_rows.unbind()]
    views = [dict(zip(entries.numbers, (row[place] for place in places), strict=True)) for row in rows_of_state]
    for entry, unit in zip(states, where, strict=True):
        entry.update(views[unit])
    parts = [
        _part(p, name, unit, entry, entries)
        for (_, _, p), name, unit, entry in zip(members, names, where, states, strict=True)
    ]
    return Layout(
        places=[place for _, place, _ in members],
        parts=parts,
        groups=groups,
        scalar_rows=scalar_rows,
        membership=_membership(scopes, where, kind),
        meshes=Meshes(meshes, device) if any(meshes) else None,
        columns=tuple(entries.fresh),
        named=entries.numbers,
        rule_scalars=tuple(step.method.scalars),
        states=states,
        memories=entries.memories,
    )


def _check_parameter(p: Tensor, name: str) -> None:
    if p.is_complex():
        raise RuntimeError(f"parameters must be real, got a complex one. Use torch.view_as_real on {name}.")
    if not p.is_floating_point() or p.dtype.itemsize < 2:
        raise RuntimeError(f"parameters must be of 16, 32 or 64 bit real numbers, got {p.dtype} of {name}.")
    here = local(p)
    if here.layout != torch.strided:
        raise RuntimeError(f"parameters must be dense, got {name} with layout {here.layout}.")
    if here.device.type == "meta":
        raise RuntimeError(f"parameters must lie on a device with memory, got {name} on meta. Use to_empty() first.")
    require_storage(here, name)
    if repeats(here):
        raise RuntimeError(f"the elements of a parameter must not share memory, as those of {name} do. Use clone().")


def _units(
    members: Sequence[Member], state: State, fresh: Mapping[str, float], scope: str, kind: Mapping[str, Any]
) -> tuple[list[Tensor], list[int], list[int], list[Any], list[int]]:
    """Of each unit its row, group, scope and mesh, and the unit of each parameter."""
    units: dict[Hashable, int] = {}
    rows: list[Tensor] = []
    groups, scopes, where, meshes = [], [], [], []
    for (index, place, p), history in zip(members, _histories(members, state, fresh, scope, kind), strict=True):
        shard = Meshes.key(p)
        scope_id = {"model": 0, "group": index, "tensor": place}[scope]
        key = (scope_id, index, shard, history)
        if key not in units:
            units[key] = len(units)
            rows.append(_row(state.get(p, {}), fresh, kind))
            groups.append(index)
            scopes.append(scope_id)
            meshes.append(shard)
        where.append(units[key])
    return rows, groups, scopes, meshes, where


def _histories(
    members: Sequence[Member], state: State, fresh: Mapping[str, float], scope: str, kind: Mapping[str, Any]
) -> list[Hashable]:
    """What tells apart parameters that have not stepped together: alike where their scalars are."""
    entries = [state.get(p, {}) for _, _, p in members]
    same = [_same(entry, fresh) for entry in entries]
    first = {key: entry for key, entry in zip(same, entries, strict=True) if key is not None}
    if scope == "tensor" or len(set(same)) == 1:  # nobody shares a unit, or all do
        return same
    read = torch.stack([_row(entry, fresh, kind) for entry in first.values()]).tolist()
    values = {key: tuple(row) for key, row in zip(first, read, strict=True)}
    return [None if key is None else values[key] for key in same]


def _same(entry: Mapping[str, Any], fresh: Mapping[str, float]) -> Hashable:
    """Which tensors the scalars of a parameter are; None before its first step."""
    return None if is_fresh(entry, fresh) else tuple(id(entry.get(name)) for name in fresh)


def _row(entry: Mapping[str, Any], fresh: Mapping[str, float], kind: Mapping[str, Any]) -> Tensor:
    """The scalars of a parameter, (C,)."""
    if is_fresh(entry, fresh):
        return torch.tensor(list(fresh.values()), **kind)
    values = [entry.get(name, default) for name, default in fresh.items()]
    return torch.stack([torch.as_tensor(value, **kind).detach().reshape(()) for value in values])


def own_storage(row: Tensor) -> Tensor:
    """The same memory under a storage of its own, so that saving a view of it does not save that of all units."""
    return torch.utils.dlpack.from_dlpack(row) if row.device.type in ("cpu", "cuda") else row


def _membership(scopes: Sequence[int], where: Sequence[int], kind: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """See `Layout`."""
    if len(set(scopes)) == len(scopes):
        return None
    rows = [[float(mine == one) for mine in scopes] for one in dict.fromkeys(scopes)]
    sizes = torch.bincount(torch.tensor(where, device="cpu"), minlength=len(scopes))
    return torch.tensor(rows, **kind), sizes.to(**kind)


def _create(members: Sequence[Member], states: Sequence[dict[str, Any]], entries: Entries, step: Step) -> None:
    """All state but numbers as a step needs it: what is not there yet, and what must be converted."""
    names = [
        _create_one(p, entry, entries, step.method.metric) for (_, _, p), entry in zip(members, states, strict=True)
    ]
    here = [(entry, name) for entry, own in zip(states, names, strict=True) for name in own]
    params = [local(p) for _, _, p in members]
    everything = Spans([*params, *(local(entry[name]) for entry, name in here)])
    for i in everything.overlapping():
        if i >= len(params):  # what is shared with others becomes its own; parameters are looked at by the layout
            entry, name = here[i - len(params)]
            entry[name] = entry[name].clone()


def _create_one(p: Tensor, entry: dict[str, Any], entries: Entries, metric: Any) -> list[str]:
    """The state of one parameter, see `_create`; returns the names of its tensors."""
    vectors, arrays = entries.vectors_of(p), entries.arrays_of(p)
    started: Mapping[str, Any] = {}
    if any(name not in entry for name in (*vectors, *arrays) if name not in entries.memories):
        started = _started(p, entries, metric)
    for name in vectors:
        entry[name] = _laid_out(entry[name] if name in entry else started.get(name), p)
    for name, like in arrays.items():
        value = entry[name] if name in entry else started[name].clone(memory_format=torch.contiguous_format)
        entry[name] = value.detach().to(local(p).device, like.dtype).contiguous().resolve_neg()
    if entries.kept:
        entry[KEPT] = _laid_out_kept(entry.get(KEPT), p, entries.kept)
    return [*vectors, *arrays, *([KEPT] if entries.kept else [])]


def _started(p: Tensor, entries: Entries, metric: Any) -> Mapping[str, Any]:
    """The metric's state before the first gradient; vectors as the parameter is sharded."""
    if entries.kept or kind_of(metric) == "norm":
        return {}
    if entries.whole is None:
        empty: Mapping[str, Any] = metric.start(_laid_out(None, p))
        return empty
    start = metric.start(torch.zeros(p.shape, dtype=working(p.dtype), device=local(p).device))
    own = entries.own(p).vectors
    return {name: sharded_like(value, p) if name in own else value for name, value in start.items()}


def _laid_out(value: Tensor | None, p: Tensor) -> Tensor:
    """A state vector in the parameter's layout, on its device, in the dtype of computation; itself if so, or zero."""
    dtype, there = working(p.dtype), local(p)
    order = _order(there)
    if value is None:
        return torch.zeros_like(p, dtype=dtype, memory_format=_format(order)).detach()
    here = local(value)
    fits = is_dense(here) and (here if order is None else here.permute(order)).is_contiguous()
    if fits and value.dtype == dtype and here.device == there.device and not value.requires_grad:
        return value
    return torch.empty_like(p, dtype=dtype, memory_format=_format(order)).detach().copy_(value.detach())


def _laid_out_kept(value: Tensor | None, p: Tensor, count: int) -> Tensor:
    """The vectors that a metric keeps, each laid out as the parameter is; see `_laid_out`."""
    dtype, there = working(p.dtype), local(p)
    order = _order(there) or tuple(range(there.dim()))
    axes = (0, *(axis + 1 for axis in order))
    if value is not None:
        here = local(value)
        fits = is_dense(here) and here.permute(axes).is_contiguous() and not value.requires_grad
        if fits and value.dtype == dtype and here.device == there.device:
            return value
    rows = torch.zeros((count, *(there.shape[axis] for axis in order)), dtype=dtype, device=there.device)
    rows = rows.permute([axes.index(axis) for axis in range(len(axes))])
    if value is not None:
        rows.copy_(local(value).detach())
    return stacked_like(rows, p)


def _order(here: Tensor) -> tuple[int, ...] | None:
    """In which order a parameter's elements lie, see `order_of`; a copy of one that is not dense is contiguous."""
    return order_of(here) if is_dense(here) else None


def _format(order: tuple[int, ...] | None) -> torch.memory_format:
    """That of a new tensor which lies as a parameter of this order does."""
    return torch.contiguous_format if order is None else torch.preserve_format


def _part(p: Tensor, name: str, unit: int, entry: Mapping[str, Any], entries: Entries) -> Part:
    here = local(p).detach()
    order = _order(here)
    rows = {key: flat(local(entry[key]), order) for key in entries.vectors_of(p)}
    return Part(
        name=name,
        unit=unit,
        dtype=p.dtype,
        count=here.numel(),
        order=order,
        copied=not is_dense(here),
        sharded=is_sharded(p),
        memories=[rows[key] for key in entries.memories],
        vectors={key: row for key, row in rows.items() if key not in entries.memories},
        arrays={key: entry[key] for key in entries.arrays_of(p)},
        kept=_kept_rows(local(entry[KEPT]), order) if entries.kept else None,
    )


def _kept_rows(kept: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """The vectors that a metric keeps as rows, (V, n): a view."""
    turned = kept if order is None else kept.permute(0, *(axis + 1 for axis in order))
    return turned.detach().view(len(kept), math.prod(kept.shape[1:]))


def accumulator(device: torch.device, dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """float64 on the CPU, where the step waits for memory anyway; float32 or better elsewhere."""
    if device.type == "cpu" or torch.float64 in dtypes:
        return torch.float64
    return torch.float32
