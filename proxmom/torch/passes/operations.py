"""The two passes over memory in torch operations, block by block: inner products, then combine and move.

This path needs nothing but torch and serves every metric, rule and device. The metric's own formulas run on each block,
so there is no second copy of them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxmom.planes import Array
from proxmom.torch.layout import Layout, working
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.arithmetic import add, combine, decayed, following, named, products, rounded, scale
from proxmom.torch.passes.blocks import Block, Columns, Segments, cut


class Look(NamedTuple):
    """What a block is before the step: gradient, x or None where nobody asked, what memories keep, the metric's state.

    after, diagonal: that state with this gradient, and P.
    """

    gradient: Tensor
    x: Tensor | None
    kept: list[Tensor]
    before: dict[str, Any]
    after: Mapping[str, Any]
    diagonal: Tensor | None


class TorchPasses:
    """See `Passes`."""

    scalars = None
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings, *, pack: bool) -> None:
        self.name = "foreach blocks" if pack else "torch operations"
        self._settings = settings
        self._count = 2 + len(settings.memories)
        self._pairs = self._count * (self._count + 1) // 2
        self._width = 2 * self._pairs + self._count  # sums of each unit
        self._blocks, fillings = cut(layout, pack=pack, sums=self._width)
        device = layout.device
        # no gradient and no memory add nothing to any sum; the metric has seen something, as P may be 0 before
        self._fillings = [torch.zeros(count, dtype=dtype, device=device) for dtype, count in fillings]
        zeros = [value.to(working(value.dtype)) for value in self._fillings]
        metric = settings.metric
        starts = [metric.update(metric.start(value), torch.ones_like(value)) for value in zeros]
        memories = zip(*(part.memories for part in layout.parts), strict=True)
        self._memories = [[*rows, *zeros] for rows in memories]
        self._vectors = {
            name: [*(part.vectors[name] for part in layout.parts), *(start[name] for start in starts)]
            for name in layout.parts[0].vectors
        }
        self._scalar_names = tuple(layout.metric_scalars())
        self._units = len(layout.groups)
        units = torch.tensor([unit for block in self._blocks for unit in block.units], dtype=torch.int64, device="cpu")
        self._order = torch.argsort(units, stable=True).to(device)
        self._of_units = Segments(torch.bincount(units, minlength=self._units), self._width, device)
        self.release()

    def release(self) -> None:
        self._gradients: list[Tensor] = []
        self._xs: list[Tensor] = []
        self._last: Look | None = None

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        self._gradients = layout.rows_of_gradients() + self._fillings
        self._xs = layout.xs() + self._fillings
        total = layout.scalar_rows.new_zeros((self._units, self._width))
        if not self._blocks:
            return total
        columns = self._columns(numbers)
        sums = torch.cat([self._sums(block, columns, numbers.with_x) for block in self._blocks], dim=1)
        moved, rest = sums[: self._pairs], sums[self._pairs :]
        if len(rest) < self._pairs:  # the identity metric: all weights are one number
            moved = moved.double() / (1 + self._settings.inertia)
            sums = torch.cat([moved, moved, rest])
        total[:, : len(sums)] = self._of_units.total(sums[:, self._order]).T
        return total

    def _sums(self, block: Block, columns: Columns, with_x: bool) -> Tensor:
        """Products of one block, one column for each run of rows."""
        self._last = None  # so that the temporaries of two blocks are never there at once
        look = self._last = self._look(block, columns.of(block), with_x=with_x)
        x = look.gradient if look.x is None else look.x
        u = named(self._settings.memories, look.gradient, look.kept, x)
        dot = torch.dot if block.shape is None else torch.linalg.vecdot
        sums = products(u, look.diagonal, self._settings.inertia, dot)
        if with_x:
            sums += [dot(v, x) for v in u]
        found = torch.stack(sums).view(len(sums), -1)
        return found if block.runs is None else block.runs.total(found)

    def _look(self, block: Block, scalars: Mapping[str, Any], *, with_x: bool) -> Look:
        metric = self._settings.metric
        with_x = with_x or self._settings.looks_at_x or "coupled" in scalars
        x = self._load(block, self._xs) if with_x else None
        g = self._load(block, self._gradients)
        g = g if self._settings.sign > 0 else -g
        if x is not None and "coupled" in scalars:
            g = decayed(g, scalars["coupled"], x)
        before = {name: self._load(block, rows) for name, rows in self._vectors.items()}
        before |= {name: scalars[name] for name in self._scalar_names}
        after = metric.update(before, g)
        diagonal = metric.diagonal(after, scalars.get("factor", 1.0))
        return Look(g, x, [self._load(block, rows) for rows in self._memories], before, after, diagonal)

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        combinations = {_key(name): parts for name, parts in motion.combinations.items()}
        columns = self._columns(
            numbers, direction=motion.direction, scale=motion.scale, shrink=motion.shrink, **combinations
        )
        for block in reversed(self._blocks):  # what was read last is still in cache, and the last look at hand
            self._advance(block, columns.of(block), motion.sound)

    def _advance(self, block: Block, scalars: Mapping[str, Any], sound: Tensor | None) -> None:
        look, self._last = self._last or self._look(block, scalars, with_x=True), None
        inertia, diagonal = self._settings.inertia, look.diagonal
        before = self._load(block, self._xs) if look.x is None else look.x
        x, (memory, *further) = before, look.kept
        if sound is not None:  # what was there must still be there afterwards, to be kept
            memory, x = memory.clone(), x.clone()
        vectors = named(self._settings.memories, look.gradient, [memory, *further], x)
        combinations = {name: scalars[key] for name in self._settings.memories if (key := _key(name)) in scalars}
        after = following(self._settings.memories, vectors, combinations)
        combine(vectors, scalars["direction"], inertia, diagonal)
        scale(x, scalars["shrink"])
        if diagonal is None:
            add(x, memory, -scalars["scale"])
        elif isinstance(scalars["scale"], Tensor):
            x.addcdiv_(memory * -scalars["scale"], diagonal)
        else:
            x.addcdiv_(memory, diagonal, value=-scalars["scale"])
        for rows, value, old in zip(self._memories, [memory, *after], look.kept, strict=True):
            self._store(block, rows, value, old, sound)
        for name, rows in self._vectors.items():
            self._store(block, rows, look.after[name], look.before[name], sound)
        if self._settings.stochastic_rounding:
            x = rounded(x, self._xs[block.pieces[0][0]].dtype)
        self._store(block, self._xs, x, before, sound)

    def _columns(self, numbers: Numbers, **more: Array) -> Columns:
        named = {name: value[:, 0] for name, value in numbers.metric_scalars.items()} | more
        if numbers.factor is not None:
            named["factor"] = numbers.factor
        if numbers.coupled is not None:
            named["coupled"] = numbers.coupled
        return Columns(named, self._units)

    def _pieces(self, block: Block, rows: list[Tensor]) -> list[Tensor]:
        """The pieces of some vector that make up a block."""
        if id(rows) in block.views:
            return block.views[id(rows)]
        pieces = [rows[i] if at is None else rows[i][at] for i, at in block.pieces]
        if rows is not self._gradients and rows is not self._xs:
            block.views[id(rows)] = pieces
        return pieces

    def _load(self, block: Block, rows: list[Tensor]) -> Tensor:
        """A block of some vector: a view of the vector where it can be one."""
        pieces = self._pieces(block, rows)
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if joined.dtype != block.dtype:  # asking is cheaper than to() that does nothing
            joined = joined.to(block.dtype)
        return joined if block.shape is None else joined.view(block.shape)

    def _store(self, block: Block, rows: list[Tensor], value: Tensor | None, old: Tensor, sound: Tensor | None) -> None:
        """Write a block of some vector, where `sound` if that is given; old: what it was."""
        pieces = self._pieces(block, rows)
        if value is None or value is pieces[0]:  # stays, or was written in place
            return
        if sound is not None:
            value = torch.where(sound, value, old)
        if len(pieces) == 1:
            pieces[0].copy_(value.view(-1))
            return
        values = list(torch.split(value.view(-1), [piece.numel() for piece in pieces]))
        if block.own is not None:
            pieces, values = [pieces[k] for k in block.own], [values[k] for k in block.own]
        torch._foreach_copy_(pieces, values)


def _key(name: str) -> str:
    """The column of a combination's coefficients."""
    return f"combination {name}"
