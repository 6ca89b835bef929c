"""FSDP1: the pieces into which `FullyShardedDataParallel` cuts parameters, and the processes that hold the others.

A piece says of itself only that it is one. Who holds the rest stands in FSDP's records, and no reference leads to those
from the parameter, so they are looked for among all living objects, once for each parameter.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.weak import WeakTensorKeyDictionary

State = MutableMapping[Tensor, dict[str, Any]]

_GROUPS = WeakTensorKeyDictionary()  # of each piece: the processes; None where it is the whole parameter
_TWICE = "tensor parallelism"  # instead of the processes: it cut the piece as well


def is_piece(parameter: Tensor) -> bool:
    """Whether FSDP1 manages this parameter."""
    return getattr(parameter, "_fsdp_flattened", False)


def group_of(piece: Tensor) -> Any:
    """The processes among which FSDP1 cut this parameter; None where each holds all of it (NO_SHARD).

    With HYBRID_SHARD those of one replica: its sums are those of the others.

    Raises:
        RuntimeError: where they cannot be found, or are not all: tensor parallelism below FSDP1.
    """
    if piece not in _GROUPS:
        _GROUPS.update(_found())
    if piece not in _GROUPS:
        raise RuntimeError(
            "parameters cut by FullyShardedDataParallel must be of a model whose record of the cut can be found, got "
            f"one of shape {tuple(piece.shape)} without. Use fully_shard (FSDP2), or take the first step before "
            "gc.freeze(), which hides it."
        )
    group = _GROUPS[piece]
    if group == _TWICE:
        raise RuntimeError(
            f"parameters must be cut by FullyShardedDataParallel or by {_TWICE}, got one of shape "
            f"{tuple(piece.shape)} cut by both. Use fully_shard (FSDP2) on top of {_TWICE}."
        )
    return group


def _found() -> Iterator[tuple[Tensor, Any]]:
    """The pieces of all FSDP1 models alive, and who holds each."""
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    for handle in alive(FlatParamHandle):
        flat = handle.flat_param
        group = handle.process_group if handle.uses_sharded_strategy else None
        twice = any(extension is not None for extension in flat._param_extensions)
        for piece in chain([flat], flat._params or (), flat._shared_params or ()):
            yield piece, _TWICE if twice else group


def alive(kind: type) -> list[Any]:
    """All objects of exactly this class; asking with isinstance would wake up proxies."""
    return [thing for thing in gc.get_objects() if type(thing) is kind]


def gradients(parameters: Sequence[Tensor], state: State) -> list[Tensor | None]:
    """The gradients where there are several processes; None only where none of them has one.

    With use_orig_params=True nothing of a parameter may lie on this process, and then FSDP1 gives it neither a gradient
    nor loaded state here. It must step all the same, as part of the same sums: the processes that hold some of it wait
    for this one. So they tell each other what they have. Reading that waits for the device; what FSDP1 has written
    down does not always hold for this step.
    """
    given = [p.grad for p in parameters]
    cut: dict[Any, list[int]] = {}
    for i, p in enumerate(parameters):
        if is_piece(p) and (group := group_of(p)) is not None and not _is_flat(p):
            cut.setdefault(group, []).append(i)
    for group, places in cut.items():
        here = [(given[i] is not None, *_has_state(parameters[i], state)) for i in places]
        flags = torch.tensor(here, dtype=torch.int32, device=parameters[places[0]].device)
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX, group=group)
        there = flags.tolist()
        for i, (moves, _, _) in zip(places, there, strict=True):
            if moves and given[i] is None:
                given[i] = torch.zeros_like(parameters[i])
        _share([parameters[i] for i, (_, has, lacks) in zip(places, there, strict=True) if has and lacks], state, group)
    return given


def _is_flat(piece: Tensor) -> bool:
    """Whether this is a flat parameter itself, of use_orig_params=False: every process has some, and a gradient."""
    return getattr(piece, "_is_flat_param", False)


def _has_state(piece: Tensor, state: State) -> tuple[bool, bool]:
    """Whether there is state, and whether there is none."""
    has = "step" in state.get(piece, {})
    return has, not has


def _share(pieces: Sequence[Tensor], state: State, group: Any) -> None:
    """Give pieces that lack state the scalars that other processes have; called by all of them or none."""
    if not pieces:
        return
    mine = [_scalars(state.get(p, {})) for p in pieces]
    everyone: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(everyone, mine, group=group)
    for p, *found in zip(pieces, *everyone, strict=True):
        if not _has_state(p, state)[0]:
            theirs = next(scalars for scalars in found if "step" in scalars)
            state[p].update({name: value.to(p.device) for name, value in theirs.items()})


def _scalars(entries: dict[str, Any]) -> dict[str, Tensor]:
    """The 0-dim tensors, apart from the array that they may be views of."""
    return {
        name: value.detach().cpu().clone()
        for name, value in entries.items()
        if isinstance(value, Tensor) and value.dim() == 0
    }
