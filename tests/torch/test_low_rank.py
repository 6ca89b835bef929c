"""A metric of low rank is one for a set of parameters: who joins, stays away, comes back; and pairs that overflow."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from proxmom import GradientDescent, HeavyBall, QuasiNewton
from proxmom.numpy import Optimizer
from proxmom.torch import ProxOptimizer
from tests.torch.common import made


def newton(params: list[Any], places: list[int], pull: Any) -> None:
    for i, p in enumerate(params):
        p.grad = torch.tensor(pull(i, p.detach().numpy())) if i in places else None


def quadratic(i: int, x: Any) -> Any:
    return (1 + i + np.arange(x.size).reshape(x.shape)) * x


def test_a_late_parameter_joins_a_quasi_newton_metric() -> None:
    """It has kept nothing: its parts of all pairs are zero, and theirs stay."""
    params, optimizer = made(QuasiNewton(4), (3,), (2,))
    for places in ([0], [0], [0], [0, 1], [0, 1]):
        newton(params, places, quadratic)
        optimizer.step()
        kept = optimizer.state[params[0]]["kept"]
        assert torch.equal(optimizer.state[params[0]]["pairs"], optimizer.state[params[places[-1]]]["pairs"])
    assert float(optimizer.state[params[0]]["pairs"]) == 4
    pairs = [float(kept[i].abs().sum()) > 0 for i in range(4)]
    assert pairs == [True] * 4
    late = optimizer.state[params[1]]["kept"]
    assert [float(late[i].abs().sum()) > 0 for i in range(4)] == [False, False, False, True]
    assert optimizer.diagnostics()["skipped"] == 0


def test_where_another_set_of_parameters_steps_a_quasi_newton_metric_starts_anew() -> None:
    """Pairs of the others would be of another function, and <s, y> of what is left of them may be negative."""
    params, optimizer = made(QuasiNewton(4), (3,), (2,))
    counts = []
    for places in ([0, 1], [0, 1], [0, 1], [0], [0], [0, 1], [0, 1], [1], [0], [0, 1], [0, 1]):
        newton(params, places, quadratic)
        optimizer.step()
        counts.append(float(optimizer.state[params[places[0]]]["pairs"]))
        if not counts[-1]:
            assert not any(optimizer.state[params[i]]["kept"].any() for i in places)
    assert counts == [0, 1, 2, 0, 1, 0, 1, 0, 0, 0, 1]
    assert optimizer.diagnostics()["skipped"] == 0


def test_as_many_parameters_may_be_others() -> None:
    params, optimizer = made(QuasiNewton(4), (3,), (2,), (2,))
    counts = []
    for places in ([0, 1, 2], [0, 1], [0, 1], [0, 1], [0, 2], [0, 2]):
        newton(params, places, quadratic)
        optimizer.step()
        counts.append(float(optimizer.state[params[0]]["pairs"]))
    assert counts == [0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_scopes_at_rates_of_their_own_are_optimizers_of_their_own(scope: Any) -> None:
    rates = (0.05, 0.2)
    params = [nn.Parameter(torch.ones(3).double()), nn.Parameter(torch.ones(4).double())]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(params, rates, strict=True)]
    optimizer = ProxOptimizer(groups, HeavyBall(0.5), 1.0, metric=QuasiNewton(4), scope=scope)
    alone = [
        Optimizer(np.ones(p.numel()), HeavyBall(0.5), lr=r, metric=QuasiNewton(4))
        for p, r in zip(params, rates, strict=True)
    ]
    for _ in range(8):
        newton(params, [0, 1], quadratic)
        optimizer.step()
        for i, (p, other) in enumerate(zip(params, alone, strict=True)):
            other.step(quadratic(i, other.x))
            np.testing.assert_allclose(p.detach().numpy(), other.x, rtol=1e-10)


class Watched(QuasiNewton):
    """Writes down the products of the last move and the change of the gradient."""

    seen: ClassVar[list[Any]] = []

    def low_rank(self, gram: Any, numbers: Any, forecast: Any) -> Any:
        self.seen.append(gram[0, -2:, -2:].copy())
        return super().low_rank(gram, numbers, forecast)


def test_who_did_not_move_adds_no_move_and_no_change_of_the_gradient() -> None:
    params, optimizer = made(Watched(4), (3,), (2,))
    Watched.seen.clear()
    before = None
    for t, places in enumerate(([0], [0], [0, 1], [0, 1], [0, 1])):
        newton(params, places, quadratic)
        optimizer.param_groups[0]["lr"] = 0.0 if t == 3 else 0.1
        now = params[0].detach().clone(), params[0].grad.clone()
        optimizer.step()
        s, y = (now[0] - before[0], now[1] - before[1]) if t not in (0, 4) else (torch.zeros(3), torch.zeros(3))
        expected = [[s @ s, s @ y], [s @ y, y @ y]]
        if t == 3:  # by now the second one has moved, too
            assert Watched.seen[t][0, 0] > float(s @ s)
        else:
            np.testing.assert_allclose(Watched.seen[t], np.array(expected, dtype=float), rtol=1e-12, atol=1e-15)
        before = now


def test_a_metric_that_started_anew_is_the_identity() -> None:
    params, optimizer = made(QuasiNewton(4), (3,), (2,))
    optimizer._step.method.rule = GradientDescent()
    for places, euclidean in (([0, 1], True), ([0, 1], False), ([0], True), ([0], False)):
        before = params[0].detach().clone()
        newton(params, places, quadratic)
        optimizer.step()
        assert torch.allclose(params[0].detach(), before - 0.1 * params[0].grad) == euclidean


def test_a_pair_that_overflows_is_none() -> None:
    """The change of the gradient is twice as long as either gradient, and only its square overflows."""
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = ProxOptimizer([p], GradientDescent(), 1e-154, metric=QuasiNewton(2))
    alone = Optimizer(np.zeros(1), GradientDescent(), lr=1e-154, metric=QuasiNewton(2))
    for slope in (1.2e154, -1.2e154, -1e153, -2e153):
        p.grad = torch.full_like(p, slope)
        optimizer.step()
        alone.step(np.array([slope]))
        np.testing.assert_allclose(p.detach().numpy(), alone.x, rtol=1e-12)
    assert optimizer.diagnostics()["skipped"] == alone.diagnostics()["skipped"] == 0
