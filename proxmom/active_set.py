"""Exact weights of more planes than the closed forms take: an active-set method of a fixed number of rounds.

It solves the dual problem of `solve`, maximise <c, w> - ½ <w, Q w> over the simplex, for a whole batch at once, which
is the last axis here. Planes are inside or outside. Each round takes one step: the outside plane that rises most gets
weight, and those inside give it up such that they stay level with each other, until either the plane is level with
them and comes inside, or one of them is used up and goes outside. The dual value never falls, and it starts at the
best vertex, so that the last plane inside is never used up. Each round does the same arithmetic, whatever the data
are, so the method can be captured in a graph.

What it carries from round to round is a table: with y = Q w + μ - c (μ: the multiplier of Σ w = 1, chosen so that the
planes inside are level), the table T says how the weights inside and the values outside answer to the other two,

    (Δw_in, Δy_out) = T (Δy_in, Δw_out),

so a column of T is the direction of a step, its diagonal the curvature, and moving a plane inside or outside is one
principal pivot. Values are taken from c and Q anew in each round: errors of the table only bend the path.
"""

from __future__ import annotations

from proxmom.planes import Array, namespace

ROUNDS = 5  # rounds for each plane: random and degenerate models took up to 1.8, models bred to take many 4.6


def active_set(linear: Array, quadratic: Array, counts: Array) -> Array:
    """The maximiser over the simplex of the planes that count: the weights with the smallest duality gap of all rounds.

    Args:
        linear: c, (K, N).
        quadratic: Q, (K·K, N), symmetric positive semi-definite, of any rank.
        counts: (K, N), 1 for planes that may have weight, 0 for the others; at least one per model, no two coinciding.

    Returns:
        w, (K, N): non-negative, sums to one.
    """
    xp = namespace(linear)
    c, q = linear, xp.reshape(quadratic, (*linear.shape[:1], *linear.shape))
    squares = xp.stack([q[k, k] for k in range(c.shape[0])])
    w = inside = best = _first_largest(xp.where(counts > 0, c - squares / 2, -xp.inf))
    table = _table_of_vertex(q, w)
    smallest = xp.full(c.shape[1:], xp.inf, dtype=c.dtype, device=c.device)
    for _ in range(ROUNDS * c.shape[0]):
        values = c - xp.sum(q * w, axis=1)
        ascent = values - xp.sum(w * values, axis=0)
        gap = xp.max(xp.where(counts > 0, ascent, -xp.inf), axis=0)  # over the planes that count
        better = gap < smallest
        # the best so far is kept: rounding may make a later round worse
        best, smallest = xp.where(better, w, best), xp.where(better, gap, smallest)

        outside = counts * (1 - inside)  # one of them may have weight: it was on its way in, and goes on
        # who is on the way in goes on; else the plane that rises most
        entering = outside * _first_largest(xp.where(outside > 0, xp.where(w > 0, xp.inf, ascent), -xp.inf))
        column = xp.sum(table * entering, axis=1)
        ray, curvature = entering + inside * column, xp.sum(entering * column, axis=0)
        rise = xp.sum(ray * ascent, axis=0)
        straight = curvature <= 0  # its slope is a combination of those inside: go until one of them is used up
        enters = (rise > 0) | (xp.sum(entering * w, axis=0) > 0)
        length = rise / xp.where(straight, 1.0, xp.maximum(curvature, xp.abs(rise) / 2))  # 2 leaves the simplex
        # along a straight ray the next plane ends the step, and without a plane that enters there is none
        length = xp.where(enters, xp.where(straight, 2.0, length), 0.0)
        level = inside * xp.sum(table * (inside * ascent), axis=1)  # what rounding has put out of level, put right
        w, used_up = _walk(w, length * ray + level)

        comes = enters & ~straight & (xp.sum(used_up, axis=0) == 0)
        table, inside = _pivot(table, inside, entering * xp.astype(comes, c.dtype) + inside * used_up)
    return best


def _walk(w: Array, move: Array) -> tuple[Array, Array]:
    """Weights after as much of the move as the simplex has room for, and 1 at the one that was used up, if any."""
    xp = namespace(w)
    over = w + move < 0
    share = xp.where(over, w / xp.where(over, -move, 1.0), 1.0)  # how much of the move each weight allows
    used_up = _first_largest(-share) * xp.astype(over, w.dtype)
    w = w + xp.min(share, axis=0) * move
    w = xp.where(w < 0, 0.0, w) * (1 - used_up)
    return w / xp.sum(w, axis=0), used_up


def _first_largest(scores: Array) -> Array:
    """1 at the largest score of each model, the first of equals, else 0; (K, N)."""
    xp = namespace(scores)
    rows = xp.arange(scores.shape[0], device=scores.device)[:, None]
    return xp.astype(rows == xp.argmax(scores, axis=0), scores.dtype)


def _table_of_vertex(q: Array, vertex: Array) -> Array:
    """The table with one plane i inside: T_jk = <s_j - s_i, s_k - s_i>, T_ji = 1 and T_ij = -1 for the others."""
    xp = namespace(q)
    others = 1 - vertex
    across = xp.sum(q * vertex, axis=1)
    products = (q - across) - (across[:, None] - xp.sum(vertex * across, axis=0))
    return products * (others[:, None] * others) + others[:, None] * vertex - vertex[:, None] * others


def _pivot(table: Array, inside: Array, plane: Array) -> tuple[Array, Array]:
    """Table and planes inside after `plane`, (K, N) with at most one 1 per model, has changed sides."""
    xp = namespace(table)
    column = xp.sum(table * plane, axis=1)
    pivot = xp.sum(plane * column, axis=0)
    sound = pivot > float(xp.finfo(table.dtype).smallest_normal)  # else only rounding is left of it
    plane = plane * xp.astype(sound, plane.dtype)
    side, others = 1 - 2 * inside, 1 - plane
    column = others * column
    row = column * side * xp.sum(plane * side, axis=0)  # T_jk = T_kj on one side, -T_kj across
    change = (column + plane)[:, None] * ((row - plane) / xp.where(sound, pivot, 1.0))
    return table * (others[:, None] * others) - change, inside + plane * side
