"""Ranks of a test: networks, batches, and how to spawn and compare."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from proxmom import AdaptiveMemory
from proxmom.torch import AMSGD, AMAdamW, MoMo, MoMoAdam, ProxOptimizer, TruncatedMemorySGD
from tests.started import start
from tests.torch.common import anchored

STEPS = 9
Factory = Callable[..., ProxOptimizer]
NAMED: dict[str, Factory] = {
    "AMSGD, model": functools.partial(AMSGD, lr=0.05, weight_decay=0.01),
    "AMSGD, group": functools.partial(AMSGD, lr=0.05, scope="group"),
    "AMSGD, tensor": functools.partial(AMSGD, lr=0.05, scope="tensor"),
    "AMAdamW, tensor": functools.partial(AMAdamW, lr=0.01),
    "AMAdamW, group": functools.partial(AMAdamW, lr=0.01, scope="group"),
    "AMAdamW, model": functools.partial(AMAdamW, lr=0.01, scope="model"),
    "AMSGD in torch operations": functools.partial(AMSGD, lr=0.05, foreach=True),
    "AMAdamW in torch operations": functools.partial(AMAdamW, lr=0.01, foreach=True),
    "MoMo": functools.partial(MoMo, lr=0.5, lower_bound=0.0, weight_decay=0.01),
    "MoMoAdam": functools.partial(MoMoAdam, lr=0.05, lower_bound=0.0),
    "TruncatedMemorySGD": functools.partial(TruncatedMemorySGD, lr=0.5, lower_bound=0.0),
    "looks at x": functools.partial(anchored, lr=0.05, weight_decay=0.01),
    "aggregated height": functools.partial(ProxOptimizer, rule=AdaptiveMemory(height="aggregated"), lr=0.05),
}
SAVED = ("AMSGD, model", "AMAdamW, tensor", "MoMoAdam")
FEW = (*SAVED, "AMSGD, group", "AMAdamW in torch operations")  # every scope, metric and path, with and without a loss


def named(names: Sequence[str]) -> dict[str, Factory]:
    return {name: NAMED[name] for name in names}


def network() -> nn.Sequential:
    """Sizes that no number of ranks divides."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def batch(step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
    """This rank's part of the data of one step; parts are of one size, so that means are means of means."""
    random = np.random.default_rng(step)
    x, y = torch.tensor(random.normal(size=(8, 5))), torch.tensor(random.normal(size=(8, 3)))
    size = 8 // parts
    at = slice(part * size, (part + 1) * size)
    return x[at], y[at]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.02}]


def train(model: nn.Module, optimizer: Any, steps: range, part: int = 0, parts: int = 1) -> None:
    for step in steps:
        x, y = batch(step, part, parts)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step(loss=loss.detach())


@functools.cache
def alone(make: Factory, steps: range = range(STEPS)) -> list[Tensor]:
    """What one process makes of it."""
    model = network()
    train(model, make(groups(model)), steps)
    return [p.detach() for p in model.parameters()]


def whole(p: Tensor) -> Tensor:
    return p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()


def agrees(params: Any, expected: list[Tensor], what: str) -> None:
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(whole(p), q, rtol=1e-6, atol=1e-9, msg=lambda text: f"{what}: {text}")


@contextmanager
def world(rank: int, size: int, store: str) -> Iterator[None]:
    """The process group; a rank that is through leaves at once: taking gloo down beside a DDP model can hang."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=100)
    )
    yield
    distributed.barrier()
    os._exit(0)


def spawn(worker: Callable[..., None], size: int, folder: Path, *args: Any) -> None:
    store = folder / f"store-{worker.__name__}-{size}"
    start(worker, (size, str(store), *args), size)


def place(values: Tensor, mesh: Any, where: Any) -> Tensor:
    """A tensor placed on a mesh; a plain one where that is None."""
    return values.clone() if where is None else distribute_tensor(values, mesh, where)


def placed_like_one(
    make: Factory,
    mesh: Any,
    cases: list[tuple[tuple[int, ...], Any]],
    gradient: Callable[[Tensor, np.random.Generator], Tensor],
    said: str,
    *,
    steps: int = STEPS,
    elsewhere: Any = None,
) -> None:
    """Parameters of these (shape, placements) step as plain ones do; elsewhere: how their gradients are placed."""
    random = np.random.default_rng(0)
    start = [torch.tensor(random.normal(size=shape)) for shape, _ in cases]
    ours = [nn.Parameter(place(x, mesh, where)) for x, (_, where) in zip(start, cases, strict=True)]
    theirs = [nn.Parameter(x.clone()) for x in start]
    first, second = make(ours), make(theirs)
    for step in range(steps):
        for p, q, (_, where) in zip(ours, theirs, cases, strict=True):
            q.grad = gradient(q.detach(), random)
            p.grad = place(q.grad, mesh, where if where is None or elsewhere is None else elsewhere)
        for optimizer in (first, second):
            optimizer.step(loss=1.0 / (1 + step))
    agrees(ours, [q.detach() for q in theirs], f"placements, {said}")
