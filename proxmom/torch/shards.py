"""Sharded parameters: what of a DTensor this process holds, and how inner products add up over the processes.

One packed all-reduce for each distinct mesh; where FSDP1 or DeepSpeed cut, a process group stands for one. A value
that several processes hold alike counts once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from proxmom.torch import flattened, partitions

Shard = tuple[Any, tuple[Any, ...]] | None  # the mesh and the placements on it; a process group and nothing


def is_sharded(tensor: Tensor) -> bool:
    """Whether this is a DTensor (of FSDP2 or tensor parallelism)."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    if not is_sharded(tensor):
        return tensor
    here: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return here


def placed(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient, placed as its parameter is."""
    if is_sharded(parameter) and gradient.placements != parameter.placements:  # type: ignore[attr-defined]
        moved: Tensor = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
        return moved
    return gradient


def gathered(here: Tensor, p: Tensor) -> Tensor:
    """The whole of a tensor of which every process holds what lies here, sharded as the DTensor p is."""
    whole: Tensor = _on_mesh_of(p, here, p.placements, p.shape).full_tensor()  # type: ignore[attr-defined]
    return whole


def sharded_like(whole: Tensor, p: Tensor) -> Tensor:
    """A tensor that all processes have alike, sharded as p is; itself where p is a plain tensor."""
    if not is_sharded(p):
        return whole
    from torch.distributed.tensor import Replicate

    alike = _on_mesh_of(p, whole, [Replicate()] * p.device_mesh.ndim, p.shape)  # type: ignore[attr-defined]
    moved: Tensor = alike.redistribute(placements=p.placements)  # type: ignore[attr-defined]
    return moved


def stacked_like(rows: Tensor, p: Tensor) -> Tensor:
    """Several vectors (V, ...) of this process, each a part of one that is sharded as p is; plain where p is."""
    if not is_sharded(p):
        return rows
    placements = [_behind_one_more(place) for place in p.placements]  # type: ignore[attr-defined]
    stacked: Tensor = _on_mesh_of(p, rows, placements, (len(rows), *p.shape))
    return stacked


def _on_mesh_of(p: Any, here: Tensor, placements: Sequence[Any], shape: Sequence[int]) -> Any:
    """A DTensor of a given shape, of which this process holds what lies here."""
    from torch.distributed.tensor import DTensor

    stride = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(here, p.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _behind_one_more(place: Any) -> Any:
    """A placement on the same axis, with one more axis before all others."""
    if hasattr(place, "split_factor"):
        return type(place)(place.dim + 1, split_factor=place.split_factor)
    return type(place)(place.dim + 1) if place.is_shard() else place


def absent(p: Tensor) -> bool:
    """Whether this process takes no part in what the DTensor p is sharded over."""
    return is_sharded(p) and p.device_mesh.get_coordinate() is None  # type: ignore[attr-defined]


def check_whole(p: Tensor, name: str, metric: str) -> None:
    """ValueError for a piece that a metric which sees whole tensors, or vectors beside them, cannot be had of."""
    by = "FullyShardedDataParallel" if flattened.is_piece(p) else ""
    if not by and not is_sharded(p) and partitions.group_of(p) is not None:
        by = "DeepSpeed's ZeRO"
    if by:
        raise ValueError(
            f"parameters must be whole tensors or DTensors with {metric}, got {name} cut by {by}, whose pieces have "
            "lost their shape. Use fully_shard (FSDP2)."
        )


class Meshes:
    """Over which processes the sums of each unit add up."""

    def __init__(self, shards: Sequence[Shard], device: torch.device) -> None:
        self._parts = []
        for mesh in dict.fromkeys(shard[0] for shard in shards if shard is not None):
            rows = [i for i, shard in enumerate(shards) if shard is not None and shard[0] == mesh]
            counts = [_counts(*shards[i]) for i in rows]  # type: ignore[misc]
            self._parts.append((mesh, torch.tensor(rows, device=device), torch.tensor(counts, device=device)))

    @staticmethod
    def key(parameter: Tensor) -> Shard:
        """What tells units apart here, alike on all processes; None for a plain tensor."""
        if is_sharded(parameter):
            return parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        group = flattened.group_of(parameter) if flattened.is_piece(parameter) else partitions.group_of(parameter)
        return None if group is None else (group, ())

    def total(self, sums: Tensor) -> Tensor:
        """Sums (U, ...) over all processes that hold a part of each unit."""
        for mesh, rows, counts in self._parts:
            mine = torch.where(counts[:, None], sums[rows], 0.0)
            for group in _groups(mesh):
                distributed.all_reduce(mine, group=group)
            sums = sums.index_copy(0, rows, mine)
        return sums


def _counts(mesh: Any, placements: Sequence[Any]) -> bool:
    """Whether this process's copy is the one that counts: the first of those that hold the same shard."""
    if isinstance(mesh, distributed.ProcessGroup):  # no two processes hold the same piece
        return True
    here = mesh.get_coordinate()
    # asked like this because the strided shards of FSDP2 above tensor parallelism do not call themselves shards
    return here is not None and all(
        not place.is_replicate() or at == 0 for place, at in zip(placements, here, strict=True)
    )


def _groups(mesh: Any) -> list[Any]:
    """Groups whose all-reduces, one after the other, add up over the mesh: one where the mesh is the whole world."""
    if isinstance(mesh, distributed.ProcessGroup):
        return [mesh]
    if mesh.size() == distributed.get_world_size():
        return [None]
    return [mesh.get_group(axis) for axis in range(mesh.ndim)]


def check_scope(optimizer: torch.optim.Optimizer, scope: str) -> None:
    """Raise where ZeroRedundancyOptimizer hands this optimizer some of the parameters, and the scope needs all.

    Only the wrapper knows that there are others, and nothing leads to it, so it is looked for among living objects.
    """
    wrapper = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if scope == "tensor" or wrapper is None or not partitions.several():
        return
    if any(getattr(zero, "optim", None) is optimizer for zero in flattened.alive(wrapper.ZeroRedundancyOptimizer)):
        raise ValueError(
            f"scope must be 'tensor' inside ZeroRedundancyOptimizer, got {scope!r}: each process has some of the "
            "parameters. For the other scopes, and rules that look at the loss, use DistributedDataParallel alone or "
            "fully_shard (FSDP2)."
        )


def agree(finite: Tensor, group: Any) -> Tensor:
    """Whether a flag holds on all processes of the group."""
    flag = finite.to(torch.float32).reshape(1)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MIN, group=group)
    return flag[0] > 0


def mean(value: Tensor, group: Any) -> Tensor:
    """The mean over the processes of the group; the value itself where nothing is distributed."""
    value = value.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(value, group=group)
        value /= distributed.get_world_size(group)
    return value
