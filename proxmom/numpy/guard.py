"""The guards of `minimize`: a step that does not lower f enough is undone, and repeated shorter."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.numpy.arrays import norm
from proxmom.numpy.forecast import Forecast
from proxmom.numpy.optimizer import Optimizer

DECREASE = 1e-2  # share of the shortest |move|/|change of gradient| times |gradient|² by which f must fall
ROUNDING = 8 * float(np.finfo(float).eps)  # relative: a smaller change, of f or of x, says nothing
SHORTEST, LONGEST = 0.05, 0.5  # how much shorter the next try may be
BLIND = 0.1  # how much shorter it is where f or its gradient is not finite
TRIES = 120  # undone steps in a row, from a factor 1e300 down to nothing
STALLED = 30  # steps in a row within rounding before a run ends
PATIENCE = 50  # steps in a row that may lower f by less than they should, as while a step size finds its way
GROWTH = 10  # times the longest step so far: longer steps of a quasi-Newton metric are cut
LEVEL = 1e-3  # relative change of the slope along a step below which it showed no curvature
RETRIES = 10  # shortened steps in a row before such a metric is forgotten
UPRIGHT = 1e-10  # cosine between such a step and -gradient below which it is forgotten at once
BACK, AHEAD = 0.05, 0.9  # how much shorter the next try of such a step may be
NEARER = 0.9  # of the least gradient so far: a step within rounding to so small a one is progress


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

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.f) and np.isfinite(self.size))


@dataclass(frozen=True, eq=False)
class Segment:
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
    def noise(self) -> float:
        """What rounding may make of f."""
        return ROUNDING * max(abs(self.old.f), abs(self.new.f))

    @property
    def rounds(self) -> bool:
        """Whether f changes by no more than that."""
        return abs(self.old.f - self.new.f) <= self.noise

    @property
    def rise(self) -> float:
        """f(new) - f(old), from the slopes at both ends where f rounds it away; NaN where that overflows."""
        return self.before / 2 + self.after / 2 if self.rounds else self.new.f - self.old.f


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


@dataclass
class Guard:
    """Judges each step of `optimizer` from the last point kept, and undoes those that fail.

    No step is kept that raises f, and of 50 in a row one must lower it enough: f(x) - f(x') >= 0.01 r ||g'||² for a
    step from x to x', with r the least ||x - x'|| / ||g - g'|| of all steps so far, and no more than its own length
    over ||g|| where it goes along the gradient alone. As r >= 1/L this forces convergence on every smooth f that is
    bounded below, see `theory/14_tuning_free.py`. A failed step is repeated along the gradient alone, at first at the
    step size's own estimate for that, then shorter and shorter.

    Where f changes by no more than its rounding the slopes at both ends of the step say by how much it fell, their mean
    times the step, which is exact on quadratics; f is never above its first value there either.
    """

    optimizer: Optimizer | Forecast
    euclidean: bool = True
    ratio: float = np.inf
    tries: int = 0
    undone: int = 0
    stalled: int = 0
    weak: int = 0
    longest: float = 0.0
    _finite: bool = True  # whether the last point that was left was, since f fell by more than rounding
    _top: float | None = None  # the first f
    _best: Point | None = field(default=None, repr=False)  # the least gradient since f fell by more than rounding
    _gradient_lr: float | None = None  # lr of the step, where it is one along the gradient alone
    _bookmark: Any = field(default=None, repr=False)

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        if self._bookmark is None:
            self._gradient_lr = self.optimizer.last_lr
        self._bookmark = self.optimizer.bookmark()
        return self.optimizer.step(gradient, loss)

    def keeps(self, step: Segment) -> bool:
        """Whether the step may stand; if not, the optimizer is back where it began, ready for a shorter one."""
        if self._best is None:
            self._top, self._best = step.old.f, step.old
        with np.errstate(over="ignore", invalid="ignore"):
            kept = step.new.finite and self._lowers(step)
            if not kept:
                self._again(step)
        if kept:
            self._gradient_lr, self.tries = None, 0
            return True
        self.tries += 1
        self.undone += 1
        self._finite = step.new.finite
        return False

    def start_anew(self, lr: float) -> None:
        """Makes the next step one along the gradient alone, from where the optimizer is, with the given lr."""
        self._back(self.optimizer.bookmark(), lr)

    def _again(self, step: Segment) -> None:
        """Prepares the next try, shorter than this one."""
        self._back(self._bookmark, self._shorter(step))

    def _back(self, bookmark: Any, lr: float) -> None:
        self.optimizer.undo(bookmark, lr)
        self._gradient_lr = lr

    @property
    def verdict(self) -> int | None:
        """The status that ends the run, if it must end."""
        if self.tries >= TRIES:
            return 3 if self._finite else 2
        return (3 if self._finite else 2) if self.stalled >= STALLED else None

    def best(self, last: Point) -> Point:
        """The point to return where no minimum was reached: of those that f cannot tell apart, the flattest."""
        return last if self._best is None else self._best

    def _lowers(self, step: Segment) -> bool:
        old, new, move = step.old, step.new, step.length
        # a move within the rounding of x says nothing of curvature
        if 0 < step.turn < np.inf and move > ROUNDING * norm(new.x):
            self.ratio = min(self.ratio, move / step.turn)
        length = move and move / old.size if self._gradient_lr is not None else np.inf
        least = min(self.ratio, length)
        need = DECREASE * least * new.size * new.size if np.isfinite(least) else 0.0
        if step.rounds and need <= step.noise:
            return self._lowers_within_rounding(step)
        enough = new.f <= old.f - need
        if not (enough or (new.f <= old.f and self.weak + 1 < PATIENCE)):
            return False
        self.weak = 0 if enough else self.weak + 1
        self.longest, self.stalled, self._best, self._finite = max(self.longest, move), 0, new, True
        return True

    def _lowers_within_rounding(self, step: Segment) -> bool:
        assert self._best is not None
        assert self._top is not None
        new, move, size, least = step.new, step.length, step.new.size, self._best.size
        lowers = new.f <= self._top and step.rise <= 0
        growing = not self.tries and move >= 2 * self.longest  # first steps may be so short that f shows nothing yet
        if lowers and size <= NEARER * least:
            self.stalled = 0
        elif not (lowers and growing):  # a step that had to be shortened down to rounding, for nothing, is the end
            self.stalled += STALLED if self.tries and lowers and size >= least else 1
        if lowers:
            self.longest = max(self.longest, move)
            self._best = new if size <= least else self._best
        return lowers

    def _shorter(self, step: Segment) -> float:
        """The lr of the next try, along the gradient alone."""
        if self._gradient_lr is None:
            if not isinstance(self.optimizer, Forecast):
                return self.optimizer.last_lr * LONGEST / 2
            known = self.euclidean and np.isfinite(self.ratio)
            return max(self.optimizer.steepest_lr, self.ratio) if known else self.optimizer.steepest_lr
        if not step.new.finite:
            return self._gradient_lr * BLIND
        fall = -step.before
        missed = step.rise + fall
        best = fall / (2 * missed) if 0 < missed < np.inf else LONGEST
        return self._gradient_lr * min(max(best, SHORTEST), LONGEST)


@dataclass
class Curved(Guard):
    """The guard of steps in a metric that learns the curvature of f, as `QuasiNewton`: their lr is 1.

    A step that fails is repeated along the same line, as long as the cubic through f and slope at both ends says. No
    step is more than ten times as long as the longest before it, and each is exactly that while no curvature was seen.
    Where steps are nearly level, or were shortened ten times in vain, the metric is forgotten, and the next ones go
    along the gradient. What holds of `Guard` holds of it whatever the metric, see `theory/16b_guarded_steps.py`.
    """

    optimizer: Optimizer
    level: float = 0.0  # length of the last step, if the slope along it stayed the same

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        optimizer, first, decay = self.optimizer, self._bookmark is None, self.optimizer.weight_decay
        g = np.ravel(gradient) + decay * np.ravel(optimizer.x) if decay else np.ravel(gradient)
        x = super().step(gradient, loss)
        move = optimizer.last_step
        with np.errstate(over="ignore", invalid="ignore"):
            length, size = norm(move), norm(g)
            sound = 0 < length < np.inf and 0 < size < np.inf
            upright = -float(move @ g) / length / size if sound else 1.0
        if optimizer.curved and upright < UPRIGHT:
            self._back(self._bookmark, self._first(self.longest / size))
            return super().step(gradient, loss)
        limit = GROWTH * self.longest
        wanted = min(max(length, GROWTH * self.level), limit) if optimizer.curved else limit
        if not first and not self.tries and 0 < wanted < np.inf and wanted != length and length > 0:
            optimizer.restore(self._bookmark)  # and again: x would keep the rounding of so long a step
            optimizer.lr = min(optimizer.lr * (wanted / length), sys.float_info.max)
            return super().step(gradient, loss)
        return x

    def keeps(self, step: Segment) -> bool:
        """Whether the step may stand; if not, the optimizer is back where it began, ready for a shorter one."""
        kept = super().keeps(step)
        if kept:
            self.optimizer.lr = 1.0
            self.level = step.length if abs(step.after - step.before) <= LEVEL * abs(step.before) else 0.0
        return kept

    def _again(self, step: Segment) -> None:
        new, along = step.new, self._gradient_lr
        share = _cubic(step, BACK if self.longest else BACK**4) if new.finite else BLIND
        if along is not None:
            self._back(self._bookmark, min(share, LONGEST) * along)
        elif self.tries >= RETRIES:
            self._back(self._bookmark, self._first(share * step.length / step.old.size))
        else:
            self.optimizer.undo(self._bookmark, share * self.optimizer.lr)

    def _first(self, lr: float) -> float:
        """The lr of the first step along the gradient alone: what curvature was ever seen allows."""
        return max(lr, self.ratio) if np.isfinite(self.ratio) else lr

    def _back(self, bookmark: Any, lr: float) -> None:
        self.optimizer.undo(bookmark, lr, forget=True)
        self._gradient_lr = lr


def _cubic(step: Segment, least: float) -> float:
    """Where the cubic through f and slope at both ends has its minimum, as a share of the step, >= `least`."""
    before, after, rise = step.before, step.after, step.rise
    bend = before + after - 3 * rise
    root = bend * bend - before * after
    if root >= 0:
        root = math.sqrt(root)
        share = 1 - (after + root - bend) / (after - before + 2 * root) if after - before + 2 * root else AHEAD
    else:
        share = -before / (2 * (rise - before)) if rise > before else AHEAD
    return min(max(share, least), AHEAD) if math.isfinite(share) else BLIND
