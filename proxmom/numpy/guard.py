"""The guard of `minimize`: no step is kept that does not lower f enough; undone ones are tried anew, shorter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.numpy.optimizer import Bookmark, Optimizer

DECREASE = 1e-2  # share of the shortest |move|/|change of gradient| times |gradient|² by which f must fall
ROUNDING = 8 * float(np.finfo(float).eps)  # relative to f, what f may rise
SHORTEST, LONGEST = 0.05, 0.5  # how much shorter the next try may be
BLIND = 0.1  # how much shorter it is where f or its gradient is not finite
TRIES = 120  # undone steps in a row, from a factor 1e300 down to nothing
STALLED = 30  # steps in a row within rounding before a run ends
PATIENCE = 50  # steps in a row that may lower f by less than they should, as while a step size finds its way


@dataclass(frozen=True)
class Point:
    """An evaluation: x, gradient (n,), and f."""

    x: NDArray[np.float64]
    f: float
    g: NDArray[np.float64]

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.f) and np.isfinite(self.g).all())


@dataclass
class Trust:
    """Lets every step of `optimizer` stand, and ends the run before the first point that is not finite."""

    optimizer: Optimizer
    undone: int = 0  # as of `Guard`; none is
    verdict: int | None = None  # the status that ends the run, if it must end

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        return self.optimizer.step(gradient, loss)

    def keeps(self, old: Point, new: Point) -> bool:
        """Whether the step may stand."""
        self.verdict = None if new.finite else 2
        return new.finite


@dataclass
class Guard:
    """Judges each step of `optimizer` from the last point kept, and undoes those that fail.

    No step is kept that raises f, and of 50 in a row one must lower it enough: f(x) - f(x') >= 0.01 r ||g'||² for a
    step from x to x', with r the least ||x - x'|| / ||g - g'|| of all steps so far, and no more than its own length
    over ||g|| where it goes along the gradient alone. As r >= 1/L this forces convergence on every smooth f that is
    bounded below, see `theory/14_tuning_free.py`. A failed step is tried anew along the gradient alone, at first at the
    step size's own estimate for that, then shorter and shorter.
    """

    optimizer: Optimizer
    euclidean: bool = True
    ratio: float = np.inf
    tries: int = 0
    undone: int = 0
    stalled: int = 0
    poor: int = 0
    _plain: float | None = 1.0  # factor on lr of a step along the gradient alone; None: the step was another
    _bookmark: Bookmark | None = field(default=None, repr=False)

    def step(self, gradient: Any, loss: float) -> Any:
        """The next x to look at; the arguments are the optimizer's."""
        self._bookmark = self.optimizer.bookmark()
        return self.optimizer.step(gradient, loss)

    def keeps(self, old: Point, new: Point) -> bool:
        """Whether the step may stand; if not, the optimizer is back at `old`, ready for a shorter one."""
        if new.finite and self._lowers(old, new):
            self._plain, self.tries = None, 0
            return True
        factor = self._shorter(old, new)
        assert self._bookmark is not None
        self.optimizer.undo(self._bookmark, factor)
        self._plain = factor if self.optimizer.kept("scale") is not None else 1.0
        self.tries += 1
        self.undone += 1
        return False

    @property
    def verdict(self) -> int | None:
        """The status that ends the run, if it must end."""
        return 3 if self.tries >= TRIES or self.stalled >= STALLED else None

    def _lowers(self, old: Point, new: Point) -> bool:
        with np.errstate(over="ignore"):
            move, turn = np.linalg.norm(new.x - old.x), np.linalg.norm(new.g - old.g)
            if turn > 0 and move > 0:
                self.ratio = min(self.ratio, float(move / turn))
            length = float(move / np.linalg.norm(old.g)) if self._plain is not None else np.inf
            least = min(self.ratio, length)
            need = DECREASE * least * float(new.g @ new.g) if np.isfinite(least) else 0.0
        noise = ROUNDING * max(abs(old.f), abs(new.f))
        small = abs(old.f - new.f) <= noise and need <= noise
        if small:  # a step along the gradient that had to be shortened down to rounding is the end
            self.stalled += STALLED if self.tries else 1
            return True
        if new.f > old.f - need and (new.f > old.f or self.poor + 1 >= PATIENCE):
            return False
        self.poor = self.poor + 1 if new.f > old.f - need else 0
        self.stalled = 0
        return True

    def _shorter(self, old: Point, new: Point) -> float:
        """The factor on lr of the next try."""
        scale, plain = self.optimizer.kept("scale"), self.optimizer.kept("plain")
        if self._plain is None:
            safe = self.ratio / self.optimizer.lr if self.euclidean and np.isfinite(self.ratio) else 0.0
            return LONGEST / 2 if scale is None else max(plain, safe) if plain is not None else scale * LONGEST / 2
        if not new.finite:
            return self._plain * BLIND
        fall = float((old.x - new.x).ravel() @ old.g.ravel())
        missed = new.f - old.f + fall
        best = fall / (2 * missed) if missed > 0 else LONGEST
        return self._plain * min(max(best, SHORTEST), LONGEST)
