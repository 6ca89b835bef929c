r"""
Quasi-Newton: a metric that leaves nothing for momentum to do
=============================================================

`proxmom.numpy.minimize(fun, x0)` takes unit steps along L-BFGS's direction, one gradient each. This page shows what a
step needs of such a metric, and why a memory of gradients adds nothing to it; what forces convergence is shown in
`16b_guarded_steps.py`.

The recursion: J. Nocedal, "Updating quasi-Newton matrices with limited storage" (1980). Its compact form: R. Byrd,
J. Nocedal and R. Schnabel (1994). That L-BFGS can do with inner products alone is prior art: W. Chen, Z. Wang and
J. Zhou, "Large-scale L-BFGS using MapReduce" (2014). Conjugate gradients in quasi-Newton methods: L. Nazareth, "A
relationship between the BFGS and conjugate gradient algorithms" (1979). Adaptive memory: K. Topollai and
A. Choromanska (AISTATS 2026, arXiv 2510.04988).
"""

# %%
# What a step needs of a metric
# -----------------------------
# Let :math:`H = P^{-1}` be any symmetric positive definite matrix, and no inertia. **Proposition 1.** *The step needs H
# only as the images* :math:`Hu` *of the named vectors u: the gradient, memory, and what else the rule declares.*
#
# *Proof.* Slopes are combinations of the named vectors, so :math:`Q_{jk} = \kappa\langle s_j, H s_k\rangle` follows
# from the products :math:`\langle u, Hv\rangle`; the heights need no metric but through such products; and :math:`x -
# \eta H D` with :math:`D = \sum_u c_u u` is :math:`x - \eta\sum_u c_u Hu`. ∎
#
# (Inertia would need :math:`(I + \lambda P)^{-1}`. The check changes variables by :math:`x = Cu`, :math:`CC^\top = H`,
# where the metric is the identity.)
#
# Where H is a multiple of the identity plus low rank, not even images are needed before the end. L-BFGS keeps the last
# moves :math:`s_i` and changes of the gradient :math:`y_i`, the columns of S and Y, starts from :math:`\gamma I`, and
# for each pair replaces H by
#
# .. math:: V^\top H V + \frac{ss^\top}{\langle s, y\rangle}, \qquad V = I - \frac{y s^\top}{\langle s, y\rangle}.
#
# With :math:`R_{ij} = \langle s_i, y_j\rangle` for :math:`i \le j` and zero below, and E its diagonal, Byrd, Nocedal
# and Schnabel have
#
# .. math::
#
#     H = \gamma I + S R^{-\top}(E + \gamma Y^\top Y)R^{-1}S^\top
#         - \gamma S R^{-\top}Y^\top - \gamma Y R^{-1}S^\top .
#
# **Proposition 2.** *The coefficients of H over its vectors, and all products* :math:`\langle u, Hv\rangle`, *follow
# from the inner products of S, Y and the named vectors.*
#
# *Proof.* That is what the formula says; it remains to show it, by induction over the pairs. A prime marks what S, Y,
# R, E and H are without the newest pair. Inverting R, which is R' with one more column and row, shows that
# :math:`R^{-1}S^\top` is :math:`R'^{-1}S'^\top V` with the row :math:`s^\top/\langle s, y\rangle` below. So :math:`I -
# YR^{-1}S^\top = (I - Y'R'^{-1}S'^\top)V` and :math:`SR^{-\top}ER^{-1}S^\top = V^\top S'R'^{-\top}E'R'^{-1}S'^\top V +
# ss^\top/\langle s, y\rangle`, and :math:`H = \gamma(I - YR^{-1}S^\top)^\top(I - YR^{-1}S^\top) +
# SR^{-\top}ER^{-1}S^\top` follows H' as the recursion does. ∎
#
# The check compares what `QuasiNewton` makes of inner products with Nocedal's two loops over plain vectors.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from claims import HERE, Claim, load, report

from proxmom import AdaptiveMemory, GradientDescent, HeavyBall
from proxmom.metrics import QuasiNewton
from proxmom.numpy import Optimizer, minimize

conjugate = load(HERE / "04_conjugate_gradients.py")
free = load(HERE / "14_tuning_free.py")
SIZE = 12
Pairs = list[tuple[Any, Any]]


def two_loops(gamma: float, pairs: Pairs, vector: Any) -> Any:
    """H of a vector by Nocedal's recursion."""
    q, shares = vector.copy(), []
    for s, y in reversed(pairs):
        shares.append(s @ q / (s @ y))
        q = q - shares[-1] * y
    q = gamma * q
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q = q + (share - y @ q / (s @ y)) * s
    return q


def quadratic(seed: int, least: float = 0.05) -> tuple[Any, Any]:
    """Hessian and linear term."""
    random = np.random.default_rng([160, seed])
    root = random.normal(size=(SIZE, SIZE))
    return root @ root.T / SIZE + least * np.eye(SIZE), random.normal(size=SIZE)


@dataclass(frozen=True)
class Fixed:
    """An operator that counts the vectors it is shown."""

    inverse: Any
    shown: list[int]
    memory_from_gradient: bool = True

    def start(self, x: Any) -> dict[str, Any]:
        return {}

    def update(self, state: Any, gradient: Any) -> dict[str, Any]:
        return {}

    def images(self, state: Any, vectors: Any) -> list[Any]:
        self.shown.append(len(vectors))
        return [self.inverse @ vector for vector in vectors]


def _image_claims() -> list[Claim]:
    hessian, b = quadratic(0)
    root = np.linalg.cholesky(quadratic(1)[0])
    shown: list[int] = []
    ours = Optimizer(np.zeros(SIZE), AdaptiveMemory(), lr=0.3, metric=Fixed(root @ root.T, shown))
    plain = Optimizer(np.zeros(SIZE), AdaptiveMemory(), lr=0.3)
    off, betas = 0.0, []
    for _ in range(30):
        ours.step(hessian @ ours.x - b)
        plain.step(root.T @ (hessian @ root @ plain.x - b))
        off = max(off, np.abs(ours.x - root @ plain.x).max())
        betas.append(ours.diagnostics()["beta"])
    inside = np.mean((np.array(betas) > 0) & (np.array(betas) < 0.9))
    return [
        Claim("images that adaptive memory asks of an operator in a step: of g and d", max(shown), 2, "identity"),
        Claim("step in any H = step in variables where it is the identity", off, 0, "identity"),
        Claim("share of β at 0 or β_max in that check: else it says little", 1 - inside, 0.7, "upper bound"),
    ]


def _compact_claims() -> list[Claim]:
    random, metric, off, least = np.random.default_rng(161), QuasiNewton(5), 0.0, np.inf
    for seed in range(20):
        hessian, kept, pairs = quadratic(seed)[0], np.zeros((10, SIZE)), list[Any]()
        numbers: Any = {"pairs": np.zeros(1), "identity": np.ones(1)}
        for _ in range(9):
            s = random.normal(size=SIZE) * 10 ** random.uniform(-3, 3)
            pairs.append((s, hessian @ s))
            rows = np.vstack([kept, *pairs[-1]])
            forecast = np.full(1, random.uniform(0.1, 10)) * (s @ pairs[-1][1])
            told = metric.low_rank((rows @ rows.T)[None], numbers, forecast)  # nothing but inner products
            kept, numbers = told.keeps[0] @ rows, told.numbers
            inverse = told.identity[0] * np.eye(SIZE) + kept.T @ told.middle[0] @ kept
            exact = np.stack([two_loops(told.identity[0], pairs[-5:], unit) for unit in np.eye(SIZE)], axis=1)
            off = max(off, np.abs(inverse - exact).max() / np.abs(exact).max())
            least = min(least, np.linalg.eigvalsh(inverse)[0] / told.identity[0])
    return [
        Claim("H from inner products = two loops, moves 1e-3 to 1e3 long", off, 0, "identity"),
        Claim("H is positive definite: its least eigenvalue / γ", least, 0, "counterexample"),
    ]


# %%
# Completion is free of effect
# ----------------------------
# `Secant` (`14_tuning_free.py`) finishes the last step where the next one begins. Let the last step have led from
# :math:`b`, with the gradient :math:`p`, to :math:`x = b + s`, with :math:`g = p + y`. **Proposition 3.** *If*
# :math:`Hy = s` *then* :math:`b + \tau s - H(p + \tau y) = b - Hp = x - Hg` *for every* :math:`\tau`.
#
# *Proof.* The terms with :math:`\tau` are :math:`\tau(s - Hy) = 0`. ∎
#
# L-BFGS meets :math:`Hy = s` for the newest pair: :math:`Vy = 0`. So wherever the last step might better have ended, if
# f is quadratic along it, the next step makes up for it, without the forecast. This holds for steps of lr 1 alone.
#
# Memory adds nothing
# -------------------
# **Proposition 4.** *A plane* :math:`(\sigma, h)` *beside the gradient's has weight zero, at lr* :math:`\eta`, *iff*
# :math:`h \le \eta\langle\sigma - g, Hg\rangle`.
#
# *Proof.* The dual :math:`\varphi(w) = wh - \tfrac\eta2\|(1-w)g + w\sigma\|_H^2` is concave, so its maximum over
# :math:`[0, 1]` is at 0 iff :math:`\varphi'(0) = h - \eta\langle\sigma - g, Hg\rangle \le 0`. ∎
#
# (Where this is an equality and :math:`\sigma \ne g`, 0 is the only maximum.) **Theorem 5.** *If* :math:`Hy = s` *and h
# is the linearised height of the true move,* :math:`h = -\langle g, s\rangle`, *then memory* :math:`\sigma` *has weight
# iff* :math:`\langle p - g, Hg\rangle > \eta\langle\sigma - g, Hg\rangle`. *At* :math:`\eta = 1` *memory of the last
# gradient,* :math:`\sigma = p`, *has weight zero, and adaptive memory takes the steps of gradient descent in the same
# metric.*
#
# *Proof.* :math:`-\langle g, s\rangle = -\langle g, Hy\rangle = \langle p - g, Hg\rangle`: proposition 4. For
# :math:`\sigma = p` and :math:`\eta = 1` both sides are equal. Memory after a step without weight on it is the
# gradient, and so it is after the first step, where memory starts as the gradient: induction. ∎
#
# It is a tie, so rounding may give weight of its own size, and a pair that was not kept breaks it. With another lr
# memory has weight iff :math:`(1-\eta)\langle g, s\rangle < 0`: after a step that was too short if lr is below 1, as it
# should. The tie also goes wherever memory is not the last gradient:
#
# * after steps of heavy ball :math:`\sigma` is an average, and has weight iff :math:`\langle p - \sigma, Hg\rangle >
#   0`;
# * the plane of the gradient before the last, through its own point, has :math:`h = -\langle g, s + s'\rangle` and
#   weight iff :math:`\langle g, Hy' - s'\rangle > 0`, with the pair :math:`s', y'` before the last. On quadratics after
#   exact line searches H meets this older equation too, and it is a tie again; after unit steps it does not.
#
# **Why the true move.** In a metric that changes slowly :math:`\eta\langle g, H\sigma\rangle`, the last move as today's
# metric would make it, serves as a linearised height. Here H has just learned from that very move. At :math:`\eta = 1`
# then :math:`\varphi'(0) = \|g\|_H^2 > 0`, and the weight is :math:`\min(1, \|g\|_H^2 / \|g - \sigma\|_H^2)`, with
# :math:`\|g - p\|_H^2 = \langle s, y\rangle`: never zero, and 1 where g is longer than its change.


@dataclass(frozen=True)
class Todays:
    """Adaptive memory without a cap, the last move taken to be what today's metric would make it."""

    beta_max: float = 1.0

    def planes(self, now: Any) -> Any:
        return now.gradient_plane, now.memory_plane(now.lr * now.dot(now.gradient, now.memory))


class Seen(NamedTuple):
    """One step: the last pair s, y and the one before, g, memory d, H of g, d, y, older y, and the optimizer's β."""

    s: Any
    y: Any
    older: tuple[Any, Any]
    g: Any
    d: Any
    hg: Any
    hd: Any
    hy: Any
    hy_older: Any
    completed: float
    beta: float


def steps(rule: Any, seed: int, *, lr: float = 1.0, exact: bool = False, count: int = 25) -> tuple[list[Seen], Any]:
    """What the steps from the third on saw on a quadratic, and all points; the last may be made with another lr."""
    hessian, b = quadratic(seed)
    optimizer = Optimizer(np.zeros(SIZE), rule, lr=0.1, metric=QuasiNewton())
    points, slopes, seen = [optimizer.x], [hessian @ optimizer.x - b], []
    for _ in range(count):
        g = slopes[-1]
        model = optimizer.preview(g)
        if exact:
            p = model.image(g)
            optimizer.lr = float(g @ p / (p @ hessian @ p))
        optimizer.step(g)
        points.append(optimizer.x)
        slopes.append(hessian @ optimizer.x - b)
        optimizer.lr = lr
        if len(points) > 3:
            (s0, s), (y0, y) = np.diff(points[-4:-1], axis=0), np.diff(slopes[-4:-1], axis=0)
            ends = [points[-3] + t * s - model.image(slopes[-3] + t * y) for t in (-3.0, 0.5, 7.0)]
            off = max(np.abs(end - points[-1]).max() for end in ends)
            images = (model.image(v) for v in (g, model.memory, y, y0))
            seen.append(Seen(s, y, (s0, y0), g, model.memory, *images, off, model.beta))
        if np.linalg.norm(slopes[-1]) < 1e-6 * np.linalg.norm(slopes[0]):
            break
    return seen, np.array(points)


def slope_at_zero(one: Seen, sigma: Any, height: float, lr: float = 1.0) -> float:
    """φ'(0) of proposition 4, in units of the largest of its terms."""
    terms = np.array([height, -lr * (sigma @ one.hg), lr * (one.g @ one.hg)])
    return float(terms.sum() / np.abs(terms).max())


def _memory_claims() -> list[Claim]:
    ours = [steps(AdaptiveMemory(), seed) for seed in range(10)]
    plain = [steps(GradientDescent(), seed)[1] for seed in range(10)]
    every = [one for seen, _ in ours for one in seen]
    other = [(one, lr) for lr in (0.5, 1.5) for one in steps(AdaptiveMemory(), 0, lr=lr)[0]]
    first = [(one, lr) for one, lr in other if np.allclose(one.d, one.g - one.y, rtol=1e-12)]
    wrong = sum((one.beta > 1e-6) != ((1 - lr) * (one.g @ one.s) < 0) for one, lr in first)
    todays = [one for seed in range(10) for one in steps(Todays(), seed)[0]]
    asked = [abs(one.beta - min(1.0, one.g @ one.hg / ((one.g - one.d) @ (one.hg - one.hd)))) for one in todays]
    balls = [one for seed in range(10) for one in steps(HeavyBall(0.5), seed)[0]]
    both = [(slope_at_zero(one, one.d, -one.g @ one.s), (one.g - one.y - one.d) @ one.hg) for one in balls]
    hy = max(np.abs(one.hy - one.s).max() / np.abs(one.s).max() for one in every)
    return [
        Claim("Hy = s, relative", hy, 0, "identity", 1e-6),
        Claim(
            "completed by -3, 0.5, 7 times the last move: another end", max(o.completed for o in every), 0, "identity"
        ),
        Claim(
            "φ'(0) of memory, relative", max(abs(slope_at_zero(o, o.d, -o.g @ o.s)) for o in every), 0, "identity", 1e-6
        ),
        Claim("largest β of adaptive memory after the first steps", max(o.beta for o in every), 0, "identity", 1e-6),
        Claim(
            "points of adaptive memory = of gradient descent, in this metric",
            max(np.abs(a[: len(b)] - b[: len(a)]).max() for (_, a), b in zip(ours, plain, strict=True)),
            0,
            "identity",
            1e-6,
        ),
        Claim("lr 0.5 and 1.5: steps where weight is not as (1 - η)<g, s> < 0 says", wrong, 0, "identity"),
        Claim("... number of such steps: else it says little", len(first), 3, "counterexample"),
        Claim("today's height: β = min(1, ‖g‖²_H / ‖g - d‖²_H)", max(asked), 0, "identity", 1e-6),
        Claim("... least β", min(one.beta for one in todays), 0, "counterexample"),
        Claim(
            "heavy ball: steps where signs of φ'(0) and <p - σ, Hg> differ",
            sum(a * b < 0 for a, b in both),
            0,
            "identity",
        ),
        Claim("heavy ball: largest φ'(0) of memory, relative", max(a for a, _ in both), 0.1, "counterexample"),
    ]


# %%
# Exact line searches make it conjugate gradients
# -----------------------------------------------
# **Theorem 6** (Nazareth for BFGS). *On a quadratic, with exact line searches, the steps* :math:`-Hg` *are those of
# conjugate gradients, whatever the number of pairs.*
#
# *Proof.* By induction: up to now gradients are mutually orthogonal and moves conjugate, so :math:`\langle s_i,
# g\rangle = 0` for all pairs, and :math:`\langle y_i, g\rangle = 0` for all but the newest. The first loop leaves g as
# it is, the second, on :math:`\gamma g`, subtracts :math:`\gamma\langle y, g\rangle/\langle s, y\rangle` times the
# newest s alone. That is a multiple of the direction of Hestenes and Stiefel, :math:`g - s\langle y, g\rangle/\langle
# s, y\rangle`. ∎
#
# (And :math:`Hy_i = s_i` for all pairs, since an update leaves it so for a :math:`y_i` orthogonal to its s, and for s
# orthogonal to its y.) Unit steps search no line. How near they come with the guard is measured below, not proven.


def _line_search_claims() -> list[Claim]:
    off, tie, loose = 0.0, 0.0, 0.0
    for seed in range(10):
        hessian, b = quadratic(seed, 0.5)
        values, basis = np.linalg.eigh(hessian)
        for pairs in (1, 5):
            points = searched(hessian, b, pairs)
            errors = (points - np.linalg.solve(hessian, b)) @ basis
            off = max(off, np.abs(errors - conjugate.hestenes_stiefel(values, errors[0], len(points) - 1)).max())
        tie = max(tie, max(abs(older(one)) for one in steps(GradientDescent(), seed, exact=True, count=7)[0]))
        loose = max(loose, max(older(one) for one in steps(GradientDescent(), seed)[0]))
    return [
        Claim("exact line searches, 1 and 5 pairs: points = conjugate gradients", off, 0, "identity", 1e-8),
        Claim("φ'(0) of the gradient before the last, exact line searches, relative", tie, 0, "identity", 1e-6),
        Claim("... unit steps: its largest", loose, 0.1, "counterexample"),
    ]


def searched(hessian: Any, b: Any, pairs: int) -> Any:
    """Points of the package's steps with exact line searches, (9, n)."""
    optimizer = Optimizer(np.zeros(SIZE), GradientDescent(), lr=1.0, metric=QuasiNewton(pairs))
    points = [optimizer.x]
    for _ in range(8):
        g = hessian @ optimizer.x - b
        p = optimizer.preview(g).image(g)
        optimizer.lr = float(g @ p / (p @ hessian @ p))
        points.append(optimizer.step(g))
    return np.array(points)


def older(one: Seen) -> float:
    """φ'(0) of the gradient before the last, from heights and slopes, in units of ||H(g - p')|| ||g||."""
    change = one.y + one.older[1]
    value = -one.g @ (one.s + one.older[0]) + change @ one.hg  # h - <σ - g, Hg>, with σ = g - change
    return float(value / np.linalg.norm(one.g) / np.linalg.norm(one.hy + one.hy_older))


def _speed_claims() -> list[Claim]:
    """Measured, not proven."""
    eigenvalues, start = np.geomspace(1e-3, 1, 100), np.random.default_rng(143).normal(size=100)
    gaps = (eigenvalues * conjugate.hestenes_stiefel(eigenvalues, start, 200) ** 2).sum(axis=1)
    needed = int(np.argmax(gaps <= 1e-6 * gaps[0]))
    fun = partial(free.diagonal, eigenvalues=eigenvalues)
    counts = [reached(minimize(fun, start, metric=QuasiNewton(pairs), gtol=1e-9)) for pairs in (5, 20, 100)]
    today = reached(minimize(fun, start, Todays(), metric=QuasiNewton(), gtol=1e-9))
    return [
        Claim(
            "condition 1e3: evaluations / steps of conjugate gradients, 5 pairs", counts[0] / needed, 1.8, "upper bound"
        ),
        Claim("... 20 pairs", counts[1] / needed, 1.6, "upper bound"),
        Claim("... 100 pairs", counts[2] / needed, 1.4, "upper bound"),
        Claim(
            "... 20 pairs, today's height: evaluations / those without memory", today / counts[1], 1.1, "counterexample"
        ),
    ]


def reached(run: Any) -> int:
    """Evaluations until f has fallen to 1e-6 of its first value."""
    return int(np.argmax(run.history["fun"] <= 1e-6 * run.history["fun"][0])) + 1


# %%
# Units
# -----
# **Proposition 7.** *For c > 0, replacing* :math:`f` *by* :math:`cf`, *or* :math:`f(x)` *by* :math:`f(x/c)` *and the
# start by* :math:`cx_0`, *changes nothing but the first step, and neither does an orthogonal change of variables.*
#
# *Proof.* With :math:`cf` all y are multiplied by c, so H is divided by c, because the identity in proposition 2 is
# taken :math:`\gamma` times, and :math:`Hg` stays. With :math:`f(x/c)` s is multiplied and y divided by c, so
# :math:`Hg` is multiplied by c. Orthogonal changes leave inner products. Every decision of the guard compares
# quantities of one unit. ∎
#
# `minimize` makes the first step a share of :math:`\|x_0\|`, so there it is covered too unless :math:`x_0 = 0`. General
# linear changes do matter: BFGS from a fixed start would not notice them, :math:`\gamma I` does.


def _unit_claims() -> list[Claim]:
    fun, _, _ = free.functions()[0]
    random = np.random.default_rng(165)
    x0, turn = 3 * random.normal(size=10), np.linalg.qr(random.normal(size=(10, 10)))[0]

    def told(change: Any, c: float = 1.0, start: Any = x0) -> Any:
        return minimize(change, start, max_iter=12, gtol=0).history["fun"] / c

    def wide(c: float) -> Callable[[Any], tuple[float, Any]]:
        return lambda x: (fun(x / c)[0], fun(x / c)[1] / c)

    def tall(c: float) -> Callable[[Any], tuple[float, Any]]:
        return lambda x: (c * fun(x)[0], c * fun(x)[1])

    plain = told(fun)
    turned = told(lambda x: (fun(turn.T @ x)[0], turn @ fun(turn.T @ x)[1]), start=turn @ x0)
    powers = [told(tall(2.0**40), 2.0**40), told(wide(2.0**20), start=2.0**20 * x0)]
    others = [told(tall(3e7), 3e7), told(wide(3e-5), start=3e-5 * x0), turned]
    squeezed = told(lambda x: (fun(x / x0)[0], fun(x / x0)[1] / x0), start=x0 * x0)
    return [
        Claim(
            "f and x times a power of two: f at each evaluation",
            max(np.abs(v - plain).max() for v in powers),
            0,
            "identity",
            0,
        ),
        Claim("times 3e7 and 3e-5, and rotated", max(np.abs(v - plain).max() for v in others), 0, "identity", 1e-6),
        Claim(
            "each coordinate times another factor: another run", np.abs(squeezed - plain).max(), 1e-3, "counterexample"
        ),
    ]


# %%
# How long steps are
# ------------------
# A step :math:`s = -\eta Hg` forecasts that f bends by :math:`\langle s, Ps\rangle` along it. Let e be that forecast
# over the true bend :math:`\langle s, y\rangle`. **Proposition 8.** *On a quadratic the least f along the line lies at*
# :math:`e/\eta` *times the step.*
#
# *Proof.* The slope along s starts as :math:`\langle g, s\rangle = -\langle s, Ps\rangle/\eta` and grows by
# :math:`\langle s, y\rangle`. ∎
#
# With L-BFGS's :math:`\gamma = \langle s, y\rangle/\langle y, y\rangle` of the newest pair e is mostly above one: unit
# steps end short. The pairs were measured, :math:`\gamma` was guessed, from a quotient that leans towards the largest
# curvatures. So `QuasiNewton` replaces it by :math:`\gamma\sqrt e`, cut to where the two quotients of the newest pair
# leave it, :math:`\langle s, y\rangle/\langle y, y\rangle \le \gamma \le \langle s, s\rangle/\langle s, y\rangle`.
#
# **Proposition 9.** *Over T steps that no cut acted on, the geometric mean of e is* :math:`(\gamma_T/\gamma_0)^{2/T}`.
# *So on quadratics with eigenvalues from* :math:`\mu` *to L it is within* :math:`(L/\mu)^{\pm2/T}`, *and tends to one.*
#
# *Proof.* The product of all :math:`\sqrt{e_t} = \gamma_t/\gamma_{t-1}` is :math:`\gamma_T/\gamma_0`, and both lie
# between the quotients of their pairs, so in :math:`[1/L, 1/\mu]`. ∎
#
# That fewer evaluations follow is measured, here and in `experiments/full_batch` and `experiments/tuning_free`. The
# ratio is prior art: S. Oren and D. Luenberger's "Self-scaling variable metric algorithms" (1974), and M. Al-Baali's
# for limited memory (1999), scale all of H by it, the pairs included.


def unit_steps(metric: QuasiNewton, hessian: Any, b: Any, count: int = 40) -> Any:
    """Of unit steps after a short one: e, γ, whether a cut acted on it, and where along it f is least, (steps, 4)."""
    kept, numbers, low = np.zeros((metric.kept, len(b))), {"pairs": np.zeros(1), "identity": np.ones(1)}, None
    x, found = np.zeros(len(b)), []
    for t in range(count):
        g = hessian @ x - b
        if np.linalg.norm(g) < 1e-9 * np.linalg.norm(b):
            break
        image = g if low is None else low.identity[0] * g + (low.middle[0] @ (kept @ g)) @ kept
        lr = 1.0 if t else 0.01
        s = -lr * image
        y, forecast = hessian @ s, -lr * (s @ g)
        rows = np.vstack([kept, s, y])
        before, low = numbers["identity"], metric.low_rank((rows @ rows.T)[None], numbers, np.array([forecast]))
        kept, numbers, x = low.keeps[0] @ rows, low.numbers, x + s
        e, gamma = forecast / (s @ y), low.identity[0]
        if t:
            cut = abs(gamma / (before[0] * np.sqrt(e)) - 1) > 1e-12
            found.append((e, gamma, cut, -(g @ s) / (s @ hessian @ s)))
    return np.array(found)


def _length_claims() -> list[Claim]:
    runs = [
        (unit_steps(QuasiNewton(5), *quadratic(s)), unit_steps(QuasiNewton(5, follows=False), *quadratic(s)))
        for s in range(20)
    ]
    off = max(np.abs(ours[:, 0] / ours[:, 3] - 1).max() for ours, _ in runs)
    product, free_steps = 0.0, 0
    for ours, _ in runs:
        ends = [*np.flatnonzero(ours[:, 2]), len(ours)]
        start = ends[0]
        for end in ends[1:]:  # from one cut to the next
            steps = ours[start + 1 : end]
            if len(steps):
                product = max(product, abs(np.prod(steps[:, 0]) / (steps[-1, 1] / ours[start, 1]) ** 2 - 1))
            free_steps, start = free_steps + len(steps), end
    means = [float(np.exp(np.mean([np.log(run[:, 0]).mean() for run in which]))) for which in zip(*runs, strict=True)]
    eigenvalues, start = np.geomspace(1e-3, 1, 100), np.random.default_rng(143).normal(size=100)
    fun = partial(free.diagonal, eigenvalues=eigenvalues)
    few, many = (
        reached(minimize(fun, start, metric=metric, gtol=1e-9))
        for metric in (QuasiNewton(100), QuasiNewton(100, follows=False))
    )
    return [
        Claim("forecast over bend = where along the unit step f is least", off, 0, "identity", 1e-9),
        Claim("product of e between two cuts = square of what γ was multiplied by", product, 0, "identity", 1e-9),
        Claim("... number of such steps: else it says little", free_steps, 100, "counterexample"),
        Claim("geometric mean of e, γ of the newest pair", means[1], 1.1, "counterexample"),
        Claim("... γ that follows: the larger of it and its inverse", max(means[0], 1 / means[0]), 1.1, "upper bound"),
        Claim(
            "evaluations with γ of the newest pair / with γ that follows, 100 pairs", many / few, 1.05, "counterexample"
        ),
    ]


def claims() -> list[Claim]:
    first = (_image_claims, _compact_claims, _memory_claims, _line_search_claims)
    return [claim for part in (*first, _speed_claims, _unit_claims, _length_claims) for claim in part()]


if __name__ == "__main__":
    report(claims())
