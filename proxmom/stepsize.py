"""Step sizes that set themselves: how long a step is, said in a few lines from what `Now` lets one see.

A step size is any object with a method `factor(now)`: the number that multiplies lr at this step, known before the
planes are, because the model of planes contains it. What it may have besides stands in `Habits`. A rule that has such a
method is its own step size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, ClassVar, Protocol

from proxmom.now import Now
from proxmom.planes import Array, Scalar, Vector, namespace
from proxmom.rules import check_kept

LOST = 64  # eps: a forecast gradient, squared, this small beside those it comes from is rounding
FLAT = 1e-3  # cosine of the angle to the gradient below which a forecast of the length is not believed
FAR = 1e6  # before curvature was seen, the most by which one evaluation may stretch a step


class StepSize(Protocol):
    """What a step size must have; what it may have besides stands in `Habits`."""

    def factor(self, now: Now) -> Scalar: ...


@dataclass(frozen=True)
class Habits:
    """What a step size may have besides `factor`, read from attributes of the same names; all are optional.

    Attributes:
        memories, scalars: what it keeps from step to step, as for rules (`Facts`). `minimize` reads two names, where
            they are kept: "scale", the factor of the last step, and "plain", the one of a step along the gradient
            alone.
        finish: finish(now) -> (reach, again), (S,) each, asked first. The last step is made `reach` times as long
            before anything else; the gradient there is not evaluated but taken from the line through the last two,
            (1 - reach)·previous + reach·gradient, with the memory "previous" that such a step size must declare with
            coefficient 1. All that is asked afterwards is asked there. Where `again` is true nothing else is done.
        along: along(now, direction) -> factor, (S,), the final one, when the direction of the step is known.
        restart: restart(factor) -> what it keeps, by name, when a step was undone and the next is to be along the
            gradient alone, `factor` > 0 times lr long; what is not named stays. Without it lr itself is changed.
    """

    memories: Mapping[str, float] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    finish: Callable[[Now], tuple[Array, Array]] | None = None
    along: Callable[[Now, Vector], Array] | None = None
    restart: Callable[[float], Mapping[str, float]] | None = None

    @classmethod
    def of(cls, step_size: StepSize) -> Habits:
        """The habits of `step_size`; TypeError if it is none, ValueError if one is out of range."""
        if isinstance(step_size, type) or not callable(getattr(step_size, "factor", None)):
            raise TypeError(
                f"step_size must be an object with a method factor(now), got {step_size!r}. "
                "Pass an instance, e.g. Alignment()."
            )
        found = {name: getattr(step_size, name) for name in cls.__dataclass_fields__ if hasattr(step_size, name)}
        habits = cls(**found)
        check_kept(habits.memories, habits.scalars)
        if habits.finish is not None and habits.memories.get("previous") != 1:
            raise ValueError(
                f"{type(step_size).__name__} has finish, so memories must be {{'previous': 1.0}}, "
                f"got {dict(habits.memories)}."
            )
        return habits


@dataclass(frozen=True)
class Alignment:
    """Longer while the last step was too short, shorter when it was too long: factor <- factor · exp(rate · cos(g, d)).

    The sign of <g, d> says whether f still falls along the last direction; an exact line search would make it zero.
    Works with noisy gradients too, where `rate` averages over about 1/rate steps; the lr whose mean cosine is zero need
    not be the best one there.

    Args:
        rate: > 0; 0.5 for exact gradients, about 0.1 for noisy ones.
    """

    rate: float = 0.5
    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0}

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate)

    def factor(self, now: Now) -> Array:
        g, d = now.gradient, now.memory
        xp = namespace(now.lr)
        size = now.dot(g, g) * now.dot(d, d)
        sound = (size > 0) & (now.step > 0)
        cosine = xp.where(sound, now.dot(g, d), 0.0) / xp.sqrt(xp.where(sound, size, 1.0))
        scale = now.kept("scale") * xp.exp(self.rate * cosine)
        now.keep(scale=scale)
        return scale

    def restart(self, factor: float) -> Mapping[str, float]:
        return {"scale": factor}


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
    that should have been more than `stretch` times as long, is made anew with the forecast length. Where the curvature
    seen is so large that p can only have been a bad forecast, nothing is made up for, and g counts as it is.

    lr is the length of the first step alone; afterwards only the ratios of the groups' lr matter, and a schedule does
    nothing. Where gradients are noisy the slopes are too: this is for exact gradients.

    Args:
        steepness: > 0. stretch: > 1. stiffness: > 0, at least 1 where curvatures are to be believed.
        retries: >= 0, how often in a row a step is made anew, once curvature was seen. After that it stands: the slope
            at its start was itself a forecast, and may be the one that is wrong.

    Raises:
        ValueError: for values outside these ranges.

    Source: derived and checked in `theory/14_tuning_free.py`, compared in `experiments/tuning_free`.
    """

    steepness: float = 1.0
    stretch: float = 10.0
    stiffness: float = 1.5
    retries: int = 2
    memories: ClassVar[Mapping[str, float]] = {"previous": 1.0}
    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0, "plain": 1.0, "retried": 0.0, "young": 1.0, "firm": 1.0}

    def __post_init__(self) -> None:
        _check_positive("steepness", self.steepness)
        _check_positive("stiffness", self.stiffness)
        if not 1 < self.stretch < inf:
            raise ValueError(f"stretch must be > 1 and finite, got {self.stretch}.")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}.")

    def finish(self, now: Now) -> tuple[Array, Array]:
        xp = namespace(now.lr)
        g, previous = now.gradient, now.vector("previous")
        y = g - previous
        before, after = -now.dot_last_step(previous), -now.dot_last_step(g)
        size, bend, young = now.dot_unit(y, y), before - after, now.kept("young") > 0
        moved = (before > 0) & (now.lr > 0)
        seen = moved & (bend > 0) & (size > 0)
        plain = now.kept("plain")
        short = xp.where(seen, bend / xp.where(seen, size, 1.0), plain)
        wrong = seen & (now.kept("firm") == 0) & (short * self.stretch * self.stretch < plain)
        plain = xp.where(wrong, plain, xp.where(moved & ~seen, self.stretch * plain, short))
        reach = xp.where(seen, before / xp.where(seen, bend, 1.0), xp.where(moved, inf, 1.0 + 0 * bend))
        far = reach >= self.stretch
        steep = -after > self.steepness * before
        reach = xp.where(reach >= xp.where(young, FAR, self.stretch), self.stretch, reach)
        end = previous * (1 - reach) + g * reach
        level = xp.maximum(now.dot_unit(g, g), now.dot_unit(previous, previous))
        lost = seen & (now.dot_unit(end, end) <= LOST * xp.finfo(level.dtype).eps * level)
        far, steep = far | lost, steep | lost
        done = xp.where(seen & ~steep & ~wrong, xp.minimum(reach, self.stretch + 0 * reach), 1.0)
        again = moved & ~wrong & (far | steep) & ((now.kept("retried") < self.retries) | (young & ~seen))
        reach = xp.where(again, reach, done)
        now.keep(
            scale=now.kept("scale") * reach,
            plain=plain,
            retried=xp.where(again, now.kept("retried") + 1, 0.0),
            young=xp.where(seen & ~again, 0.0, now.kept("young")),
            firm=xp.where(again, now.kept("firm"), xp.astype(reach == 1, plain.dtype)),
        )
        return reach, again

    def factor(self, now: Now) -> Array:
        return now.kept("plain")

    def along(self, now: Now, direction: Vector) -> Array:
        xp = namespace(now.lr)
        y, scale, plain = now.gradient - now.vector("previous"), now.kept("scale"), now.kept("plain")
        share = now.share_of_memory(direction)
        rest = direction - now.memory * share
        bend = now.dot_last_step(y)
        known = (bend > 0) & (scale > 0) & (plain > 0)
        ratio = xp.where(known, share / xp.where(known, scale, 1.0), 0.0)
        curvature = self.stiffness * now.dot_unit(rest, rest) / xp.where(plain > 0, plain, 1.0)
        curvature = curvature + ratio * (ratio * bend - 2 * now.dot_unit(rest, y))
        slope = now.dot_unit(now.gradient, direction)
        least = FLAT * xp.sqrt(now.dot_unit(now.gradient, now.gradient) * now.dot_unit(direction, direction))
        sound = known & (curvature > 0) & (slope > least)
        scale = xp.where(sound, slope / xp.where(sound, curvature, 1.0), plain)
        now.keep(scale=scale)
        return scale

    def restart(self, factor: float) -> Mapping[str, float]:
        return {"scale": factor, "plain": factor, "retried": 0.0, "firm": 1.0}


STEP_SIZES: dict[str, Any] = {kind.__name__: kind for kind in (Alignment, Secant)}


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and isfinite(value)):
        raise ValueError(f"{name} must be > 0 and finite, got {value}.")
