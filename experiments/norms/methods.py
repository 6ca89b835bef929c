"""Methods of these studies that the package does not name: Lion and Nesterov's averages as rules, and Muon's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from proxmom import AdaptiveMemory, HeavyBall
from proxmom.memories import Average, Memory
from proxmom.metrics import Adam, Spectral
from proxmom.now import Now
from proxmom.planes import Plane
from proxmom.torch import ProxOptimizer


@dataclass(frozen=True)
class Lion:
    """Two averages: the step takes the sign of one that leans on today's gradient, and remembers the other."""

    beta1: float = 0.9
    beta2: float = 0.99

    @property
    def memories(self) -> Mapping[str, Memory]:
        return {"average": Average(1 - self.beta2)}

    def planes(self, now: Now) -> Sequence[Plane]:
        return (Plane(now.gradient * (1 - self.beta1) + now.vector("average") * self.beta1, 0.0),)


def muon(
    parameters: Sequence[nn.Parameter],
    lr: float,
    beta: float | None = None,
    beta_max: float = 0.9,
    embeddings: int = 0,
    adam_lr: float = 1e-2,
    weight_decay: float = 0.1,
) -> ProxOptimizer:
    """Muon as it is used: hidden matrices in the spectral norm, embeddings and vectors in Adam's metric.

    Args:
        parameters: of a network, embeddings first.
        lr: of matrices, > 0.
        beta: weight on memory, in [0, 1); None: derived, at most beta_max. The same for both groups.
        beta_max: in [0, 1).
        embeddings: how many of the first parameters are embeddings.
        adam_lr: > 0, of everything else.
        weight_decay: >= 0, decoupled.
    """
    matrices = [p for p in parameters[embeddings:] if p.ndim >= 2]
    others = [p for p in parameters if all(p is not matrix for matrix in matrices)]
    groups = [{"params": matrices}, {"params": others, "metric": Adam(beta2=0.99), "lr": adam_lr}]
    return ProxOptimizer(
        groups,
        AdaptiveMemory(beta_max) if beta is None else HeavyBall(beta),
        lr,
        metric=Spectral(polar="newton-schulz", scale="original"),
        weight_decay=weight_decay,
        scope="tensor",
    )
