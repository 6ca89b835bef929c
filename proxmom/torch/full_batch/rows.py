"""Vectors of N problems as rows: one tensor (N, n) for each dtype among the parameters, and their inner products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Rows = list[Tensor]
HOST_BLOCK, DEVICE_BLOCK = 1 << 16, 1 << 24  # columns that are turned into float64 at once
MIXES = 2654435761  # 2^32 over the golden ratio: the bits of its multiples are well mixed


def each(function: Callable[..., Tensor], *rows: Rows) -> Rows:
    """The function on the tensors of each dtype."""
    return [function(*parts) for parts in zip(*rows, strict=True)]


def dot(one: Rows, other: Rows) -> Tensor:
    """<one, other> of every problem, (N,), added up in float64."""
    found = [_dot(u, v) for u, v in zip(one, other, strict=True)]
    return found[0] if len(found) == 1 else torch.stack(found).sum(dim=0)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    if u.dtype == torch.float64:
        return torch.dot(u[0], v[0]).view(1) if len(u) == 1 else (u * v).sum(dim=-1)
    block = max((HOST_BLOCK if u.device.type == "cpu" else DEVICE_BLOCK) // len(u), 1)
    total = u.new_zeros(len(u), dtype=torch.float64)
    for a in range(0, u.shape[1], block):
        total += (u[:, a : a + block].double() * v[:, a : a + block]).sum(dim=-1)
    return total


def highest(rows: Rows) -> Tensor:
    """The largest component of every problem, in size, (N,)."""
    parts = [part.abs().amax(dim=-1).double() for part in rows if part.shape[1]]
    return torch.stack(parts).amax(dim=0) if parts else torch.zeros(len(rows[0]), dtype=torch.float64)


def choose(here: Any, one: Rows, other: Rows) -> Rows:
    """`one` where it is true of the problem, else `other`: the same tensors where all problems agree."""
    if isinstance(here, bool | np.bool_):
        return one if here else other
    if isinstance(here, np.ndarray):
        if here.all() or not here.any():
            return one if here.all() else other
        here = torch.as_tensor(here).to(one[0].device, non_blocking=True)
    return [torch.where(here[:, None], u, v) for u, v in zip(one, other, strict=True)]


def moved(x: Rows, d: Rows, lr: Any) -> Rows:
    """x - lr·d, where lr is a float or a tensor (N,)."""
    if isinstance(lr, float):
        return [torch.sub(part, way, alpha=lr) for part, way in zip(x, d, strict=True)]
    return [part - lr[:, None].to(part.dtype) * way for part, way in zip(x, d, strict=True)]


def nudged(rows: Rows, salt: int) -> Rows:
    """Every component moved to one of its neighbours, up or down as by the toss of a coin, which salt decides."""
    found = []
    for part in rows:
        places = torch.arange(part.shape[1], device=part.device) + salt
        up = (places * MIXES >> 16) % 2 == 0
        infinity = torch.full((), torch.inf, dtype=part.dtype, device=part.device)
        found.append(torch.nextafter(part, torch.where(up, infinity, -infinity).expand_as(part)))
    return found


def shaped_numbers(values: Sequence[Any], count: int | None, device: torch.device) -> list[Tensor]:
    """Numbers that the host knows, as float64 tensors (N,) on the device, carried over together."""
    wide = np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), (count or 1,)) for value in values])
    return list(torch.as_tensor(wide).to(device, non_blocking=True))
