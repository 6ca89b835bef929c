"""The rules: each says which planes model the loss, in a few lines, from what `Now` lets it see.

A rule is any object with a method `planes(now)` that returns its `Plane`s, one to 16, and changes nothing. A rule
that keeps numbers from step to step says in a second method, `remember(now)`, what they become; it is asked after
`planes`, with the same `now`. What a backend must know before the first step it reads from optional attributes of the
rule, see `Facts`.

Adaptive memory: K. Topollai and A. Choromanska, "Adaptive Memory Momentum via a Model-Based Framework for Deep Learning
Optimization", AISTATS 2026, arXiv 2510.04988. MoMo: F. Schaipp et al., ICML 2024, arXiv 2305.07583. Polyak's step with
a cap: N. Loizou et al., "Stochastic Polyak step-size for SGD", AISTATS 2021, arXiv 2002.10542.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, ClassVar, Protocol

from proxmom.memories import Memory, Previous, check_memories
from proxmom.now import HEIGHTS, Now
from proxmom.observed import Observed, declared
from proxmom.planes import Array, Plane, mix, namespace

UPHILL = 0.1  # cosine of memory and gradient, with the other sign, above which a step along memory would raise f


class Rule(Protocol):
    """What a rule must have; what it may have besides stands in `Facts`."""

    def planes(self, now: Now) -> Sequence[Plane]: ...


@dataclass(frozen=True)
class Facts:
    """What is known of a rule before the step, read from attributes of the same names; all are optional.

    beta_max: the largest weight on memory, in [0, 1]; a rule that gives memory more is refused where the metric must
        know its mass (Adam's).
    normalised: memory is kept as a true average (every rule with a floor needs this).
    needs_loss: the rule looks at the loss.
    memories: further memories, name -> `Average`, `Previous` or `Combination`, see `proxmom.memories`.
    scalars: numbers kept from step to step, name -> value before the first step: read with `now.recall(name)`, set by
        `remember(now)`, which returns {name: value} with a number or (S,) for a scalar and a `Vector` for a memory that
        is a `Combination`; a scalar that is not named stays as it is.
    observed: numbers that each step must be given, names, or name -> what it means, in words or as `Observed`: read
        with `now.observed(name)`, given with `step(..., observed={name: value})`.
    """

    beta_max: float = 0.0
    normalised: bool = False
    needs_loss: bool = False
    memories: Mapping[str, Memory] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    observed: Mapping[str, Observed] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Rule) -> Facts:
        """The facts of `rule`; TypeError if it is no rule, ValueError if a fact is out of range."""
        if isinstance(rule, type) or not callable(getattr(rule, "planes", None)):
            instance = isinstance(rule, type | str)  # is what is missing, not the method
            remedy = "Pass an instance, e.g. HeavyBall()." if instance else "Define planes(self, now) in its class."
            raise TypeError(f"rule must be an object with a method planes(now), got {rule!r}. {remedy}")
        told = {name: getattr(rule, name) for name in cls.__dataclass_fields__ if hasattr(rule, name)}
        facts = cls(**{**told, "observed": declared(told.get("observed", ()))})
        _check_in("beta_max", facts.beta_max, 0, 1)
        check_memories(facts.memories)
        check_scalars(facts.scalars)
        return facts


def check_scalars(scalars: Mapping[str, float]) -> None:
    """ValueError unless these are scalars as a rule or a step size may declare them."""
    for name, value in scalars.items():
        if not name.isidentifier() or not isfinite(value):
            raise ValueError(f"scalars must map identifiers to finite numbers, got {name!r}: {value}.")


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

    Memory is an average, so SGD(momentum=beta) without dampening corresponds to 1/(1 - beta) times its lr here. Memory
    starts as the first gradient in the Euclidean metric: the first step is then 1/(1 - beta) times as long as SGD's.

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
    same batch: on eight small logistic regressions (six features, lr 0.05; `experiments/unbiased`) the averaged weights
    were off by 23% at batch 1 and 7.5% at batch 8, where heavy ball was off by 1.5% and 0.3%. Where that matters use
    `SteadyMemory` or larger batches.

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
class ConjugateMemory:
    """Adaptive memory without a cap, emptied where two gradients in a row are far from orthogonal.

    Where the last step ended at the minimum along its direction, as with the step size `Secant` or after an exact line
    search, this is the method of conjugate gradients of Fletcher and Reeves with Powell's restart.

    Source: adaptive memory as for `AdaptiveMemory`, the identity in `theory/04_conjugate_gradients.py`; M. Powell,
    "Restart procedures for the conjugate gradient method", Mathematical Programming 12 (1977).

    Args:
        restart: > 0; memory has no weight where abs(<g, g_previous>) > restart · <g, g>, nor where it points uphill.
        beta_max: largest weight on memory, in [0, 1]; below 1 with Adam's metric.

    Raises:
        ValueError: for values outside these ranges.
    """

    restart: float = 0.5
    beta_max: float = 1.0
    memories: ClassVar[Mapping[str, Memory]] = {"previous": Previous("gradient")}

    def __post_init__(self) -> None:
        if not self.restart > 0:
            raise ValueError(f"restart must be > 0, got {self.restart}.")
        _check_in("beta_max", self.beta_max, 0, 1)

    def planes(self, now: Now) -> Sequence[Plane]:
        g, current = now.gradient, now.gradient_plane
        xp, size = namespace(now.step), now.dot(g, g)
        far = abs(now.dot(g, now.vector("previous"))) > self.restart * size
        uphill = now.dot(g, now.memory) < -UPHILL * xp.sqrt(size * now.dot(now.memory, now.memory))
        cap = self.beta_max * xp.astype(~(far | uphill), size.dtype)
        return current, mix(current, now.memory_plane(), now.weight(cap))


@dataclass(frozen=True)
class TruncatedMemory:
    """Adaptive memory that also knows a lower bound of f: momentum and step size adapt together.

    With the optimum as bound the step needs no tuned lr once lr is large enough. The default height is the one that is
    proven safe for convex f with exact gradients; "linearised" can cut the minimiser off where f is far from quadratic
    (`theory/10_truncated_memory.py`, also the source), but ended nearer to it with mini-batches (`experiments/convex`).
    With a floor, gradients must belong to the loss that was given: no clipping, no loss scaling in between.

    Args:
        lower_bound: a finite number that f never falls below; 0 for most training losses.
        beta_max, height: as for `AdaptiveMemory`.
    """

    lower_bound: float
    beta_max: float = 0.9
    height: str = "aggregated"
    normalised: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True
    without_floor: ClassVar[str] = "AdaptiveMemory"  # what is left where the bound says nothing

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
    without_floor: ClassVar[str] = "GradientDescent"  # what is left where the bound says nothing

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
    without_floor: ClassVar[str] = "HeavyBall"  # what is left where the bound says nothing

    def __post_init__(self) -> None:
        _check_bound(self.lower_bound)
        _check_in("beta", self.beta, 0, 1)

    @property
    def beta_max(self) -> float:
        return self.beta

    def planes(self, now: Now) -> Sequence[Plane]:
        average = mix(now.gradient_plane, now.memory_plane("aggregated"), now.weight(self.beta))
        return average, now.floor(self.lower_bound)


@dataclass(frozen=True)
class SteadyMemory:
    """Adaptive memory while gradients are exact, heavy ball once they are seen to be noisy: without the former's bias.

    Memory weighs between s·beta_max and beta_max, and s in [0, 1] is known before the batch: 0 while the gradient's
    norm moves along, 1 when it jumps to and fro. With h = ||g||^(1/2), its running mean, and averages over `horizon`,

        share = average of (h_t - h_{t-1})² / (2 · average of (h_t - mean_{t-1})²),    s = clip(10·share - 1, 0, 1),

    each square in units of the mean. For independent batches share is near 1, along a trend near 0. The rule starts as
    if gradients were exact, and sees that they are not after one to three horizons. Noise that stays the same for
    five steps and more is taken for signal.

    Source: derived and checked in `theory/15_unbiased.py`, compared in `experiments/unbiased`.

    Args:
        beta_max: as for `AdaptiveMemory`.
        horizon: >= 2, steps that the averages reach back.
    """

    beta_max: float = 0.9
    horizon: float = 32.0
    scalars: ClassVar[Mapping[str, float]] = {"level": 0.0, "mean": 0.0, "jumps": 0.0, "spread": 1.0}

    def __post_init__(self) -> None:
        _check_in("beta_max", self.beta_max, 0, 1)
        _check_in("horizon", self.horizon, 2, inf)

    def planes(self, now: Now) -> Sequence[Plane]:
        current, memory = now.gradient_plane, now.memory_plane()
        least = mix(current, memory, now.weight(self._steadiness(now) * self.beta_max))
        return least, mix(current, memory, now.weight(self.beta_max))

    def _steadiness(self, now: Now) -> Array:
        """s, (S,), from earlier gradients alone."""
        share = now.recall("jumps") / (
            2 * now.recall("spread") + 1e-12
        )  # a level that is constant to 1e-6 has no noise
        return namespace(now.step).clip(10 * share - 1, 0.0, 1.0)

    def remember(self, now: Now) -> Mapping[str, Array]:
        xp, rate = namespace(now.step), 1 / self.horizon
        level = now.dot(now.gradient, now.gradient) ** 0.25
        # before the first step the level is its own past
        last, mean = (xp.where(now.step > 0, now.recall(name), level) for name in ("level", "mean"))
        after = mean + rate * (level - mean)
        unit = xp.where(after > 0, after, 1.0)  # all gradients were zero: the squares below are zero in any unit
        squares = {"jumps": ((level - last) / unit) ** 2, "spread": ((level - mean) / unit) ** 2}
        averages = {name: now.recall(name) + rate * (square - now.recall(name)) for name, square in squares.items()}
        return {"level": level, "mean": after, **averages}


RULES: dict[str, Any] = {
    rule.__name__: rule
    for rule in (
        GradientDescent,
        HeavyBall,
        AdaptiveMemory,
        ConjugateMemory,
        TruncatedMemory,
        Polyak,
        MoMo,
        SteadyMemory,
    )
}
