"""Diagonal metrics: element-wise formulas on one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxmom.metrics.protocol import State
from proxmom.planes import Array, Scalar, namespace


def average(old: Array, new: Array, weight: float) -> Array:
    """(1 - weight)·old + weight·new, in one pass where the library has it; `new` may be overwritten."""
    lerp = getattr(namespace(old), "lerp", None)
    if lerp is not None:
        return lerp(old, new, weight)
    new -= old
    new *= weight
    new += old
    return new


@dataclass(frozen=True)
class Euclidean:
    """P = I: the metric of SGD."""

    memory_from_gradient: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def start(self, x: Array) -> State:
        return {}

    def update(self, state: State, gradient: Array) -> State:
        return {}

    def diagonal(self, state: State, factor: Scalar) -> None:
        return None


@dataclass(frozen=True)
class Adam:
    """P = factor · (sqrt(v / (1 - beta2^t)) + eps), v the running average of squared gradients: the metric of AdamW.

    `factor` corrects the mass of a memory that starts from zero (for fixed beta: 1 - beta^t, which is AdamW).

    Args:
        beta2: averaging coefficient of v, in [0, 1).
        eps: > 0, keeps P positive.

    Raises:
        ValueError: for values outside these ranges.
    """

    beta2: float = 0.999
    eps: float = 1e-8
    memory_from_gradient: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be in [0, 1), got {self.beta2}.")
        if not self.eps > 0:
            raise ValueError(f"eps must be > 0, got {self.eps}.")

    def start(self, x: Array) -> State:
        return {"second_moment": namespace(x).zeros_like(x), "count": 0}

    def update(self, state: State, gradient: Array) -> State:
        v = average(state["second_moment"], gradient * gradient, 1 - self.beta2)
        return {"second_moment": v, "count": state["count"] + 1}

    def diagonal(self, state: State, factor: Scalar) -> Array:
        v = state["second_moment"]
        diagonal = namespace(v).sqrt(v)
        diagonal *= factor / (1 - self.beta2 ** state["count"]) ** 0.5
        diagonal += factor * self.eps
        return diagonal


@dataclass(frozen=True)
class AdaGrad:
    """P = factor · (sqrt(s) + eps), s the sum of all squared gradients so far: step sizes that only fall.

    `factor` is as for `Adam`. Without memory (beta = 0) this is the step of torch's Adagrad.

    Args:
        eps: > 0, keeps P positive.

    Raises:
        ValueError: for other values of eps.

    Source: Duchi, Hazan and Singer, JMLR 12, 2011 (diagonal matrices).
    """

    eps: float = 1e-8
    memory_from_gradient: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps must be > 0, got {self.eps}.")

    def start(self, x: Array) -> State:
        return {"sum_of_squares": namespace(x).zeros_like(x)}

    def update(self, state: State, gradient: Array) -> State:
        return {"sum_of_squares": state["sum_of_squares"] + gradient * gradient}

    def diagonal(self, state: State, factor: Scalar) -> Array:
        s = state["sum_of_squares"]
        diagonal = namespace(s).sqrt(s)
        diagonal += self.eps
        diagonal *= factor
        return diagonal
