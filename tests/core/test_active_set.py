"""More than four planes: optimal to rounding on random and degenerate models, by the same arithmetic for all data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from proxmom import active_set as module
from proxmom.active_set import active_set
from proxmom.certify import certify
from proxmom.reference import convex_solver
from proxmom.solve import weights

Random = np.random.Generator
Arrays = tuple[Any, Any]  # heights (N, K) and slopes (N, K, n)
BATCH = 200


def met_inside(slopes: Any, spread: Any, random: Random) -> Any:
    """Heights of planes that nearly meet at the step of random weights: many of them are active."""
    products = slopes @ slopes.swapaxes(-1, -2)
    level = (products @ random.dirichlet(np.ones(slopes.shape[1]), size=len(slopes))[..., None])[..., 0]
    return level + spread * np.ptp(level, axis=1, keepdims=True) * random.normal(size=level.shape)


def bundle(count: int, random: Random) -> Arrays:
    """Cutting planes of convex quadratics plus a norm, at the points of gradient descent, seen from the last one."""
    curvature = 10 ** random.uniform(-3, 0, size=(BATCH, 6))
    x, planes = random.normal(size=(BATCH, 6)), []
    for _ in range(count):
        slope = curvature * x + 0.3 * np.sign(x)
        planes.append((x, slope, (curvature * x**2 / 2 + 0.3 * np.abs(x)).sum(-1)))
        x = x - slope
    last, _, value = planes[-1]
    heights = np.stack([v + (slope * (last - at)).sum(-1) - value for at, slope, v in planes], axis=1)
    lr = 10 ** random.uniform(-2, 3, size=(BATCH, 1, 1))
    return heights, np.sqrt(lr) * np.stack([slope for _, slope, _ in planes], axis=1)


def models(kind: str, count: int, random: Random) -> Arrays:
    size = {"few dimensions": count // 3 + 1, "on a line": 1, "whole numbers": 3}.get(kind, count + 3)
    slopes, heights = random.normal(size=(BATCH, count, size)), random.normal(size=(BATCH, count))
    if kind == "bundle":
        return bundle(count, random)
    if kind == "whole numbers":
        return random.integers(-3, 4, size=heights.shape) * 1.0, random.integers(-2, 3, size=slopes.shape) * 1.0
    if kind == "all active":
        return met_inside(slopes, 0.0, random), slopes
    if kind == "ill conditioned":
        return heights, slopes * 10.0 ** -np.arange(size)
    if kind == "nearly one slope":
        near = 10 ** random.uniform(-9, 0, size=(BATCH, 1, 1))
        return heights * 10 ** random.uniform(-16, 0, size=(BATCH, 1)), slopes[:, :1] + near * slopes
    if kind == "slopes of all sizes":
        return heights, slopes * 10 ** random.uniform(-5, 5, size=(BATCH, count, 1))
    return met_inside(slopes, 10 ** random.uniform(-4, 0, size=(BATCH, 1)), random), slopes


KINDS = (
    "random", "few dimensions", "on a line", "whole numbers", "all active", "ill conditioned", "nearly one slope",
    "slopes of all sizes", "bundle",
)  # fmt: skip


def relative_gap(heights: Any, products: Any, w: Any) -> Any:
    """The gap in units of rounding of the planes that have weight; planes that coincide with a higher one left out."""
    eps = np.finfo(w.dtype).eps
    squares, last = np.einsum("nkk->nk", products), np.arange(heights.shape[1])
    size = squares[:, None] + squares[:, :, None]
    higher = heights[:, None] > heights[:, :, None]
    higher |= (heights[:, None] == heights[:, :, None]) & (last[None] > last[:, None])
    hidden = (higher & (size - 2 * products <= 8 * eps * size)).any(axis=2)
    h, q, w = (np.asarray(a, dtype=np.longdouble) for a in (heights, products, w))
    values = h - (q @ w[..., None])[..., 0]
    gap = np.where(hidden, -np.inf, values).max(axis=1) - (w * values).sum(axis=1)
    used = w > 0
    scale = np.maximum((np.abs(h) * used).max(axis=1), (np.abs(q) * used[:, None] * used[:, :, None]).max(axis=(1, 2)))
    return gap / eps / np.maximum(scale, 1e-300)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [5, 8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_is_rounding(
    kind: str, count: int, dtype: Any, random: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half the rounds, so that the number of rounds has a margin of two."""
    monkeypatch.setattr(module, "ROUNDS", module.ROUNDS // 2)
    heights, slopes = models(kind, count, random)
    products = slopes @ slopes.swapaxes(-1, -2)
    heights, products = heights.astype(dtype), products.astype(dtype)
    w = weights(heights, products)
    assert w.dtype == dtype
    assert (w >= 0).all()
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=4 * np.finfo(dtype).eps)
    assert relative_gap(heights, products, w).max() < 4


@pytest.mark.parametrize("count", [5, 16])
def test_agrees_with_a_convex_solver(count: int, random: Random) -> None:
    cp = convex_solver()
    for kind in ("random", "few dimensions", "whole numbers"):
        heights, slopes = models(kind, count, random)
        for h, s in zip(heights[:4], slopes[:4], strict=True):
            w = cp.Variable(count)
            problem = cp.Problem(cp.Maximize(h @ w - cp.sum_squares(s.T @ w) / 2), [w >= 0, cp.sum(w) == 1])
            problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
            ours = weights(h, s @ s.T)
            np.testing.assert_allclose(ours @ s, w.value @ s, atol=1e-5 * np.abs(s).max())
            assert h @ ours - ((ours @ s) ** 2).sum() / 2 >= problem.value - 1e-9 * max(1, abs(problem.value))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", ["random", "all active", "nearly one slope", "ill conditioned"])
def test_agrees_with_the_closed_forms(kind: str, count: int, random: Random) -> None:
    heights, slopes = models(kind, count, random)
    products = slopes @ slopes.swapaxes(-1, -2)
    closed = weights(heights, products)
    counts = np.where(closed > 0, 1.0, 0.0) if kind == "nearly one slope" else np.ones_like(closed)
    ours = active_set(heights.T, products.reshape(BATCH, -1).T, counts.T).T
    if kind == "random":
        np.testing.assert_allclose(ours, closed, atol=1e-10)
    scale = np.maximum(np.abs(heights).max(axis=1), np.abs(products).max(axis=(1, 2)))
    assert (
        np.abs(certify(heights, products, ours).dual - certify(heights, products, closed).dual) < 1e-14 * scale
    ).all()


def test_planes_that_do_not_count_get_no_weight(random: Random) -> None:
    heights, slopes = models("all active", 7, random)
    products = slopes @ slopes.swapaxes(-1, -2)
    left, gone = [1, 2, 3, 4, 6], [0, 5]
    heights[:, gone] += 100  # they would have all the weight
    counts = np.ones((7, BATCH))
    counts[gone] = 0
    w = active_set(heights.T, products.reshape(BATCH, -1).T, counts).T
    np.testing.assert_array_equal(w[:, gone], 0)
    alone = weights(heights[:, left], products[:, left][:, :, left])
    np.testing.assert_allclose(w[:, left], alone, atol=1e-12)


def test_a_plane_may_be_level_just_as_another_is_used_up(random: Random) -> None:
    """Four planes are level at weights of which one is zero, and that is not yet the end: others lie above."""
    slopes = random.integers(-3, 4, size=(4000, 8, 8)) * 1.0
    products = slopes @ slopes.swapaxes(-1, -2)
    step = np.array([0.5, 0.25, 0.25, 0]) @ slopes[:, :4]
    heights = (slopes @ step[..., None])[..., 0]
    heights[:, 4:] += random.uniform(-0.3, 0.3, size=(4000, 4)) * products[:, :1, 0]
    assert relative_gap(heights, products, weights(heights, products)).max() < 4


def test_of_planes_that_coincide_the_highest_and_last_counts(random: Random) -> None:
    slopes = random.normal(size=(3, 4))[[0, 1, 0, 2, 0, 1]]
    q = slopes @ slopes.T
    level = q @ np.full(6, 1 / 6)  # all active
    w = weights(level, q)
    assert (w[[0, 1, 2]] == 0).all()
    assert (w[[3, 4, 5]] > 0).all()
    w = weights(level + 1e-9 * np.eye(6)[0] + 1e-9 * np.eye(6)[2], q)
    assert w[2] > 0
    assert w[0] == w[4] == 0
    np.testing.assert_array_equal(weights(np.zeros(6), q, heights=np.eye(6)[1])[5], 0)
    floors = np.zeros((6, 6))
    np.testing.assert_array_equal(weights(np.zeros(6), floors, floors=(4, 5)), np.eye(6)[3])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("factor", [2.0**-90, 2.0**-40, 2.0**40, 2.0**90])
def test_the_scale_of_the_model_is_nothing(factor: float, dtype: Any, random: Random) -> None:
    for kind in ("random", "few dimensions", "whole numbers"):
        heights, slopes = models(kind, 9, random)
        h, q = heights.astype(dtype), (slopes @ slopes.swapaxes(-1, -2)).astype(dtype)
        scaled = weights((factor * h).astype(dtype), (factor * q).astype(dtype))
        np.testing.assert_array_equal(scaled, weights(h, q))


def test_a_huge_plane_far_below_spoils_nothing(random: Random) -> None:
    """Bundles hold gradients of long ago, that may be far larger than today's: only planes in use set the precision."""
    heights, slopes = models("random", 9, random)
    slopes[:, [0, 4]] *= 1e8
    heights[:, [0, 4]] -= 1e20
    left = [1, 2, 3, 5, 6, 7, 8]
    w = weights(heights, slopes @ slopes.swapaxes(-1, -2))
    alone = weights(heights[:, left], slopes[:, left] @ slopes[:, left].swapaxes(-1, -2))
    np.testing.assert_allclose(w[:, left], alone, atol=1e-12)


@pytest.mark.parametrize("kind", ["random", "few dimensions", "bundle"])
def test_the_order_of_the_planes_is_nothing(kind: str, random: Random) -> None:
    heights, slopes = models(kind, 8, random)
    order = random.permutation(8)
    steps = [
        (weights(h, s @ s.swapaxes(-1, -2))[:, None] @ s)[:, 0]
        for h, s in ((heights, slopes), (heights[:, order], slopes[:, order]))
    ]
    scale = np.abs(slopes).max(axis=(1, 2))[:, None]
    np.testing.assert_allclose(steps[0] / scale, steps[1] / scale, atol=2e-7)  # the root of the gap


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_is_numpy_and_a_model_alone_is_a_model_in_a_batch(dtype: torch.dtype, random: Random) -> None:
    for kind in ("random", "whole numbers"):
        heights, slopes = (torch.tensor(a, dtype=dtype) for a in models(kind, 6, random))
        products = slopes @ slopes.mT
        batch = weights(heights, products)
        assert batch.dtype == dtype
        assert relative_gap(heights.numpy(), products.numpy(), batch.numpy()).max() < 4
        if kind == "random":
            atol = 1e3 * torch.finfo(dtype).eps
            np.testing.assert_allclose(batch.numpy(), weights(heights.numpy(), products.numpy()), atol=atol)
        shaped = weights(heights.reshape(2, -1, 6), products.reshape(2, -1, 6, 6))
        torch.testing.assert_close(shaped.reshape(-1, 6), batch, rtol=0, atol=0)
        for index in range(3 if kind == "random" else 0):  # elsewhere only the step is unique
            torch.testing.assert_close(weights(heights[index], products[index]), batch[index])


class Calls(TorchDispatchMode):
    """The operations that run, by name and shape; one that asks a tensor for its value is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a value was asked for"
        self.seen.append((str(func), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


def test_every_model_takes_the_same_operations(random: Random) -> None:
    """So a graph captured on one model is right for all others."""
    runs = []
    for kind in ("random", "whole numbers", "bundle"):
        heights, slopes = (torch.tensor(a) for a in models(kind, 5, random))
        products = slopes @ slopes.mT
        weights(heights, products)  # constants are made once
        with Calls() as calls:
            weights(heights, products)
        runs.append(calls.seen)
    assert len(runs[0]) > 100
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]
