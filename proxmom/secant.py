"""`Secant`: how far a step should have gone and how long the next one is, from the slopes at two points of a line.

Numbers alone: a layer on top of an ordinary step holds the vectors and does what is said here, see
`proxmom.numpy.forecast`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, sqrt
from sys import float_info

from proxmom.stepsize import check_positive

LOST = 64  # eps: a forecast gradient, squared, this small beside those it comes from is rounding
FLAT = 1e-3  # cosine of the angle to the gradient below which a forecast of the length is not believed
FAR = 1e6  # before curvature was seen, the most by which one evaluation may stretch a step


@dataclass(frozen=True)
class Lengths:
    """What `Secant` keeps from step to step; lengths are in units of lr.

    last: of the last step; steepest: of a step along the gradient alone, as the last curvature says; retries: how often
    in a row the last step was repeated; curved: whether curvature was ever seen; measured: whether the last gradient
    was one, and no forecast.
    """

    last: float = 1.0
    steepest: float = 1.0
    retries: int = 0
    curved: bool = False
    measured: bool = True


@dataclass(frozen=True)
class Line:
    """Slopes along the last step s, from the gradients before and after it; products <., lr·P⁻¹.> of the two.

    before: <gradient before, -s>; after: <gradient after, -s>; gg, gp, pp: products of the gradient after (g) and
    before (p).
    """

    before: float
    after: float
    gg: float
    gp: float
    pp: float

    @property
    def bend(self) -> float:
        """<change of the gradient, s>: > 0 where f curves upwards."""
        return self.before - self.after

    @property
    def turn(self) -> float:
        """The change of the gradient, squared."""
        return self.gg - 2 * self.gp + self.pp

    def forecast(self, reach: float) -> float:
        """The gradient after `reach` times the step, squared."""
        back = 1 - reach
        return back * back * self.pp + 2 * back * reach * self.gp + reach * reach * self.gg


@dataclass(frozen=True)
class Secant:
    """Each step ends at the minimum along its direction, as the slopes at two points of it forecast; no line search.

    Let s be the last step, p and g the gradients before and after it. On a quadratic <., s> of the gradient is linear
    along s and vanishes after t = <p, s> / <p - g, s> times the step, where the gradient is (1 - t) p + t g. So the
    rest of the last step is made up for together with the next one, at no evaluation, and the rule finds its planes at
    that point. There the linearised height is zero, and adaptive memory without a cap is the method of conjugate
    gradients at one gradient a step. The length of the next step is a forecast: the curvature along memory is known,
    that along the rest of the direction is taken as `stiffness` times <y, y> / <s, y>, y = g - p.

    A step whose slope at the end is steeper upwards than `steepness` times the slope at its start was downwards, or
    that should have been more than `stretch` times as long, is repeated with the forecast length. Where the curvature
    seen is so large that p can only have been a bad forecast, nothing is made up for, and g counts as it is.

    For `proxmom.numpy.minimize`. lr is the length of the first step alone. Where gradients are noisy the slopes are
    too: this is for exact gradients.

    Args:
        steepness: > 0. stretch: > 1. stiffness: > 0, at least 1 where curvatures are to be believed.
        retries: >= 0, how often in a row a step is repeated, once curvature was seen. After that it stands: the slope
            at its start was itself a forecast, and may be the one that is wrong.

    Raises:
        ValueError: for values outside these ranges.

    Source: derived and checked in `theory/14_tuning_free.py`, compared in `experiments/tuning_free`.
    """

    steepness: float = 1.0
    stretch: float = 10.0
    stiffness: float = 1.5
    retries: int = 2

    def __post_init__(self) -> None:
        check_positive("steepness", self.steepness)
        check_positive("stiffness", self.stiffness)
        if not 1 < self.stretch < inf:
            raise ValueError(f"stretch must be > 1 and finite, got {self.stretch}.")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}.")

    def finish(self, line: Line, lengths: Lengths) -> tuple[float, bool, Lengths]:
        """How many times as long the last step should be, whether that is all to do now, and what is kept.

        Args:
            line: the slopes at both ends of the last step.
            lengths: what was kept before.
        """
        if not line.before > 0:  # nothing moved, or not downwards
            return 1.0, False, replace(lengths, retries=0, measured=True)
        may_retry = lengths.retries < self.retries
        if not (line.bend > 0 and line.turn > 0):  # no minimum in sight: further along the same line
            again = may_retry or not lengths.curved
            return self._finished(self.stretch if again else 1.0, again, lengths, self.stretch * lengths.steepest)
        steepest = line.bend / line.turn
        if not lengths.measured and steepest * self.stretch**2 < lengths.steepest:  # the gradient before was wrong
            return self._finished(1.0, False, replace(lengths, curved=True), lengths.steepest)
        reach = line.before / line.bend
        far, steep = reach >= self.stretch, -line.after > self.steepness * line.before
        if reach >= (self.stretch if lengths.curved else FAR):
            reach = self.stretch
        lost = line.forecast(reach) <= LOST * float_info.epsilon * max(line.gg, line.pp)
        if may_retry and (far or steep or lost):
            return self._finished(reach, True, lengths, steepest)
        reach = 1.0 if steep or lost else min(reach, self.stretch)
        return self._finished(reach, False, replace(lengths, curved=True), steepest)

    @staticmethod
    def _finished(reach: float, again: bool, lengths: Lengths, steepest: float) -> tuple[float, bool, Lengths]:
        return (
            reach,
            again,
            Lengths(
                last=lengths.last * reach,
                steepest=steepest,
                retries=lengths.retries + 1 if again else 0,
                curved=lengths.curved,
                measured=lengths.measured if again else reach == 1,
            ),
        )

    def length(self, lengths: Lengths, step: Direction) -> float:
        """The length of a step along the direction that the rule chose.

        Args:
            lengths: as `finish` left them.
            step: the direction.
        """
        if not (step.bend > 0 and lengths.last > 0 and lengths.steepest > 0):
            return lengths.steepest
        ratio = step.share / lengths.last
        curvature = self.stiffness * step.rr / lengths.steepest + ratio * (ratio * step.bend - 2 * step.ry)
        if curvature > 0 and step.slope > FLAT * sqrt(step.gg * step.dd):
            return step.slope / curvature
        return lengths.steepest


@dataclass(frozen=True)
class Direction:
    """A direction d = share·memory + r, in products <., lr·P⁻¹.>, and the bend <y, s> of the last step.

    g is the gradient, y its change along the last step s. slope: <g, d>; gg, dd, rr, ry: of g, d, r and y.
    """

    share: float
    slope: float
    gg: float
    dd: float
    rr: float
    ry: float
    bend: float
