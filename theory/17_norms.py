r"""
The exact step in norms that are not Euclidean
==============================================

Sign descent is steepest descent in :math:`\ell_\infty`, Muon's step is it in the spectral norm. This page derives the
step of a model of planes in any norm, what makes it exact where the steepest direction jumps, and what a floor does to
it. What the weight of memory comes down to follows in `17a_momentum_in_norms.py`.

Steepest descent in norms: J. Bernstein and L. Newhouse, "Old optimizer, new norm: an anthology" (arXiv 2409.20325,
2024). MoMo's truncation in them: M. Crawshaw, C. Modi, M. Liu and R. Gower, "An exploration of non-Euclidean gradient
descent: Muon and its many variants" (ICML 2026, arXiv 2510.09827). Cutting planes: J. Kelley (1960).
"""

# %%
# The dual, in any norm
# ---------------------
# The step minimises :math:`\max_k\{h_k + \langle s_k, z\rangle\} + R(z)` over moves z of several tensors, each with its
# own norm and :math:`\eta_t`: *hard* allows what has :math:`\max_t\|z_t\|/\eta_t \le 1` and has :math:`R = 0` there,
# *soft* has :math:`R = \sum_t \|z_t\|^2/(2\eta_t)`. Both are one norm N on the list of tensors, :math:`N(z) \le 1` or
# :math:`R = N(z)^2/2`, whose dual norm is
#
# .. math:: \text{hard: } N_*(s) = \sum_t \eta_t\|s_t\|_*, \qquad
#           \text{soft: } N_*(s) = \big(\textstyle\sum_t\eta_t\|s_t\|_*^2\big)^{1/2} .
#
# A *steepest direction* of :math:`s_t` is a :math:`v_t` with :math:`\|v_t\| \le 1`, :math:`\langle s_t, v_t\rangle =
# \|s_t\|_*`: the sign in :math:`\ell_\infty`, :math:`UV^\top` of :math:`U\Sigma V^\top` in the spectral norm. The
# *atom* of a slope is the list A of :math:`\eta_t v_t` (hard) or :math:`\eta_t\|s_t\|_* v_t` (soft). With p = 1 (hard)
# or 2 (soft), :math:`\psi = N_*^p/p` is the conjugate of R, A is a subgradient of :math:`\psi` at s, and
#
# .. math:: \langle A, s\rangle = p\,\psi(s), \qquad R(-A) = (p-1)\,\psi(s) .
#
# **Theorem 1.** *With* :math:`s(w) = \sum_k w_k s_k` *the least value of the model is the largest of* :math:`\varphi(w)
# = \langle h, w\rangle - \psi(s(w))` *over the simplex. A move z and weights w are both optimal if and only if w weighs
# only planes that attain the maximum at z, and* :math:`z = -A` *for an atom of* :math:`s(w)`.
#
# *Proof.* For every z and w the model's value less :math:`\varphi(w)` is the sum of :math:`\max_k\{h_k + \langle s_k,
# z\rangle\} - \sum_k w_k(h_k + \langle s_k, z\rangle)` and of :math:`R(z) + \langle s(w), z\rangle + \psi(s(w))`.
# Neither is negative; the first is zero for such w, the second for such z and no others (Fenchel). Equality is reached:
# the simplex is compact and the Lagrangian linear in w, convex in z, so the two may be exchanged (Sion). ∎

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from claims import Claim, report
from numpy.typing import NDArray
from scipy.optimize import linprog

from proxmom import AdaptiveMemory, TruncatedMemory
from proxmom.metrics import LInf, Spectral
from proxmom.numpy import Optimizer

Array = NDArray[np.float64]
NORMS, FORMS = ("linf", "spectral"), ("hard", "soft")


@dataclass(frozen=True)
class Ball:
    """How long a move is: a norm for tensors of these shapes, an lr for each of them, a form."""

    norm: str
    form: str
    shapes: tuple[tuple[int, ...], ...]
    lrs: tuple[float, ...]

    @property
    def power(self) -> int:
        return 1 if self.form == "hard" else 2

    def split(self, vector: Array) -> list[Array]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), self.shapes, strict=True)]

    def atom(self, slope: Array) -> tuple[Array, float]:
        """A and ψ of a flat slope."""
        atoms, psi = [], 0.0
        for s, lr in zip(self.split(slope), self.lrs, strict=True):
            v = np.sign(s) if self.norm == "linf" else polar(s)
            size = float((s * v).sum())
            atoms.append(np.ravel(lr * size ** (self.power - 1) * v))
            psi += lr * size**self.power / self.power
        return np.concatenate(atoms), psi

    def length(self, move: Array) -> float:
        """N of a flat move."""
        order = np.inf if self.norm == "linf" else 2
        sizes = [np.linalg.norm(np.ravel(z) if self.norm == "linf" else z, order) for z in self.split(move)]
        if self.form == "hard":
            return float(max(size / lr for size, lr in zip(sizes, self.lrs, strict=True)))
        return float(np.sqrt(sum(size**2 / lr for size, lr in zip(sizes, self.lrs, strict=True))))

    def scaled(self, factor: float) -> Ball:
        return Ball(self.norm, self.form, self.shapes, tuple(factor * lr for lr in self.lrs))


def polar(matrix: Array) -> Array:
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ v)


class Step(NamedTuple):
    """A move, flat; weights of the planes with a slope; the model's value there; the best dual value seen."""

    move: Array
    weights: Array
    primal: float
    dual: float


def value(move: Array, heights: Array, slopes: Array, ball: Ball, floor: float | None = None) -> float:
    """The model's value at a move, by definition."""
    top = float((heights + slopes @ move).max())
    top = top if floor is None else max(top, floor)
    if ball.form == "hard":
        return top if ball.length(move) <= 1 + 1e-9 else np.inf
    return top + ball.length(move) ** 2 / 2


def step(
    heights: Any, slopes: Any, norm: str, lr: Any, form: str, floor: float | None = None
) -> tuple[Array | list[Array], Step]:
    """The exact step: the move in the tensors' shapes, and what is known about it.

    Args:
        heights: (K,). slopes: an array (K, ...), or a list of them with one lr each.
        norm: "linf" or "spectral". lr: η, a number or a list. form: "hard" or "soft".
        floor: height of a plane without a slope. Of the hard form's steps the shortest is returned.
    """
    tensors = [np.asarray(s, dtype=float) for s in slopes] if isinstance(slopes, list) else [np.asarray(slopes)]
    lrs = tuple(float(each) for each in np.atleast_1d(lr))
    ball = Ball(norm, form, tuple(s.shape[1:] for s in tensors), lrs)
    flat = np.concatenate([s.reshape(len(s), -1) for s in tensors], axis=1)
    heights = np.asarray(heights, dtype=float)
    if len(heights) == 2:
        found = bracket(heights, flat, ball, floor)
    elif floor is None:
        found = cutting_planes(heights, flat, ball)
    elif form == "hard":
        found = shortest(heights, flat, ball, floor)
    else:
        found = with_a_flat_plane(heights, flat, ball, floor)
    parts = ball.split(found.move)
    return (parts if isinstance(slopes, list) else parts[0]), found


# %%
# Where the steepest direction jumps
# ----------------------------------
# The dual is easy to evaluate, but its weights need not give the move: where one :math:`s_i(w)` is zero, or one
# singular value, there are many atoms, and the sign of a rounding error picks a wrong one. At the best weights this is
# no accident. The maximum of a concave function with kinks usually lies on one.
#
# For an atom A of :math:`s(w_j)` let :math:`T_j(w) = \sum_k w_k(h_k - \langle A, s_k\rangle) + R(-A)`. It is linear in
# w and, as a value of the Lagrangian, at least :math:`\varphi` everywhere and equal to it at :math:`w_j`: the tangent
# of :math:`\varphi` there *is* the list of the planes' values at the move -A, plus R.
#
# **Theorem 2.** *Let two planes have weights* :math:`(1-\beta, \beta)`, *and let* :math:`\beta_- \le \beta_+` *have
# atoms* :math:`A_\mp` *whose tangents rise and fall,* :math:`T_-' \ge 0 \ge T_+'`, *not both zero. The mixture*
# :math:`z = -((1-\tau)A_- + \tau A_+)` *with* :math:`(1-\tau)T_-' + \tau T_+' = 0` *leaves both planes level. Its value
# is at most the one at which the two tangents meet, and exactly that in the hard form. So it exceeds the least value by
# no more than that meeting value exceeds* :math:`\max(\varphi(\beta_-), \varphi(\beta_+))`.
#
# *Proof.* :math:`T_j'` is the difference of the two planes at :math:`-A_j`, so it vanishes for the mixture: level. R is
# convex, so the model at z is at most :math:`\max_\beta\,(1-\tau)T_-(\beta) + \tau T_+(\beta)`, a constant, equal to
# its value where the tangents meet. In the hard form R is 0 for all three moves: equal. The rest is weak duality. ∎
#
# *Where* :math:`\beta_- = \beta_+` *is a kink* and :math:`A_\mp` are the limits from either side, both tangents meet on
# :math:`\varphi`: the mixture is exact. In :math:`\ell_\infty` the coordinates with :math:`s_i = 0` get :math:`v_i =
# (2\tau-1)\,\mathrm{sign}(s_{2,i} - s_{1,i})`. If there is one of them its value follows from "level"; of several, this
# is one choice. A bracket as narrow as rounding allows therefore gives the step to rounding, and any bracket gives a
# certified one. Where both derivatives are zero :math:`\varphi` is level between, and every mixture will do.


def tangents(heights: Array, slopes: Array, ball: Ball, beta: float) -> tuple[Array, Array, float]:
    """The atom at β, the values of its tangent at β = 0 and 1, and φ(β)."""
    atom, psi = ball.atom((1 - beta) * slopes[0] + beta * slopes[1])
    ends = heights - slopes @ atom + (ball.power - 1) * psi
    return atom, ends, float((1 - beta) * heights[0] + beta * heights[1] - psi)


def mixture(heights: Array, slopes: Array, ball: Ball, low: float, high: float) -> tuple[Array, float, float]:
    """The level mixture of the atoms at both ends, where their tangents meet, and the better φ of the two."""
    (a, left, f), (b, right, e) = (tangents(heights, slopes, ball, beta) for beta in (low, high))
    rise, fall = left[1] - left[0], right[0] - right[1]
    tau = rise / (rise + fall)
    return -(1 - tau) * a - tau * b, float((1 - tau) * left[0] + tau * right[0]), max(f, e)


# %%
# **K planes.** Mix atoms :math:`A_j` seen at several :math:`w_j`. By the same convexity the mixture with shares m has a
# value of at most :math:`\max_w \sum_j m_j T_j(w)`. The best m is a small linear programme; its dual is :math:`\max_w
# \min_j T_j(w)`, Kelley's cutting-plane model, whose maximiser is the next w to ask about. So one programme gives a
# move with a certificate, and the next question. In the hard form of :math:`\ell_\infty` it ends: there are at most
# :math:`3^n` atoms, and if a w brings an atom that is known, :math:`\varphi(w) = T_j(w)` is at least the programme's
# value: the gap is zero.


def cutting_planes(heights: Array, slopes: Array, ball: Ball, rounds: int = 200) -> Step:
    """K planes, no floor."""
    count = len(heights)
    atoms, cuts, dual = [], [], -np.inf
    w = best = np.eye(count)[int(np.argmax(heights))]
    for _ in range(rounds):
        atom, psi = ball.atom(w @ slopes)
        if w @ heights - psi > dual:
            dual, best = float(w @ heights - psi), w
        atoms.append(atom)
        cuts.append(heights - slopes @ atom + (ball.power - 1) * psi)
        rows = np.hstack([np.array(cuts).T, -np.ones((count, 1))])  # min t: every plane's mixed cut is below t
        found = linprog(
            [0.0] * len(cuts) + [1.0],
            A_ub=rows,
            b_ub=np.zeros(count),
            A_eq=[[1.0] * len(cuts) + [0.0]],
            b_eq=[1.0],
            bounds=[(0, None)] * len(cuts) + [(None, None)],
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.fun - dual < 1e-9 * (1 + abs(dual)):
            break
        w = np.maximum(-found.ineqlin.marginals, 0)
        w /= w.sum()
    move = -np.asarray(found.x[:-1]) @ np.array(atoms)
    return Step(move, best, value(move, heights, slopes, ball), dual)


# %%
# Floors
# ------
# Add a floor, a plane with slope 0 and height :math:`h_f`. Let the planes with a slope have the share a of all weight,
# at :math:`\beta` among themselves: with :math:`c(\beta)`, :math:`s(\beta)` and the atom A of :math:`s(\beta)`,
#
# .. math:: F(a, \beta) = h_f + a\,(c - h_f) - a^p\,\psi(s) .
#
# *Soft.* For given :math:`\beta` the best share is :math:`a = \mathrm{clip}\big((c-h_f)/\langle A,s\rangle, 0, 1\big)`,
# and :math:`z = -aA`.
#
# *Hard.* F is linear in a: 1 where :math:`c - \psi > h_f`. If the largest :math:`\varphi` is below :math:`h_f`, the
# least value is :math:`h_f`, at every move that takes all planes down to it. We take the shortest. By theorem 1 with
# :math:`\eta` replaced by :math:`\rho\eta` there are such moves of length :math:`\rho` if and only if :math:`c -
# \rho N_* \le h_f` for all weights. So the least length is :math:`\max_\beta\,(c-h_f)/N_*(s)`, if that is positive, and
# the step is -A times the same clipped fraction a as above.
#
# **One bracket finds** :math:`\beta`. The signal is :math:`\sigma = c' - a\,\psi'`, with :math:`\psi' = \langle A,
# s_2-s_1\rangle`.
#
# **Theorem 3.** *Soft: let* :math:`G(\beta) = \max_a F(a,\beta)`. *If* :math:`\sigma > 0` *at* :math:`\beta`, *then*
# :math:`G < G(\beta)` *or* :math:`G = h_f` *to the left of it; if* :math:`\sigma < 0`, *to the right. G is
# quasi-concave. Hard: the same for* :math:`(c-h_f)/N_*` *where it is positive.*
#
# *Proof.* Soft: with :math:`u = (a(1-\beta), a\beta)` F is concave in u. At the best a let :math:`\rho = c - h_f -
# a\langle A,s\rangle`: at most 0 if a = 0, zero in between, at least 0 if a = 1. For any other :math:`(a^\circ,
# \beta^\circ)` with a value no less the supergradient gives :math:`a^\circ(\rho + (\beta^\circ-\beta)\sigma) - a\rho
# \ge 0`, so :math:`a^\circ(\beta^\circ-\beta)\sigma \ge (a-a^\circ)\rho \ge 0`. And the set of :math:`\beta` with
# :math:`G \ge t > h_f` is the image of the convex set :math:`F \ge t`, on which :math:`a > 0`, under the quotient
# :math:`u_2/(u_1+u_2)`, which maps convex sets to intervals. Hard: for :math:`t \ge 0` the set :math:`c - h_f - tN_*
# \ge 0` is an interval, because the left side is concave; the derivative of the quotient has the sign of :math:`c' -
# a\psi'` as :math:`a = (c-h_f)/N_*` there. ∎ (Where :math:`c \le h_f` there is no step: :math:`\sigma = c'` points
# to where it is higher. The hard form's :math:`\varphi`, concave, takes over where :math:`a = 1`.)
#
# **One plane: MoMo's truncation.**
#
# .. math:: \text{hard: } z = -\min\Big(\eta, \frac{(c-h_f)_+}{\|s\|_*}\Big)v, \qquad
#           \text{soft: } z = -\min\Big(\eta, \frac{(c-h_f)_+}{\|s\|_*^2}\Big)\|s\|_*v .
#
# These are the step sizes of Crawshaw et al., hard in their MuonAdam-Momo and soft in MuonMax-Momo (their published
# code was read, and the paper's abstract). There s is a running average of gradients with a fixed weight, and c its
# aggregated height. The code differs in two points: it has no :math:`(\cdot)_+`, so that it steps uphill where the
# average has fallen below the bound, and by default takes :math:`\|s\|_*` from the step before.


def bracket(heights: Array, slopes: Array, ball: Ball, floor: float | None = None) -> Step:
    """Two planes, with or without a floor: bisection, then the level mixture of the steps at both ends."""
    rise, turn = heights[1] - heights[0], slopes[1] - slopes[0]

    def look(beta: float) -> tuple[float, Array, float]:
        """The signal, the step and the dual value."""
        atom, psi = ball.atom(slopes[0] + beta * turn)
        height, size, share = heights[0] + beta * rise, ball.power * psi, 1.0
        if floor is not None:
            share = float(np.clip((height - floor) / size, 0, 1)) if size > 0 else float(height > floor)
        dual = height - psi
        if floor is not None:
            dual = max(floor, dual) if ball.power == 1 else floor + share * (height - floor) - share**2 * psi
        return rise - share * float(atom @ turn), -share * atom, dual

    low, high = 0.0, 1.0
    (left, back, f), (right, ahead, e) = look(low), look(high)
    if left < 0:
        high, right, ahead, e = low, left, back, f
    elif right >= 0:
        low, left, back, f = high, right, ahead, e
    while high - low > 1e-15:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        signal, move, dual = look(middle)
        if signal >= 0:
            low, left, back, f = middle, signal, move, dual
        else:
            high, right, ahead, e = middle, signal, move, dual
    tau = 0.0 if low == high else left / (left - right)
    move = (1 - tau) * back + tau * ahead
    return Step(move, np.array([1 - low, low]), value(move, heights, slopes, ball, floor), max(f, e))


def shortest(heights: Array, slopes: Array, ball: Ball, floor: float) -> Step:
    """Hard form with a floor, K planes: the length whose ball just reaches the floor (Dinkelbach's iteration)."""
    length = 0.0
    w = np.eye(len(heights))[int(np.argmax(heights))]
    for _ in range(50):
        size = ball.atom(w @ slopes)[1]
        longer = min(1.0, max(0.0, (w @ heights - floor) / size))
        if longer <= length * (1 + 1e-10):
            break
        length = longer
        found = cutting_planes(heights, slopes, ball.scaled(length))
        w = found.weights
    move = found.move if length else 0 * slopes[0]
    dual = found.dual if length == 1 else floor
    return Step(move, w, value(move, heights, slopes, ball, floor), max(dual, floor))


def with_a_flat_plane(heights: Array, slopes: Array, ball: Ball, floor: float) -> Step:
    """Soft form: the floor is one more plane."""
    found = cutting_planes(np.append(heights, floor), np.vstack([slopes, 0 * slopes[:1]]), ball)
    return found._replace(weights=found.weights[:-1])


# %%
# Checks
# ------
# The models below have slopes that partly oppose each other, so that weights lie inside; a claim counts how often. The
# convex solver (Clarabel, through cvxpy) sees the model alone: no dual, no atoms, no formula from above.


class State(NamedTuple):
    """A model: heights (K,), slopes, a list of (K, *shape), one lr a tensor, a floor or None."""

    heights: Array
    slopes: list[Array]
    lrs: tuple[float, ...]
    floor: float | None

    @property
    def flat(self) -> Array:
        return np.concatenate([s.reshape(len(s), -1) for s in self.slopes], axis=1)

    def ball(self, norm: str, form: str) -> Ball:
        return Ball(norm, form, tuple(s.shape[1:] for s in self.slopes), self.lrs)


def states(random: np.random.Generator, count: int, *, tensors: int = 1, floor: bool = False) -> State:
    """A model of `count` planes over matrices of 3 × 2 and 2 × 4."""
    first = [random.normal(size=shape) for shape in ((3, 2), (2, 4))[:tensors]]
    slopes = [np.stack([f, *(random.normal(size=f.shape) - 0.3 * f for _ in range(count - 1))]) for f in first]
    lrs = tuple(10 ** random.uniform(-1, 0.3, size=tensors))
    scale = sum(lr * float(np.abs(f).sum()) for lr, f in zip(lrs, first, strict=True))
    heights = np.append(0.0, 0.3 * scale * random.normal(size=count - 1))
    return State(heights, slopes, lrs, float(heights.max() - random.uniform(0.05, 0.6) * scale) if floor else None)


def solved_elsewhere(state: State, norm: str, form: str, *, length: bool = False) -> float:
    """The least value by a convex solver; with `length`, that of the shortest move on the floor instead."""
    import cvxpy

    moves = [cvxpy.Variable(s.shape[1:]) for s in state.slopes]
    sizes = [cvxpy.max(cvxpy.abs(z)) if norm == "linf" else cvxpy.sigma_max(z) for z in moves]
    planes = [
        h + sum(cvxpy.sum(cvxpy.multiply(s[k], z)) for s, z in zip(state.slopes, moves, strict=True))
        for k, h in enumerate(state.heights)
    ]
    top, reach = cvxpy.Variable(), cvxpy.Variable()
    short = [size <= reach * lr for size, lr in zip(sizes, state.lrs, strict=True)]
    if length:
        problem = cvxpy.Problem(cvxpy.Minimize(reach), [*short, *(plane <= state.floor for plane in planes)])
    else:
        below = [plane <= top for plane in planes] + ([] if state.floor is None else [top >= state.floor])
        soft = sum(cvxpy.square(size) / (2 * lr) for size, lr in zip(sizes, state.lrs, strict=True))
        hard = form == "hard"
        problem = cvxpy.Problem(
            cvxpy.Minimize(top if hard else top + soft), [*below, *short, reach == 1] if hard else below
        )
    return float(problem.solve(solver="CLARABEL"))


def _exactness_claims() -> list[Claim]:
    random, found = np.random.default_rng(171), []
    for norm in NORMS:
        for form in FORMS:
            gaps, apart, inside = [0.0], [0.0], 0
            for count in (1, 2, 2, 3):
                for floor in (False, True):
                    state = states(random, count, tensors=1 + (count + floor) % 2, floor=floor)
                    _, ours = step(state.heights, state.slopes, norm, state.lrs, form, state.floor)
                    scale = 1 + abs(ours.dual)
                    gaps.append((ours.primal - ours.dual) / scale)
                    apart.append(abs(ours.primal - solved_elsewhere(state, norm, form)) / scale)
                    inside += ours.weights.max() < 0.999
            name = f"{norm}, {form}"
            found += [
                Claim(f"{name}: value of the move - of the dual, K = 1 to 3, floors", max(gaps), 1e-8, "upper bound"),
                Claim(f"{name}: value of the move = least value by a convex solver", max(apart), 0, "identity", 1e-6),
                Claim(f"{name}: ends of the simplex among these 8", 8 - inside, 5, "upper bound"),
            ]  # fmt: skip
    return found


def brute_force() -> float:
    """Largest excess over the least value on a grid of moves, two coordinates in ℓ∞: it cannot be positive."""
    random, worst = np.random.default_rng(172), -np.inf
    axis = np.linspace(-1, 1, 101)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for _ in range(10):
        slopes, heights = random.normal(size=(3, 2)), random.normal(size=3)
        for count in (1, 2, 3):
            for form in FORMS:
                size = 1.0 if form == "hard" else 1 / (2 * np.abs(slopes).sum())
                top = (heights[:count] + z @ slopes[:count].T).max(axis=1)
                price = 0.0 if form == "hard" else np.abs(z).max(axis=1) ** 2 / 2 / size
                _, ours = step(heights[:count], slopes[:count], "linf", size, form)
                worst = max(worst, ours.primal - float((top + price).min()))
    return worst


def _mixture_claims() -> list[Claim]:
    random = np.random.default_rng(173)
    over: dict[str, list[float]] = {form: [] for form in FORMS}
    certified, one_sided = [], []
    for _ in range(100):
        norm, form = NORMS[random.integers(2)], FORMS[random.integers(2)]
        state = states(random, 2)
        ball, flat = state.ball(norm, form), state.flat
        best = bracket(state.heights, flat, ball)
        if not 0.02 < best.weights[1] < 0.98:
            continue
        low, high = best.weights[1] * random.uniform(0, 1), 1 - best.weights[0] * random.uniform(0, 1)
        move, meeting, dual = mixture(state.heights, flat, ball, low, high)
        got, scale = value(move, state.heights, flat, ball), 1 + abs(best.dual)
        over[form].append((got - meeting) / scale)
        certified.append((got - best.dual) / max(meeting - dual, 1e-15))
        wrong = -ball.atom((1 - best.weights[1] - 1e-9) * flat[0] + (best.weights[1] + 1e-9) * flat[1])[0]
        one_sided.append((value(wrong, state.heights, flat, ball) - best.dual) / scale)
    return [
        Claim("hard: value of the mixture = where tangents meet", max(map(abs, over["hard"])), 0, "identity", 1e-10),
        Claim("soft: value of the mixture - where tangents meet", max(over["soft"]), 1e-12, "upper bound"),
        Claim("excess over the least value / certified gap", max(certified), 1, "upper bound", 1e-6),
        Claim("loss of a step from the right of a kink alone, relative", max(one_sided), 0.1, "counterexample"),
        Claim("30 / number of brackets in these", 30 / len(certified), 1, "upper bound"),
    ]  # fmt: skip


def _floor_claims() -> list[Claim]:
    random = np.random.default_rng(174)
    lengths, quasi, bend, lp, momo = [0.0], 0, 0.0, [0.0], []
    for trial in range(16):
        norm, form = NORMS[trial % 2], FORMS[trial // 2 % 2]
        state = states(random, 2, floor=True)
        assert state.floor is not None
        ball, flat = state.ball(norm, form), state.flat
        ours = bracket(state.heights, flat, ball, state.floor)
        other = (shortest if form == "hard" else with_a_flat_plane)(state.heights, flat, ball, state.floor)
        lp.append(
            abs(ours.primal - other.primal) + (form == "hard") * abs(ball.length(ours.move) - ball.length(other.move))
        )
        if form == "hard" and ball.length(ours.move) < 1 - 1e-6:
            lengths.append(abs(ball.length(ours.move) - solved_elsewhere(state, norm, form, length=True)))
        grid = np.linspace(0, 1, 101)
        psis = np.array([ball.atom((1 - b) * flat[0] + b * flat[1])[1] for b in grid])
        above = (1 - grid) * state.heights[0] + grid * state.heights[1] - state.floor
        share = np.clip(above / (2 * psis), 0, 1)
        curve = above / psis if form == "hard" else share * above - share**2 * psis
        change = np.diff(curve)[(curve[:-1] > 0) & (curve[1:] > 0)]
        quasi += bool((np.diff(np.sign(np.where(np.abs(change) > 1e-12, change, 0))) > 0).any())
        bend = max(bend, float(np.diff(curve, 2).max() / np.ptp(curve)))
        slope, lr = flat[0], state.lrs[0]
        v, size = Ball(norm, "hard", ball.shapes, (1.0,)).atom(slope)
        depth = max(0.0, -state.floor)
        wanted = -min(lr, depth / size) * v if form == "hard" else -min(lr, depth / size**2) * size * v
        alone, _ = step([0.0], state.slopes[0][:1], norm, lr, form, state.floor)
        momo.append(float(np.abs(np.ravel(np.asarray(alone)) - wanted).max()))
    return [
        Claim("floors, two planes: one bracket = cutting planes, value and length", max(lp), 0, "identity", 1e-7),
        Claim("hard, floor active: length = the shortest by a convex solver", max(lengths), 0, "identity", 1e-6),
        Claim("hard, floor active: 1 / number of these", 1 / max(len(lengths) - 1, 0.1), 1, "upper bound"),
        Claim("G, or (c - h_f)/N_* where positive: curves of 16 that fall and rise again", quasi, 0, "identity"),
        Claim("... they are not concave: largest second difference / range", bend, 1e-4, "counterexample"),
        Claim("one plane and a floor = MoMo's truncation, both forms and norms", max(momo), 0, "identity", 1e-8),
    ]  # fmt: skip


# %%
# The package
# -----------
# The package on one side, the formulas of this page on the other: its models are solved here again, and its moves are
# judged by what the model says of them.


def package(norm: str, form: str, floor: bool) -> tuple[float, float]:
    """Over 12 steps on two tensors: largest excess of the package's move over the step here; and |difference of β|."""
    random = np.random.default_rng(177)
    metric = LInf(form) if norm == "linf" else Spectral(form)
    rule = TruncatedMemory(lower_bound=0.0) if floor else AdaptiveMemory(0.9)
    shapes, lr = ((3, 2), (2, 4)), 0.1
    start = [random.normal(size=shape) for shape in shapes]
    optimizer = Optimizer(start, rule, lr=lr, metric=metric)
    worse, apart = 0.0, 0.0
    for _ in range(12):
        g, loss = [random.normal(size=shape) for shape in shapes], float(random.uniform(0.1, 1.5)) if floor else None
        model = optimizer.preview(g, loss)
        sloped = [k for k, s in enumerate(model.slopes) if np.any(s)]
        rest = [h for k, h in enumerate(model.heights) if k not in sloped]
        heights, slopes = model.heights[sloped], model.slopes[sloped]
        ball, lowest = Ball(norm, form, shapes, (model.lr,) * 2), max(rest) if rest else None
        if len(sloped) == 2:
            ours = bracket(heights, slopes, ball, lowest)
            move = model.next_x - model.x
            theirs = value(move, heights, slopes, ball, lowest)
            if form == "hard" and lowest is not None:
                theirs += max(0.0, ball.length(move) - ball.length(ours.move))
            worse = max(worse, (theirs - ours.primal) / (1 + abs(ours.primal)))
            share = model.weights[sloped]
            if share.sum() > 1e-9 and np.abs(slopes[1] - slopes[0]).max() > 1e-9:
                apart = max(apart, abs(share[1] / share.sum() - ours.weights[1]))
        optimizer.step(g, loss)
    return worse, apart


def _package_claims() -> list[Claim]:
    found = []
    for norm in NORMS:
        for form in FORMS:
            for floor in (False, True):
                worse, apart = package(norm, form, floor)
                name = f"package, {norm}, {form}{', floor' if floor else ''}"
                found.append(Claim(f"{name}: excess of its move's value", worse, 1e-7, "upper bound"))
                if not floor:
                    found.append(Claim(f"{name}: weight of the memory plane = here", apart, 0, "identity", 1e-6))
    return found


def claims() -> list[Claim]:
    return [
        *_exactness_claims(),
        Claim("ℓ∞, n = 2: value of the step - least value on a grid of moves", brute_force(), 1e-9, "upper bound"),
        *_mixture_claims(),
        *_floor_claims(),
        *_package_claims(),
    ]  # fmt: skip


if __name__ == "__main__":
    report(claims())
