"""Metrics that are not element-wise: torch takes the steps of NumPy, whatever the tensors look like in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from proxmom import (
    SOAP,
    AdaptiveMemory,
    Alignment,
    ConjugateMemory,
    GradientDescent,
    HeavyBall,
    MoMo,
    Polyak,
    QuasiNewton,
    Shampoo,
    SteadyMemory,
    TruncatedMemory,
)
from proxmom.numpy import Optimizer
from proxmom.torch import ProxOptimizer
from proxmom.torch.layout import Layout
from proxmom.torch.passes import low_rank
from tests.metrics import Full, Normed, Secants, Turned
from tests.torch.common import drive, give, same

SHAPES = ((3, 4), (5,), (), (2, 3, 2))
RULES = [
    GradientDescent(),
    HeavyBall(),
    AdaptiveMemory(),
    AdaptiveMemory(height="aggregated"),
    ConjugateMemory(beta_max=0.9),
    SteadyMemory(),
    TruncatedMemory(-1.0),
    Polyak(-1.0),
    MoMo(-1.0),
]
METRICS: dict[str, Any] = {
    "Shampoo": Shampoo(0.9, eps=1e-2, every=2, largest_side=2),
    "SOAP": SOAP(every=2, largest_side=3),
    "full matrix": Full(),
    "operator of moves": Turned(),
    "normed": Normed(),
    "diagonal of moves": Secants(),
    "quasi-Newton": QuasiNewton(3),
}
WAYS = {"host": 1 << 18, "blocks": 5, "device": 5}


@contextmanager
def way(name: str) -> Iterator[None]:
    """Large and small blocks, and scalars that stay where they would on a device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(low_rank, "LEAST", WAYS[name])
        patch.setattr(low_rank, "HOST_BLOCK", WAYS[name])
        patch.setattr(low_rank, "DEVICE_BLOCK", WAYS[name])
        if name == "device":
            patch.setattr(Layout, "on_host", False)
        yield


def pulls(shapes: Any = SHAPES, seed: int = 5) -> Callable[[list[Any]], list[Any]]:
    """The gradients of a convex function, at arrays of these shapes."""
    random = np.random.default_rng(seed)
    squares = [random.normal(size=(int(np.prod(shape)),) * 2) for shape in shapes]
    squares = [a @ a.T / len(a) + np.eye(len(a)) for a in squares]
    return lambda xs: [(a @ x.ravel()).reshape(x.shape) for a, x in zip(squares, xs, strict=True)]


def start(shapes: Any = SHAPES) -> list[Any]:
    random = np.random.default_rng(0)
    return [random.normal(size=shape) for shape in shapes]


def against_numpy(parts: list[list[int]], scope: str, rule: Any, metric: Any, steps: int = 6, **given: Any) -> None:
    """One NumPy optimizer for each part, which is a list of places, beside one of torch; groups are the parts."""
    x0, pull = start(), pulls()
    ours = [Optimizer([x0[i] for i in part], rule, lr=0.1, metric=metric, **given) for part in parts]
    params = [nn.Parameter(torch.tensor(x)) for x in x0]
    theirs = ProxOptimizer(
        [{"params": [params[i] for i in part]} for part in parts], rule, 0.1, metric=metric, scope=scope, **given
    )
    for t in range(steps):
        xs = [p.detach().numpy() for p in params]
        gradients, loss = pull(xs), 2.0 / (1 + t)
        give(params, gradients)
        for part, optimizer in zip(parts, ours, strict=True):
            optimizer.step([gradients[i] for i in part], loss)
        theirs.step(loss=loss)
        for part, optimizer in zip(parts, ours, strict=True):
            for i, x in zip(part, optimizer.x, strict=True):
                np.testing.assert_allclose(params[i].detach().numpy(), x, rtol=1e-12, atol=1e-12)
    assert all(o.diagnostics()["skipped"] == 0 for o in ours)
    assert theirs.diagnostics()["skipped"] == 0
    moved = max(float(np.abs(p.detach().numpy() - x).max()) for p, x in zip(params, x0, strict=True))
    assert moved > 1e-3


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_steps_as_in_numpy(rule: Any, metric: str, name: str) -> None:
    with way(name):
        against_numpy([[0, 1, 2, 3]], "model", rule, METRICS[metric], weight_decay=0.1)


@pytest.mark.parametrize("decay", ["coupled", "decoupled", "proximal"])
@pytest.mark.parametrize("scope", ["model", "group", "tensor"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_scope_and_decay_steps_as_in_numpy(metric: str, scope: str, decay: str) -> None:
    parts = {"model": [[0, 1, 2, 3]], "group": [[0, 2], [1, 3]], "tensor": [[0], [1], [2], [3]]}[scope]
    against_numpy(parts, scope, AdaptiveMemory(), METRICS[metric], weight_decay=0.2, decay=decay)


@pytest.mark.parametrize("metric", ["normed", "diagonal of moves"])
@pytest.mark.parametrize("decay", ["coupled", "proximal"])
def test_a_diagonal_of_whole_tensors_may_have_inertia(metric: str, decay: str) -> None:
    against_numpy(
        [[0, 1, 2, 3]], "model", AdaptiveMemory(), METRICS[metric], inertia=0.3, weight_decay=0.1, decay=decay
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_step_size_multiplies_what_it_does_in_numpy(metric: str) -> None:
    against_numpy([[0, 1, 2, 3]], "model", AdaptiveMemory(), METRICS[metric], step_size=Alignment())


def test_each_tensor_is_measured_by_its_own_gradient() -> None:
    """P is the root mean square of a tensor's gradient: each moves by 1, however steep."""
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    optimizer = ProxOptimizer(params, GradientDescent(), 1.0, metric=Normed())
    for p, slope in zip(params, (0.014, 1.414), strict=True):
        p.grad = torch.full_like(p, slope)
    optimizer.step()
    for p in params:
        torch.testing.assert_close(p.detach(), -torch.ones_like(p))
    assert optimizer.path == "whole tensors"


def shown(layout: str, x: Tensor) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    wide = torch.zeros((*x.shape, 2), dtype=x.dtype)
    wide[..., 0] = x
    return wide[..., 0]  # not dense


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("layout", ["transposed", "channels last", "not dense"])
def test_strides_change_nothing(layout: str, metric: str) -> None:
    shapes = ((3, 4), (2, 3, 2, 2), (5,))
    xs = [torch.tensor(x) for x in start(shapes)]
    plain, other = ([nn.Parameter(x.clone()) for x in xs], [nn.Parameter(shown(layout, x)) for x in xs])
    assert [p.stride() for p in plain] != [p.stride() for p in other]
    first, second = (ProxOptimizer(p, AdaptiveMemory(), 0.1, metric=METRICS[metric]) for p in (plain, other))
    for a, b in zip(drive(first, plain), drive(second, other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("metric", METRICS)
def test_maximize_climbs_what_else_would_be_descended(metric: str) -> None:
    down, up = ([nn.Parameter(torch.tensor(x)) for x in start()] for _ in range(2))
    first, second = (
        ProxOptimizer(p, AdaptiveMemory(), 0.1, metric=METRICS[metric], weight_decay=0.1, decay="coupled", maximize=m)
        for p, m in ((down, False), (up, True))
    )
    pull = pulls()
    for _ in range(4):
        gradients = pull([p.detach().numpy() for p in down])
        give(down, gradients)
        give(up, [-g for g in gradients])
        first.step()
        second.step()
    same([p.detach() for p in down], [p.detach() for p in up])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_computes_in_single(metric: str, dtype: torch.dtype) -> None:
    """A step from the same numbers, rounded once."""
    half, single = ([nn.Parameter(torch.tensor(x).to(dtype).to(t)) for x in start()] for t in (dtype, torch.float32))
    optimizers = [ProxOptimizer(p, AdaptiveMemory(), 0.1, metric=METRICS[metric]) for p in (half, single)]
    for seed in range(3):
        with torch.no_grad():  # what was rounded stays so
            for p, q in zip(half, single, strict=True):
                q.copy_(p)
        for p, q in zip(half, single, strict=True):
            p.grad = torch.tensor(np.random.default_rng(seed).normal(size=p.shape)).to(dtype)
            q.grad = p.grad.float()
        for optimizer in optimizers:
            optimizer.step()
        same([p.detach() for p in half], [q.detach().to(dtype) for q in single])
    kinds = {v.dtype for p in half for v in optimizers[0].state[p].values() if v.numel() > 1}
    assert kinds == {torch.float32}


def test_bfloat16_may_be_rounded_at_random() -> None:
    for metric in (Normed(), QuasiNewton(3)):
        p = nn.Parameter(torch.ones(40, 100, dtype=torch.bfloat16))
        optimizer = ProxOptimizer([p], GradientDescent(), 1e-3, metric=metric, stochastic_rounding=True)
        torch.manual_seed(0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert p.detach().float().unique().numel() == 2  # some are rounded down, some stay


def test_a_quasi_newton_metric_wants_one_rate_for_its_scope() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    for key, decay, good in (("lr", "coupled", "coupled"), ("weight_decay", "decoupled", "coupled")):
        for form, scope in ((decay, "model"), (good, "model"), (decay, "group")):
            groups = [{"params": params[:1], key: 0.3}, {"params": params[1:], key: 0.1}]
            optimizer = ProxOptimizer(groups, AdaptiveMemory(), 0.1, metric=QuasiNewton(), decay=form, scope=scope)
            give(params, [np.ones(2)] * 2)
            if scope == "model" and (key == "lr" or form == "decoupled"):
                with pytest.raises(ValueError, match=rf"{key} must be one .* 0.3 and 0.1. Use scope='group'"):
                    optimizer.step()
            else:
                optimizer.step()


@pytest.mark.parametrize("metric", METRICS)
def test_what_no_graph_can_hold_is_refused(metric: str) -> None:
    with pytest.raises(ValueError, match=r"capturable must be False with .*, got True"):
        ProxOptimizer([nn.Parameter(torch.ones(2))], AdaptiveMemory(), 0.1, metric=METRICS[metric], capturable=True)


@pytest.mark.parametrize("metric", METRICS)
def test_a_compiled_model_trains(metric: str) -> None:
    """The step itself is not traced."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimizer = ProxOptimizer(model.parameters(), AdaptiveMemory(), 0.1, metric=METRICS[metric])

    @torch.compile(backend="eager")
    def train() -> None:
        model(torch.ones(1, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    before = model.weight.detach().clone()
    for _ in range(3):
        train()
    assert not torch.equal(before, model.weight)
    assert optimizer.diagnostics()["skipped"] == 0
