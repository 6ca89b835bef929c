"""The solver: exact weights of up to 16 planes, of up to four in closed form, for a whole batch of models at once.

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

from proxmom.active_set import active_set
from proxmom.planes import Array, namespace

MAX_PLANES = 16
CLOSED_FORMS = 4  # the most planes for which every face of the simplex is tried: their number doubles with each plane
COINCIDE = 8  # slopes this many eps apart, squared and relative, are one slope


def weights(linear: Array, quadratic: Array, *, heights: Array | None = None, floors: Sequence[int] = ()) -> Array:
    """The maximiser of <c, w> - ½ <w, Q w> over the simplex.

    Two planes are a clip. Three and four: each face of the simplex gives one candidate, its stationary point, which is
    clipped back to the simplex; the candidate with the smallest duality gap is the solution, because the optimum lies
    inside one of the faces. Five and more: an active-set method of a fixed number of rounds. Where slopes coincide
    (||s_j - s_k||² at rounding level) the quadratic cannot tell planes apart: the higher counts, at equal height the
    one named last, and never a floor. So Q = 0 picks the highest plane.

    Args:
        linear: c, shape (..., K), 1 <= K <= 16.
        quadratic: Q, shape (..., K, K), symmetric positive semi-definite.
        heights: what decides between coinciding planes, shape (..., K); default c.
        floors: indices of the planes that are lower bounds, in [0, K).

    Returns:
        w, shape (..., K): non-negative, sums to one.

    Raises:
        ValueError: for more than 16 planes, or none.
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
    if count == 2:
        return _two(linear, quadratic, heights, second_wins_ties=1 not in floors or 0 in floors)
    return _batched(linear, quadratic, heights, tuple(floors))


def _two(c: Array, q: Array, heights: Array, *, second_wins_ties: bool) -> Array:
    xp = namespace(c)
    first, second, cross = q[..., 0, 0], q[..., 1, 1], q[..., 0, 1]
    distance = first + second - 2 * cross
    same = distance <= _tolerance(c) * (first + second)
    lead = c[..., 1] - c[..., 0] + first - cross
    share = lead / xp.where(same, 1.0, distance)  # of coinciding slopes the distance is zero, and the tie decides
    share = xp.where(share > 0, xp.where(share < 1, share, 1.0), 0.0)  # xp.clip takes longer than all the rest
    h0, h1 = heights[..., 0], heights[..., 1]
    wins = h1 >= h0 if second_wins_ties else h1 > h0
    share = xp.where(same, wins, share)
    return xp.stack([1 - share, share], axis=-1)


@lru_cache
def _eps(xp: Any, dtype: Any) -> float:
    return COINCIDE * float(xp.finfo(dtype).eps)


@lru_cache
def _tiny(xp: Any, dtype: Any) -> float:
    return float(xp.finfo(dtype).smallest_normal)


def _tolerance(like: Array) -> float:
    return _eps(namespace(like), like.dtype)


@lru_cache
def _pairs(count: int, floors: tuple[int, ...], xp: Any, dtype: Any, where: Any) -> tuple[Array, ...]:
    """Of all pairs of planes: both indices, whether the second wins a tie, and who loses when either wins."""
    pairs = list(combinations(range(count), 2))
    first, second = np.array(pairs).T
    ties = np.array([[k not in floors or j in floors] for j, k in pairs])
    loses = np.eye(count)[:, np.concatenate([first, second])]  # the second wins: the first loses; and the reverse
    constants = (first, second, ties)
    return (*(xp.asarray(array, device=where) for array in constants), xp.asarray(loses, dtype=dtype, device=where))


def _alive(q: Array, heights: Array, floors: tuple[int, ...]) -> Array:
    """Which planes count, 1 or 0, (K, N): of planes with one slope only the winner does. q is (K·K, N)."""
    xp = namespace(q)
    count = heights.shape[0]
    first, second, ties, loses = _pairs(count, floors, xp, q.dtype, q.device)
    size = xp.take(q, first * (count + 1), axis=0) + xp.take(q, second * (count + 1), axis=0)
    same = size - 2 * xp.take(q, first * count + second, axis=0) <= _tolerance(q) * size
    one, two = xp.take(heights, first, axis=0), xp.take(heights, second, axis=0)
    wins = (two > one) | ((two == one) & ties)
    lost = loses @ xp.astype(xp.concat([same & wins, same & ~wins]), q.dtype)
    return xp.astype(lost == 0, q.dtype)


@lru_cache
def _indices(count: int, size: int, xp: Any, where: Any) -> tuple[Array, Array]:
    """Where the systems of all faces with `size` vertices stand in the packed rows (c, Q), and their weights in u.

    A face (i_0, i_1, ...) has the unknowns u_a = w_{i_a}, a >= 1, and w_{i_0} = 1 - Σ u. Its system [A b] is
    A_ab = (Q_ij - Q_i0) - (Q_0j - Q_00) and b_a = (c_i - Q_i0) - (c_0 - Q_00), with i = i_a, j = i_b, 0 = i_0.
    """
    product = count + np.arange(count * count).reshape(count, count)  # row of Q_jk
    terms, places = [], []
    for first, *others in combinations(range(count), size):
        for i in others:
            terms += [(product[i, j], product[i, first], product[first, j], product[first, first]) for j in others]
            terms += [(i, product[i, first], first, product[first, first])]
        places.append([0 if k == first else 1 + others.index(k) if k in others else size for k in range(count)])
    rows = np.array(places) + (size + 1) * np.arange(len(places))[:, None]  # in (1 - Σ u, u, 0) of each face
    return xp.asarray(np.array(terms).T.ravel(), device=where), xp.asarray(rows.ravel(), device=where)


def _stationary(packed: Array, count: int, size: int) -> Array:
    """Stationary points of all faces with `size` vertices, (F, K, N): may lie outside the simplex."""
    xp = namespace(packed)
    terms, places = _indices(count, size, xp, packed.device)
    direct, row, column, corner = xp.reshape(xp.take(packed, terms, axis=0), (4, -1, size - 1, size, packed.shape[1]))
    u = _eliminate((direct - row) - (column - corner))
    rest = 1 - xp.sum(u, axis=1, keepdims=True)
    w = xp.reshape(xp.concat([rest, u, 0 * rest], axis=1), (-1, packed.shape[1]))
    return xp.reshape(xp.take(w, places, axis=0), (-1, count, packed.shape[1]))


def _batched(c: Array, q: Array, heights: Array, floors: tuple[int, ...]) -> Array:
    """Three and more planes. Inside, the batch is the last axis, for speed."""
    xp = namespace(c)
    count = c.shape[-1]
    c_ = xp.reshape(c, (-1, count)).T
    q_ = xp.reshape(q, (-1, count * count)).T
    counts = _alive(q_, xp.reshape(heights, (-1, count)).T, floors)
    w = _faces(c_, q_, counts) if count <= CLOSED_FORMS else active_set(c_, q_, counts)
    return xp.reshape(w.T, c.shape)


def _faces(c: Array, q: Array, mask: Array) -> Array:
    """The best of all faces' stationary points, by duality gap; c, mask and the result are (K, N), q is (K·K, N)."""
    xp = namespace(c)
    count = c.shape[0]
    packed = xp.concat([c, q])
    vertices = xp.eye(count, dtype=c.dtype, device=c.device)[..., None] + xp.zeros_like(c)
    points = xp.concat([vertices, *(_stationary(packed, count, size) for size in range(2, count + 1))])  # (F, K, N)
    points = xp.where(points > 0, points, 0.0) * mask  # every candidate is made feasible, so that its gap is honest
    total = xp.sum(points, axis=1, keepdims=True)
    points = xp.where(total > 0, points, mask)  # nothing left of a candidate: the middle, which loses by its gap
    points = points / xp.sum(points, axis=1, keepdims=True)
    pull = sum(points[:, k, None] * q[k * count : (k + 1) * count] for k in range(count))
    ascent = xp.where(mask > 0, c - pull, -xp.inf)  # planes that do not count are not in the gap
    best = xp.max(ascent, axis=1)
    # without weight a plane adds nothing, also where its ascent is infinite
    gap = xp.sum(points * xp.where(points > 0, best[:, None] - ascent, 0.0), axis=1)
    chosen = xp.arange(gap.shape[0], device=c.device)[:, None] == xp.argmin(gap, axis=0)
    return xp.sum(points * xp.astype(chosen, c.dtype)[:, None], axis=0)


def _eliminate(systems: Array) -> Array:
    """Solve A u = b for systems [A b], (F, n, n + 1, N), A >= 0; a pivot at rounding level gives u_i = 0."""
    xp = namespace(systems)
    n, tiny = systems.shape[1], _tiny(xp, systems.dtype)
    rows = [systems[:, i] for i in range(n)]
    inverse = []
    for i in range(n):
        pivot = rows[i][:, i]
        least = _tolerance(systems) * xp.abs(systems[:, i, i]) + tiny
        sound = pivot > least  # rounding can make a zero negative, and 1 / subnormal overflows
        inverse.append(xp.astype(sound, systems.dtype) / xp.where(sound, pivot, 1.0))
        for j in range(i + 1, n):
            rows[j] = rows[j] - (rows[j][:, i] * inverse[i])[:, None] * rows[i]
    u: list[Array] = []
    for i in reversed(range(n)):
        known = sum((rows[i][:, j] * u[n - 1 - j] for j in range(i + 1, n)), start=0.0)
        u.append((rows[i][:, n] - known) * inverse[i])
    return xp.stack(u[::-1], axis=1)
