"""What a trial is made of: tensors, the states they are driven into, and what is written down of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxmom.numpy.measures import join, split

SHAPES = ((2, 3), (4,), (1, 2, 1))  # of the tensors: metrics may look at them
MATRICES = ((2, 3), (2, 2), (1, 2))  # for norms that take nothing else
SIZE = 12
ERROR, GAP = 1e-6, 1e-10  # what a rule must keep
Vector = NDArray[np.float64]


def _as_it_is(random: Vector) -> Vector:
    return random


def _integers(random: Vector) -> Vector:
    """Small ones, so that coordinates cross zero together."""
    return np.clip(np.round(random), -2, 2)


def _of_rank_one(random: Vector) -> Vector:
    return join([np.outer(part[:, 0], part[0]) for part in split(random, MATRICES)])


@dataclass(frozen=True)
class Case:
    """The last step of a trial: what the random state is turned into before the comparison."""

    gradient: Callable[[Vector, Vector], Vector]  # (random vector, memory) -> gradient
    lr: float | None = None  # None: random
    depth: float | None = None  # loss minus lower bound in units of lr·||g||²; None: random
    before: Callable[[Vector], Vector] = _as_it_is  # random vector -> gradient, of the steps that lead there


CASES: dict[str, Case] = {
    "random": Case(lambda r, d: r),
    "gradient = memory": Case(lambda r, d: d),
    "gradient = -memory": Case(lambda r, d: -d),
    "gradient nearly memory": Case(lambda r, d: d + 1e-13 * r),
    "zero gradient": Case(lambda r, d: 0 * r),
    "gradient ⟂ memory": Case(lambda r, d: r - float(r @ d) / max(float(d @ d), 1e-300) * d),
    "huge gradient": Case(lambda r, d: 1e6 * r),
    "tiny gradient": Case(lambda r, d: 1e-6 * r),
    "huge lr": Case(lambda r, d: r, lr=1e4),
    "tiny lr": Case(lambda r, d: r, lr=1e-6),
    "loss at its bound": Case(lambda r, d: r, depth=0.0),
    "loss below its bound": Case(lambda r, d: r, depth=-1.0),
    "loss just above its bound": Case(lambda r, d: r, depth=1e-9),
}

# In a norm a direction jumps where a coordinate or a singular value of the slope is zero.
IN_NORMS: dict[str, Case] = CASES | {
    "integers": Case(lambda r, d: _integers(r), before=_integers),
    "integers, gradient = -memory": Case(lambda r, d: -d, before=_integers),
    "multiples of memory": Case(lambda r, d: _integers(r) * d),
    "zeros in the gradient": Case(lambda r, d: r * (np.arange(SIZE) % 3 > 0)),
    "rank one": Case(lambda r, d: _of_rank_one(r), before=_of_rank_one),
    "rank one and memory": Case(lambda r, d: d + _of_rank_one(r), before=_of_rank_one),
}


@dataclass(frozen=True)
class Trial:
    """One comparison; error, gap and excess are relative.

    number: counted from 0; with the seed it reproduces the trial.
    case: one of `CASES`, in a norm of `IN_NORMS`; with a remark where the metric is none, or the convex solver failed,
        and then error and excess are infinite.
    error: of the step, beyond the rounding of x; in a norm, whose best step need not be unique, of its length:
        above lr, or where a floor shortens it above the shortest of the best. gap: duality gap. excess: of our
        objective over the solver's.
    """

    number: int
    case: str
    error: float
    gap: float
    excess: float

    @property
    def strain(self) -> float:
        """The largest of the three figures over what it may be: above 1 the step is wrong."""
        return float(np.max([self.error / ERROR, self.gap / GAP, self.excess / ERROR]))  # of NaN: NaN
