"""The guards of `minimize`: a step that does not lower f enough is undone, and repeated shorter.

What is decided stands in `proxmom.guard`; here it is worked out of arrays, and done.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.guard.curved import BLIND, LONGEST, CurvedJudge, cut
from proxmom.guard.judge import GOES_ON, ROUNDING, Judge, Way
from proxmom.numpy.arrays import norm
from proxmom.numpy.forecast import Forecast
from proxmom.numpy.optimizer import Optimizer

SHORTEST = 0.05  # how much shorter the next try of a step along the gradient may be


@dataclass(frozen=True)
class Point:
    """An evaluation as it is judged: x, gradient (n,), and f; told: x, f and gradient as the caller has them."""

    x: NDArray[np.float64]
    f: float
    g: NDArray[np.float64]
    told: tuple[Any, float, Any]

    @cached_property
    def size(self) -> float:
        """||gradient||."""
        return norm(self.g)

    @cached_property
    def here(self) -> float:
        """||x||."""
        return norm(self.x)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.f) and np.isfinite(self.size))


@dataclass(frozen=True, eq=False)
class Segment(Way):
    """The step from one evaluated point to another, as slopes and lengths, each worked out once.

    move: (n,). length, turn: of the move and of the change of the gradient. before, after: slopes along it at its ends.
    """

    old: Point
    new: Point

    @cached_property
    def move(self) -> NDArray[np.float64]:
        return self.new.x - self.old.x

    @cached_property
    def length(self) -> float:
        return norm(self.move)

    @cached_property
    def turn(self) -> float:
        return norm(self.new.g - self.old.g)

    @cached_property
    def before(self) -> float:
        return float(self.move @ self.old.g)

    @cached_property
    def after(self) -> float:
        return float(self.move @ self.new.g)

    @property
    def shows(self) -> bool:
        return self.length > ROUNDING * self.new.here


@dataclass
class Unguarded:
    """Lets every step of `optimizer` stand, and ends the run before the first point that is not finite."""

    optimizer: Optimizer | Forecast
    undone: int = 0  # as of `Guard`; none is
    verdict: int | None = None  # the status that ends the run, if it must end

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        return self.optimizer.step(gradient, loss)

    def keeps(self, step: Segment) -> bool:
        """Whether the step may stand."""
        self.verdict = None if step.new.finite else 2
        return step.new.finite

    def best(self, last: Point) -> Point:
        """The point to return where the run did not end at a minimum."""
        return last


class Guard(Judge):
    """Judges each step of `optimizer` from the last point kept, and undoes those that fail.

    No step is kept that raises f, and of 50 in a row one must lower it enough: f(x) - f(x') >= 0.01 r ||g'||² for a
    step from x to x', with r the least ||x - x'|| / ||g - g'|| of all steps so far, and no more than its own length
    over ||g|| where it goes along the gradient alone. As r >= 1/L this forces convergence on every smooth f that is
    bounded below, see `theory/14_tuning_free.py`. A failed step is repeated along the gradient alone, at first at the
    step size's own estimate for that, then shorter and shorter.

    Where f changes by no more than its rounding the slopes at both ends of the step say by how much it fell, their mean
    times the step, which is exact on quadratics; f is never above its first value there either.
    """

    def __init__(self, optimizer: Optimizer | Forecast, euclidean: bool = True) -> None:
        super().__init__()
        self.optimizer, self.euclidean = optimizer, euclidean
        self._best: Point | None = None  # the least gradient since f fell by more than rounding
        self._bookmark: Any = None

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        if self._bookmark is None:
            self.along = self.optimizer.last_lr
        self._bookmark = self.optimizer.bookmark()
        return self.optimizer.step(gradient, loss)

    def keeps(self, step: Segment) -> bool:
        """Whether the step may stand; if not, the optimizer is back where it began, ready for a shorter one."""
        if self._best is None:
            self._best = step.old
            self.begin(step.old)
        with np.errstate(over="ignore", invalid="ignore"):
            kept = bool(self.lowers(step))
            if self.improved:
                self._best = step.new
            if not kept:
                self._again(step)
        self.settle(step.new.finite, kept)
        return kept

    def start_anew(self, lr: float) -> None:
        """Makes the next step one along the gradient alone, from where the optimizer is, with the given lr."""
        self._back(self.optimizer.bookmark(), lr)

    def _again(self, step: Segment) -> None:
        """Prepares the next try, shorter than this one."""
        self._back(self._bookmark, self._shorter(step))

    def _back(self, bookmark: Any, lr: float) -> None:
        self.optimizer.undo(bookmark, lr)
        self.along = lr

    @property
    def verdict(self) -> int | None:
        """The status that ends the run, if it must end."""
        status = self.ends()
        return None if status == GOES_ON else status

    def best(self, last: Point) -> Point:
        """The point to return where no minimum was reached: of those that f cannot tell apart, the flattest."""
        return last if self._best is None else self._best

    def _shorter(self, step: Segment) -> float:
        """The lr of the next try, along the gradient alone."""
        if np.isnan(self.along):
            if not isinstance(self.optimizer, Forecast):
                return self.optimizer.last_lr * LONGEST / 2
            known = self.euclidean and np.isfinite(self.ratio)
            return max(self.optimizer.steepest_lr, self.ratio) if known else self.optimizer.steepest_lr
        if not step.new.finite:
            return float(self.along * BLIND)
        fall = -step.before
        missed = step.rise + fall
        best = fall / (2 * missed) if 0 < missed < np.inf else LONGEST
        return float(self.along * min(max(best, SHORTEST), LONGEST))


class Curved(Guard, CurvedJudge):
    """The guard of steps in a metric that learns the curvature of f, as `QuasiNewton`: their lr is 1.

    See `CurvedJudge`; what holds of `Guard` holds of it whatever the metric, see `theory/16b_guarded_steps.py`.
    """

    optimizer: Optimizer

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        optimizer, first, decay = self.optimizer, self._bookmark is None, self.optimizer.weight_decay
        g = np.ravel(gradient) + decay * np.ravel(optimizer.x) if decay else np.ravel(gradient)
        x = super().step(gradient, loss)
        move = optimizer.last_step
        with np.errstate(over="ignore", invalid="ignore"):
            forget, lr = cut(
                norm(move),
                float(move @ g),
                norm(g),
                optimizer.lr,
                curved=optimizer.curved,
                free=not first and not self.tries,
                longest=self.longest,
                level=self.level,
                ratio=self.ratio,
            )
        if forget:
            self._back(self._bookmark, lr)
            return super().step(gradient, loss)
        if lr != optimizer.lr:
            optimizer.restore(self._bookmark)  # and again: x would keep the rounding of so long a step
            optimizer.lr = min(lr, sys.float_info.max)
            return super().step(gradient, loss)
        return x

    def keeps(self, step: Segment) -> bool:
        """Whether the step may stand; if not, the optimizer is back where it began, ready for a shorter one."""
        kept = super().keeps(step)
        if kept:
            self.optimizer.lr = 1.0
        self.mark(step, kept)
        return kept

    def _again(self, step: Segment) -> None:
        lr, along = self.retry(step, self.optimizer.lr)
        if along:
            self._back(self._bookmark, lr)
        else:
            self.optimizer.undo(self._bookmark, lr)

    def _back(self, bookmark: Any, lr: float) -> None:
        self.optimizer.undo(bookmark, lr, forget=True)
        self.along = lr
