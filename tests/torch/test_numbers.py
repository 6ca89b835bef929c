"""Every rule, metric and scope takes the steps of the NumPy backend, and known ones those of torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import proxmom.numpy
from proxmom import Adam, AdaptiveMemory, HeavyBall, SteadyMemory
from proxmom.rules import Facts
from proxmom.torch import AMSGD, AMAdamW, ProxOptimizer
from proxmom.torch.passes import blocks
from tests.torch.common import NAMED, SHAPES, WHOLE, close, drive, give, inputs, parameters, same


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("decay", ["decoupled", "proximal", "coupled"])
def test_every_rule_and_metric_is_the_numpy_backends(
    rule: Any, metric: Any, inertia: float, decay: str, dtype: torch.dtype
) -> None:
    """Several tensors in two groups, changing lr."""
    if Facts.of(rule).needs_loss and (inertia or decay == "coupled"):
        with pytest.raises(ValueError, match="looks at the loss"):
            ProxOptimizer(parameters(), rule, 0.1, metric=metric, inertia=inertia, decay=decay)
        return
    settings = {"metric": metric, "inertia": inertia, "weight_decay": 0.05, "decay": decay}
    params = parameters(dtype)
    ours = ProxOptimizer([{"params": params[:1]}, {"params": params[1:]}], rule, 0.1, **settings)
    theirs = proxmom.numpy.Optimizer([p.detach().double().numpy() for p in params], rule, lr=0.1, **settings)
    for step, (gradients, loss) in enumerate(inputs(15)):
        lr = 0.1 * (1 + np.sin(step))
        theirs.lr = lr
        for group in ours.param_groups:
            group["lr"] = lr
        give(params, gradients)
        ours.step(loss=loss)
        x = theirs.step([p.grad.double().numpy() for p in params], loss)  # type: ignore[union-attr]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for p, expected in zip(params, x, strict=True):
        np.testing.assert_allclose(p.detach().double().numpy(), expected, rtol=tolerance, atol=10 * tolerance)


def test_scope_tensor_is_one_optimizer_for_each_tensor() -> None:
    params = parameters(shapes=SHAPES[:3])
    ours = AMAdamW(params, lr=0.1)
    settings = {"lr": 0.1, "metric": Adam(), "inertia": 0.1, "weight_decay": 1e-2}
    theirs = [proxmom.numpy.Optimizer(p.detach().numpy(), AdaptiveMemory(0.89), **settings) for p in params]
    apart = 0
    for gradients, _ in inputs(100, shapes=SHAPES[:3]):
        give(params, gradients)
        ours.step()
        apart += len(set(ours.diagnostics()["beta"].tolist())) > 1  # type: ignore[union-attr]
        xs = [optimizer.step(g) for optimizer, g in zip(theirs, gradients, strict=True)]
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)
    assert apart > 3


def test_amsgd_is_the_numpy_optimizer_over_a_hundred_steps() -> None:
    params = parameters()
    ours = AMSGD(params, lr=0.1, weight_decay=0.05)
    theirs = proxmom.numpy.Optimizer(
        [p.detach().numpy().copy() for p in params],
        AdaptiveMemory(),
        lr=0.1,
        inertia=0.1,
        weight_decay=0.05,
        decay="coupled",
    )
    for gradients, _ in inputs(100):
        give(params, gradients)
        ours.step()
        xs = theirs.step(gradients)
    for p, x in zip(params, xs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("name", ["AMSGD", "AMAdamW"])
def test_steady_is_steady_memory(name: str) -> None:
    one, two, three = parameters(), parameters(), parameters()
    cap = {"AMSGD": 0.9, "AMAdamW": 0.89}[name]
    ours = NAMED[name](one, steady=True)
    assert ours.rule == SteadyMemory(cap)
    assert NAMED[name](three).rule == AdaptiveMemory(cap)
    given: dict[str, Any] = {"inertia": 0.1, "decay": "coupled"}
    if name == "AMAdamW":
        given = {"inertia": 0.1, "metric": Adam(), "weight_decay": 1e-2, "scope": "tensor"}
    theirs = ProxOptimizer(two, SteadyMemory(cap), 0.1, **given)
    for p, q in zip(drive(ours, one, 40), drive(theirs, two, 40), strict=True):
        assert torch.equal(p, q)


def test_scope_group_is_one_optimizer_for_each_group() -> None:
    params = parameters(shapes=SHAPES[:3])
    ours = AMSGD([{"params": params[:2]}, {"params": params[2:], "lr": 0.3, "weight_decay": 0.1}], 0.1, scope="group")
    apart = parameters(shapes=SHAPES[:3])
    one, two = AMSGD(apart[:2], 0.1), AMSGD(apart[2:], 0.3, weight_decay=0.1)
    for gradients, _ in inputs(30, shapes=SHAPES[:3]):
        give(params, gradients)
        give(apart, gradients)
        for optimizer in (ours, one, two):
            optimizer.step()
    for p, q in zip(params, apart, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("kind", [AMSGD, AMAdamW])
def test_one_group_is_the_same_split_in_two(kind: Any, scope: str) -> None:
    one, two = parameters(), parameters()
    drive(kind(one, scope=scope), one, 20)
    drive(kind([{"params": two[:2]}, {"params": two[2:]}], scope=scope), two, 20)
    close(one, two)  # sums in another order


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing_but_rounding(make: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((33,), (4, 5))
    whole, pieces = parameters(shapes=shapes), parameters(shapes=shapes)
    monkeypatch.setattr(blocks, "SHARE", 1)
    monkeypatch.setattr(blocks, "ALIGN", 1)
    drive(make(whole, foreach=True), whole)
    monkeypatch.setattr(blocks, "HOST_BLOCK", block)
    drive(make(pieces, foreach=True), pieces)
    for p, q in zip(whole, pieces, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_heavy_ball_is_torchs_sgd_and_adamw() -> None:
    for ours, theirs in (
        (lambda p: ProxOptimizer(p, HeavyBall(0.9), 0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0.9)),
        (
            lambda p: ProxOptimizer(p, HeavyBall(0.9), 0.1, metric=Adam(), weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        ),
    ):
        one, two = parameters(), parameters()
        first, second = ours(one), theirs(two)
        for gradients, _ in inputs(50):
            give(one, gradients)
            give(two, gradients)
            first.step()
            second.step()
        for p, q in zip(one, two, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


def test_maximize_climbs() -> None:
    down, up = parameters(), parameters()
    drive(AMSGD(down), down)
    optimizer = AMSGD(up, maximize=True)
    for gradients, _ in inputs(5):
        give(up, [-g for g in gradients])
        optimizer.step()
    same(down, up)


def test_lr_may_be_a_tensor(make: Any) -> None:
    one, two = parameters(), parameters()
    drive(make(one, lr=0.25), one)
    drive(make(two, lr=torch.tensor(0.25)), two)
    same(one, two)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in WHOLE])
def test_capturable_keeps_lr_in_a_tensor_that_schedulers_write(name: str) -> None:
    make = NAMED[name]
    one, two = parameters(), parameters()
    plain, captured = make(one, lr=0.25), make(two, lr=0.25, capturable=True)
    lr = captured.param_groups[0]["lr"]
    for optimizer, params in ((plain, one), (captured, two)):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for seed in range(3):
            drive(optimizer, params, 1, seed)
            scheduler.step()
    same(one, two)
    assert captured.param_groups[0]["lr"] is lr
