r"""
Worst cases, exactly: heavy ball, Polyak's step, truncated memory
=================================================================

How good are the bounds? For a method with fixed coefficients the worst function of a class can be *computed*: the
search over functions is a semidefinite program in the Gram matrix of the iterates and gradients (Y. Drori and
M. Teboulle, *Performance of first-order methods for smooth convex minimization*, 2014; A. Taylor, J. Hendrickx and
F. Glineur, *Smooth strongly convex interpolation and exact worst-case performance of first-order methods*, 2017).
That a Gram matrix with the right inequalities between points belongs to a function of the class is proven there
for smooth convex functions, and by the same authors in *Exact worst-case performance of first-order methods for
composite convex optimization* (2017), theorem 3.5 for convex Lipschitz and theorem 3.10 for smooth ones. PEPit
(B. Goujaud et al., 2024) states the program, Clarabel solves it. The values below are worst cases over all functions of
the class in any dimension; they are put beside bounds that are proven here or in `07a_convergence.py`.

A method whose coefficients depend on the function, such as an adaptive step size or the weights of a model of planes,
is not of that kind. But once the weights are *given*, the conditions that they are the right ones are linear in the
Gram matrix. So the weights become parameters: for each choice of them a worst case is computed over the functions for
which the method chooses just these.
"""

# %%
# Heavy ball
# ----------
# :math:`d_{t+1}=bd_t+(1-b)g_t`, :math:`x_{t+1}=x_t-\eta d_{t+1}`, :math:`d_0=g_0`: the averaged form. Theorem
# 1 of `07a_convergence.py` bounds :math:`f(\bar x)-f^\star` for convex functions with :math:`\|g\|\le G=1`
# and :math:`R=1`, theorem 2 the mean of :math:`\|\nabla f(x_t)\|^2` for :math:`L`-smooth ones with
# :math:`L=1`, where :math:`\Delta=f(x_0)-f(x_T)\le1` is all that its proof uses.
#
# What the table says: theorem 1 is exact without momentum, and with any momentum at the short step size
# :math:`R/(GT)`; at the step size that minimises it the loss is about a tenth or less here (:math:`T=5`).
# Theorem 2 is exact without momentum at both step sizes; with momentum it loses up to 43% at the longest
# step size allowed, and less than a tenth at short ones. "Exact" is an observation of the program's value here,
# except where `07a_convergence.py` proves it.

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from claims import Claim, report

from proxmom import Polyak, TruncatedMemory
from proxmom.numpy import Optimizer


class Row(NamedTuple):
    """One line of the table: the worst case as computed, the bound as proven, whether the text says it is attained."""

    method: str
    value: float
    bound: float
    tight: bool


def worst(problem: Any) -> float:
    """Solve; the dual value, which bounds the worst case from above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the tolerance of the claims allows for it
        return float(problem.solve(wrapper="cvxpy", solver="CLARABEL", verbose=0))


def convex(lipschitz: bool = True) -> tuple[Any, Any, Any, Any]:
    """A new problem with a convex function of the class, its minimiser and its least value."""
    from PEPit import PEP
    from PEPit.functions import ConvexLipschitzFunction, SmoothConvexFunction

    problem = PEP()
    kind, constant = (ConvexLipschitzFunction, {"M": 1.0}) if lipschitz else (SmoothConvexFunction, {"L": 1.0})
    f = problem.declare_function(kind, **constant)
    star = f.stationary_point()
    return problem, f, star, f(star)


def ages(b: float, steps: int) -> tuple[Any, float]:
    """The total weights W_s, (T,), and the mean age of memory, for a fixed b."""
    weights, total, age = np.zeros(steps), np.zeros(steps), 0.0
    for t in range(steps):
        weights = b * weights
        weights[t] = 1 - b if t else 1
        total, age = total + weights, age + weights @ (t - np.arange(steps)) / steps
    return total, float(age)


def heavy_ball_convex(b: float, steps: int, lr: float) -> float:
    """Worst f(weighted average) - f* for G = R = 1."""
    problem, f, star, least = convex()
    x = problem.set_initial_point()
    problem.set_initial_condition((x - star) ** 2 <= 1)
    d = average = None
    for weight in ages(b, steps)[0] / steps:
        g = f.gradient(x)
        average = weight * x if average is None else average + weight * x
        d = g if d is None else b * d + (1 - b) * g
        x = x - lr * d
    problem.set_performance_metric(f(average) - least)
    return worst(problem)


def heavy_ball_smooth(b: float, steps: int, lr: float) -> float:
    """Worst mean of ||∇f||² for L = 1 and a loss that falls by at most 1 over the run."""
    from PEPit import PEP
    from PEPit.functions import SmoothFunction

    problem = PEP()
    f = problem.declare_function(SmoothFunction, L=1.0)
    x = start = problem.set_initial_point()
    d, mean = None, 0
    for _ in range(steps):
        g = f.gradient(x)
        mean = g**2 / steps + mean
        d = g if d is None else b * d + (1 - b) * g
        x = x - lr * d
    problem.set_initial_condition(f(start) - f(x) <= 1)
    problem.set_performance_metric(mean)
    return worst(problem)


def heavy_ball(steps: int = 5) -> list[Row]:
    """Three momenta, two step sizes each."""
    rows = []
    for b in (0.0, 0.5, 0.9):
        age = ages(b, steps)[1]
        best, short = 1 / np.sqrt(2 * steps * (0.5 + age)), 1 / steps
        for lr, name in ((best, "best η"), (short, "η = R/(GT)")):
            bound = 1 / (2 * lr * steps) + lr * (0.5 + age)
            value = heavy_ball_convex(b, steps, lr)
            rows.append(Row(f"heavy ball, convex Lipschitz, b = {b}, {name}", value, bound, b == 0 or lr == short))
        for share in (1.0, 0.1):
            lr = share * (1 - b)
            rho = b / (1 - b) * lr
            theta = 1 - rho / (1 - rho) - lr / (2 * (1 - rho) ** 2)
            bound = min(2, 1 / theta if theta > 0 else 2) / (lr * steps)
            value = heavy_ball_smooth(b, steps, lr)
            rows.append(Row(f"heavy ball, smooth, b = {b}, η = {share}(1-b)/L", value, bound, b == 0))
    return rows


# %%
# Polyak's step
# -------------
# With :math:`f^\star` known, :math:`\delta=f(x)-f^\star` and :math:`\gamma=\delta/\|g\|^2` the step is
# :math:`x^+=x-\gamma g`: the model of a gradient plane and a floor, with a large :math:`\eta`. Let
# :math:`\varphi=\|x-x^\star\|^2-\|x^+-x^\star\|^2` be what a step gains. For convex :math:`f`
#
# .. math:: \varphi = 2\gamma\langle g,x-x^\star\rangle-\gamma^2\|g\|^2 \ge 2\gamma\delta-\gamma\delta
#           = \frac{\delta^2}{\|g\|^2} .
#
# *Lipschitz:* :math:`\delta\le G\sqrt\varphi`. The gains sum to at most :math:`R^2`, so one of :math:`T`
# steps gains at most :math:`R^2/T`, and :math:`\min_{t<T}f(x_t)-f^\star\le RG/\sqrt T`. It is attained by
# :math:`f=\max(G\max_ix_i,-GR/\sqrt T)` in :math:`T` dimensions from 0, as in `07a_convergence.py`: every
# step lowers one coordinate from 0 to :math:`-R/\sqrt T`, and the :math:`T`-th point still has a zero.
#
# *Smooth:* :math:`h(y)=f(y)-\langle g,y\rangle` is convex with minimiser :math:`x`, and
# :math:`\nabla h(x^\star)=-g`. A gradient step from :math:`x^\star` of length :math:`1/L` lowers :math:`h` by
# at least :math:`\|g\|^2/2L`, not below :math:`h(x)`. That is
# :math:`\langle g,x-x^\star\rangle\ge\delta+\|g\|^2/2L`. So
# :math:`\varphi\ge\gamma\delta+\gamma\|g\|^2/L=\gamma\delta+\delta/L`, and a gradient step from :math:`x`
# shows :math:`\|g\|^2\le2L\delta`, so :math:`\gamma\ge1/2L`. Together :math:`\delta\le\frac{2L}3\varphi`, and
# over :math:`T` steps :math:`\min\delta\le\frac{2LR^2}{3T}`. One step attains it for :math:`f=\frac L2x^2`:
# :math:`\gamma=1/2L`, :math:`x^+=x/2`, :math:`\varphi=\frac34x^2`.
#
# In the program the :math:`\gamma_t` are parameters with the conditions
# :math:`\gamma_t\|g_t\|^2=f(x_t)-f^\star`; the table shows the largest value on a grid.


def polyak(gammas: Sequence[float], *, lipschitz: bool) -> float:
    """Worst min of f(x_t) - f* over len(gammas) + 1 points, R = 1, among the functions with these step sizes."""
    problem, f, star, least = convex(lipschitz)
    x = problem.set_initial_point()
    problem.set_initial_condition((x - star) ** 2 <= 1)
    for gamma in gammas:
        g, value = f.oracle(x)
        problem.add_constraint(gamma * g**2 == value - least)
        problem.set_performance_metric(value - least)
        x = x - gamma * g
    problem.set_performance_metric(f(x) - least)
    return worst(problem)


def polyak_gain(gamma: float, *, lipschitz: bool) -> float:
    """Worst f(x) - f* if the squared distance falls by at most 1 in a step of this size."""
    problem, f, star, least = convex(lipschitz)
    x = problem.set_initial_point()
    g, value = f.oracle(x)
    following = x - gamma * g
    f.oracle(following)
    problem.add_constraint(gamma * g**2 == value - least)
    problem.add_constraint((x - star) ** 2 - (following - star) ** 2 <= 1)
    problem.set_performance_metric(value - least)
    return worst(problem)


def polyak_rows() -> list[Row]:
    """Step sizes on grids around 1/sqrt(T), and from 1/2L on."""
    rows = []
    for points in (2, 3, 4):
        sizes = np.array([0.6, 1.0, 1.5]) / np.sqrt(points)
        grid = product(sizes, repeat=points - 1) if points < 4 else [(s,) * 3 for s in sizes]
        value = max(polyak(gammas, lipschitz=True) for gammas in grid)
        rows.append(Row(f"Polyak, convex Lipschitz, T = {points}", value, 1 / np.sqrt(points), True))
    one = max(polyak_gain(gamma, lipschitz=True) for gamma in (0.5, 1.0, 1.5))
    rows.append(Row("Polyak, convex Lipschitz, δ for a gain of 1", one, 1, True))
    one = max(polyak_gain(gamma, lipschitz=False) for gamma in (0.5, 0.7, 1.0))
    rows.append(Row("Polyak, convex smooth, δ for a gain of 1", one, 2 / 3, True))
    two = max(polyak([gamma], lipschitz=False) for gamma in (0.5, 0.6, 0.75, 1.0))
    return [*rows, Row("Polyak, convex smooth, T = 2", two, 1 / 3, False)]


# %%
# Truncated memory
# ----------------
# Gradient plane, memory plane (mixed with the gradient plane so that its weight is at most
# :math:`\beta_{\max}`) and the floor :math:`f^\star`. With the identity metric and no decay its step minimises
# :math:`m(y)+\frac1{2\eta}\|y-x\|^2`, :math:`m` the maximum of the planes.
#
# **Theorem.** Let every plane lie below :math:`f` at :math:`x^\star`: so it is for a convex :math:`f` and the
# *aggregated* height, a convex combination of past gradient planes. Then a step gains
# :math:`\varphi\ge\|x^+-x\|^2`, and if all slopes are at most :math:`G` long
#
# .. math:: f(x)-f^\star \le \begin{cases} G\sqrt\varphi & \text{if } \varphi\le\eta^2G^2, \\
#           (\varphi+\eta^2G^2)/2\eta & \text{otherwise.} \end{cases}
#
# Hence :math:`\min_{t<T}f(x_t)-f^\star\le RG/\sqrt T` for *every* :math:`\eta\ge R/(G\sqrt T)`, with any
# :math:`\beta_{\max}`: a known lower bound removes the step size from the rate.
#
# *Proof.* A function that is :math:`\frac1\eta`-strongly convex and least at :math:`x^+` exceeds its least
# value at :math:`x^\star` by :math:`\frac1{2\eta}\|x^\star-x^+\|^2` or more:
#
# .. math:: m(x^+)+\tfrac1{2\eta}\|x^+-x\|^2+\tfrac1{2\eta}\|x^\star-x^+\|^2
#           \le m(x^\star)+\tfrac1{2\eta}\|x^\star-x\|^2 .
#
# With :math:`m(x^\star)\le f^\star\le m(x^+)` (the floor), :math:`r=\|x^+-x\|` and
# :math:`\delta=f(x)-f^\star`: :math:`\varphi\ge r^2+2\eta(m(x^+)-f^\star)`, which is at least :math:`r^2`.
# The gradient plane gives :math:`m(x^+)-f^\star\ge\delta-Gr`. And :math:`r=\eta\|\sum_kw_ks_k\|\le\eta G`. If
# :math:`\delta\le Gr`: :math:`\varphi\ge r^2\ge\delta^2/G^2`. Otherwise
# :math:`\varphi\ge r^2+2\eta(\delta-Gr)`, which falls in :math:`r` up to :math:`\eta G`, so it is least at
# the largest :math:`r` allowed, :math:`\min(\delta/G,\eta G)`: :math:`\varphi\ge\delta^2/G^2` again, or, if
# :math:`\delta>\eta G^2`, :math:`\varphi\ge2\eta\delta-\eta^2G^2\;(>\eta^2G^2)`. Solved for :math:`\delta`
# these are the two cases. The gains sum to at most :math:`R^2`; take a step with :math:`\varphi\le R^2/T`. ∎
#
# With no weight on memory this is Polyak's step, for which it is attained.
#
# **The linearised height is no such plane.** Its value at :math:`x^\star` can lie above :math:`f^\star`, and
# then nothing above holds. The program finds functions on which one step moves *away* from the minimiser: the
# squared distance grows by the factor 1.8, and the bound on :math:`\delta` is missed by the factor 4. The
# worst one is handed to the package below, and does there what was computed. (When that height serves and
# when it is fooled is the subject of `08_when_memory_hurts.py`.)
#
# In the program two steps are taken from :math:`x_{-1}`: the first is Polyak's step capped at :math:`\eta`,
# with the weight :math:`\kappa` on its plane, after which memory is :math:`d=g_{-1}`; the second has the
# weights :math:`w`. The conditions on them: all planes with weight have the same value at the new point, and
# no plane a greater one. At a move :math:`-\eta\sum_jw_js_j` plane :math:`k` has the value
# :math:`h_k-\eta\langle s_k,\sum_jw_js_j\rangle`: linear in the Gram matrix and the function values.


class Truncated:
    """The program of one step of truncated memory with weights w = (gradient, mixture, floor); κ is the last step's."""

    beta_max = 0.9

    def __init__(self, height: str, kappa: float, w: Sequence[float], lr: float) -> None:
        self.height, self.lr, self.w = height, lr, w
        self.problem, f, self.star, self.least = convex()
        self.first = self.problem.set_initial_point()
        self.d, self.first_value = f.oracle(self.first)
        self.x = self.first - lr * kappa * self.d
        self.g, self.value = f.oracle(self.x)
        spent, available = lr * kappa * self.d**2, self.first_value - self.least
        self.problem.add_constraint(spent == available if kappa < 1 else spent <= available)
        self.following = self.x - lr * self._fix_weights(lr * kappa)

    def _fix_weights(self, moved: float) -> Any:
        """Add the conditions under which w solves the model; the active slope."""
        rise = moved * (self.g * self.d)  # linearised: <g, x_{t-1} - x_t>
        if self.height == "aggregated":
            rise = self.first_value - self.value - moved * self.d**2
        slopes = [self.g, (1 - self.beta_max) * self.g + self.beta_max * self.d]
        active = self.w[0] * slopes[0] + self.w[1] * slopes[1]
        values = [h - self.lr * (s * active) for h, s in zip((0, self.beta_max * rise), slopes, strict=True)]
        values.append(self.least - self.value)
        top = next(v for v, weight in zip(values, self.w, strict=True) if weight > 0)
        for value, weight in zip(values, self.w, strict=True):
            if value is not top:
                self.problem.add_constraint(value == top if weight > 0 else value <= top)
        return active

    def gap(self) -> float:
        """Worst f(x) - f* for a gain of at most 1."""
        self.problem.add_constraint((self.x - self.star) ** 2 - (self.following - self.star) ** 2 <= 1)
        self.problem.set_performance_metric(self.value - self.least)
        return worst(self.problem)

    def distance(self) -> float:
        """Worst ||x⁺ - x*||² / ||x - x*||²."""
        self.problem.set_initial_condition((self.x - self.star) ** 2 <= 1)
        self.problem.set_performance_metric((self.following - self.star) ** 2)
        return worst(self.problem)

    def replay(self) -> float:
        """Hand the solved program's function to the package: how far weights and iterates are from the program's."""
        rule = TruncatedMemory(float(self.least.eval()), self.beta_max, self.height)
        optimizer = Optimizer(self.first.eval(), rule, lr=self.lr)
        reached = optimizer.step(self.d.eval(), float(self.first_value.eval()))
        apart = np.abs(reached - self.x.eval()).max()
        optimizer.step(self.g.eval(), float(self.value.eval()))
        weights = np.abs(optimizer.diagnostics()["weights"] - self.w).max()
        return float(max(apart, weights, np.abs(optimizer.x - self.following.eval()).max()))


WEIGHTS = ((0.25, 0.25, 0.5), (0.0, 0.5, 0.5), (0.1, 0.8, 0.1), (0.0, 0.9, 0.1), (0.5, 0.5, 0.0))


def truncated_rows() -> list[Row]:
    """Weights on a grid, for three step sizes; memory has weight in all but the rows without memory."""
    rows = []
    for lr in (0.5, 1.0, 3.0):
        bound = 1.0 if lr >= 1 else (1 + lr**2) / (2 * lr)
        value = max(Truncated("aggregated", kappa, w, lr).gap() for kappa in (0.5, 1.0) for w in WEIGHTS)
        rows.append(Row(f"truncated memory, aggregated height, η = {lr}, δ for a gain of 1", value, bound, False))
    alone = Truncated("aggregated", 1.0, (0.5, 0.0, 0.5), 2.0).gap()
    moved = max(Truncated("aggregated", 1.0, w, 1.0).distance() for w in WEIGHTS[1:4])
    return [
        *rows,
        Row("the same, no weight on memory, η = 2", alone, 1, True),
        Row("truncated memory, aggregated height, ‖x⁺-x*‖²/‖x-x*‖²", moved, 1, False),
    ]


def linearised() -> list[Claim]:
    """The same step with the linearised height, and the worst function in the package."""
    away = Truncated("linearised", 1.0, (0.0, 0.9, 0.1), 1.0)
    distance = away.distance()
    missed = Truncated("linearised", 1.0, (0.1, 0.8, 0.1), 10.0).gap()
    safe = Truncated("aggregated", 1.0, (0.25, 0.25, 0.5), 1.0)
    safe.gap()
    return [
        Claim("truncated memory, linearised height: ‖x⁺-x*‖²/‖x-x*‖² against 1", distance, 1, "counterexample"),
        Claim("truncated memory, linearised height: δ for a gain of 1, against G", missed, 1, "counterexample"),
        Claim("its worst function in the package: weights and iterates apart", away.replay(), 0, "identity", 1e-3),
        Claim("aggregated height, its worst function in the package", safe.replay(), 0, "identity", 1e-3),
    ]


def polyak_on_hard_function(points: int = 6) -> float:
    """The package's Polyak step on the function of the text: least gap · sqrt(T)."""
    floor = -1 / np.sqrt(points)
    optimizer, gaps = Optimizer(np.zeros(points), Polyak(floor), lr=10.0), []
    for _ in range(points):
        x = optimizer.x
        gaps.append(x.max() - floor)
        optimizer.step(np.eye(points)[x.argmax()], float(x.max()))
    return float(min(gaps) * np.sqrt(points))


def table(rows: Iterable[Row]) -> str:
    """Method, computed worst case, proven bound, ratio."""
    lines = [f"{'method':<66}{'PEPit':>9}{'bound':>9}{'ratio':>8}"]
    lines += [f"{r.method:<66}{r.value:>9.5f}{r.bound:>9.5f}{r.value / r.bound:>8.4f}" for r in rows]
    return "\n".join(lines)


@cache
def all_rows() -> list[Row]:
    """The whole table."""
    return [*heavy_ball(), *polyak_rows(), *truncated_rows()]


def claims() -> list[Claim]:
    """Tolerances are those of the solver."""
    rows = [Claim(r.method, r.value, r.bound, "tight" if r.tight else "upper bound", 1e-4) for r in all_rows()]
    hard = Claim(
        "the package's Polyak step on the hard function, T = 6: gap / (RG/√T)", polyak_on_hard_function(), 1, "tight"
    )
    return [*rows, hard, *linearised()]


if __name__ == "__main__":
    print(table(all_rows()))
    report(claims())
