"""Blocks: how the parameters of a layout are cut for torch operations, and what scalars each block gets.

Blocks are small enough for element-wise work to stay in cache; small parameters share a block, so that thousands of
them cost a few operations. Which parameter lies where is decided here, once for a layout; no gradient is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from proxmom.planes import Array
from proxmom.torch.layout import Layout, Part, working
from proxmom.torch.memory import as_tensor

HOST_BLOCK = 1 << 18  # elements: rows stay in cache, and calls are few
SHARE = 32  # a block is at most one part in this many, a third of it where the metric needs temporaries
ALIGN = 1 << 10  # elements: blocks begin where vector instructions like it
# On a device launches are what costs: few blocks, and temporaries still smaller than those of torch's own foreach.
DEVICE_BLOCK, DEVICE_SHARE = 1 << 25, 4


@dataclass
class Block:
    """A piece of work: pieces of parameters, as k rows of one length, each with its unit's scalars.

    pieces: (parameter, entries or None for all); units: one for each row; index: the same as a tensor; shape: (k, n),
    or None on the host where k = 1: then rows are flat and scalars are Python numbers; dtype: of the computation;
    views: of what stays where it is, by the identity of the list it comes from, because making views takes time.
    """

    pieces: list[tuple[int, slice | None]]
    units: list[int]
    index: Tensor
    shape: tuple[int, int] | None
    dtype: torch.dtype
    views: dict[int, list[Tensor]] = field(default_factory=dict)


class Columns:
    """Values per unit, as a block wants them: Python numbers for one unit on the host, else (k, 1) tensors."""

    def __init__(self, columns: Mapping[str, Array], units: int) -> None:
        self._columns, self._units = columns, units

    def of(self, block: Block) -> dict[str, Any]:
        if block.shape is None:
            return self._numbers[block.units[0]]
        rows = {name: as_tensor(value)[block.index].to(block.dtype) for name, value in self._columns.items()}
        return {
            name: value[:, None] if value.dim() == 1 else [c[:, None] for c in value.unbind(1)]
            for name, value in rows.items()
        }

    @cached_property
    def _numbers(self) -> list[dict[str, Any]]:
        """The values of each unit."""
        values = {name: value.tolist() for name, value in self._columns.items()}
        return [{name: value[unit] for name, value in values.items()} for unit in range(self._units)]


def cut(layout: Layout, *, pack: bool) -> list[Block]:
    """The blocks of a layout; pack: whether small parameters share them."""
    total = sum(part.count for part in layout.parts)
    most, share = HOST_BLOCK, SHARE * (1 + 2 * len(layout.parts[0].vectors))
    if not layout.on_host:
        most, share = DEVICE_BLOCK, DEVICE_SHARE
    size = max(min(most, total // share) // ALIGN, 1) * ALIGN
    return [_block(layout, *plan) for plan in _plan(layout.parts, size, pack)]


def _block(layout: Layout, pieces: list[tuple[int, slice | None]], units: list[int], length: int) -> Block:
    flat = layout.on_host and len(units) == 1
    index = torch.tensor(units, device=layout.device)
    dtype = working(layout.parts[pieces[0][0]].dtype)
    return Block(pieces, units, index, None if flat else (len(units), length), dtype)


def _plan(
    parts: Sequence[Part], size: int, pack: bool
) -> Iterator[tuple[list[tuple[int, slice | None]], list[int], int]]:
    """Pieces, units and row length of each block: slices of large parameters, small ones together.

    Small parameters of one unit are one row; those with units of their own are rows, if they have the same length.
    """
    small: dict[Any, list[int]] = {}
    alone = _alone(parts)
    for i, part in enumerate(parts):
        count = part.count
        if pack and count < size:
            small.setdefault((part.dtype, *(("rows", count) if alone[part.unit] else ("unit", part.unit))), []).append(
                i
            )
            continue
        for start in range(0, count, size):
            whole = count <= size
            yield [(i, None if whole else slice(start, start + size))], [part.unit], min(size, count - start)
    for (_, kind, _), members in small.items():
        for chunk in _chunks(members, parts, size):
            lengths = [parts[i].count for i in chunk]
            if sum(lengths):
                units = [parts[i].unit for i in chunk] if kind == "rows" else [parts[chunk[0]].unit]
                yield [(i, None) for i in chunk], units, sum(lengths) // len(units)


def _alone(parts: Sequence[Part]) -> dict[int, bool]:
    """Whether a unit has one parameter only."""
    seen: dict[int, bool] = {}
    for part in parts:
        seen[part.unit] = part.unit not in seen
    return seen


def _chunks(members: Sequence[int], parts: Sequence[Part], size: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    total = 0
    for i in members:
        if chunk and total + parts[i].count > size:
            yield chunk
            chunk, total = [], 0
        chunk.append(i)
        total += parts[i].count
    if chunk:
        yield chunk
