"""Known optimizers as special cases, to rounding: each side is computed by code that knows nothing of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from proxmom import Adam, AdaptiveMemory, Euclidean, GradientDescent, HeavyBall, MoMo, Polyak, TruncatedMemory
from proxmom.numpy import Optimizer

STEPS, SIZE = 100, 7


def lr_at(step: int) -> float:
    return 0.1 * (1.1 + np.sin(step))


def random_gradients() -> Any:
    random = np.random.default_rng(1)
    scale = 10 ** random.uniform(-2, 1, size=SIZE)
    return [random.normal(size=SIZE) * scale for _ in range(STEPS)]


def ours(rule: Any, losses: Any = None, **settings: Any) -> np.ndarray:
    optimizer = Optimizer(np.linspace(-1, 1, SIZE), rule, lr=1.0, **settings)
    path = []
    for step, gradient in enumerate(random_gradients()):
        optimizer.lr = lr_at(step)
        path.append(optimizer.step(gradient, None if losses is None else losses[step]))
    return np.array(path)


def torchs(kind: Any, **settings: Any) -> np.ndarray:
    x = torch.linspace(-1, 1, SIZE, dtype=torch.float64).requires_grad_()
    optimizer = kind([x], lr=1.0, **settings)
    path = []
    for step, gradient in enumerate(random_gradients()):
        optimizer.param_groups[0]["lr"] = lr_at(step)
        x.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(x.detach().numpy().copy())
    return np.array(path)


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_heavy_ball_is_torch_sgd(beta: float, weight_decay: float) -> None:
    expected = torchs(torch.optim.SGD, momentum=beta, dampening=beta if beta else 0, weight_decay=weight_decay)
    # torch's buffer starts as g_0, as ours does
    same(ours(HeavyBall(beta), weight_decay=weight_decay, decay="coupled"), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_heavy_ball_with_adam_is_torch_adamw(beta: float, weight_decay: float) -> None:
    expected = torchs(torch.optim.AdamW, betas=(beta, 0.99), eps=1e-6, weight_decay=weight_decay)
    settings = {"metric": Adam(0.99, 1e-6), "weight_decay": weight_decay, "decay": "decoupled"}
    same(ours(HeavyBall(beta), **settings), expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_heavy_ball_with_adam_and_coupled_decay_is_torch_adam(weight_decay: float) -> None:
    expected = torchs(torch.optim.Adam, betas=(0.9, 0.99), eps=1e-6, weight_decay=weight_decay)
    same(ours(HeavyBall(0.9), metric=Adam(0.99, 1e-6), weight_decay=weight_decay, decay="coupled"), expected)


@pytest.mark.parametrize("metric", [Euclidean(), Adam(0.99)], ids=["Euclidean", "Adam"])
def test_without_memory_and_inertia_adaptive_memory_is_gradient_descent(metric: Any) -> None:
    same(ours(AdaptiveMemory(0.0), metric=metric), ours(GradientDescent(), metric=metric))


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adaptive_memory_is_the_closed_form_sgd(inertia: float, weight_decay: float) -> None:
    x, d, last_lr = np.linspace(-1, 1, SIZE), None, 0.0
    path = []
    for step, raw in enumerate(random_gradients()):
        lr, g = lr_at(step), raw + weight_decay * x
        d = g if d is None else d
        gap = (d - g) @ (d - g)
        height = last_lr * (g @ d)
        beta = 0.9
        if gap > 0:
            # written with M = 1/(1+λ): [h/η - <d-g, g+λd>/(1+λ)] (1+λ) / ||d-g||²
            beta = clip(((1 + inertia) * height / lr - (d - g) @ (g + inertia * d)) / gap, 0, 0.9)
        d = ((beta + inertia) * d + (1 - beta) * g) / (1 + inertia)
        x = x - lr * d
        last_lr = lr
        path.append(x)
    same(ours(AdaptiveMemory(), inertia=inertia, weight_decay=weight_decay, decay="coupled"), np.array(path))


@pytest.mark.parametrize("inertia", [0.0, 0.1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adaptive_memory_is_the_closed_form_adamw(inertia: float, weight_decay: float) -> None:
    beta_max, beta2, eps = 0.89, 0.99, 1e-8
    x, d, v, last_lr, product = np.linspace(-1, 1, SIZE), np.zeros(SIZE), np.zeros(SIZE), 0.0, 1.0
    path, mu = [], weight_decay
    for step, g in enumerate(random_gradients()):
        lr = lr_at(step)
        kappa = lr / (1 + lr * mu)
        v = beta2 * v + (1 - beta2) * g * g
        p = (1 - beta_max * product) * (np.sqrt(v / (1 - beta2 ** (step + 1))) + eps)
        height = last_lr * (g @ (d / p) + mu * (g @ x))
        m = 1 / (p * (1 + inertia * p))
        top = height - kappa * (((d - g) * m) @ (g + inertia * p * d) + mu * (x @ (d - g)))
        beta = beta_max if step == 0 else clip(top / (kappa * ((d - g) * m) @ (d - g)), 0, beta_max)
        d = ((1 - beta) * g + beta * d + inertia * p * d) / (1 + inertia * p)
        x = (1 - lr * mu) * x - lr * d / p
        product, last_lr = product * beta, lr
        path.append(x)
    settings = {"metric": Adam(beta2, eps), "inertia": inertia, "weight_decay": mu, "decay": "decoupled"}
    same(ours(AdaptiveMemory(beta_max), **settings), np.array(path))


@pytest.mark.parametrize("inertia", [0.0, 0.1, 2.0])
def test_effective_momentum(inertia: float, random: np.random.Generator) -> None:
    """(β+λ)/(1+λ) = clip(||g||²/||g-d||², λ/(1+λ), (β_max+λ)/(1+λ)): λ only moves the range."""
    optimizer, seen = Optimizer(random.normal(size=SIZE), AdaptiveMemory(), lr=0.3, inertia=inertia), 0
    for _ in range(300):
        g, d = random.normal(size=SIZE) * 10 ** random.uniform(-1, 1), optimizer.memory
        optimizer.step(g)
        ratio = (g @ g) / ((g - d) @ (g - d))
        expected = np.clip(ratio, inertia / (1 + inertia), (0.9 + inertia) / (1 + inertia))
        seen += expected == ratio
        effective = (optimizer.diagnostics()["beta"] + inertia) / (1 + inertia)
        if optimizer.diagnostics()["steps"] > 1:
            assert effective == pytest.approx(expected, rel=1e-11)
    assert seen > 20  # neither bound hides the formula


def losses() -> Any:
    return np.random.default_rng(2).uniform(0.1, 3.0, size=STEPS)


def test_polyak_is_sps_max() -> None:
    x, path = np.linspace(-1, 1, SIZE), []
    for step, (g, f) in enumerate(zip(random_gradients(), losses(), strict=True)):
        x = x - min(lr_at(step), (f - 0.05) / (g @ g)) * g
        path.append(x)
    same(ours(Polyak(0.05), losses()), np.array(path))


def momo(beta: float, bound: float, weight_decay: float, adam: Adam | None) -> np.ndarray:
    """MoMo and MoMo-Adam as published: running averages of loss, gradient and <gradient, x>."""
    x, path = np.linspace(-1, 1, SIZE), []
    f_bar = gamma = 0.0
    d, v = np.zeros(SIZE), np.zeros(SIZE)
    for step, (g, f) in enumerate(zip(random_gradients(), losses(), strict=True)):
        lr, count = lr_at(step), step + 1
        start = adam is None and step == 0
        share = 1.0 if start else 1 - beta
        d, f_bar, gamma = (
            (1 - share) * d + share * g,
            (1 - share) * f_bar + share * f,
            (1 - share) * gamma + share * g @ x,
        )
        rho = 1.0 if adam is None else 1 - beta**count
        p = np.ones(SIZE)
        if adam is not None:
            v = adam.beta2 * v + (1 - adam.beta2) * g * g
            p = np.sqrt(v / (1 - adam.beta2**count)) + adam.eps
        gap = (1 + lr * weight_decay) * (f_bar - gamma - rho * bound) + d @ x
        tau = min(lr / rho, max(gap, 0) / (d @ (d / p)))
        x = (x - tau * d / p) / (1 + lr * weight_decay)
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 5.0])
def test_momo_is_the_published_update(weight_decay: float) -> None:
    """Also where strong decay leaves the averaged plane below the bound, so that the floor has all the weight."""
    mine = ours(MoMo(0.05, beta=0.8), losses(), weight_decay=weight_decay, decay="proximal")
    np.testing.assert_allclose(mine, momo(0.8, 0.05, weight_decay, None), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 5.0])
def test_momo_adam_is_the_published_update(weight_decay: float) -> None:
    adam = Adam(0.99)
    mine = ours(MoMo(0.05, beta=0.8), losses(), metric=adam, weight_decay=weight_decay, decay="proximal")
    np.testing.assert_allclose(mine, momo(0.8, 0.05, weight_decay, adam), rtol=1e-9, atol=1e-10)


def test_fletcher_reeves_under_exact_line_search(random: np.random.Generator) -> None:
    """Directions parallel to conjugate gradients, which end after n steps on a quadratic."""
    size = 12
    basis = np.linalg.qr(random.normal(size=(size, size)))[0]
    hessian = basis * np.logspace(0, 1, size) @ basis.T  # at 1e2 rounding ends conjugate gradients themselves early
    x = random.normal(size=size)
    optimizer = Optimizer(x, AdaptiveMemory(1.0), lr=1.0)
    direction, squared = None, None
    for _ in range(size):
        g = hessian @ x
        fletcher_reeves = g if direction is None else g + (g @ g) / squared * direction
        direction, squared = fletcher_reeves, g @ g
        d = optimizer.preview(g).next_memory
        cosine = d @ direction / np.linalg.norm(d) / np.linalg.norm(direction)
        assert cosine == pytest.approx(1, abs=1e-10)
        optimizer.lr = g @ d / (d @ hessian @ d)
        x = optimizer.step(g)
    assert np.linalg.norm(hessian @ x) < 1e-10


def test_truncated_memory_with_the_optimum_known_needs_no_lr() -> None:
    hessian = np.logspace(-2, 0, 30)
    paths = []
    for lr in (1e3, 1e6):
        optimizer = Optimizer(np.ones(30), TruncatedMemory(0.0), lr=lr)
        for _ in range(30):
            x = optimizer.x
            optimizer.step(hessian * x, float(x @ (hessian * x)) / 2)
        paths.append(optimizer.x)
    np.testing.assert_allclose(*paths, rtol=1e-6, atol=1e-9)
