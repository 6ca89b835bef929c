"""The two passes over memory in torch operations, block by block: inner products, then combine and move.

This path needs nothing but torch and serves every metric, rule and device. The metric's own formulas run on each block,
so there is no second copy of them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxmom.planes import Array
from proxmom.torch.layout import Layout
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.arithmetic import add, combine, decayed, following, named, products, rounded, scale
from proxmom.torch.passes.blocks import Block, Columns, cut


class TorchPasses:
    """See `Passes`."""

    scalars = None
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings, *, pack: bool) -> None:
        self.name = "foreach blocks" if pack else "torch operations"
        self._settings = settings
        self._blocks = cut(layout, pack=pack)
        self._index = torch.cat([_no_units(layout), *(block.index for block in self._blocks)])
        memories = zip(*(part.memories for part in layout.parts), strict=True)
        self._memories = [list(rows) for rows in memories]
        self._vectors = {name: [part.vectors[name] for part in layout.parts] for name in layout.parts[0].vectors}
        self._count = 2 + len(settings.memories)
        self._scalar_names = tuple(layout.metric_scalars())
        self._units = len(layout.groups)
        self._gradients: list[Tensor] = []
        self._xs: list[Tensor] = []

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        self._gradients, self._xs = layout.rows_of_gradients(), layout.xs()
        columns = self._columns(numbers)
        vectors = self._count
        pairs = vectors * (vectors + 1) // 2
        sums = [self._sums(block, columns, numbers.with_x) for block in self._blocks]
        total = layout.scalar_rows.new_zeros((self._units, 2 * pairs + vectors))
        if not sums:
            return total
        rows = torch.cat(sums).to(total.dtype)
        moved, rest = rows[:, :pairs], rows[:, pairs:]
        if rest.shape[1] < pairs:  # the identity metric: all weights are one number
            moved = moved / (1 + self._settings.inertia)
            rest = torch.cat([moved, rest], dim=1)
        rows = torch.cat([moved, rest], dim=1)
        return total.index_add_(0, self._index, torch.nn.functional.pad(rows, (0, total.shape[1] - rows.shape[1])))

    def _sums(self, block: Block, columns: Columns, with_x: bool) -> Tensor:
        """Products of one block, (k, ...)."""
        scalars = columns.of(block)
        g = self._gradient(block, scalars)
        state = self._state(block, scalars)
        x = self._load(block, self._xs) if with_x or self._settings.looks_at_x else g
        u = named(self._settings.memories, g, [self._load(block, rows) for rows in self._memories], x)
        metric, inertia = self._settings.metric, self._settings.inertia
        diagonal = metric.diagonal(metric.update(state, g), scalars.get("factor", 1.0))
        dot = torch.dot if block.shape is None else torch.linalg.vecdot
        sums = products(u, diagonal, inertia, dot)
        if with_x:
            sums += [dot(v, x) for v in u]
        return torch.stack(sums, dim=-1).reshape(len(block.units), -1)

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        combinations = {_key(name): parts for name, parts in motion.combinations.items()}
        columns = self._columns(
            numbers, direction=motion.direction, scale=motion.scale, shrink=motion.shrink, **combinations
        )
        for block in reversed(self._blocks):  # what was read last is still in cache
            self._advance(block, columns.of(block), motion.sound)

    def _advance(self, block: Block, scalars: dict[str, Any], sound: Tensor | None) -> None:
        metric, inertia = self._settings.metric, self._settings.inertia
        g, x = self._gradient(block, scalars), self._load(block, self._xs)
        state = self._state(block, scalars)
        updated = metric.update(state, g)
        diagonal = metric.diagonal(updated, scalars.get("factor", 1.0))
        memory, *further = [self._load(block, memories) for memories in self._memories]
        if sound is not None:  # what was there must still be there afterwards, to be kept
            memory, x = memory.clone(), x.clone()
        vectors = named(self._settings.memories, g, [memory, *further], x)
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
        for rows, value in zip(self._memories, [memory, *after], strict=True):
            self._store(block, rows, value, sound)
        for name, rows in self._vectors.items():
            self._store(block, rows, updated[name], sound)
        if self._settings.stochastic_rounding:
            x = rounded(x, self._xs[block.pieces[0][0]].dtype)
        self._store(block, self._xs, x, sound)

    def _columns(self, numbers: Numbers, **more: Array) -> Columns:
        named = {name: value[:, 0] for name, value in numbers.metric_scalars.items()} | more
        if numbers.factor is not None:
            named["factor"] = numbers.factor
        if numbers.coupled is not None:
            named["coupled"] = numbers.coupled
        return Columns(named, self._units)

    def _state(self, block: Block, scalars: Mapping[str, Any]) -> dict[str, Any]:
        """The metric's state of this block."""
        vectors = {name: self._load(block, rows) for name, rows in self._vectors.items()}
        return vectors | {name: scalars[name] for name in self._scalar_names}

    def _gradient(self, block: Block, scalars: dict[str, Any]) -> Tensor:
        """The gradient as the rule sees it."""
        g = self._load(block, self._gradients)
        g = g if self._settings.sign > 0 else -g
        return decayed(g, scalars["coupled"], self._load(block, self._xs)) if "coupled" in scalars else g

    def release(self) -> None:
        self._gradients, self._xs = [], []

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

    def _store(self, block: Block, rows: list[Tensor], value: Tensor | None, sound: Tensor | None) -> None:
        pieces = self._pieces(block, rows)
        if value is None or value is pieces[0]:  # stays, or was written in place
            return
        if sound is not None:
            value = torch.where(sound, value, self._load(block, rows))
        if len(pieces) > 1:
            torch._foreach_copy_(pieces, torch.split(value.view(-1), [piece.numel() for piece in pieces]))
        else:
            pieces[0].copy_(value.view(-1))


def _key(name: str) -> str:
    """The column of a combination's coefficients."""
    return f"combination {name}"


def _no_units(layout: Layout) -> Tensor:
    """An empty list of units, for layouts without blocks."""
    return torch.zeros(0, dtype=torch.int64, device=layout.device)
