"""Step sizes that set themselves: how long a step is, said in a few lines from what `Now` lets one see.

A step size is any object with a method `factor(now)`: the number that multiplies lr at this step, known before the
planes are, because the model of planes contains it. Like a rule it may declare `memories`, `scalars` and `observed`,
and says in `remember(now)` what its scalars become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Protocol

from proxmom.memories import check_memories
from proxmom.now import Now
from proxmom.observed import declared
from proxmom.planes import Array, Scalar, namespace
from proxmom.rules import check_scalars


class StepSize(Protocol):
    """What a step size must have; `memories`, `scalars`, `observed` and `remember` are as for rules."""

    def factor(self, now: Now) -> Scalar: ...


def check_step_size(step_size: Any) -> None:
    """TypeError if `step_size` is none, ValueError if something that it declares is out of range."""
    if isinstance(step_size, type) or not callable(getattr(step_size, "factor", None)):
        raise TypeError(
            f"step_size must be an object with a method factor(now), got {step_size!r}. "
            "Pass an instance, e.g. Alignment(); Secant() is for proxmom.numpy.minimize alone."
        )
    check_memories(getattr(step_size, "memories", {}))
    check_scalars(getattr(step_size, "scalars", {}))
    declared(getattr(step_size, "observed", ()))


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
    scalars: ClassVar[Mapping[str, float]] = {"scale": 1.0}  # the factor of the last step

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def factor(self, now: Now) -> Array:
        g, d = now.gradient, now.memory
        xp = namespace(now.lr)
        size = now.dot(g, g) * now.dot(d, d)
        sound = (size > 0) & (now.step > 0)  # a zero vector has no direction, and at first there is no memory
        cosine = xp.where(sound, now.dot(g, d), 0.0) / xp.sqrt(xp.where(sound, size, 1.0))
        return now.recall("scale") * xp.exp(self.rate * cosine)

    def remember(self, now: Now) -> Mapping[str, Array]:
        return {"scale": self.factor(now)}


def check_positive(name: str, value: float) -> None:
    """ValueError unless `value` is positive and finite."""
    if not (value > 0 and isfinite(value)):
        raise ValueError(f"{name} must be > 0 and finite, got {value}.")
