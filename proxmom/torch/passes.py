"""The two passes over memory, block by block: inner products, then combine and move. Element-wise work stays in cache.

A `Part` is one parameter with all that belongs to it, as flat tensors. The metric's own formulas run on each block, so
there is no second copy of them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from proxmom.metrics import Metric
from proxmom.planes import Scalar
from proxmom.step import MEMORY

BLOCK = 1 << 15  # elements: a few temporaries of this size stay in the second-level cache


@dataclass
class Part:
    """One parameter.

    x: its values, flat, in the dtype of the computation; gradient likewise; memories: "memory" and what the rule
    declares besides; metric: the metric's state, tensors flat; factor: of the metric, for the mass of memory.
    """

    x: Tensor
    gradient: Tensor
    memories: Sequence[Tensor]
    metric: dict[str, Any]
    factor: Scalar = 1.0

    def blocks(self, size: int) -> Iterator[Part]:
        """The part in pieces of `size` elements: views, so that what is written arrives."""
        for start in range(0, self.x.numel(), size):
            at = slice(start, start + size)
            state = {name: value[at] if _is_vector(value) else value for name, value in self.metric.items()}
            yield Part(self.x[at], self.gradient[at], [m[at] for m in self.memories], state, self.factor)


def _is_vector(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def measure(part: Part, metric: Metric, *, inertia: float, with_x: bool, block: int = BLOCK) -> list[Tensor]:
    """Inner products of one part, in the accumulator's dtype: dual (B, B), metric (B, B), pull (B,), decay (B,).

    With r = 1/(1 + λP) the weights are M = r/P and PM = r, and P⁻¹ = M + λr: a sum of positive terms.
    """
    count = 1 + len(part.memories)
    sums = [_dots(piece, metric, inertia, with_x) for piece in part.blocks(block)]
    if not sums:  # an empty parameter
        sums = [[part.x.new_zeros(()) for _ in range(count * (count + 1) + count)]]
    totals = torch.stack([torch.stack(row) for row in sums]).to(accumulator(part.x)).sum(0)
    pairs = count * (count + 1) // 2
    moved = _symmetric(totals[:pairs], count)
    pulled = _symmetric(totals[pairs : 2 * pairs], count) if inertia else torch.zeros_like(moved)
    decay = totals[-count:] if with_x else torch.zeros_like(moved[0])
    return [moved + inertia * pulled, moved, pulled[:, MEMORY], decay]


def accumulator(like: Tensor) -> torch.dtype:
    """float64 on the CPU, where the step waits for memory anyway; float32 or better elsewhere."""
    return torch.float64 if like.device.type in ("cpu", "meta") else torch.promote_types(like.dtype, torch.float32)


def _dots(part: Part, metric: Metric, inertia: float, with_x: bool) -> list[Tensor]:
    """M-weighted products of all pairs of vectors, PM-weighted ones where there is inertia, and products with x."""
    u = [part.gradient, *part.memories]
    diagonal = metric.diagonal(metric.update(part.metric, part.gradient), part.factor)
    moved, pulled = u, u
    if diagonal is None:
        products = [torch.dot(a, b) for a, b in _pairs(u, u)]
        weight = 1 / (1 + inertia)
        sums = [product * weight for product in products] * (2 if inertia else 1)
    else:
        smooth = 1 / (1 + inertia * diagonal) if inertia else torch.ones_like(diagonal)
        weight = smooth / diagonal
        moved = [v * weight for v in u]
        sums = [torch.dot(a, b) for a, b in _pairs(moved, u)]
        if inertia:
            pulled = [v * smooth for v in u]
            sums += [torch.dot(a, b) for a, b in _pairs(pulled, u)]
    return sums + [torch.dot(v, part.x) for v in u] if with_x else sums


def _pairs(left: Sequence[Tensor], right: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for i, a in enumerate(left):
        for b in right[i:]:
            yield a, b


def _symmetric(upper: Tensor, count: int) -> Tensor:
    """A symmetric matrix (B, B) from its upper triangle, row by row."""
    entries = dict(zip(combinations_with_replacement(range(count), 2), upper.unbind(), strict=True))
    rows = [[entries[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    return torch.stack([torch.stack(row) for row in rows])


def move(
    part: Part,
    metric: Metric,
    direction: Sequence[Scalar],
    *,
    inertia: float,
    scale: Scalar,
    shrink: Scalar,
    averaging: Sequence[float] = (),
    block: int = BLOCK,
) -> None:
    """Write the new memory, the metric's new state and x <- shrink·x - scale·P⁻¹memory, in place.

    Args:
        direction: coefficients of gradient, memory, further memories in the active model's slope.
        scale, shrink: of the move and of x, numbers or 0-dim tensors.
        averaging: of each further memory, the coefficient of the gradient.
    """
    for piece in part.blocks(block):
        state = metric.update(piece.metric, piece.gradient)
        diagonal = metric.diagonal(state, piece.factor)
        gradient, memory = piece.gradient, piece.memories[MEMORY - 1]
        slope = gradient * direction[0] + memory * direction[MEMORY]
        for further, coefficient in zip(piece.memories[MEMORY:], direction[MEMORY + 1 :], strict=True):
            slope += further * coefficient
        if inertia:
            held = inertia if diagonal is None else inertia * diagonal
            slope = (slope + held * memory) / (1 + held)
        memory.copy_(slope)
        for further, coefficient in zip(piece.memories[MEMORY:], averaging, strict=True):
            further.lerp_(gradient, coefficient)
        for name, value in piece.metric.items():
            if _is_vector(value):
                value.copy_(state[name])
        piece.x.mul_(shrink).sub_((slope if diagonal is None else slope / diagonal) * scale)
