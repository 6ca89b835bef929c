"""The solver: exact weights of up to four planes, in closed form, for a whole batch of models at once.

The proximal step on a maximum of K planes has the dual problem

    maximise  <c, w> - ½ <w, Q w>   over the simplex   (w >= 0, Σ w = 1),

and this file knows nothing else: no vectors, no backend. It is written over the array API, has no branch that depends
on data, and never asks a device for a value. Checked against a convex solver by `proxmom verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from array_api_compat import device

from proxmom.planes import Array, namespace

MAX_PLANES = 4
COINCIDE = 8  # slopes this many eps apart, squared and relative, are one slope


def weights(linear: Array, quadratic: Array, *, heights: Array | None = None, floors: Sequence[int] = ()) -> Array:
    """The maximiser of <c, w> - ½ <w, Q w> over the simplex.

    Two planes are a clip. Three and four: each face of the simplex gives one candidate, its stationary point, which is
    clipped back to the simplex; the candidate with the smallest duality gap is the solution, because the optimum lies
    inside one of the faces. Where slopes coincide (||s_j - s_k||² at rounding level) the quadratic cannot tell planes
    apart: the higher counts, at equal height the one named last, and never a floor. So Q = 0 picks the highest plane.

    Args:
        linear: c, shape (..., K), 1 <= K <= 4.
        quadratic: Q, shape (..., K, K), symmetric positive semi-definite.
        heights: what decides between coinciding planes, shape (..., K); default c.
        floors: indices of the planes that are lower bounds.

    Returns:
        w, shape (..., K): non-negative, sums to one.

    Raises:
        ValueError: for more than four planes, or none.
    """
    xp = namespace(linear)
    count = linear.shape[-1]
    if not 1 <= count <= MAX_PLANES:
        raise ValueError(
            f"a model must have 1 to {MAX_PLANES} planes, got {count}. Mix planes that belong together with mix()."
        )
    if count == 1:
        return xp.ones_like(linear)
    heights = linear if heights is None else heights
    rank = [-1 if k in floors else k for k in range(count)]  # who wins at equal height
    if count == 2:
        return _two(linear, quadratic, heights, second_wins_ties=rank[1] > rank[0])
    return _faces(linear, quadratic, _alive(quadratic, heights, rank))


def _two(c: Array, q: Array, heights: Array, *, second_wins_ties: bool) -> Array:
    xp = namespace(c)
    first, second, cross = q[..., 0, 0], q[..., 1, 1], q[..., 0, 1]
    distance = first + second - 2 * cross
    same = distance <= _tolerance(c) * (first + second)
    lead = c[..., 1] - c[..., 0] + first - cross
    share = lead / xp.where(same, 1.0, distance)
    share = xp.where(
        share > 0, xp.where(share < 1, share, 1.0), 0.0
    )  # xp.clip costs more than the rest of this function
    h0, h1 = heights[..., 0], heights[..., 1]
    wins = h1 >= h0 if second_wins_ties else h1 > h0
    share = xp.where(same, wins, share)
    return xp.stack([1 - share, share], axis=-1)


@lru_cache
def _eps(xp: Any, dtype: Any) -> float:
    return COINCIDE * float(xp.finfo(dtype).eps)


def _tolerance(like: Array) -> float:
    return _eps(namespace(like), like.dtype)


def _alive(q: Array, heights: Array, rank: list[int]) -> Array:
    """Which planes count, (..., K): of planes with one slope only the winner does."""
    xp = namespace(q)
    count = len(rank)
    alive = [heights[..., 0] == heights[..., 0] for _ in range(count)]
    for j, k in combinations(range(count), 2):
        size = q[..., j, j] + q[..., k, k]
        same = size - 2 * q[..., j, k] <= _tolerance(q) * size
        k_wins = heights[..., k] >= heights[..., j] if rank[k] > rank[j] else heights[..., k] > heights[..., j]
        alive[j] = alive[j] & ~(same & k_wins)
        alive[k] = alive[k] & ~(same & ~k_wins)
    return xp.stack(alive, axis=-1)


@lru_cache
def _maps(count: int, xp: Any, dtype: Any, where: Any) -> tuple[Array, Array, Array]:
    """Constant matrices for all faces at once: (c, Q) -> systems, solutions -> weights, and the faces' base vertices.

    A face (i_0, i_1, ...) has the unknowns u_a = w_{i_a}, a >= 1, and w_{i_0} = 1 - Σ u. Smaller faces are padded with
    i_0 itself, which makes zero rows, so that u_a = 0 there and every face has a system of one size.
    """
    faces = [f + f[:1] * (count - len(f)) for size in range(1, count + 1) for f in combinations(range(count), size)]
    unknowns = count - 1
    build = np.zeros((count + count * count, len(faces), unknowns, unknowns + 1))
    place = np.zeros((len(faces), unknowns, len(faces), count))
    base = np.zeros((len(faces), count))
    product = count + np.arange(count * count).reshape(count, count)  # where Q_jk stands in the packed input
    for f, (first, *others) in enumerate(faces):
        base[f, first] = 1
        for a, i in enumerate(others):
            place[f, a, f, i] += 1
            place[f, a, f, first] -= 1
            for b, j in enumerate(others):
                np.add.at(build[:, f, a, b], [product[i, j], product[first, first]], 1)
                np.add.at(build[:, f, a, b], [product[i, first], product[first, j]], -1)
            np.add.at(build[:, f, a, unknowns], [i, product[first, first]], 1)
            np.add.at(build[:, f, a, unknowns], [first, product[i, first]], -1)

    def constant(values: Any) -> Array:
        return xp.asarray(values, dtype=dtype, device=where)

    return (
        constant(build.reshape(count + count**2, -1).T),
        constant(place.reshape(len(faces) * unknowns, -1).T),
        constant(base[..., None]),
    )


def _faces(c: Array, q: Array, alive: Array) -> Array:
    """The best of all faces' stationary points, by duality gap. Inside, the batch is the last axis, for speed."""
    xp = namespace(c)
    count = c.shape[-1]
    build, place, base = _maps(count, xp, c.dtype, device(c))
    c_ = xp.reshape(c, (-1, count)).T
    q_ = xp.reshape(q, (-1, count * count)).T
    mask = xp.astype(xp.reshape(alive, (-1, count)).T, c.dtype)  # (K, N)
    systems = xp.reshape(build @ xp.concat([c_, q_]), (base.shape[0], count - 1, count, -1))
    u = xp.reshape(_eliminate(systems), (place.shape[1], -1))
    points = xp.reshape(place @ u, (base.shape[0], count, -1)) + base  # (F, K, N)
    points = xp.where(points > 0, points, 0.0) * mask  # every candidate is made feasible, so that its gap is honest
    total = xp.sum(points, axis=1, keepdims=True)
    points = xp.where(total > 0, points, mask)
    points = points / xp.sum(points, axis=1, keepdims=True)
    pull = sum(points[:, k, None] * xp.reshape(q_, (count, count, -1))[k] for k in range(count))
    ascent = xp.where(mask > 0, c_ - pull, -xp.inf)
    best = xp.max(ascent, axis=1)
    gap = xp.sum(points * xp.where(points > 0, best[:, None] - ascent, 0.0), axis=1)
    chosen = xp.arange(base.shape[0], device=device(c))[:, None] == xp.argmin(gap, axis=0)
    return xp.reshape(xp.sum(points * xp.astype(chosen, c.dtype)[:, None], axis=0).T, c.shape)


def _eliminate(systems: Array) -> Array:
    """Solve A u = b for systems [A b], (F, n, n + 1, N), A >= 0; a pivot at rounding level gives u_i = 0."""
    xp = namespace(systems)
    n = systems.shape[1]
    rows = [systems[:, i] for i in range(n)]
    inverse = []
    for i in range(n):
        pivot = rows[i][:, i]
        sound = pivot > _tolerance(systems) * systems[:, i, i]
        inverse.append(xp.astype(sound, systems.dtype) / xp.where(sound, pivot, 1.0))
        for j in range(i + 1, n):
            rows[j] = rows[j] - (rows[j][:, i] * inverse[i])[:, None] * rows[i]
    u: list[Array] = []
    for i in reversed(range(n)):
        known = sum((rows[i][:, j] * u[n - 1 - j] for j in range(i + 1, n)), start=0.0)
        u.append((rows[i][:, n] - known) * inverse[i])
    return xp.stack(u[::-1], axis=1)
