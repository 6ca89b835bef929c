"""Blocks: how the parameters of a layout are cut for torch operations, and what scalars each block gets.

On the host blocks are small enough for element-wise work to stay in cache, and small parameters share one. On a device
calling operations is what costs, so parameters fill one large block after another, whatever their sizes and units: each
lies in rows of its own, which it shares with no other, so that what is one number per unit is one per row. Which
parameter lies where is decided here, once for a layout; no gradient is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxmom.planes import Array
from proxmom.torch.layout import Layout, Part, working
from proxmom.torch.memory import as_tensor

HOST_BLOCK = 1 << 18  # elements: rows stay in cache, and calls are few
SHARE = 32  # a block is at most one part in this many, a third of it where the metric needs temporaries
ALIGN = 1 << 10  # elements: blocks begin where vector instructions like it
DEVICE_BLOCK = 1 << 25  # elements: much work for each call, and temporaries of at most 128 MiB, 256 in float64
ROW = 1 << 8  # elements: a parameter's last row is filled up, so short ones, but not so many that their sums count

Pieces = list[tuple[int, slice | None]]


class Plan(NamedTuple):
    """What a block will be: runs of rows, each run of one unit; rows: how many each has."""

    pieces: Pieces
    units: list[int]
    rows: list[int]
    length: int


class Segments:
    """Neighbours that are added up, in an order that never changes.

    Args:
        lengths: how many there are in each segment, on the host; columns: for how many columns of numbers at most;
            device: of the numbers.
    """

    def __init__(self, lengths: Tensor, columns: int, device: torch.device) -> None:
        starts = torch.arange(columns, device="cpu")[:, None] * lengths.sum()
        # columns end to end: with an axis of their own, a device would give each segment to a single thread
        self._ends = torch.nn.functional.pad((starts + lengths.cumsum(0)).view(-1), (1, 0)).to(device)
        self._count = len(lengths)

    def total(self, columns: Tensor) -> Tensor:
        """(C, n) -> (C, segments), in float64."""
        ends = self._ends[: len(columns) * self._count + 1]
        numbers = columns.double().reshape(-1)
        return torch.segment_reduce(numbers, "sum", offsets=ends, initial=0, unsafe=True).view(-1, self._count)


@dataclass
class Block:
    """A piece of work: pieces of parameters, as k rows of one length, each with its unit's scalars.

    pieces: (parameter, entries or None for all), or behind all parameters the filling that completes a row; units: of
    runs of rows; index: the unit of each row, (k,); runs: what adds up rows to runs, None where each is one; shape:
    (k, n), or None on the host where k = 1: then rows are flat and scalars are Python numbers; dtype: of the
    computation; own: which pieces are of parameters, None for all; views: of what stays where it is, by the identity of
    the list it comes from, because making views takes time.
    """

    pieces: Pieces
    units: list[int]
    index: Tensor
    runs: Segments | None
    shape: tuple[int, int] | None
    dtype: torch.dtype
    own: list[int] | None
    views: dict[int, list[Tensor]] = field(default_factory=dict)


class Columns:
    """Values per unit, as a block wants them: Python numbers for one unit on the host, else (k, 1) tensors."""

    def __init__(self, columns: Mapping[str, Array], units: int) -> None:
        self._columns, self._units = columns, units

    def of(self, block: Block) -> dict[str, Any]:
        if block.shape is None:
            return self._numbers[block.units[0]]
        if not self._columns:
            return {}
        columns = iter(torch.split(self._table[block.index].to(block.dtype), 1, dim=1))
        return {
            name: next(columns) if value.ndim == 1 else [next(columns) for _ in range(value.shape[1])]
            for name, value in self._columns.items()
        }

    @cached_property
    def _table(self) -> Tensor:
        """All columns side by side: they are looked up at once."""
        return torch.cat([as_tensor(value).reshape(self._units, -1) for value in self._columns.values()], dim=1)

    @cached_property
    def _numbers(self) -> list[dict[str, Any]]:
        """The values of each unit."""
        values = {name: value.tolist() for name, value in self._columns.items()}
        return [{name: value[unit] for name, value in values.items()} for unit in range(self._units)]


def cut(layout: Layout, *, pack: bool, sums: int) -> tuple[list[Block], list[tuple[torch.dtype, int]]]:
    """The blocks of a layout, and the fillings they need: dtype of the parameters, length.

    pack: whether parameters share blocks; sums: how many there are of each row, at most.
    """
    fillings: dict[tuple[torch.dtype, int], int] = {}
    if layout.on_host:
        total = sum(part.count for part in layout.parts)
        share = SHARE * (1 + 2 * len(layout.parts[0].vectors))
        size = max(min(HOST_BLOCK, total // share) // ALIGN, 1) * ALIGN
        plans = _plan(layout.parts, size, pack)
    else:
        plans = _plan_rows(layout.parts, max(DEVICE_BLOCK // ROW, 1), pack, fillings)
    return [_block(layout, plan, sums) for plan in plans], list(fillings)


def _block(layout: Layout, plan: Plan, sums: int) -> Block:
    rows = torch.tensor(plan.rows, device="cpu")
    index = torch.repeat_interleave(torch.tensor(plan.units, device="cpu"), rows)
    runs = None if len(index) == len(rows) else Segments(rows, sums, layout.device)
    shape = None if layout.on_host and len(index) == 1 else (len(index), plan.length)
    dtype = working(layout.parts[plan.pieces[0][0]].dtype)
    own = [k for k, (i, _) in enumerate(plan.pieces) if i < len(layout.parts)]
    filled = len(own) < len(plan.pieces)
    return Block(plan.pieces, plan.units, index.to(layout.device), runs, shape, dtype, own if filled else None)


def _plan_rows(
    parts: Sequence[Part], most: int, pack: bool, fillings: dict[tuple[torch.dtype, int], int]
) -> Iterator[Plan]:
    """Parameters of one dtype end to end in blocks of so many rows, cut where a block ends.

    fillings: where each stands behind all parameters; those that are needed are added.
    """
    together: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        together.setdefault(part.dtype if pack else i, []).append(i)
    for members in together.values():
        plan, room = Plan([], [], [], ROW), most
        for i in members:
            part, start = parts[i], 0
            while start < part.count:
                stop = min(start + room * ROW, part.count)
                rows = -(-(stop - start) // ROW)
                plan.pieces.append((i, None if stop - start == part.count else slice(start, stop)))
                plan.units.append(part.unit)
                plan.rows.append(rows)
                if missing := rows * ROW - (stop - start):
                    place = fillings.setdefault((part.dtype, missing), len(parts) + len(fillings))
                    plan.pieces.append((place, None))
                start, room = stop, room - rows
                if not room:
                    yield plan
                    plan, room = Plan([], [], [], ROW), most
        if plan.pieces:
            yield plan


def _plan(parts: Sequence[Part], size: int, pack: bool) -> Iterator[Plan]:
    """Slices of large parameters, small ones together.

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
            yield Plan([(i, None if whole else slice(start, start + size))], [part.unit], [1], min(size, count - start))
    for (_, kind, _), members in small.items():
        for chunk in _chunks(members, parts, size):
            lengths = [parts[i].count for i in chunk]
            if sum(lengths):
                units = [parts[i].unit for i in chunk] if kind == "rows" else [parts[chunk[0]].unit]
                yield Plan([(i, None) for i in chunk], units, [1] * len(units), sum(lengths) // len(units))


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
