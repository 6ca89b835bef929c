"""An evaluation and a step as they are judged, in numbers: floats for one problem, arrays (N,) for N."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from proxmom.guard.judge import Way
from proxmom.guard.numbers import Number, Truth, finite, where
from proxmom.torch.full_batch.rows import Rows


@dataclass(frozen=True)
class Spot:
    """An evaluation as it is judged, each a float or (N,): f, told as the caller has it, ||gradient||, ||x||."""

    f: Number
    told: Number
    size: Number
    here: Number

    @property
    def finite(self) -> Truth:
        return finite(self.f) & finite(self.size) & finite(self.here)

    def where(self, here: Truth, other: Spot) -> Spot:
        """This one of the problems where it is true, else the other."""
        return Spot(*(where(here, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


@dataclass(eq=False)
class Step(Way):
    """See `Way`. bend: <move, change of the gradient>; away: ||x' - x0||; component: the gradient's largest at x'."""

    old: Spot
    new: Spot
    length: Number
    turn: Number
    before: Number
    after: Number
    bend: Number
    away: Number
    component: Number
    shows: Truth
    grain: float
    shake: Number


class Scale:
    """Powers of two by which f and its gradient are multiplied, so that the first gradient is about 1 long.

    No square over- or underflows then, and nothing else changes.
    """

    def __init__(self, power: Any) -> None:
        self.power = power  # an integer, or (N,)

    def up(self, value: Any) -> Any:
        """f, or a length of the gradient, as it is judged."""
        return plain(np.ldexp(value, self.power))

    def down(self, value: Any) -> Any:
        """The same as the caller knows it."""
        return plain(np.ldexp(value, -self.power))

    def rows(self, g: Rows, *, back: bool = False) -> Rows:
        """The gradient as it is judged, or back as the caller knows it."""
        factors = np.ldexp(1.0, -self.power if back else self.power)
        if np.ndim(factors):
            column = torch.as_tensor(factors)[:, None].to(g[0].device, non_blocking=True)
            return [part * column.to(part.dtype) for part in g]
        return g if factors == 1 else [part * float(factors) for part in g]


def exponent(size: Any) -> Any:
    return np.where(np.isfinite(size), np.frexp(size)[1], 0)


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's, whose arithmetic is faster."""
    return value if isinstance(value, np.ndarray) and value.ndim else float(value)


def root_of(square: Any) -> Any:
    return plain(np.sqrt(square))
