"""The two passes over memory in torch operations, block by block: inner products, then combine and move.

This path needs nothing but torch and serves every metric, rule and device. Blocks are small enough for element-wise
work to stay in cache; small parameters share a block, so that thousands of them cost a few operations. The metric's own
formulas run on each block, so there is no second copy of them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from proxmom.metrics import Adam, Euclidean, Metric
from proxmom.planes import Array, Scalar
from proxmom.torch.layout import Layout, Part, working

HOST_BLOCK = 1 << 18  # elements: rows stay in cache, and calls are few
SHARE = 32  # a block is at most one part in this many, a third of it where the metric needs temporaries
ALIGN = 1 << 10  # elements: blocks begin where vector instructions like it
ROUNDING = 1e-14  # of a sum of weights
DEVICE_BLOCK = 1 << 22  # elements: few launches, and temporaries still small beside a model that needs a GPU


@dataclass(frozen=True)
class Numbers:
    """What one step's passes need besides the vectors; U units, accumulator's dtype, arrays of `Layout.array`'s kind.

    coupled: weight decay to be added to the gradient, (U,), or None; factor: of the metric, for the mass of memory,
    (U,), or None for 1; own: the metric's scalars, (U, 1) each; with_x: whether products with x are wanted.
    """

    coupled: Array | None
    factor: Array | None
    own: dict[str, Array]
    with_x: bool


@dataclass(frozen=True)
class Motion:
    """What a step does to each unit: memory <- (slope + λP·memory)/(1 + λP), x <- shrink·x - scale·P⁻¹memory.

    direction: coefficients of gradient, memory, further memories in the slope, (U, B); scale, shrink: (U,); sound:
    whether to do anything at all, a flag on the device, or None where it is known. finish: before all that
    x <- x - finish·P⁻¹memory, (U,); further: what the M further memories become, as coefficients, (U, M, B). None: no
    such move, and the usual averages; what is written for kernels alone never meets anything else.
    """

    direction: Array
    scale: Array
    shrink: Array
    sound: Tensor | None
    finish: Array | None = None
    further: Array | None = None


class Passes(Protocol):
    """Two passes over the memory of a layout's parameters.

    measure: sums over each unit, (U, 2·B(B+1)/2 + B): products of all pairs of the B vectors gradient, memory, ...
    weighted by M = P⁻¹(I + λP)⁻¹, then by PM, then products with x; zero where not asked for.
    move: writes x, memories and the metric's vectors in place.
    """

    def measure(self, numbers: Numbers) -> Tensor: ...
    def move(self, numbers: Numbers, motion: Motion) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What is one for all steps: metric, inertia λ, sign of the gradient, averaging of further memories, rounding."""

    metric: Metric
    inertia: float
    sign: float
    averaging: tuple[float, ...]
    stochastic_rounding: bool

    @property
    def for_kernels(self) -> bool:
        """Whether this is what kernels are written for: one memory, the Euclidean or Adam's metric, plain rounding."""
        return type(self.metric) in (Euclidean, Adam) and not self.averaging and not self.stochastic_rounding


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


class TorchPasses:
    """See `Passes`."""

    def __init__(self, layout: Layout, settings: Settings, *, pack: bool) -> None:
        self._layout, self._settings = layout, settings
        total = sum(part.x.numel() for part in layout.parts)
        share = SHARE * (1 + 2 * len(layout.parts[0].vectors))
        size = max(min(HOST_BLOCK if layout.on_host else DEVICE_BLOCK, total // share) // ALIGN, 1) * ALIGN
        self._blocks = [self._block(*plan) for plan in _plan(layout.parts, size, pack)]
        self._index = torch.cat([layout.groups[:0], *(block.index for block in self._blocks)])
        memories = zip(*(part.memories for part in layout.parts), strict=True)
        self._memories = [list(rows) for rows in memories]
        self._vectors = {name: [part.vectors[name] for part in layout.parts] for name in layout.parts[0].vectors}
        self._own = tuple(layout.own())
        self._gradients: list[Tensor] = []
        self._xs: list[Tensor] = []
        self._version = -1  # of the layout, when x was looked up

    def _block(self, pieces: list[tuple[int, slice | None]], units: list[int], length: int) -> Block:
        flat = self._layout.on_host and len(units) == 1
        index = torch.tensor(units, device=self._layout.device)
        dtype = working(self._layout.parts[pieces[0][0]].x.dtype)
        return Block(pieces, units, index, None if flat else (len(units), length), dtype)

    def measure(self, numbers: Numbers) -> Tensor:
        given = zip(self._layout.parts, self._layout.gradients, strict=True)
        self._gradients = [part.row(gradient) for part, gradient in given]
        self._look_where_x_is()
        columns = self._columns(numbers)
        vectors = 1 + len(self._memories)
        pairs = vectors * (vectors + 1) // 2
        sums = [self._sums(block, columns, numbers.with_x) for block in self._blocks]
        total = self._layout.table.new_zeros((len(self._layout.groups), 2 * pairs + vectors))
        if not sums:
            return total
        rows = torch.cat(sums).to(total.dtype)
        moved, rest = rows[:, :pairs], rows[:, pairs:]
        if rest.shape[1] < pairs:  # the identity metric: all weights are one number
            moved = moved / (1 + self._settings.inertia)
            rest = torch.cat([moved, rest], dim=1)
        rows = torch.cat([moved, rest], dim=1)
        return total.index_add_(0, self._index, torch.nn.functional.pad(rows, (0, total.shape[1] - rows.shape[1])))

    def _sums(self, block: Block, columns: _Columns, with_x: bool) -> Tensor:
        """Products of one block, (k, ...)."""
        scalars = columns.of(block)
        g = self._gradient(block, scalars)
        state = self._state(block, scalars)
        u = [g, *(self._load(block, memories) for memories in self._memories)]
        metric, inertia = self._settings.metric, self._settings.inertia
        diagonal = metric.diagonal(metric.update(state, g), scalars.get("factor", 1.0))
        dot = torch.dot if block.shape is None else torch.linalg.vecdot
        if diagonal is None:
            sums = [dot(a, b) for a, b in _pairs(u, u)]
        elif not inertia:
            sums = [dot(a, b) for a, b in _pairs([v / diagonal for v in u], u)]
            sums += [torch.zeros_like(s) for s in sums]
        else:
            smooth = _held(diagonal, inertia).reciprocal_()
            weighted = [v * smooth for v in u]
            pulled = [dot(a, b) for a, b in _pairs(weighted, u)]
            sums = [dot(a, b) for a, b in _pairs([v.div_(diagonal) for v in weighted], u)] + pulled
        if with_x:
            x = self._load(block, self._xs)
            sums += [dot(v, x) for v in u]
        return torch.stack(sums, dim=-1).reshape(len(block.units), -1)

    def move(self, numbers: Numbers, motion: Motion) -> None:
        more = {}
        if motion.finish is not None and motion.further is not None:
            places = range(motion.further.shape[1])
            more = {"finish": motion.finish, **{f"further {i}": motion.further[:, i] for i in places}}
        columns = self._columns(numbers, direction=motion.direction, scale=motion.scale, shrink=motion.shrink, **more)
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
        averages = self._averages([g, memory, *further], scalars)
        if "finish" in scalars:
            _add(x, memory if diagonal is None else memory / diagonal, _negative(scalars["finish"]))
        _combine([g, memory, *further], scalars["direction"], inertia, diagonal)
        _scale(x, scalars["shrink"])
        if diagonal is None:
            _add(x, memory, -scalars["scale"])
        elif isinstance(scalars["scale"], Tensor):
            x.addcdiv_(memory * -scalars["scale"], diagonal)
        else:
            x.addcdiv_(memory, diagonal, value=-scalars["scale"])
        for rows, value in zip(self._memories, [memory, *averages], strict=True):
            self._store(block, rows, value, sound)
        for name, rows in self._vectors.items():
            self._store(block, rows, updated[name], sound)
        if self._settings.stochastic_rounding:
            x = _rounded(x, self._xs[block.pieces[0][0]].dtype)
        self._store(block, self._xs, x, sound)

    def _averages(self, vectors: Sequence[Tensor], scalars: Mapping[str, Any]) -> list[Tensor]:
        """What the further memories become."""
        g, _, *further = vectors
        if "finish" not in scalars:
            return [v + c * (g - v) for v, c in zip(further, self._settings.averaging, strict=True)]
        rows = [scalars[f"further {i}"] for i in range(len(further))]
        return [sum(c * v for c, v in zip(row, vectors, strict=True)) for row in rows]

    def _columns(self, numbers: Numbers, **more: Array) -> _Columns:
        named = {name: value[:, 0] for name, value in numbers.own.items()} | more
        if numbers.factor is not None:
            named["factor"] = numbers.factor
        if numbers.coupled is not None:
            named["coupled"] = numbers.coupled
        return _Columns(named, len(self._layout.groups))

    def _state(self, block: Block, scalars: Mapping[str, Any]) -> dict[str, Any]:
        """The metric's state of this block."""
        vectors = {name: self._load(block, rows) for name, rows in self._vectors.items()}
        return vectors | {name: scalars[name] for name in self._own}

    def _gradient(self, block: Block, scalars: dict[str, Any]) -> Tensor:
        """The gradient as the rule sees it."""
        g = self._load(block, self._gradients)
        g = g if self._settings.sign > 0 else -g
        return g + scalars["coupled"] * self._load(block, self._xs) if "coupled" in scalars else g

    def _look_where_x_is(self) -> None:
        if self._version != self._layout.version:
            for block in self._blocks:
                block.views.pop(id(self._xs), None)
            self._xs = [part.x for part in self._layout.parts]
            self._version = self._layout.version

    def _pieces(self, block: Block, rows: list[Tensor]) -> list[Tensor]:
        """The pieces of some vector that make up a block."""
        if id(rows) in block.views:
            return block.views[id(rows)]
        pieces = [rows[i] if at is None else rows[i][at] for i, at in block.pieces]
        if rows is not self._gradients:
            block.views[id(rows)] = pieces
        return pieces

    def _load(self, block: Block, rows: list[Tensor]) -> Tensor:
        """A block of some vector: a view of the vector where it can be one."""
        pieces = self._pieces(block, rows)
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if joined.dtype != block.dtype:  # asking is cheaper than to() that does nothing
            joined = joined.to(block.dtype)
        return joined if block.shape is None else joined.view(block.shape)

    def _store(self, block: Block, rows: list[Tensor], value: Tensor, sound: Tensor | None) -> None:
        pieces = self._pieces(block, rows)
        if value is pieces[0]:  # written in place
            return
        if sound is not None:
            value = torch.where(sound, value, self._load(block, rows))
        if len(pieces) > 1:
            torch._foreach_copy_(pieces, torch.split(value.view(-1), [piece.numel() for piece in pieces]))
        else:
            pieces[0].copy_(value.view(-1))


class _Columns:
    """Values per unit, as a block wants them: Python numbers for one unit on the host, else (k, 1) tensors."""

    def __init__(self, columns: Mapping[str, Array], units: int) -> None:
        self._columns, self._units = columns, units

    def of(self, block: Block) -> dict[str, Any]:
        if block.shape is None:
            return self._numbers[block.units[0]]
        rows = {name: torch.as_tensor(value)[block.index].to(block.dtype) for name, value in self._columns.items()}
        return {
            name: value[:, None] if value.dim() == 1 else [c[:, None] for c in value.unbind(1)]
            for name, value in rows.items()
        }

    @cached_property
    def _numbers(self) -> list[dict[str, Any]]:
        """The values of each unit."""
        values = {name: value.tolist() for name, value in self._columns.items()}
        return [{name: value[unit] for name, value in values.items()} for unit in range(self._units)]


def _plan(
    parts: Sequence[Part], size: int, pack: bool
) -> Iterator[tuple[list[tuple[int, slice | None]], list[int], int]]:
    """Pieces, units and row length of each block: slices of large parameters, small ones together.

    Small parameters of one unit are one row; those with units of their own are rows, if they have the same length.
    """
    small: dict[Any, list[int]] = {}
    alone = _alone(parts)
    for i, part in enumerate(parts):
        count = part.x.numel()
        if pack and count < size:
            small.setdefault(
                (part.x.dtype, *(("rows", count) if alone[part.unit] else ("unit", part.unit))), []
            ).append(i)
            continue
        for start in range(0, count, size):
            whole = count <= size
            yield [(i, None if whole else slice(start, start + size))], [part.unit], min(size, count - start)
    for (_, kind, _), members in small.items():
        for chunk in _chunks(members, parts, size):
            lengths = [parts[i].x.numel() for i in chunk]
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
        if chunk and total + parts[i].x.numel() > size:
            yield chunk
            chunk, total = [], 0
        chunk.append(i)
        total += parts[i].x.numel()
    if chunk:
        yield chunk


def _pairs(left: Sequence[Tensor], right: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for i, a in enumerate(left):
        for b in right[i:]:
            yield a, b


def _combine(vectors: Sequence[Tensor], direction: Sequence[Scalar], inertia: float, diagonal: Tensor | None) -> None:
    """memory <- (Σ direction·vectors + λP·memory) / (1 + λP), in place.

    A plain average of gradient and memory, the usual case, is memory + c (gradient - memory) / (1 + λP): fewer passes.
    """
    g, memory, *further = vectors
    to_gradient, to_memory, *to_further = direction
    if not further and not isinstance(to_gradient, Tensor) and abs(to_gradient + to_memory - 1) < ROUNDING:
        if diagonal is None or not inertia:
            memory.lerp_(g, to_gradient / (1 + inertia))
        else:
            memory.addcdiv_(g - memory, _held(diagonal, inertia), value=to_gradient)
        return
    held = inertia if diagonal is None or not inertia else inertia * diagonal
    memory.mul_(held + to_memory)
    _add(memory, g, to_gradient)
    for vector, coefficient in zip(further, to_further, strict=True):
        _add(memory, vector, coefficient)
    if inertia:
        memory.div_(held + 1)


def _held(diagonal: Tensor, inertia: float) -> Tensor:
    """1 + λP, in one pass."""
    return torch.add(diagonal.new_ones(1), diagonal, alpha=inertia)


def _add(vector: Tensor, other: Tensor, coefficient: Scalar) -> None:
    """vector += coefficient·other; a tensor for a coefficient stays on its device."""
    if isinstance(coefficient, Tensor):
        vector.addcmul_(other, coefficient)
    else:
        vector.add_(other, alpha=coefficient)


def _negative(coefficient: Scalar) -> Scalar:
    return -coefficient


def _scale(vector: Tensor, factor: Scalar) -> None:
    if isinstance(factor, Tensor) or factor != 1:
        vector.mul_(factor)


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 rounded to bfloat16 at random: up with the probability that makes the mean exact."""
    if dtype != torch.bfloat16:
        return value
    noise = torch.randint_like(value, 1 << 16, dtype=torch.int32)
    return ((value.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)
