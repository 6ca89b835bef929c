"""The two passes for metrics that see a whole tensor: an operator, or a diagonal that is not element-wise.

The metric is asked once for each parameter, with tensors in its own shape, and what it answers is kept until the step
is taken. Of a DTensor every process gathers the whole, computes the same, and keeps its own shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxmom.metrics import kind_of
from proxmom.planes import Array, namespace
from proxmom.torch.decision import LAST_LR
from proxmom.torch.layout import PREVIOUS_X, Layout, Part, flat, shaped, working
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.arithmetic import add, combine, each, following, named, pairs, products, rounded, store
from proxmom.torch.shards import absent, gathered, is_sharded, local, sharded_like


class Unit(NamedTuple):
    """What a metric must know of a parameter's unit, as Python numbers; state: its own numbers."""

    moved: bool
    factor: float
    coupled: float
    state: dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """How the rows of one parameter become tensors of its shape, and back."""

    parameter: Tensor
    order: tuple[int, ...] | None

    def whole(self, row: Tensor) -> Tensor:
        """The tensor of which this process holds a row; contiguous, so that its strides do not matter to a metric."""
        here = shaped(row, local(self.parameter).shape, self.order).contiguous()
        return gathered(here, self.parameter) if is_sharded(self.parameter) else here

    def row(self, whole: Tensor) -> Tensor:
        """The row of it that lies here."""
        return flat(local(sharded_like(whole, self.parameter)), self.order)


@dataclass(frozen=True)
class Look:
    """One parameter, seen with a gradient; nothing is written yet.

    x: as it lies, in the dtype of computation; vectors: the named ones; images: P⁻¹ of them; diagonal: of P, both as
    rows, None where there is none; state: the metric's, as it becomes, of its vectors the rows; sums: see `Passes`.
    """

    x: Tensor
    vectors: list[Tensor]
    images: list[Tensor] | None
    diagonal: Tensor | None
    state: Mapping[str, Any]
    sums: Tensor


class WholePasses:
    """See `Passes`."""

    name = "whole tensors"
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._settings = settings
        self._metric = settings.metric
        self._operator = kind_of(self._metric) == "operator"
        self._sees_move = getattr(self._metric, "sees_move", False)
        self._count = 2 + len(settings.memories)
        start = self._metric.start(torch.empty(layout.states[0]["memory"].shape, device="meta"))
        # of each number of its state whether it is whole
        self._kinds = {name: type(value) for name, value in start.items() if not isinstance(value, Tensor)}
        self.scalars: Mapping[str, Array] | None = None
        self.release()

    def release(self) -> None:
        self._looks: list[Look | None] = []
        self._xs: list[Tensor] = []

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        count = self._count
        width = count * (count + 1) + count + count * self._operator
        total = layout.scalar_rows.new_zeros((len(layout.groups), width))
        units = self._units(layout, numbers)
        told: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        self._xs = layout.xs()
        gradients = layout.rows_of_gradients()
        for part, p, gradient, x in zip(layout.parts, layout.params, gradients, self._xs, strict=True):
            if not p.numel() or absent(p):  # nothing that a metric could be asked of
                self._looks.append(None)
                continue
            look = self._look(part, Frame(p.detach(), part.order), gradient, x, units[part.unit], numbers.with_x, total)
            self._looks.append(look)
            total[part.unit] += look.sums
            told.setdefault(part.unit, []).append(
                (part.name, {name: look.state[name] for name in numbers.metric_scalars})
            )
        self.scalars = self._told(layout, numbers, told)
        return total

    def _units(self, layout: Layout, numbers: Numbers) -> list[Unit]:
        """One read for all units: the only time that a step waits for the device."""
        columns = {"moved": layout.rows[:, LAST_LR]}
        columns |= {"factor": numbers.factor} if numbers.factor is not None else {}
        columns |= {"coupled": numbers.coupled} if numbers.coupled is not None else {}
        own = numbers.metric_scalars
        table = namespace(layout.rows).stack([*columns.values(), *(value[:, 0] for value in own.values())], axis=1)
        units = []
        for row in table.tolist():
            read = dict(zip(columns, row, strict=False))
            state = {name: self._kinds[name](value) for name, value in zip(own, row[len(columns) :], strict=True)}
            units.append(Unit(read["moved"] > 0, read.get("factor", 1.0), read.get("coupled", 0.0), state))
        return units

    def _look(
        self, part: Part, frame: Frame, gradient: Tensor, x: Tensor, unit: Unit, with_x: bool, total: Tensor
    ) -> Look:
        """What the metric says of one parameter."""
        dtype = working(part.dtype)
        x, g = x.to(dtype), gradient.to(dtype)
        g = g if self._settings.sign > 0 else -g
        g = g + unit.coupled * x if unit.coupled else g
        u, move = named(self._settings.memories, g, part.memories, x), None
        if PREVIOUS_X in part.vectors:
            move = x - part.vectors[PREVIOUS_X] if unit.moved else torch.zeros_like(x)
        given = frame.whole(g)
        finite = given.isfinite().all()
        whole = torch.where(finite, given, 0.0)  # a decomposition of NaN would raise
        before = {name: frame.whole(row) for name, row in part.vectors.items() if name != PREVIOUS_X}
        before |= {**part.arrays, **unit.state}
        after = self._metric.update(
            before, whole, *([frame.whole(move)] if self._sees_move and move is not None else [])
        )
        self._check(part, before, after)
        state = {name: frame.row(value) if name in part.vectors else value for name, value in after.items()}
        images = diagonal = None
        if self._operator:
            images = self._images(part, frame, after, [whole, *map(frame.whole, u[1:])], unit.factor)
        else:
            diagonal = self._metric.diagonal(after, unit.factor)
            diagonal = None if diagonal is None else frame.row(_like(whole, diagonal, part, "diagonal(...)"))
        sums = self._sums(u, images, diagonal, [x] if with_x else [], move, total)
        return Look(x, u, images, diagonal, state, sums + _nan_unless(finite, after, sums))

    def _check(self, part: Part, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """ValueError for a state that is not of the kind that the metric started with."""
        metric = type(self._metric).__name__
        if set(before) != set(after):
            raise ValueError(
                f"{metric}.update must return what {metric}.start names, {', '.join(before)}, got {', '.join(after)}."
            )
        for name, value in after.items():
            if isinstance(before[name], Tensor):
                _like(before[name], value, part, f"update(...)[{name!r}]")
            elif not isinstance(value, (int, float)):
                raise ValueError(
                    f"{metric}.update must return a Python number for {name!r}, as {metric}.start does, got "
                    f"{type(value).__name__}. Let start return an array of shape () for what depends on gradients."
                )

    def _images(
        self, part: Part, frame: Frame, state: Mapping[str, Any], wholes: Sequence[Tensor], factor: float
    ) -> list[Tensor]:
        images = self._metric.images(state, wholes)
        if len(images) != len(wholes):
            raise ValueError(f"images(...) must return {len(wholes)} arrays, got {len(images)}.")
        rows = [frame.row(_like(u, image, part, "images(...)")) for u, image in zip(wholes, images, strict=True)]
        return rows if factor == 1 else [row / factor for row in rows]

    def _sums(
        self,
        u: Sequence[Tensor],
        images: Sequence[Tensor] | None,
        diagonal: Tensor | None,
        xs: Sequence[Tensor],
        move: Tensor | None,
        total: Tensor,
    ) -> Tensor:
        """One parameter's share of a row of `total`, see `Passes`."""
        count = len(u)
        each = count * (count + 1) // 2
        u = [vector.to(total.dtype) for vector in u]
        if images is None:
            sums = products(
                u, None if diagonal is None else diagonal.to(total.dtype), self._settings.inertia, torch.dot
            )
            if diagonal is None:
                sums = [s / (1 + self._settings.inertia) for s in sums] * 2
        else:
            images = [image.to(total.dtype) for image in images]
            both = zip(pairs(u, images), pairs(images, u), strict=True)
            sums = [(torch.dot(a, b) + torch.dot(c, d)) / 2 for (a, b), (c, d) in both]  # symmetric to the last digit
            sums += [torch.zeros_like(sums[0])] * each
        sums += [torch.dot(v, x.to(total.dtype)) for x in xs for v in u] or [torch.zeros_like(sums[0])] * count
        if self._operator and move is not None:
            sums += [torch.dot(v, move.to(total.dtype)) for v in u]
        return torch.stack(sums)

    def _told(
        self, layout: Layout, numbers: Numbers, told: Mapping[int, list[tuple[str, dict[str, Any]]]]
    ) -> dict[str, Array]:
        """What the numbers of the metric's state become; those of units without a tensor stay.

        Raises:
            ValueError: where parameters that share them do not agree.
        """
        found = {name: as_tensor(value).clone() for name, value in numbers.metric_scalars.items()}
        for unit, ((first, state), *others) in told.items():
            for name, other in others:
                if other != state:
                    raise ValueError(
                        f"the numbers that {type(self._metric).__name__}.update returns must be the same for all "
                        f"parameters, got {state} of {first} and {other} of {name}. Let start return an array of shape "
                        "() for what depends on gradients."
                    )
            for name, value in state.items():
                found[name][unit] = value
        return {name: layout.array(value) for name, value in found.items()}

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        direction, scales, shrinks = map(each, (motion.direction, motion.scale, motion.shrink))
        combinations = {name: each(parts) for name, parts in motion.combinations.items()}
        for part, look, target in zip(layout.parts, self._looks, self._xs, strict=True):
            if look is None:
                continue
            unit, u = part.unit, look.vectors
            after = following(self._settings.memories, u, {name: rows[unit] for name, rows in combinations.items()})
            memory, image = self._advanced(look, direction[unit])
            x = look.x * shrinks[unit]
            add(x, image, -scales[unit])
            if self._settings.stochastic_rounding:
                x = rounded(x, part.dtype)
            self._write(part, look, [memory, *after], motion.sound)
            store(target, x, motion.sound)

    def _advanced(self, look: Look, direction: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The new memory, and P⁻¹ of it: by linearity the metric need not be asked again."""
        if look.images is not None:
            zero = torch.zeros_like(look.x)
            memory = sum((c * v for c, v in zip(direction, look.vectors, strict=True)), start=zero)
            return memory, sum((c * v for c, v in zip(direction, look.images, strict=True)), start=zero)
        memory = look.vectors[1].clone()
        combine([look.vectors[0], memory, *look.vectors[2:]], direction, self._settings.inertia, look.diagonal)
        return memory, memory if look.diagonal is None else memory / look.diagonal

    def _write(self, part: Part, look: Look, memories: Sequence[Tensor | None], sound: Tensor | None) -> None:
        """All but the parameter, which `look.x` may be a view of."""
        for row, value in zip(part.memories, memories, strict=True):
            store(row, value, sound)
        for name, row in part.vectors.items():
            store(row, look.x if name == PREVIOUS_X else look.state[name], sound)
        for name, array in part.arrays.items():
            if look.state[name] is not array:
                store(array, look.state[name], sound)


def _like(wanted: Tensor, value: Any, part: Part, what: str) -> Tensor:
    """ValueError for what would be broadcast where a tensor of one shape is wanted."""
    if not isinstance(value, Tensor) or value.shape != wanted.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{what} of {part.name} must be a tensor of shape {tuple(wanted.shape)}, got {got}.")
    return value


def _nan_unless(finite: Tensor, state: Mapping[str, Any], like: Tensor) -> Tensor:
    """0, or NaN where gradient or metric are not finite: then the step is skipped."""
    for value in state.values():
        finite = finite & (value.isfinite().all() if isinstance(value, Tensor) else abs(value) < float("inf"))
    return torch.where(finite, 0.0, float("nan")).to(like.dtype)
