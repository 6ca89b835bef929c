"""Comparisons that fail with the figure that was seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from proxmom.testing.row import Failure, require


def same(left: Sequence[Tensor], right: Sequence[Tensor], message: str, rtol: float = 0.0) -> None:
    """Fail unless all entries agree: bit by bit, or to rtol relative to the largest entry of the right (at least 1)."""
    for a, b in zip(left, right, strict=True):
        if rtol == 0 and torch.equal(a, b):
            continue
        apart = largest([a.double() - b.double()])
        if rtol == 0 or not apart <= rtol * max(1.0, largest([b])):
            raise Failure(f"{message}: off by {apart:.1e}")


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest absolute entry; NaN counts as the largest of all."""
    return max((float(t.detach().abs().max()) for t in tensors if t.numel()), key=_size, default=0.0)


def _size(figure: float) -> float:
    return figure if figure == figure else float("inf")


def moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """Whether every tensor that is not empty has changed."""
    return all(not torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.numel())


def require_finite(params: Iterable[Tensor], when: str) -> None:
    """Fail unless all values are finite."""
    require(all(p.isfinite().all() for p in params), f"parameters are not finite {when}")


def require_finite_state(optimizer: torch.optim.Optimizer, when: str) -> None:
    """Fail unless all tensors and numbers in the state are finite."""
    for name, value in state_entries(optimizer):
        if isinstance(value, Tensor | float):
            require(torch.as_tensor(value).isfinite().all(), f"state {name!r} is not finite {when}")


def state_entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, object]]:
    """(name, value) of every parameter's state."""
    for state in optimizer.state.values():
        yield from state.items()
