"""The arithmetic of the passes in torch operations, on vectors of any length: inner products, memories, rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proxmom.memories import Average, Combination, Displacement, Memory, Position, Previous
from proxmom.planes import Array, Scalar

ROUNDING = 1e-14  # of a sum of weights


def products(u: Sequence[Tensor], diagonal: Tensor | None, inertia: float, dot: Callable[..., Tensor]) -> list[Tensor]:
    """Of all pairs of vectors, weighted by P⁻¹(I + λP)⁻¹, then by (I + λP)⁻¹, which for the identity are left out."""
    if diagonal is None:
        return [dot(a, b) for a, b in pairs(u, u)]
    if not inertia:
        over = [v / diagonal for v in u]
        sums = _seen([dot(a, b) for a, b in pairs(over, u)], dot(diagonal, over[0]))
        return sums + [torch.zeros_like(s) for s in sums]
    smooth = _held(diagonal, inertia).reciprocal_()
    weighted = [v * smooth for v in u]
    pulled = [dot(a, b) for a, b in pairs(weighted, u)]
    whole = dot(diagonal, smooth)
    sums = [dot(a, b) for a, b in pairs([v.div_(diagonal) for v in weighted], u)]
    return _seen(sums, whole) + pulled


def decayed(g: Tensor, decay: Any, x: Tensor) -> Tensor:
    """The gradient with coupled decay; where that is 0, x may be anything, as the kernels do not read it there."""
    if not isinstance(decay, Tensor):
        return g + decay * x if decay else g
    return torch.where(decay == 0, g, g + decay * x)


def named(memories: Mapping[str, Memory], gradient: Tensor, kept: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """The named vectors, in order; kept: memory, and what is kept of the further ones."""
    memory, *rows = kept
    left, vectors = iter(rows), [gradient, memory]
    for kind in memories.values():
        if isinstance(kind, Position):
            vectors.append(x)
        else:
            vectors.append(x - next(left) if isinstance(kind, Displacement) else next(left))
    return vectors


def following(
    memories: Mapping[str, Memory], vectors: Sequence[Tensor], combinations: Mapping[str, Sequence[Any] | Tensor]
) -> list[Tensor | None]:
    """What is kept of further memories after a step, from what the named vectors were before; None where it stays.

    combinations: name -> coefficients.
    """
    places = {name: place for place, name in enumerate(("gradient", "memory", *memories))}
    found: list[Tensor | None] = []
    for name, kind in memories.items():
        old = vectors[places[name]]
        if isinstance(kind, Average):
            found.append(old + kind.coefficient * (vectors[0] - old))
        elif isinstance(kind, Previous):  # the others will be written in place
            found.append(vectors[places[kind.of]].clone())
        elif isinstance(kind, Combination):
            terms = (c * v for c, v in zip(combinations[name], vectors, strict=True))
            found.append(sum(terms, start=torch.zeros_like(vectors[0])))
        elif isinstance(kind, Displacement):
            found.append(None)
    return found


def _seen(sums: list[Tensor], product: Tensor) -> list[Tensor]:
    """Sums that are not finite where P is infinite: `product` is P times what dividing by P had made zero.

    An infinite P would be seen nowhere else, and would stay infinite for good.
    """
    return [sums[0] + 0 * product, *sums[1:]]


def pairs(left: Sequence[Tensor], right: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of two lists the entries (i, j) with i <= j, row by row."""
    for i, a in enumerate(left):
        for b in right[i:]:
            yield a, b


def combine(vectors: Sequence[Tensor], direction: Sequence[Scalar], inertia: float, diagonal: Tensor | None) -> None:
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
    add(memory, g, to_gradient)
    for vector, coefficient in zip(further, to_further, strict=True):
        add(memory, vector, coefficient)
    if inertia:
        memory.div_(held + 1)


def _held(diagonal: Tensor, inertia: float) -> Tensor:
    """1 + λP, in one pass."""
    return torch.add(diagonal.new_ones(1), diagonal, alpha=inertia)


def add(vector: Tensor, other: Tensor, coefficient: Scalar) -> None:
    """vector += coefficient·other; a tensor for a coefficient stays on its device."""
    if isinstance(coefficient, Tensor):
        vector.addcmul_(other, coefficient)
    else:
        vector.add_(other, alpha=coefficient)


def store(target: Tensor, value: Tensor | None, sound: Tensor | None) -> None:
    """target <- value, where `sound` if that is given; None: as it is."""
    if value is None:
        return
    target.copy_(value if sound is None else torch.where(sound, value.to(target.dtype), target))


def scale(vector: Tensor, factor: Scalar) -> None:
    """vector *= factor."""
    if isinstance(factor, Tensor) or factor != 1:
        vector.mul_(factor)


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 rounded to bfloat16 at random: up with the probability that makes the mean exact."""
    if dtype != torch.bfloat16:
        return value
    noise = torch.randint_like(value, 1 << 16, dtype=torch.int32)
    return ((value.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32)


def each(values: Array) -> list[Any]:
    """Of (U, ...) what each unit multiplies arrays by: Python numbers where that does not wait for a device."""
    numbers: list[Any] = list(values.unbind(0)) if isinstance(values, Tensor) else values.tolist()
    return numbers
