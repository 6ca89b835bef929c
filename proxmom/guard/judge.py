"""`Judge`: which steps stand. It decides by numbers alone; see `Guard` of a backend for what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from proxmom.guard.numbers import Number, Truth, divide, finite, largest, least, no, some, where

DECREASE = 1e-2  # share of the shortest |move|/|change of gradient| times |gradient|² by which f must fall
ROUNDING = 8 * float(np.finfo(float).eps)  # relative: a smaller change, of f or of x, says nothing
TRIES = 120  # undone steps in a row, from a factor 1e300 down to nothing
STALLED = 30  # steps in a row within rounding before a run ends
PATIENCE = 50  # steps in a row that may lower f by less than they should, as while a step size finds its way
NEARER = 0.9  # of the least gradient so far: a step within rounding to so small a one is progress
GOES_ON = -1  # the status of a run that need not end


class Way:
    """The step from one evaluated point to another, in numbers; a backend says how they are worked out.

    old, new: points, of each `f`, `size` (length of the gradient) and whether both are `finite`. length, turn: of the
    move and of the change of the gradient. before, after: slopes along the move at its ends. shows: whether the move is
    longer than the rounding of x. grain: relative rounding of f. shake: what else is known of it, absolute.
    """

    old: Any
    new: Any
    length: Number
    turn: Number
    before: Number
    after: Number
    shows: Truth
    grain: float = ROUNDING
    shake: Number = 0.0

    @property
    def noise(self) -> Number:
        """What rounding may make of f."""
        return largest(self.grain * largest(abs(self.old.f), abs(self.new.f)), self.shake)

    @property
    def rounds(self) -> Truth:
        """Whether f changes by no more than that."""
        return abs(self.old.f - self.new.f) <= self.noise

    @property
    def rise(self) -> Number:
        """f(new) - f(old), from the slopes at both ends where f rounds it away; NaN where that overflows."""
        rounds, change = self.rounds, self.new.f - self.old.f
        return where(rounds, self.before / 2 + self.after / 2, change) if some(rounds) else change


class Judge:
    """Which steps stand: those that lower f enough, or whose slopes say so where f rounds it away.

    Attributes, each a float or (N,):
        ratio: the least length of a move over that of the change of the gradient, of all steps so far.
        tries, undone: steps undone in a row, and in all. stalled, weak: kept in a row within rounding, and with too
        small a fall. longest: length of a step kept. along: lr of the step, where it is one along the gradient alone,
        else NaN. improved: whether the last point is the one to return so far.

    Args:
        count: N, or None for one problem, whose numbers are floats.
    """

    def __init__(self, count: int | None = None) -> None:
        def start(value: Any) -> Any:
            return value if count is None else np.full(count, value)

        self.ratio, self.longest, self.along = start(np.inf), start(0.0), start(np.nan)
        self.tries, self.undone, self.stalled, self.weak = start(0), start(0), start(0), start(0)
        self.top: Number = None  # the first f
        self.least: Number = None  # the gradient where `improved` was last true
        self.was_finite = start(True)  # whether the last point that was left was, since f fell by more than rounding
        self.improved = start(False)

    def begin(self, point: Any) -> None:
        """Where the run starts."""
        self.top, self.least = point.f, point.size

    def state(self) -> dict[str, Any]:
        """All that it knows, for `restore`."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any], here: Truth = True) -> None:
        """What it knew before, of the problems where `here` is true."""
        for name, value in state.items():
            setattr(self, name, value if here is True else where(here, value, getattr(self, name)))

    def lowers(self, step: Way) -> Truth:
        """Whether the step may stand; `settle` is to be told next, and `improved` says what the point is worth."""
        old, new, sound = step.old, step.new, step.new.finite
        if some(sound):
            # a move within the rounding of x says nothing of curvature
            told = sound & (step.turn > 0) & (step.turn < np.inf) & step.shows
            self.ratio = where(told, least(self.ratio, divide(step.length, step.turn)), self.ratio)
        length = where(self.along == self.along, where(step.length == 0, 0.0, divide(step.length, old.size)), np.inf)
        shortest = least(self.ratio, length)
        need = where(finite(shortest), DECREASE * shortest * new.size * new.size, 0.0)
        within = sound & step.rounds & (need <= step.noise)
        kept = self._clearly(step, need, sound & no(within))
        self.improved = kept
        return kept | self._within(step, within) if some(within) else kept

    def settle(self, sound: Truth, kept: Truth) -> None:
        """What the next step has to know of this one: whether its end was finite, and whether it stands."""
        gone = no(kept)
        self.along = where(gone, self.along, np.nan)
        self.tries = where(gone, self.tries + 1, 0)
        self.undone = where(gone, self.undone + 1, self.undone)
        self.was_finite = where(gone, sound, self.was_finite)

    def ends(self) -> Number:
        """The status that ends the run, if it must end, else `GOES_ON`."""
        over = (self.tries >= TRIES) | (self.stalled >= STALLED)
        return where(over, where(self.was_finite, 3, 2), GOES_ON)

    def _clearly(self, step: Way, need: Number, asked: Truth) -> Truth:
        falls, enough = step.new.f <= step.old.f, step.new.f <= step.old.f - need
        kept = asked & (enough | (falls & (self.weak + 1 < PATIENCE)))
        self.weak = where(kept, where(enough, 0, self.weak + 1), self.weak)
        self.longest = where(kept, largest(self.longest, step.length), self.longest)
        self.stalled, self.was_finite = where(kept, 0, self.stalled), kept | self.was_finite
        self.least = where(kept, step.new.size, self.least)
        return kept

    def _within(self, step: Way, asked: Truth) -> Truth:
        move, size = step.length, step.new.size
        lowers = asked & (step.new.f <= self.top) & (step.rise <= 0)
        # first steps may be so short that f shows nothing yet
        growing = (self.tries == 0) & (move >= 2 * self.longest)
        nearer = lowers & (size <= NEARER * self.least)
        # a step that had to be shortened down to rounding, for nothing, is the end
        vain = (self.tries > 0) & lowers & (size >= self.least)
        more = where(nearer | (lowers & growing), 0, where(vain, STALLED, 1))
        self.stalled = where(asked, where(nearer, 0, self.stalled + more), self.stalled)
        self.longest = where(lowers, largest(self.longest, move), self.longest)
        better = lowers & (size <= self.least)
        self.improved, self.least = self.improved | better, where(better, size, self.least)
        return lowers
