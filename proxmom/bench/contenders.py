"""Who is compared: a table of optimizers in two families, each with its count of memory accesses.

Accesses are reads and writes of one number per parameter that must go through memory in a step. torch's unfused steps
are sequences of operations over whole tensors, counted operation by operation:

    SGD     mul_(d) 2, add_(d, g) 3, add_(p, d) 3: 8
    AdamW   mul_(p) 2, lerp_(m, g) 3, mul_(v) 2, addcmul_(v, g, g) 3, sqrt(v) 2, div_ 2, add_ 2, addcdiv_(p, m, .) 4: 20

Fused, everything is read once and written once: g, d, p and d, p are 5; g, m, v, p and m, v, p are 7. Adaptive memory
needs two passes, since the weight on memory is known only after the inner products: g, d, then as fused SGD, are 7;
g, d, v, p (weight decay) and v written, then g, d, v, p and d, p written, are 11. A block in cache counts once.
A rule with a second memory e reads and writes that too: 14, where AMAdamW has 11.
AMSign reads g and d once more, to set aside what changes sign between the two slopes that a sample says the best one
lies between: 9. Here the gradient is the same at every step, and few elements do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxmom import Adam, Plane, mix
from proxmom.memories import Average, Memory
from proxmom.now import Now


@dataclass(frozen=True)
class Contender:
    """An optimizer of `proxmom.torch` or `torch.optim`, by name.

    Args:
        optimizer: its class.
        accesses: per parameter and step, see above.
        keywords: what distinguishes it in its family; part of its label.
        common: further keywords, which its family's title tells.
        compiled: whether its step goes through torch.compile.
    """

    optimizer: str
    accesses: int
    keywords: Mapping[str, Any] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False

    @property
    def label(self) -> str:
        """As it is written in code, e.g. SGD(fused=True)."""
        call = f"{self.optimizer}({', '.join(f'{name}={value!r}' for name, value in self.keywords.items())})"
        return f"compile({call})" if self.compiled else call


@dataclass(frozen=True)
class Family:
    """Optimizers that do comparable work on the same parameters.

    Args:
        name: short.
        title: what all have in common.
        states: tensors of state per parameter.
        fused, foreach: the contenders to whom all are compared.
        others: everybody else.
        compiled: what `--compile` adds.
    """

    name: str
    title: str
    states: int
    fused: Contender
    foreach: Contender
    others: tuple[Contender, ...]
    compiled: tuple[Contender, ...]

    def contenders(self, *, compiled: bool) -> list[Contender]:
        """All of them, torch's first."""
        return [self.fused, self.foreach, *self.others, *(self.compiled if compiled else ())]


@dataclass(frozen=True)
class OwnRule:
    """As somebody might invent it: the planes of two memories, one of them ten steps long, beside the gradient's."""

    beta_max: float = 0.9

    @property
    def memories(self) -> Mapping[str, Memory]:
        """A second memory."""
        return {"slow": Average(0.1, start="gradient")}

    def planes(self, now: Now) -> Sequence[Plane]:
        """The gradient's plane, and those of both memories, mixed with it."""
        current, share = now.gradient_plane, now.weight(self.beta_max)
        memories = Plane(now.memory, now.rise), Plane(now.vector("slow"), now.rise)
        return current, *(mix(current, memory, share) for memory in memories)


_MOMENTUM = {"lr": 1e-3, "momentum": 0.9}
_SMALL = {"lr": 1e-3}
_DECAY = {"lr": 1e-3, "weight_decay": 0.01}

FAMILIES = (
    Family(
        "SGD",
        "momentum 0.9 or adaptive, no weight decay",
        states=1,
        fused=Contender("SGD", 5, {"fused": True}, _MOMENTUM),
        foreach=Contender("SGD", 8, {"foreach": True}, _MOMENTUM),
        others=(
            Contender("SGD", 8, {"foreach": False}, _MOMENTUM),
            Contender("AMSGD", 7, {}, _SMALL),
            Contender("AMSGD", 7, {"scope": "tensor"}, _SMALL),
            Contender("AMSGD", 7, {"foreach": True}, _SMALL),
            Contender("AMSGD", 7, {"foreach": False}, _SMALL),
            Contender("AMSign", 9, {}, _SMALL),
            Contender("AMSign", 9, {"scope": "model"}, _SMALL),
        ),
        compiled=(
            Contender("SGD", 5, {"foreach": True}, _MOMENTUM, compiled=True),
            Contender("AMSGD", 7, {"foreach": True}, _SMALL, compiled=True),
        ),
    ),
    Family(
        "AdamW",
        "weight decay 0.01",
        states=2,
        fused=Contender("AdamW", 7, {"fused": True}, _DECAY),
        foreach=Contender("AdamW", 20, {"foreach": True}, _DECAY),
        others=(
            Contender("AdamW", 20, {"foreach": False}, _DECAY),
            Contender("AMAdamW", 11, {}, _DECAY),
            Contender("AMAdamW", 11, {"scope": "model"}, _DECAY),
            Contender("AMAdamW", 11, {"foreach": True}, _DECAY),
            Contender("AMAdamW", 11, {"foreach": False}, _DECAY),
            Contender("ProxOptimizer", 14, {"rule": OwnRule()}, {**_DECAY, "metric": Adam(), "scope": "tensor"}),
        ),
        compiled=(
            Contender("AdamW", 7, {"foreach": True}, _DECAY, compiled=True),
            Contender("AMAdamW", 11, {"foreach": True}, _DECAY, compiled=True),
        ),
    ),
)
