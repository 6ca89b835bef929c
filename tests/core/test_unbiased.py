"""Steady memory: no bias where adaptive memory has one, the same steps where gradients are exact, on both backends."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import proxmom.numpy
from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall, SteadyMemory
from proxmom.numpy import Runs
from proxmom.torch import ProxOptimizer

Array = NDArray[np.float64]
SKEWED = np.array([19.0, -1.0])


def average(rule: Any, gradient: Any, start: Array, *, lr: float, steps: int, inertia: float) -> Array:
    """Mean over the last three quarters of the steps of N independent runs, (N, n), Euclidean metric."""
    runs, total = Runs(start, rule, lr=lr, inertia=inertia), 0.0
    for t in range(steps):
        total = total + runs.step(gradient(runs.x)) * (t >= steps // 4)
    return total / (steps - steps // 4)


def settled(rule: Any, *, inertia: float = 0.1) -> float:
    """Where f = ½x² settles with a gradient noise of 19 (5%) and -1 (95%)."""
    random = np.random.default_rng(0)
    means = average(
        rule,
        lambda x: x + np.where(random.random(x.shape) < 0.05, *SKEWED),
        np.zeros((200, 1)),
        lr=0.1,
        steps=1000,
        inertia=inertia,
    )
    return float(means.mean())


def off_optimum(rule: Any, *, inertia: float = 0.1) -> float:
    """Mean relative error of the averaged weights, logistic regression, one example a batch, started at the optimum."""
    random = np.random.default_rng(1)
    features = random.exponential(size=(200, 6)) - 1
    rows = -features * np.where(random.random(200) < 1 / (1 + np.exp(-features.sum(axis=1))), 1.0, -1.0)[:, None]
    best = np.zeros(6)
    for _ in range(30):
        p = 1 / (1 + np.exp(-rows @ best))
        best -= np.linalg.solve(
            (rows.T * (p * (1 - p))) @ rows / 200 + 0.01 * np.eye(6), rows.T @ p / 200 + 0.01 * best
        )

    def gradient(x: Array) -> Array:
        chosen = rows[random.integers(200, size=len(x))]
        return chosen / (1 + np.exp(-(chosen * x).sum(axis=1, keepdims=True))) + 0.01 * x

    means = average(rule, gradient, np.tile(best, (100, 1)), lr=0.05, steps=2000, inertia=inertia)
    return float(np.linalg.norm(means - best, axis=1).mean() / np.linalg.norm(best))


def test_skewed_noise_moves_adaptive_memory_and_not_steady_memory() -> None:
    assert settled(AdaptiveMemory()) > 0.7
    assert abs(settled(SteadyMemory())) < 0.05


def test_single_examples_bias_adaptive_memory_and_not_steady_memory() -> None:
    reference = off_optimum(HeavyBall(), inertia=0.0)
    assert off_optimum(AdaptiveMemory()) > 1.5 * reference
    assert off_optimum(SteadyMemory()) < 1.05 * reference


@pytest.mark.parametrize(("metric", "lr"), [(Euclidean(), 8.0), (Adam(), 0.1)], ids=["Euclidean", "Adam"])
def test_exact_gradients_give_the_steps_of_adaptive_memory(metric: Any, lr: float) -> None:
    random = np.random.default_rng(2)
    h, start = np.geomspace(0.01, 1, 30), random.normal(size=30)
    paths = [
        proxmom.numpy.minimize(
            lambda x: (0.5 * x @ (h * x), h * x), start, rule, lr=lr, metric=metric, inertia=0.1, max_iter=60
        )
        for rule in (AdaptiveMemory(0.89), SteadyMemory(0.89))
    ]
    assert len(paths[0].history["fun"]) > 40
    np.testing.assert_array_equal(*(path.history["fun"] for path in paths))


def noisy(step: int, x: Array, random: np.random.Generator) -> Array:
    """Exact gradients for 20 steps, then noisy ones: s goes from 0 to 1."""
    return np.geomspace(0.1, 1, x.size) * x + (3 * random.normal(size=x.size) if step >= 20 else 0.0)


@pytest.mark.parametrize("metric", [Euclidean(), Adam(beta2=0.9)], ids=["Euclidean", "Adam"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_numpy_and_torch_agree_and_a_restored_run_goes_on(metric: Any, scope: str) -> None:
    random, start = np.random.default_rng(3), [np.ones(6), np.full(4, -2.0)]
    settings: dict[str, Any] = {"metric": metric, "inertia": 0.1}
    together = [start] if scope == "model" else [[x] for x in start]
    ours = [proxmom.numpy.Optimizer(xs, SteadyMemory(horizon=8), lr=0.1, **settings) for xs in together]
    params = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    theirs = ProxOptimizer(params, SteadyMemory(horizon=8), 0.1, scope=scope, **settings)
    betas = []
    for step in range(90):
        if step == 50:  # the kept numbers are part of the state
            saved = copy.deepcopy(theirs.state_dict())
            theirs = ProxOptimizer(params, SteadyMemory(horizon=8), 0.1, scope=scope, **settings)
            theirs.load_state_dict(saved)
        gradients = [noisy(step, p.detach().numpy(), random) for p in params]
        split = [gradients] if scope == "model" else [[g] for g in gradients]
        for optimizer, part in zip(ours, split, strict=True):
            optimizer.step(part)
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.tensor(g)
        theirs.step()
        betas.append(ours[0].diagnostics()["beta"])
        for x, p in zip([x for optimizer in ours for x in optimizer.x], params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-12)
    assert min(betas[1:20]) < 0.85
    assert min(betas[60:]) > 0.89


def test_gradients_that_are_zero_leave_everything_finite() -> None:
    optimizer = proxmom.numpy.Optimizer(np.ones(2), SteadyMemory(), lr=0.1)
    for gradient in (np.zeros(2), np.zeros(2), np.ones(2), np.zeros(2), np.full(2, 1e150), np.ones(2)):
        optimizer.step(gradient)
    assert np.isfinite(optimizer.x).all()
    assert optimizer.diagnostics()["skipped"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 1.0}, r"horizon must be in \[2, inf\], got 1.0."),
        ({"horizon": float("nan")}, r"horizon must be in \[2, inf\], got nan."),
        ({"beta_max": 1.5}, r"beta_max must be in \[0, 1\], got 1.5."),
    ],
)
def test_bad_arguments(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteadyMemory(**arguments)


def test_an_endless_horizon_is_adaptive_memory() -> None:
    random = np.random.default_rng(4)
    pair = [
        proxmom.numpy.Optimizer(np.ones(5), rule, lr=0.3) for rule in (AdaptiveMemory(), SteadyMemory(horizon=np.inf))
    ]
    for _ in range(50):
        gradient = random.normal(size=5)
        np.testing.assert_array_equal(*(optimizer.step(gradient) for optimizer in pair))


def test_the_unit_of_the_loss_is_nothing_to_steady_memory() -> None:
    """Gradients 1e-6 or 1e6 times as long get the same weight on memory, from the first step on."""
    random, sizes = np.random.default_rng(3), (1.0, 1e-6, 1e6)
    runs = Runs(np.zeros((3, 4)), SteadyMemory(horizon=4), lr=0.1)
    for _ in range(40):
        runs.step(np.array(sizes)[:, None] * (0.3 + random.normal(size=4)))
        np.testing.assert_allclose(runs.effective, runs.effective[0], rtol=1e-9, atol=1e-9)
    assert 0 < runs.effective[0] <= 0.9
