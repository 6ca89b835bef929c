"""The rules: each says which planes model the loss, in a few lines, from what `Now` lets it see.

A rule is any object with a method `planes(now)` that returns one to four `Plane`s. What a backend must know before the
first step it reads from optional attributes of the rule, see `Facts`.

Adaptive memory: K. Topollai and A. Choromanska, "Adaptive Memory Momentum via a Model-Based Framework for Deep Learning
Optimization", AISTATS 2026, arXiv 2510.04988. MoMo: F. Schaipp et al., ICML 2024, arXiv 2305.07583. Polyak's step with
a cap: N. Loizou et al., "Stochastic Polyak step-size for SGD", AISTATS 2021, arXiv 2002.10542.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Protocol

from proxmom.now import HEIGHTS, Now
from proxmom.planes import Plane, mix


class Rule(Protocol):
    """What a rule must have; what it may have besides stands in `Facts`."""

    def planes(self, now: Now) -> Sequence[Plane]: ...


@dataclass(frozen=True)
class Facts:
    """What is known of a rule before the step, read from attributes of the same names; all are optional.

    beta_max: the largest weight on memory, in [0, 1]; 0 if memory is not used.
    normalised: memory is kept as a true average (every rule with a floor needs this).
    needs_loss: the rule looks at the loss.
    memories: further memories, name -> averaging coefficient c of the gradient in (0, 1]: m <- (1 - c) m + c g.
    """

    beta_max: float = 0.0
    normalised: bool = False
    needs_loss: bool = False
    memories: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Rule) -> Facts:
        """The facts of `rule`; TypeError if it is no rule, ValueError if a fact is out of range."""
        if isinstance(rule, type) or not callable(getattr(rule, "planes", None)):
            raise TypeError(
                f"rule must be an object with a method planes(now), got {rule!r}. Pass an instance, e.g. HeavyBall()."
            )
        facts = cls(**{name: getattr(rule, name) for name in cls.__dataclass_fields__ if hasattr(rule, name)})
        _check_in("beta_max", facts.beta_max, 0, 1)
        for name, coefficient in facts.memories.items():
            if name in ("gradient", "memory") or not 0 < coefficient <= 1:
                raise ValueError(f"memories must map new names to coefficients in (0, 1], got {name!r}: {coefficient}.")
        return facts


def _check_in(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}.")


def _check_height(height: str) -> None:
    if height not in HEIGHTS:
        raise ValueError(f"height must be one of {', '.join(map(repr, HEIGHTS))}, got {height!r}.")


def _check_bound(lower_bound: float) -> None:
    if not isfinite(lower_bound):
        raise ValueError(
            f"lower_bound must be a finite number, got {lower_bound}. Without one use AdaptiveMemory or HeavyBall."
        )


@dataclass(frozen=True)
class GradientDescent:
    """The gradient plane alone: plain SGD; with Adam's metric, Adam without momentum."""

    def planes(self, now: Now) -> Sequence[Plane]:
        return (now.gradient_plane,)


@dataclass(frozen=True)
class HeavyBall:
    """One plane with fixed weight beta on memory: SGD with momentum and dampening beta; with Adam's metric AdamW.

    Args:
        beta: weight on memory, in [0, 1], below 1 with Adam's metric; torch's SGD(momentum=beta, dampening=beta).
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        _check_in("beta", self.beta, 0, 1)

    @property
    def beta_max(self) -> float:
        return self.beta

    def planes(self, now: Now) -> Sequence[Plane]:
        return (mix(now.gradient_plane, now.memory_plane(0.0), now.weight(self.beta)),)


@dataclass(frozen=True)
class AdaptiveMemory:
    """Gradient plane and memory plane; the exact step on their maximum decides the weight of memory, at most beta_max.

    Source: Topollai and Choromanska, AISTATS 2026 (AM-MGD, AM-MSGD; with Adam's metric AM-AdamW); derived in
    `theory/02_two_planes.py`.

    The stochastic rule, as reconstructed here, is biased at small batches, because beta and the gradient come from the
    same batch: on a small logistic regression the averaged weights were off by 46% at batch 1 and 8% at batch 8,
    whatever the lr, where heavy ball was off by 2.7% and 0.8%. Use larger batches, or `HeavyBall`, where that matters.

    Args:
        beta_max: largest weight on memory, in [0, 1]; below 1 with Adam's metric. At 1, a gradient that is exactly zero
            empties memory for good, and no later step moves.
        height: "linearised" (the paper's, needs no loss), "previous value", "cutting plane" or "aggregated".
    """

    beta_max: float = 0.9
    height: str = "linearised"

    def __post_init__(self) -> None:
        _check_in("beta_max", self.beta_max, 0, 1)
        _check_height(self.height)

    @property
    def needs_loss(self) -> bool:
        return self.height != "linearised"

    def planes(self, now: Now) -> Sequence[Plane]:
        current = now.gradient_plane
        return current, mix(current, now.memory_plane(self.height), now.weight(self.beta_max))


@dataclass(frozen=True)
class TruncatedMemory:
    """Adaptive memory that also knows a lower bound of f: momentum and step size adapt together.

    With the optimum as bound the step needs no tuned lr once lr is large enough. The linearised height can then cut the
    minimiser off where f is far from quadratic; "aggregated" is the one that is proven safe for convex f
    (`theory/10_truncated_memory.py`, also the source). With a floor, gradients must belong to the loss that was given:
    no clipping, no loss scaling in between.

    Args:
        lower_bound: a finite number that f never falls below; 0 for most training losses.
        beta_max, height: as for `AdaptiveMemory`.
    """

    lower_bound: float
    beta_max: float = 0.9
    height: str = "linearised"
    normalised: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_bound(self.lower_bound)
        _check_in("beta_max", self.beta_max, 0, 1)
        _check_height(self.height)

    def planes(self, now: Now) -> Sequence[Plane]:
        return *AdaptiveMemory(self.beta_max, self.height).planes(now), now.floor(self.lower_bound)


@dataclass(frozen=True)
class Polyak:
    """Gradient plane and lower bound: the stochastic Polyak step size, capped at lr (SPS_max with c = 1).

    Args:
        lower_bound: a finite number that f never falls below.
    """

    lower_bound: float
    normalised: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_bound(self.lower_bound)

    def planes(self, now: Now) -> Sequence[Plane]:
        return now.gradient_plane, now.floor(self.lower_bound)


@dataclass(frozen=True)
class MoMo:
    """Momentum with a model-based step size: fixed weight beta on the aggregated memory plane, and a lower bound.

    Source: Schaipp et al., ICML 2024 (MoMo; with Adam's metric MoMo-Adam).

    Args:
        lower_bound: a finite number that f never falls below.
        beta: weight on memory, in [0, 1], below 1 with Adam's metric.
    """

    lower_bound: float
    beta: float = 0.9
    normalised: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_bound(self.lower_bound)
        _check_in("beta", self.beta, 0, 1)

    @property
    def beta_max(self) -> float:
        return self.beta

    def planes(self, now: Now) -> Sequence[Plane]:
        average = mix(now.gradient_plane, now.memory_plane("aggregated"), now.weight(self.beta))
        return average, now.floor(self.lower_bound)


RULES: dict[str, Any] = {
    rule.__name__: rule for rule in (GradientDescent, HeavyBall, AdaptiveMemory, TruncatedMemory, Polyak, MoMo)
}
