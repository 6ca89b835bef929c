"""Seven full-batch problems: what is to be minimised, from which start, within how many evaluations.

The data, grids and frequencies of a problem are the same for all seeds; the seed draws the start alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from proxmom.study.problems.data import load_data

A9A = "libsvm/a9a.gz"
Start = tuple[Callable[[], Tensor], list[Tensor]]  # the loss, and the parameters that it is computed of


@dataclass(frozen=True)
class Problem:
    """start(seed) gives the loss and its parameters; budget is in evaluations of loss and gradient together."""

    name: str
    budget: int
    start: Callable[[int], Start]


def network(seed: int, sizes: tuple[int, ...], dtype: torch.dtype) -> nn.Sequential:
    """Layers of these sizes with tanh between, and torch's initialisation."""
    torch.manual_seed(seed)
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).to(dtype)


def slopes(values: Tensor, points: Tensor) -> Tensor:
    """The gradient of each value (n, 1) in its own point (n, 2)."""
    return torch.autograd.grad(values.sum(), points, create_graph=True)[0]


def poisson(seed: int) -> Start:
    """-Δu = 5π² sin(πx) sin(2πy) on the unit square, u = 0 on its edge (a term of weight 10); float64."""
    net = network(seed, (2, 24, 24, 1), torch.float64)
    inner = torch.linspace(0, 1, 18, dtype=torch.float64)[1:-1]
    points = torch.cartesian_prod(inner, inner).requires_grad_()
    side = torch.linspace(0, 1, 15, dtype=torch.float64)
    zero, one = torch.zeros_like(side), torch.ones_like(side)
    edge = torch.cat([torch.stack(pair, 1) for pair in ((side, zero), (side, one), (zero, side), (one, side))])
    x, y = points.detach().T
    source = 5 * math.pi**2 * torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)

    def loss() -> Tensor:
        first = slopes(net(points), points)
        laplacian = slopes(first[:, :1], points)[:, 0] + slopes(first[:, 1:], points)[:, 1]
        return (laplacian + source).square().mean() + 10 * net(edge).square().mean()

    return loss, list(net.parameters())


def burgers(seed: int) -> Start:
    """u_t + u u_x = 0.01/π u_xx, u(0, x) = -sin(πx), u(t, ±1) = 0, on t in [0, 1]; float32."""
    net = network(seed, (2, 20, 20, 20, 1), torch.float32)
    drawn = torch.Generator().manual_seed(0)
    points = (
        torch.rand(400, 2, generator=drawn) * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0])
    ).requires_grad_()
    x, t = torch.linspace(-1, 1, 64), torch.linspace(0, 1, 32)
    before = torch.stack([torch.zeros_like(x), x], 1)
    walls = torch.cat([torch.stack([t, torch.full_like(t, wall)], 1) for wall in (-1.0, 1.0)])
    first = -torch.sin(math.pi * x)[:, None]

    def loss() -> Tensor:
        u = net(points)
        slope = slopes(u, points)
        bend = slopes(slope[:, 1:], points)[:, 1:]
        residual = slope[:, :1] + u * slope[:, 1:] - 0.01 / math.pi * bend
        return residual.square().mean() + (net(before) - first).square().mean() + net(walls).square().mean()

    return loss, list(net.parameters())


@cache
def crop() -> Tensor:
    """48 x 48 pixels of scikit-learn's picture of a temple, (2304, 3) in [0, 1]."""
    from sklearn.datasets import load_sample_image

    pixels = np.ascontiguousarray(load_sample_image("china.jpg")[160:208, 250:298])
    return torch.from_numpy(pixels).reshape(-1, 3).float() / 255


def image(seed: int) -> Start:
    """Colours of the crop as a network of its coordinates' Fourier features, mean square error; float32."""
    net, target = network(seed, (64, 48, 48, 3), torch.float32), crop()
    line = torch.linspace(0, 1, 48)
    waves = 2 * math.pi * torch.cartesian_prod(line, line) @ (4 * torch.randn(2, 32, generator=torch.manual_seed(0)))
    features = torch.cat([torch.sin(waves), torch.cos(waves)], 1)
    return lambda: (net(features) - target).square().mean(), list(net.parameters())


@cache
def two_classes() -> tuple[str, Tensor, Tensor]:
    """Name, rows and labels ±1 of a9a where the data directory has it, else of breast cancer."""
    try:
        data = load_data(A9A)
    except ValueError:
        data = load_data("breast_cancer")
    dense = data.features if isinstance(data.features, np.ndarray) else data.features.toarray()
    labels = torch.as_tensor(np.where(data.target > 0, 1.0, -1.0))
    return data.name, torch.as_tensor(dense), labels


def logistic(seed: int) -> Start:
    """Mean logistic loss with weight decay 1e-4/2 ||w||²; normal start; float64."""
    _, rows, labels = two_classes()
    w = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    signed = labels[:, None] * rows
    return lambda: nn.functional.softplus(-(signed @ w)).mean() + 0.5e-4 * w.square().sum(), [w]


def softmax(seed: int) -> Start:
    """Cross-entropy of the ten digits with weight decay 1e-5/2 ||w||²; normal start; float64."""
    data = load_data("digits")
    rows, labels = torch.as_tensor(data.features), torch.as_tensor(data.target).long()
    drawn = torch.Generator().manual_seed(seed)
    w = torch.randn(64, 10, generator=drawn, dtype=torch.float64).requires_grad_()
    b = torch.zeros(10, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(rows @ w + b, labels) + 0.5e-5 * w.square().sum()

    return loss, [w, b]


def cluster(seed: int) -> Start:
    """Energy of 13 atoms, Σ 4(r^-12 - r^-6) over pairs, from uniform places in a cube of side 3; float64.

    The lowest energy is -44.326801 (an icosahedron); there are more than a thousand other minima.
    """
    drawn = torch.Generator().manual_seed(seed)
    x = (3 * torch.rand(13, 3, generator=drawn, dtype=torch.float64)).requires_grad_()
    one, other = torch.triu_indices(13, 13, offset=1)

    def loss() -> Tensor:
        near = (x[one] - x[other]).square().sum(1).pow(-3)
        return (4 * near * (near - 1)).sum()

    return loss, [x]


def factorisation(seed: int) -> Start:
    """U Vᵀ to a random 60 x 40 matrix of rank 4 of which 60% of the entries are seen, mean square; float64.

    About 1,440 entries for 400 numbers; the least is 0.
    """
    drawn = torch.Generator().manual_seed(1000)
    u, v = (torch.randn(n, 4, generator=drawn, dtype=torch.float64) for n in (60, 40))
    i, j = torch.nonzero(torch.rand(60, 40, generator=drawn) < 0.6).T
    seen = (u @ v.T)[i, j]
    drawn.manual_seed(seed)
    a, b = (torch.randn(n, 4, generator=drawn, dtype=torch.float64).requires_grad_() for n in (60, 40))
    return lambda: ((a @ b.T)[i, j] - seen).square().mean(), [a, b]


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("Poisson PINN", 1000, poisson),
        Problem("Burgers PINN", 1000, burgers),
        Problem("image", 600, image),
        Problem("logistic regression", 200, logistic),
        Problem("softmax regression", 400, softmax),
        Problem("Lennard-Jones cluster", 400, cluster),
        Problem("matrix factorisation", 300, factorisation),
    )
}
