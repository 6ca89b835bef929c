"""The two passes for norms: the solver asks about slopes, and the step is mixed of their steepest directions.

A norm is shown one tensor at a time in its own shape; of a DTensor every process gathers the whole and keeps its own
shard. Where a norm is element-wise pieces will do, and only sums cross processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxmom.metrics.protocol import recalls
from proxmom.planes import Array
from proxmom.torch.decision import LAST_LR
from proxmom.torch.layout import PREVIOUS_X, Layout, Part, working
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.arithmetic import decayed, each, following, named, rounded, store
from proxmom.torch.passes.whole import Frame
from proxmom.torch.shards import absent

Seen = tuple[Part, Frame, Tensor, list[Tensor]]  # a parameter, how it lies, x and the named vectors


class Asked(NamedTuple):
    """The last slope that a unit was asked about, (B,), the products found, and the directions of its parameters."""

    slope: Any
    sums: Tensor
    directions: dict[int, Tensor]


class NormPasses:
    """See `Passes`; `measure` gives products of the B named vectors with the last move, then with x, (U, 2·B)."""

    name = "steepest directions"
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._settings, self._norm = settings, settings.metric
        self._count = 2 + len(settings.memories)
        self._pieces = getattr(self._norm, "elementwise", False)
        self.scalars: Mapping[str, Array] | None = {}
        self.release()

    def release(self) -> None:
        self._seen: list[Seen | None] = []
        self._xs: list[Tensor] = []
        self._asked: dict[int, Asked] = {}

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        count = self._count
        total = layout.scalar_rows.new_zeros((len(layout.groups), 2 * count))
        moved = layout.scalar_rows[:, LAST_LR] > 0
        coupled = None if numbers.coupled is None else as_tensor(numbers.coupled)
        self._xs = layout.xs()
        for part, p, gradient, x in zip(layout.parts, layout.params, layout.rows_of_gradients(), self._xs, strict=True):
            if not p.numel() or absent(p):
                self._seen.append(None)
                continue
            dtype = working(part.dtype)
            here, g = x.to(dtype), gradient.to(dtype)
            g = g if self._settings.sign > 0 else -g
            g = g if coupled is None else decayed(g, coupled[part.unit].to(dtype), here)
            finite = g.isfinite().all()
            # a decomposition of NaN would raise
            u = named(self._settings.memories, torch.where(finite, g, 0.0), part.memories, here)
            if recalls(self._norm):
                last = self._norm.recall(part.memories[0])
            else:
                last = torch.where(moved[part.unit], here - part.vectors[PREVIOUS_X], 0.0)
            sums = [_dot(v, last, total) for v in u]
            sums += [_dot(v, here, total) for v in u] if numbers.with_x else [0 * sums[0]] * count
            total[part.unit] += torch.stack(sums) + torch.where(finite, 0.0, float("nan"))
            self._seen.append((part, Frame(p.detach(), part.order), here, u))
        return total

    def pull(self, layout: Layout, slopes: Array) -> Tensor:
        """Σ ||s||_*^{0 or 1}·<v, u> over the tensors of each unit, v steepest for its slope s, (U, B) -> (U, B)."""
        total = layout.scalar_rows.new_zeros(tuple(slopes.shape))
        per_unit = each(slopes)
        again = {unit for unit, last in self._asked.items() if last.slope == per_unit[unit]}
        self._asked = {unit: last for unit, last in self._asked.items() if unit in again}
        for place, seen in enumerate(self._seen):
            if seen is None or seen[0].unit in again:
                continue
            part, frame, _, u = seen
            slope = per_unit[part.unit]
            direction = self._steepest(frame, _combined(u, slope))
            total[part.unit] += torch.stack([_dot(v, direction, total) for v in u])
            if layout.on_host:  # elsewhere nobody can compare slopes without waiting
                last = self._asked.setdefault(part.unit, Asked(slope, total[part.unit], {}))
                last.directions[place] = direction
        for unit in again:
            total[unit] = self._asked[unit].sums
        self._asked = {unit: last._replace(sums=total[unit]) for unit, last in self._asked.items()}
        return total

    def _again(self, place: int, seen: Seen, slope: Any) -> Tensor:
        """The steepest direction of a slope that may be the last one asked about."""
        part, frame, _, u = seen
        last = self._asked.get(part.unit)
        if last is not None and last.slope == slope:
            return last.directions[place]
        return self._steepest(frame, _combined(u, slope))

    def _steepest(self, frame: Frame, slope: Tensor) -> Tensor:
        """The steepest direction as a row, in the soft form times the dual norm."""
        if self._pieces:
            piece: Tensor = self._norm.steepest(slope)[1]  # hard: pieces of soft directions know no dual norm
            return piece
        whole = frame.whole(slope)
        finite = whole.isfinite().all()
        # a decomposition of NaN would raise; such a step is skipped
        dual, direction = self._norm.steepest(torch.where(finite, whole, 0.0))
        direction = direction if self._norm.form == "hard" else dual * direction
        return frame.row(torch.where(finite, direction, float("nan")))

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        direction, scales, shrinks = map(each, (motion.direction, motion.scale, motion.shrink))
        combinations = {name: each(parts) for name, parts in motion.combinations.items()}
        mixture = [(each(slopes), each(shares)) for slopes, shares in motion.atoms]
        for place, (seen, target) in enumerate(zip(self._seen, self._xs, strict=True)):
            if seen is None:
                continue
            part, _, here, u = seen
            unit = part.unit
            after = following(self._settings.memories, u, {name: rows[unit] for name, rows in combinations.items()})
            memory = _combined(u, direction[unit])
            step = torch.zeros_like(here)
            for slopes, shares in mixture:
                if isinstance(shares[unit], Tensor) or shares[unit]:
                    step = step + shares[unit] * self._again(place, seen, slopes[unit])
            x = here * shrinks[unit] - scales[unit] * step
            if self._settings.stochastic_rounding:
                x = rounded(x, part.dtype)
            if recalls(self._norm):
                memory = self._norm.keep(memory, step)
            else:
                store(part.vectors[PREVIOUS_X], here, motion.sound)
            for row, value in zip(part.memories, [memory, *after], strict=True):
                store(row, value, motion.sound)
            store(target, x, motion.sound)


def _combined(vectors: Sequence[Tensor], coefficients: Sequence[Any]) -> Tensor:
    total = torch.zeros_like(vectors[0])
    for vector, c in zip(vectors, coefficients, strict=True):
        if isinstance(c, Tensor) or c:
            total = total + c * vector
    return total


def _dot(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    return torch.dot(a.to(like.dtype), b.to(like.dtype))
