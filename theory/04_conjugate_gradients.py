r"""
Adaptive memory and conjugate gradients
=======================================

Give adaptive memory an exact line search, no inertia and no cap, and its directions are those of Fletcher and
Reeves, on every smooth function: to weigh memory by two planes *is* to conjugate. The line search is all that
a fixed step lacks, and this page measures what that costs.

Sources: R. Fletcher and C. M. Reeves, "Function minimization by conjugate gradients" (1964); M. R. Hestenes
and E. Stiefel, "Methods of conjugate gradients for solving linear systems" (1952). Theorem 2 below is, for
conjugate gradients, theorems 5.2 to 5.4 of J. Nocedal and S. Wright, "Numerical Optimization" (2nd ed., 2006);
it is proven here from theorem 1 alone. That the shortest vector in
the convex hull of past gradients is a conjugate direction was seen by P. Wolfe, "A method of conjugate
subgradients for minimizing nondifferentiable functions" (1975). Global convergence of Fletcher-Reeves with
exact line search goes back to G. Zoutendijk, "Nonlinear programming, computational methods" (1970); the proof
below is another one. Adaptive memory:
K. Topollai and A. Choromanska, AISTATS 2026, arXiv 2510.04988.
"""

# %%
# Setting
# -------
# Identity metric, no weight decay, :math:`\lambda = 0`, :math:`\beta_{\max} = 1`, linearised height. At the
# iterate :math:`x_t` with gradient :math:`g_t` the model has the planes :math:`\langle g_t, z\rangle` and
# :math:`h + \langle d_t, z\rangle` with :math:`h = \langle g_t, x_{t-1} - x_t\rangle`. Its proximal point is
# (`02_two_planes.py`)
#
# .. math::
#
#     x_{t+1} = x_t - \eta\, d_{t+1}, \qquad d_{t+1} = (1-\beta)\, g_t + \beta\, d_t, \qquad
#     \beta = \arg\min_{[0,1]}\; \tfrac{\eta}{2} \|(1-\beta) g_t + \beta d_t\|^2 - \beta h .
#
# Let the step size be found by a line search: :math:`x_t` is a stationary point of :math:`f` on the half-line
# along :math:`-d_t` (one is assumed to exist), so :math:`\langle g_t, d_t\rangle = 0`. Memory starts as
# :math:`g_0`, hence :math:`d_1 = g_0`. Write :math:`G_t = \|g_t\|^2` and :math:`D_t = \|d_t\|^2`, and stop when
# :math:`G_t = 0`.
#
# Theorem 1: the directions are those of Fletcher and Reeves
# ----------------------------------------------------------
# **Let f be differentiable.** Then for all :math:`t`, whatever step size the model is solved with,
#
# .. math::
#
#     \beta_t = \frac{G_t}{G_t + D_t}, \qquad
#     \frac{d_{t+1}}{D_{t+1}} = \frac{d_t}{D_t} + \frac{g_t}{G_t}, \qquad
#     \frac{1}{D_{t+1}} = \frac{1}{D_t} + \frac{1}{G_t}, \qquad
#     \langle g_t, d_{t+1}\rangle = D_{t+1},
#
# and :math:`d_{t+1}` is a positive multiple of :math:`p_{t+1} = g_t + (G_t/G_{t-1})\, p_t`, :math:`p_1 =
# g_0`.
#
# *Proof.* By the line search :math:`h = \langle g_t, x_{t-1}-x_t\rangle`, a multiple of :math:`\langle g_t,
# d_t\rangle`, is zero. The problem asks for the shortest vector on the segment from :math:`g_t` to
# :math:`d_t`, and :math:`\eta` drops out. The two are orthogonal and not zero, so the answer is the foot of
# the altitude of a right triangle: :math:`(1-\beta)^2 G + \beta^2 D` has its minimum at :math:`\beta =
# G/(G+D)`, strictly inside :math:`[0, 1]`, and no clip acts. Hence :math:`d_{t+1} = (D g + G d)/(G+D)` and
# :math:`D_{t+1} = (D^2G + G^2D)/(G+D)^2 = GD/(G+D)`, the third formula; dividing gives :math:`d_{t+1}/D_{t+1}
# = (Dg + Gd)/(GD)`, the second. The last one: :math:`\langle g, d_{t+1}\rangle = DG/(G+D) = D_{t+1}`. It is
# positive, so :math:`d_{t+1} \ne 0` and the line search goes downhill. Put :math:`u_t = d_t/D_t` and
# :math:`q_t = p_t/G_{t-1}`. The second formula reads :math:`u_{t+1} = u_t + g_t/G_t`; Fletcher-Reeves divided
# by :math:`G_t` reads :math:`q_{t+1} = q_t + g_t/G_t`; both start from :math:`g_0/G_0`. So :math:`u_t = q_t`:
# the two methods search the same half-lines, and with one rule for which stationary point to take they visit
# the same iterates. ∎
#
# Unrolled, :math:`d_{t+1} = \big(\sum_{i\le t} g_i/G_i\big) / \big(\sum_{i\le t} 1/G_i\big)`: memory is the
# average of all past gradients, weighted like measurements of variance :math:`G_i`. While gradients keep their
# length, :math:`1/D_t = t/G` and :math:`\beta_t = t/(t+1)`: memory as long as the run, which a cap of 0.9
# forbids after nine steps.
#
# Theorem 2: termination on quadratics
# ------------------------------------
# **Let** :math:`f(x) = \tfrac12 (x-x_\star)^\top A (x-x_\star)` **with** :math:`A \succ 0`, **and let**
# :math:`g_0` **have components in m eigenspaces of A.** Then the gradients are mutually orthogonal, the
# directions are conjugate, :math:`x_t` minimises :math:`f` over :math:`x_0 + \mathrm{span}(g_0, \dots,
# g_{t-1})`, and the run ends with :math:`g_m = 0` (exactly then, not earlier).
#
# *Proof.* Suppose :math:`g_0, \dots, g_t` are mutually orthogonal and not zero, and :math:`g_t \perp d_1,
# \dots, d_t`; for :math:`t = 0` there is nothing to show. Write :math:`x_j = x_{j-1} - \eta_j d_j`; by
# theorem 1 :math:`\eta_j = \langle g_{j-1}, d_j\rangle / d_j^\top A d_j = D_j / d_j^\top A d_j > 0`.
# Unrolled, :math:`u_{t+1} = \sum_{i\le t} g_i/G_i`, hence :math:`\langle u_{t+1}, g_i\rangle = 1` for every
# :math:`i \le t`, and since :math:`A d_j = (g_{j-1} - g_j)/\eta_j`, also :math:`\langle u_{t+1}, A d_j\rangle
# = (1-1)/\eta_j = 0` for :math:`1 \le j \le t`: the new direction is conjugate to all earlier ones. Therefore
# :math:`g_{t+1} = g_t - \eta_{t+1} A d_{t+1}` is orthogonal to :math:`d_1, \dots, d_t`, and to
# :math:`d_{t+1}` by the line search. These directions span :math:`g_0, \dots, g_t`, because :math:`u_{i+1} -
# u_i = g_i/G_i`. So :math:`g_{t+1}` is orthogonal to all earlier gradients, which for a convex function says
# that :math:`x_{t+1}` minimises :math:`f` over :math:`x_0` plus their span. All gradients lie in
# :math:`\mathrm{span}(g_0, A g_0, A^2 g_0, \dots)`, which has dimension :math:`m`; at most :math:`m` mutually
# orthogonal vectors in it are not zero. Nor can :math:`g_t` vanish for :math:`t < m`: :math:`x_t - x_\star =
# q(A)(x_0 - x_\star)` with a polynomial of degree :math:`t` at most and :math:`q(0) = 1`, which would have to vanish
# at :math:`m` different eigenvalues. ∎
#
# Theorem 3: convergence on smooth functions
# ------------------------------------------
# **Let the gradient be L-Lipschitz, f bounded below by** :math:`f_\star`, **and let the line search take the
# first stationary point, or a minimiser.** Then for every :math:`T`
#
# .. math::
#
#     \sum_{t<T} D_{t+1} \le 2L\,(f(x_0) - f(x_T)), \qquad
#     \min_{t<T} \|g_t\|^2 \le \frac{2L\,(f(x_0) - f_\star)}{1 + \tfrac12 + \dots + \tfrac1T} .
#
# *Proof.* Along the half-line :math:`\varphi(\eta) = f(x_t - \eta d_{t+1})` has :math:`\varphi'(\eta) \le
# -\langle g_t, d_{t+1}\rangle + L\eta D_{t+1} = (L\eta - 1) D_{t+1}` (theorem 1), negative up to :math:`1/L`; so the
# first stationary point lies at or beyond :math:`1/L`, and :math:`f(x_{t+1}) \le \varphi(1/L) \le f(x_t) -
# D_{t+1}/(2L)`, integrating. Sum over :math:`t`. With :math:`G = \min_{t<T} G_t` theorem 1 gives
# :math:`1/D_{t+1} = \sum_{i\le t} 1/G_i \le (t+1)/G`, so :math:`D_{t+1} \ge G/(t+1)`, and the sum is at least
# :math:`G\,(1 + \dots + 1/T)`. ∎
#
# The methods
# -----------
# `line_searched` drives the package's optimizer: `preview` shows the direction, the line search finds the
# step size, and the step is taken with it as lr. On the other side stand Fletcher-Reeves and the conjugate
# gradients of Hestenes and Stiefel, written out.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from claims import Claim, report
from numpy.typing import NDArray
from scipy.optimize import brentq

from proxmom import AdaptiveMemory
from proxmom.numpy import Optimizer, Runs

Array = NDArray[np.float64]
Function = Callable[[Array], tuple[float, Array]]


@dataclass
class Run:
    """Iterates (T+1, n), gradients (T+1, n), directions (T, n), values (T+1,)."""

    points: Array
    gradients: Array
    directions: Array
    values: Array


def _record(rows: list[tuple[Array, float, Array]], directions: list[Array]) -> Run:
    points, values, gradients = zip(*rows, strict=True)
    return Run(np.array(points), np.array(gradients), np.array(directions), np.array(values))


def stationary_step(fun: Function, x: Array, direction: Array) -> float:
    """A root of the slope along x - η·direction, to machine precision."""

    def slope(step: float) -> float:
        return float(fun(x - step * direction)[1] @ direction)

    low, high = 0.0, 1.0
    while slope(high) > 0:
        low, high = high, 2 * high
    return float(brentq(slope, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500))


def line_searched(fun: Function, x0: Array, steps: int, *, floor: float = 0.0) -> Run:
    """Adaptive memory (λ = 0, no cap) with exact line search; stops early where ||g|| <= floor·||g_0||."""
    optimizer = Optimizer(x0, AdaptiveMemory(beta_max=1.0), lr=1.0)
    rows, directions = [(x0, *fun(x0))], []
    for _ in range(steps):
        x, _, g = rows[-1]
        if np.linalg.norm(g) <= floor * np.linalg.norm(rows[0][2]):
            break
        optimizer.lr = stationary_step(fun, x, optimizer.preview(g).next_memory)
        x = optimizer.step(g)
        directions.append(optimizer.memory)
        rows.append((x, *fun(x)))
    return _record(rows, directions)


def fletcher_reeves(fun: Function, x0: Array, steps: int) -> Run:
    """p <- g + (||g||²/||g_before||²) p with the same line search."""
    rows, directions = [(x0, *fun(x0))], []
    for t in range(steps):
        x, _, g = rows[-1]
        p = g if t == 0 else g + (g @ g) / (rows[-2][2] @ rows[-2][2]) * directions[-1]
        directions.append(p)
        x = x - stationary_step(fun, x, p) * p
        rows.append((x, *fun(x)))
    return _record(rows, directions)


def hestenes_stiefel(eigenvalues: Array, error: Array, steps: int) -> Array:
    """Errors x_t - x*, (steps+1, n), of linear conjugate gradients on ½ Σ a_i e_i²; no line search, no planes."""
    errors, residual = [error], -eigenvalues * error
    p = residual
    for _ in range(steps):
        image = eigenvalues * p
        alpha = (residual @ residual) / (p @ image)
        following = residual - alpha * image
        errors.append(errors[-1] + alpha * p)
        p = following + (following @ following) / (residual @ residual) * p
        residual = following
    return np.array(errors)


# %%
# The functions
# -------------
# A quadratic in a random basis, logistic regression (convex), and regression with the loss
# :math:`\log(1+r^2)`, whose second derivative lies between :math:`-1/4` and 2: not convex.


class Smooth(NamedTuple):
    """A function with its start and the Lipschitz constant L of its gradient."""

    fun: Function
    x0: Array
    smoothness: float


def quadratic(eigenvalues: Array, seed: int) -> tuple[Smooth, Array, Array]:
    """The function, the basis of eigenvectors (n, n) and the minimiser."""
    random = np.random.default_rng(seed)
    n = len(eigenvalues)
    basis = np.linalg.qr(random.normal(size=(n, n)))[0]
    matrix, minimiser, x0 = (basis * eigenvalues) @ basis.T, random.normal(size=n), random.normal(size=n)

    def fun(x: Array) -> tuple[float, Array]:
        g = matrix @ (x - minimiser)
        return float(g @ (x - minimiser)) / 2, g

    return Smooth(fun, x0, float(eigenvalues.max())), basis, minimiser


def logistic(seed: int, n: int = 12, samples: int = 60, ridge: float = 0.01) -> Smooth:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(samples, n)) * np.geomspace(0.3, 2, n)

    def fun(x: Array) -> tuple[float, Array]:
        margin = rows @ x - 1
        g = rows.T @ (1 / (1 + np.exp(-margin))) / samples - rows.mean(axis=0) / 3 + ridge * x
        return float(np.logaddexp(0, margin).mean() - (rows @ x).mean() / 3 + ridge / 2 * x @ x), g

    return Smooth(fun, random.normal(size=n), float(np.linalg.norm(rows, 2) ** 2 / (4 * samples) + ridge))


def robust(seed: int, n: int = 8, samples: int = 30) -> Smooth:
    random = np.random.default_rng(seed)
    rows, target = random.normal(size=(samples, n)), 3 * random.normal(size=samples)

    def fun(x: Array) -> tuple[float, Array]:
        r = rows @ x - target
        return float(np.log1p(r**2).mean()), rows.T @ (2 * r / (1 + r**2)) / samples

    return Smooth(fun, random.normal(size=n), float(2 * np.linalg.norm(rows, 2) ** 2 / samples))


# %%
# What departs without a line search
# ----------------------------------
# With a constant step :math:`\eta` the height is :math:`h = \eta\langle g_t, d_t\rangle`, and the weight is
#
# .. math::
#
#     \beta = \min\Big(1, \frac{G}{\|g-d\|^2}\Big), \qquad \text{where conjugating takes} \quad
#     \beta_{FR} = \frac{G}{G+D} .
#
# **Proposition 4.** Without a clip, :math:`\beta/\beta_{FR} - 1 = 2\langle g, d\rangle / \|g-d\|^2`. Memory
# is kept as it is, :math:`d_{t+1} = d_t`, if and only if :math:`\langle g, d\rangle \ge \tfrac12 D`.
#
# *Proof.* The derivative of :math:`\tfrac12\|(1-\beta)g + \beta d\|^2 - \beta\langle g,d\rangle` is :math:`-G
# + \beta\|g-d\|^2`, which vanishes at :math:`\beta = G/\|g-d\|^2`, never negative: only the clip at 1 can
# act. (Where :math:`g = d` the planes coincide and nothing is to be decided.) As :math:`\|g-d\|^2 = G + D -
# 2\langle g,d\rangle`, the ratio to :math:`\beta_{FR}` is :math:`(G+D)/\|g-d\|^2 = 1 + 2\langle
# g,d\rangle/\|g-d\|^2`, and :math:`G \ge \|g-d\|^2` says :math:`2\langle g,d\rangle \ge D`. ∎
#
# So a fixed step is a conjugate method with a crude line search. It repeats :math:`d`, in steps of
# :math:`\eta`, until the slope along it, :math:`\langle g, d\rangle/\|d\|`, has fallen below
# :math:`\tfrac12\|d\|`, and then conjugates as if the slope were zero, with a relative error of first order
# in :math:`\langle g, d\rangle`.
#
# By theorem 1 the exact step size on a quadratic is :math:`\eta_t = D_t/d_t^\top A d_t`, the inverse of the
# curvature along :math:`d_t`. One :math:`\eta` is right for all :math:`t` only if that curvature does not
# change. What follows is measured, not proven, on quadratics with 50 eigenvalues spread evenly on a logarithmic
# scale: the ratio of the largest to the smallest exact step size of one run grows with the condition number,
# from a third of it at 10 to a fourteenth at 1e5; with the best fixed step the median :math:`|\cos(g_t, d_t)|`
# lies between 0.5 and 0.75 up to condition number 1e4, where a line search would have 0; and the evaluations are
# 3.2 to 3.9 times the square root of the condition number, while those of conjugate gradients grow more slowly
# (in 50 dimensions they must end after 50 steps but for rounding). At condition number 10 the two are nearly
# level, at 1e5 the fixed step needs 17 times as many.

CONDITIONS = (1e1, 1e2, 1e3, 1e4, 1e5)
DIMENSION, STARTS, TARGET, BUDGET = 50, 4, 1e-6, 2500


class Departure(NamedTuple):
    """At one condition number, medians over starts.

    conjugate, fixed: evaluations of conjugate gradients, and with the best fixed step. best: that step, times L.
    cosine: the median |cos(g_t, d_t)| along that run, 0 for an exact line search.
    spread: largest over smallest exact step size in the run of conjugate gradients.
    """

    condition: float
    conjugate: float
    fixed: float
    best: float
    cosine: float
    spread: float


def _reached(energies: Array) -> int:
    return int(np.argmax(energies <= TARGET * energies[0]))


def _exact_steps(eigenvalues: Array, errors: Array) -> Array:
    """1/(curvature along the move), for each move of conjugate gradients."""
    moves = np.diff(errors, axis=0)
    return (moves**2).sum(axis=1) / (eigenvalues * moves**2).sum(axis=1)


def fixed_steps(eigenvalues: Array, errors: Array, lrs: Array) -> tuple[Array, Array]:
    """Relative gaps and |cos(g, d)|, (T, starts, lrs), of adaptive memory without cap, until every start has one lr
    that reached the target: the first to do so is the best."""
    starts = len(errors)
    many = Runs(np.repeat(errors, len(lrs), axis=0), AdaptiveMemory(beta_max=1.0), lr=np.tile(lrs, starts))
    first = np.repeat((eigenvalues * errors**2).sum(axis=1), len(lrs))
    gaps: list[Array] = []
    cosines: list[Array] = []
    lowest = first / first
    while len(gaps) < BUDGET and not (lowest <= TARGET).reshape(starts, -1).any(axis=1).all():
        gap = (eigenvalues * many.x**2).sum(axis=1) / first
        g = eigenvalues * many.x * (gap < 1e3)[:, None]  # a run that diverges is stopped
        size = np.linalg.norm(g, axis=1) * np.linalg.norm(many.memory, axis=1)
        cosines.append(np.abs((g * many.memory).sum(axis=1)) / np.where(size > 0, size, 1))
        gaps.append(gap)
        lowest = np.minimum(lowest, gap)
        many.step(g)
    shape = (len(gaps), starts, len(lrs))
    return np.reshape(gaps, shape), np.reshape(cosines, shape)


@lru_cache
def departure(condition: float) -> Departure:
    eigenvalues, random = np.geomspace(1 / condition, 1, DIMENSION), np.random.default_rng(7)
    errors = random.normal(size=(STARTS, DIMENSION))
    lrs = np.geomspace(1, 4 * condition**0.5, 32)
    gaps, cosines = fixed_steps(eigenvalues, errors, lrs)
    counts = np.where((gaps <= TARGET).any(axis=0), (gaps <= TARGET).argmax(axis=0), BUDGET)  # (starts, lrs)
    best = counts.argmin(axis=1)
    exact, spread = [], []
    for error in errors:
        run = hestenes_stiefel(eigenvalues, error, 150)
        exact.append(_reached((eigenvalues * run**2).sum(axis=1)))
        steps = _exact_steps(eigenvalues, run[: exact[-1] + 1])
        spread.append(steps.max() / steps.min())
    middle = [np.median(cosines[1 : counts[s, b], s, b]) for s, b in enumerate(best)]
    medians = [np.median(v) for v in (exact, counts.min(axis=1), lrs[best], middle, spread)]
    return Departure(condition, *map(float, medians))


# %%
# Left: evaluations to a relative gap of 1e-6. Right: the price of a fixed step, and how unequal the exact
# steps are.


def picture() -> Any:
    from matplotlib import pyplot

    table = [departure(condition) for condition in CONDITIONS]
    figure = pyplot.figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(CONDITIONS, [row.conjugate for row in table], "o-", label="conjugate gradients")
    left.loglog(CONDITIONS, [row.fixed for row in table], "s-", label="adaptive memory, best fixed step")
    left.set(xlabel="condition number", ylabel="evaluations")
    right.loglog(CONDITIONS, [row.spread for row in table], "o-", label="largest / smallest exact step")
    right.loglog(CONDITIONS, [row.fixed / row.conjugate for row in table], "s-", label="price of a fixed step")
    right.set(xlabel="condition number")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


# %%
# Checks
# ------


def symbolic_residual() -> float:
    """Theorem 1 with g = (a, 0), d = (0, b), from the dual problem alone, by sympy: 0 if the formulas follow."""
    import sympy as sp

    a, b, beta = sp.symbols("a b beta", positive=True)
    g, d = sp.Matrix([a, 0]), sp.Matrix([0, b])
    mixed = (1 - beta) * g + beta * d
    (solution,) = sp.solve(sp.diff(mixed.dot(mixed), beta), beta)
    new = mixed.subs(beta, solution)
    size = new.dot(new)
    off = list(new / size - d / b**2 - g / a**2)
    off += [solution - a**2 / (a**2 + b**2), 1 / size - 1 / a**2 - 1 / b**2, g.dot(new) - size]
    return float(sum(abs(sp.simplify(term)) for term in off))


def _unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _parallel(problem: Smooth, steps: int) -> tuple[float, float]:
    """Distance of unit directions on the same gradients, and of iterates from a run of Fletcher-Reeves of its own."""
    run, other = line_searched(problem.fun, problem.x0, steps), fletcher_reeves(problem.fun, problem.x0, steps)
    p = [run.gradients[0]]
    sizes = (run.gradients**2).sum(axis=1)
    for t in range(1, steps):
        p.append(run.gradients[t] + sizes[t] / sizes[t - 1] * p[-1])
    angle = np.abs(_unit(run.directions) - _unit(np.array(p))).max()
    scale = np.abs(other.points - other.points[0]).max()
    return float(angle), float(np.abs(run.points - other.points).max() / scale)


def _quadratic_claims() -> list[Claim]:
    n, eigenvalues = 10, np.geomspace(0.05, 1, 10)
    problem, basis, minimiser = quadratic(eigenvalues, seed=1)
    run = line_searched(problem.fun, problem.x0, n)
    errors = hestenes_stiefel(eigenvalues, basis.T @ (problem.x0 - minimiser), n)
    apart = np.abs((run.points - minimiser) @ basis - errors).max()
    sizes, lengths = (run.gradients[:n] ** 2).sum(axis=1), (run.directions**2).sum(axis=1)
    average = np.cumsum(run.gradients[:n] / sizes[:, None], axis=0)
    law = np.abs(run.directions / lengths[:, None] - average).max() / np.abs(average).max()
    few, _, _ = quadratic(np.repeat([0.1, 0.3, 0.5, 1.0], 10), seed=2)
    short = line_searched(few.fun, few.x0, 4)
    left, last = (np.linalg.norm(r.gradients, axis=1) / np.linalg.norm(r.gradients[0]) for r in (run, short))
    return [
        Claim("iterates = linear conjugate gradients, quadratic, n = 10", apart, 0, "identity", 1e-10),
        Claim("d/‖d‖² = sum of g/‖g‖² along that run", law, 0, "identity", 1e-10),
        Claim("relative gradient after n steps", left[n], 0, "identity", 1e-10),
        Claim("... which fewer steps do not reach", left[n - 1], 1e-6, "counterexample"),
        Claim("n = 40, four distinct eigenvalues: relative gradient after four steps", last[4], 0, "identity", 1e-10),
        Claim("... which three steps do not reach", last[3], 1e-3, "counterexample"),
    ]


def _free_of_lr() -> float:
    """Largest change of the direction over eight decades of lr, where <g, d> = 0."""
    random = np.random.default_rng(3)
    optimizer = Optimizer(random.normal(size=5), AdaptiveMemory(beta_max=1.0), lr=0.1)
    first, g = random.normal(size=(2, 5))
    optimizer.step(first)
    g -= (g @ first) / (first @ first) * first
    found = []
    for lr in np.geomspace(1e-4, 1e4, 9):
        optimizer.lr = lr
        found.append(optimizer.preview(g).next_memory)
    return float(np.ptp(found, axis=0).max())


def _smooth_claims() -> list[Claim]:
    found = []
    cases = {"logistic regression": (logistic(4), 30), "the loss log(1+r²), not convex": (robust(5), 12)}
    for name, (problem, steps) in cases.items():
        angle, apart = _parallel(problem, steps)
        found.append(Claim(f"direction parallel to Fletcher-Reeves, {name}", angle, 0, "identity", 1e-10))
        found.append(Claim(f"iterates = a run of Fletcher-Reeves, {name}", apart, 0, "identity", 1e-8))
    return found


def _convergence_claims() -> list[Claim]:
    problem = logistic(4)
    run = line_searched(problem.fun, problem.x0, 60, floor=1e-7)
    steps = len(run.directions)
    sums = np.cumsum((run.directions**2).sum(axis=1))
    falls = 2 * problem.smoothness * (run.values[0] - run.values[1:])
    least = np.minimum.accumulate((run.gradients[:steps] ** 2).sum(axis=1))
    bound = 2 * problem.smoothness * (run.values[0] - run.values[-1]) / np.cumsum(1 / np.arange(1, steps + 1))
    return [
        Claim("(sum of ‖d‖²) / (2L (f_0 - f_T)), logistic regression, worst T", (sums / falls).max(), 1, "upper bound"),
        Claim("(min ‖g‖²) H_T / (2L (f_0 - f*)), same run, worst T", (least / bound).max(), 1, "upper bound"),
    ]


def _weights(aligned: bool) -> tuple[float, float]:
    """Proposition 4 on 200 random pairs: largest deviation from the formula; share that keeps memory as predicted."""
    random, off, right = np.random.default_rng(6), 0.0, 0
    for _ in range(200):
        optimizer = Optimizer(np.zeros(3), AdaptiveMemory(beta_max=1.0), lr=0.3)
        d, g = random.normal(size=(2, 3))
        g = g + aligned * d
        optimizer.step(d)
        beta = float(optimizer.preview(g).weights[1])
        keeps = 2 * (g @ d) >= d @ d
        right += keeps == (beta == 1)
        if not keeps:
            conjugate = g @ g / (g @ g + d @ d)
            off = max(off, abs(beta / conjugate - 1 - 2 * (g @ d) / ((g - d) @ (g - d))))
    return off, right / 200


def _departure_claims() -> list[Claim]:
    off, right = zip(_weights(aligned=True), _weights(aligned=False), strict=True)
    table = {condition: departure(condition) for condition in CONDITIONS}
    price = {condition: row.fixed / row.conjugate for condition, row in table.items()}
    roots = [row.fixed / condition**0.5 for condition, row in table.items()]
    apart = min(row.spread / condition for condition, row in table.items())
    unaligned = min(row.cosine for row in table.values() if row.condition <= 1e4)
    return [
        Claim("fixed step: β/β_FR - 1 = 2<g,d>/‖g-d‖²", max(off), 0, "identity", 1e-9),
        Claim("fixed step keeps memory iff <g,d> >= ‖d‖²/2, share of 400", min(right), 1, "identity"),
        Claim("evaluations, fixed step / conjugate gradients, condition 1e1", price[1e1], 1.5, "upper bound"),
        Claim("... condition 1e3: not within a factor 2", price[1e3], 2, "counterexample"),
        Claim("... condition 1e5: not within a factor 5", price[1e5], 5, "counterexample"),
        Claim("evaluations with a fixed step / √condition, largest", max(roots), 4.5, "upper bound"),
        Claim("... and smallest: no slower growth", min(roots), 2.5, "counterexample"),
        Claim("(largest / smallest exact step) / condition, smallest", apart, 0.05, "counterexample"),
        Claim("median |cos(g,d)| with a fixed step, least up to condition 1e4", unaligned, 0.3, "counterexample"),
    ]


def claims() -> list[Claim]:
    """Vectors are compared in their largest entry; the departure is in medians over four starts."""
    return [
        Claim("theorem 1 from the dual problem (sympy, residual)", symbolic_residual(), 0, "identity"),
        Claim("with <g,d> = 0 the direction is the same for every lr", _free_of_lr(), 0, "identity", 1e-12),
        *_quadratic_claims(),
        *_smooth_claims(),
        *_convergence_claims(),
        *_departure_claims(),
    ]


if __name__ == "__main__":
    line = "condition {:.0e}: CG {:.0f}, fixed step {:.0f} (lr {:.1f}/L), |cos| {:.2f}, exact steps differ {:.0f} times"
    for row in map(departure, CONDITIONS):
        print(line.format(*row))
    picture()
    report(claims())
