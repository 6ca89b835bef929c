"""The passes by Triton, where there is a device: no waiting, captured graphs, few launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer
from proxmom.torch.passes import cuda
from tests.torch.triton_cases import (
    device,
)


def on_device(count: int = 20, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(1000 + i, device="cuda").to(dtype)) for i in range(count)]


def new_gradients(params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad = torch.randn_like(p)


PAPER: dict[str, Callable[..., ProxOptimizer]] = {"AMSGD": AMSGD, "AMAdamW": AMAdamW}
paper = pytest.mark.parametrize("make", PAPER.values(), ids=PAPER.keys())


@device
@paper
@pytest.mark.parametrize("dtype", cuda.TYPES, ids=str)
def test_a_step_never_waits_for_the_device(make: Any, dtype: torch.dtype) -> None:
    params = on_device(dtype=dtype)
    optimizer = make(params)
    for _ in range(3):
        new_gradients(params)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            held = [p.grad for p in params]  # so that the new ones lie elsewhere
            new_gradients(params)
            optimizer.step()
            del held
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(optimizer._layouts[0].passes, cuda.TritonPasses)


@device
@paper
def test_a_captured_step_replays_like_an_eager_one(make: Any) -> None:
    torch.manual_seed(0)
    params = on_device()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, eager = make(params, capturable=True), make(twins, capturable=True)
    gradients = [[torch.randn_like(p) for p in params] for _ in range(8)]

    def load(values: list[Tensor]) -> None:
        for p, q, g in zip(params, twins, values, strict=True):
            p.grad = torch.empty_like(p) if p.grad is None else p.grad
            p.grad.copy_(g)
            q.grad = g.clone()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for values in gradients[:3]:
            load(values)
            optimizer.step()
            eager.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for i, values in enumerate(gradients[3:]):
        load(values)
        if i == 2:  # an eager step in between, with gradients elsewhere, must not disturb the graph's table
            static = [p.grad for p in params]
            for p in params:
                p.grad = p.grad.clone()  # type: ignore[union-attr]
            optimizer.step()
            for p, g in zip(params, static, strict=True):
                p.grad = g
        else:
            graph.replay()
        eager.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def launches(optimizer: ProxOptimizer) -> dict[str, int]:
    """Kernels of one step by name, and all of them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    on_card = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    counts = {name: sum(event.name == name for event in on_card) for name in ("measure", "add_up", "move")}
    return {**counts, "all": len(on_card)}


@device
@paper
def test_launches_do_not_grow_with_the_model(make: Any) -> None:
    counts = []
    for tensors in (2, 200):
        params = on_device(tensors)
        optimizer = make(params, scope="model")
        for _ in range(3):
            new_gradients(params)
            optimizer.step()
        counts.append(launches(optimizer))
    print(counts)
    assert counts[0] == counts[1]
    assert counts[1] == {"measure": 1, "add_up": 1, "move": 1, "all": counts[1]["all"]}
