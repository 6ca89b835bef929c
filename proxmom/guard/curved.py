"""`CurvedJudge`: the judge of steps in a metric that learns the curvature of f, as `QuasiNewton`: their lr is 1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from proxmom.guard.judge import Judge, Way
from proxmom.guard.numbers import Number, Truth, divide, finite, largest, least, no, root, where

LONGEST = 0.5  # how much shorter the next try of a step along the gradient is, at least
BLIND = 0.1  # how much shorter a try is where f or its gradient is not finite
GROWTH = 10  # times the longest step so far: longer steps of a quasi-Newton metric are cut
LEVEL = 1e-3  # relative change of the slope along a step below which it showed no curvature
RETRIES = 10  # shortened steps in a row before such a metric is forgotten
UPRIGHT = 1e-10  # cosine between such a step and -gradient below which it is forgotten at once
BACK, AHEAD = 0.05, 0.9  # how much shorter the next try of such a step may be


class CurvedJudge(Judge):
    """A step that fails is repeated along the same line, as long as the cubic through f and slope at both ends says.

    No step is more than ten times as long as the longest before it, and each is exactly that while no curvature was
    seen. Where steps are nearly level, or were shortened ten times in vain, the metric is to be forgotten, and the next
    ones go along the gradient. The claims are checked in `theory/16b_guarded_steps.py`.

    Attributes:
        level: length of the last step, if the slope along it stayed the same, a float or (N,).
    """

    def __init__(self, count: int | None = None) -> None:
        super().__init__(count)
        self.level: Number = 0.0 if count is None else np.zeros(count)

    def mark(self, step: Way, kept: Truth) -> None:
        """Of steps that stand, whether they showed curvature."""
        level = abs(step.after - step.before) <= LEVEL * abs(step.before)
        self.level = where(kept, where(level, step.length, 0.0), self.level)

    def retry(self, step: Way, lr: Number) -> tuple[Number, Truth]:
        """The lr of the next try after a step with this one failed, and whether it goes along the gradient alone."""
        share = where(step.new.finite, cubic(step, where(self.longest > 0, BACK, BACK**4)), BLIND)
        along, lost = self.along == self.along, self.tries >= RETRIES
        anew = self.first(share * divide(step.length, step.old.size))
        return where(along, least(share, LONGEST) * self.along, where(lost, anew, share * lr)), along | lost

    def first(self, lr: Number) -> Number:
        """The lr of the first step along the gradient alone: what curvature was ever seen allows."""
        return first(lr, self.ratio)


def first(lr: Number, ratio: Number) -> Number:
    """The larger of both, where the least length of a move over the change of the gradient is known."""
    return where(finite(ratio), largest(lr, ratio), lr)


class Cut(NamedTuple):
    """What a proposed step becomes: whether the metric is forgotten before it, and its lr."""

    forget: Truth
    lr: Number


def cut(
    length: Number,
    slope: Number,
    size: Number,
    lr: Number,
    *,
    curved: Truth,
    free: Truth,
    longest: Number,
    level: Number,
    ratio: Number,
) -> Cut:
    """How far a proposed step goes.

    Args:
        length: of the move with this lr. slope: along it. size: of the gradient.
        curved: whether the metric is no longer the identity. free: whether the length is to be chosen: not at a first
            step, nor at one that is repeated.
        longest, level, ratio: as of `CurvedJudge`.
    """
    sound = (length > 0) & (length < np.inf) & (size > 0) & (size < np.inf)
    upright = where(sound, -divide(divide(slope, length), size), 1.0)
    forget = curved & (upright < UPRIGHT)
    limit = GROWTH * longest
    wanted = where(curved, least(largest(length, GROWTH * level), limit), limit)
    changed = free & (wanted > 0) & (wanted < np.inf) & (wanted != length) & (length > 0)
    chosen = where(changed, lr * divide(wanted, length), lr)
    return Cut(forget, where(forget, first(divide(longest, size), ratio), where(no(forget), chosen, lr)))


def cubic(step: Way, lowest: Number) -> Number:
    """Where the cubic through f and slope at both ends has its minimum, as a share of the step, >= `lowest`."""
    before, after, rise = step.before, step.after, step.rise
    bend = before + after - 3 * rise
    square = bend * bend - before * after
    above = root(square)
    span = after - before + 2 * above
    ahead = where(span == 0, AHEAD, 1 - divide(after + above - bend, span))
    parabola = where(rise > before, divide(-before, 2 * (rise - before)), AHEAD)
    share = where(square >= 0, ahead, parabola)
    return where(finite(share), least(largest(share, lowest), AHEAD), BLIND)
