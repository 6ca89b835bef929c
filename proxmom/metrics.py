"""The metrics: diagonal ones, as element-wise formulas on one tensor. A metric measures a move: ||z||²_P = <z, P z>.

A metric is a frozen object without state; what it remembers of a tensor is a small dictionary that a backend keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from proxmom.planes import Array, Scalar, namespace

State = Mapping[str, Any]


class Metric(Protocol):
    """What a metric must have.

    memory_from_gradient: whether memory starts as the first gradient (with mass 1) or from zero (mass 0).
    start(x): its state for a tensor x, before any gradient.
    update(state, gradient): the state after one more gradient; never in place.
    diagonal(state, factor): the diagonal of P, of x's shape, times `factor`; None for the identity (factor is then 1).
    """

    memory_from_gradient: ClassVar[bool]

    def start(self, x: Array) -> State: ...
    def update(self, state: State, gradient: Array) -> State: ...
    def diagonal(self, state: State, factor: Scalar) -> Array | None: ...


def _average(old: Array, new: Array, weight: float) -> Array:
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
        v = _average(state["second_moment"], gradient * gradient, 1 - self.beta2)
        return {"second_moment": v, "count": state["count"] + 1}

    def diagonal(self, state: State, factor: Scalar) -> Array:
        v = state["second_moment"]
        diagonal = namespace(v).sqrt(v)
        diagonal *= factor / (1 - self.beta2 ** state["count"]) ** 0.5
        diagonal += factor * self.eps
        return diagonal


KINDS = {"diagonal": "diagonal", "images": "operator", "low_rank": "low rank"}


def kind_of(metric: Any) -> str:
    """Of which kind a metric is, see `KINDS`: by the one of these methods that it has; TypeError for anything else."""
    kinds = [kind for method, kind in KINDS.items() if callable(getattr(metric, method, None))]
    if isinstance(metric, type) or len(kinds) != 1:
        got = f"{metric!r}" if len(kinds) < 2 else f"{metric!r} with several"
        raise TypeError(f"metric must be an object like Euclidean() with one of {', '.join(KINDS)}, got {got}.")
    return kinds[0]


METRICS: dict[str, Any] = {metric.__name__: metric for metric in (Euclidean, Adam)}
