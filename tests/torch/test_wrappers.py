"""Other people's wrappers around our optimizers: they keep their own state in `state[p]`, and call step() themselves.

Where a wrapper's setting makes it do nothing, the wrapped optimizer must step as it does alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxmom.torch import AMSGD, AMAdamW

schedulefree = pytest.importorskip("schedulefree")
wrappers = pytest.importorskip("pytorch_optimizer")

MAKE: dict[str, Callable[..., Any]] = {
    "AMSGD": lambda params: AMSGD(params, 0.05),
    "AMAdamW": lambda params: AMAdamW(params, 0.02),
    "AMAdamW in torch operations": lambda params: AMAdamW(params, 0.02, foreach=True),
}
OURS = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


def model() -> tuple[nn.Module, Tensor, Tensor]:
    """A small regression."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(32, 5, dtype=torch.float64)
    return net, x, x[:, :1] * x[:, 1:2]


def train(net: nn.Module, x: Tensor, y: Tensor, optimizer: Any, steps: int, with_closure: bool = False) -> list[float]:
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        loss = closure()
        optimizer.step(closure) if with_closure else optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@OURS
def test_schedule_free(make: Any) -> None:
    net, x, y = model()
    optimizer = schedulefree.ScheduleFreeWrapper(make(net.parameters()), momentum=0.9)
    optimizer.train()
    losses = train(net, x, y, optimizer, 60)
    assert losses[-1] < 0.9 * losses[0]
    entry = optimizer.base.state[next(net.parameters())]
    assert {"z", "memory", "step"} <= set(entry)
    assert int(entry["step"]) == 60
    optimizer.eval()  # as its authors ask for before saving
    saved, copied = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net)
    resumed = schedulefree.ScheduleFreeWrapper(make(copied.parameters()), momentum=0.9)
    resumed.load_state_dict(saved)
    for both in (resumed, optimizer):
        both.train()
    assert train(copied, x, y, resumed, 5) == train(net, x, y, optimizer, 5)


@OURS
@pytest.mark.parametrize(
    ("wrap", "with_closure"),
    [
        (lambda base, params, make: wrappers.Lookahead(base(params), k=1, alpha=1 - 1e-12), False),
        (lambda base, params, make: wrappers.SAM(params, base, rho=1e-12), True),
        (lambda base, params, make: wrappers.PCGrad(base(params)).optimizer, False),
    ],
    ids=["Lookahead", "SAM", "PCGrad"],
)
def test_wrappers_that_do_nothing_change_nothing(wrap: Any, with_closure: bool, make: Any) -> None:
    (alone, x, y), (inside, _, _) = model(), model()
    plain = train(alone, x, y, make(alone.parameters()), 12)
    wrapped = train(
        inside, x, y, wrap(lambda params, **_: make(params), list(inside.parameters()), make), 12, with_closure
    )
    torch.testing.assert_close(torch.tensor(wrapped), torch.tensor(plain), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(weights(inside), weights(alone), rtol=1e-6, atol=1e-8)


@OURS
def test_lookahead_goes_back_half_way(make: Any) -> None:
    """Every fifth step; what is in between are our own steps from wherever the weights are."""
    net, x, y = model()
    optimizer = wrappers.Lookahead(make(net.parameters()), k=5, alpha=0.5)
    losses = train(net, x, y, optimizer, 100)
    assert losses[-1] < 0.9 * losses[0]
