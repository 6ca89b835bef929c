"""What the tests of optimizers share: parameters, gradients, and all that have names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from proxmom import AdaptiveMemory, Plane, QuasiNewton, mix
from proxmom.memories import Displacement, Position
from proxmom.torch import (
    AMSGD,
    AMSOAP,
    AMAdamW,
    AMMuon,
    AMShampoo,
    AMSign,
    MoMo,
    MoMoAdam,
    ProxOptimizer,
    TruncatedMemorySGD,
)
from tests.metrics import Full, Normed

SHAPES = ((3, 4), (), (5,), (0,))
NAMED: dict[str, Callable[..., ProxOptimizer]] = {
    "AMSGD": lambda params, **given: AMSGD(params, **{"lr": 0.1, **given}),
    "AMSGD per tensor": lambda params, **given: AMSGD(params, **{"lr": 0.1, "scope": "tensor", **given}),
    "AMAdamW": lambda params, **given: AMAdamW(params, **{"lr": 0.1, **given}),
    "AMAdamW whole model": lambda params, **given: AMAdamW(params, **{"lr": 0.1, "scope": "model", **given}),
    "MoMo": lambda params, **given: MoMo(params, **{"lr": 0.1, "lower_bound": -1.0, **given}),
    "MoMoAdam": lambda params, **given: MoMoAdam(params, **{"lr": 0.1, "lower_bound": -1.0, **given}),
    "TruncatedMemorySGD": lambda params, **given: TruncatedMemorySGD(
        params, **{"lr": 0.1, "lower_bound": -1.0, **given}
    ),
}


def with_metric(metric: Any) -> Callable[..., ProxOptimizer]:
    return lambda params, **given: ProxOptimizer(
        params, **{"rule": AdaptiveMemory(), "lr": 0.1, "metric": metric, **given}
    )


WHOLE: dict[str, Callable[..., ProxOptimizer]] = {  # their metrics are not element-wise
    "AMShampoo": lambda params, **given: AMShampoo(params, **{"lr": 0.1, "every": 2, **given}),
    "AMSOAP": lambda params, **given: AMSOAP(params, **{"lr": 0.1, "every": 2, **given}),
    "AMSign": lambda params, **given: AMSign(params, **{"lr": 0.1, **given}),
    "AMMuon": lambda params, **given: AMMuon(params, **{"lr": 0.1, "polar": "exact", **given}),
    "full matrix": with_metric(Full()),
    "normed": with_metric(Normed()),
    "quasi-Newton": with_metric(QuasiNewton(3)),
}
NAMED |= WHOLE


@dataclass(frozen=True)
class Anchored:
    """Adaptive memory with a pull to where it started, and a smaller one to zero."""

    beta_max: float = 0.9
    memories: ClassVar[Any] = {"away": Displacement(), "at": Position()}

    def planes(self, now: Any) -> Any:
        pull = 0.2 * now.vector("away") + 0.1 * now.vector("at")
        current = Plane(now.gradient + pull, 0.0)
        return current, mix(current, now.memory_plane(), now.weight(self.beta_max))


def anchored(params: Any, **given: Any) -> ProxOptimizer:
    return ProxOptimizer(params, **{"rule": Anchored(), "lr": 0.1, **given})


NAMED["looks at x"] = anchored


def parameters(dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[nn.Parameter]:
    random = np.random.default_rng(0)
    return [nn.Parameter(torch.tensor(random.normal(size=shape), dtype=dtype)) for shape in shapes]


def inputs(steps: int, seed: int = 1, shapes: Any = SHAPES) -> list[tuple[list[Any], float]]:
    random = np.random.default_rng(seed)
    return [([random.normal(size=shape) for shape in shapes], float(random.uniform(0, 2))) for _ in range(steps)]


def give(params: list[nn.Parameter], gradients: list[Any]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=p.dtype)


def drive(optimizer: ProxOptimizer, params: list[nn.Parameter], steps: int = 5, seed: int = 1) -> list[Tensor]:
    for gradients, loss in inputs(steps, seed, [tuple(p.shape) for p in params]):
        give(params, gradients)
        optimizer.step(loss=loss)
    return [p.detach().clone() for p in params]


def same(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


def close(left: list[Any], right: list[Any]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def stepped(make: Callable[..., Any], *shapes: Any, dtype: torch.dtype = torch.float32, **given: Any) -> Any:
    """Parameters of ones, and an optimizer that has taken a step with gradients of ones."""
    params = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    optimizer = make(params, **given)
    step(optimizer, *(torch.ones_like(p) for p in params))
    return params, optimizer


def step(optimizer: ProxOptimizer, *gradients: Any) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    optimizer.step(**({"loss": 1.0} if optimizer._step.method.facts.needs_loss else {}))


def made(metric: Any, *shapes: Any, dtype: torch.dtype = torch.float64, **given: Any) -> Any:
    """Parameters of these shapes, and an optimizer of them."""
    random = np.random.default_rng(0)
    params = [nn.Parameter(torch.tensor(random.normal(size=shape), dtype=dtype)) for shape in shapes]
    return params, ProxOptimizer(params, AdaptiveMemory(), 0.1, metric=metric, **given)
