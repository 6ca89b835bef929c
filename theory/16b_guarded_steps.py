r"""
The guard of quasi-Newton steps
===============================

No line search vouches for the unit steps of `16_quasi_newton.py`. The guard that judges each of them forces convergence
on every smooth function, with the constants of `14_tuning_free.py`, whatever the metric proposes. This page proves it,
and tries the guard on metrics that propose rubbish.

Superlinear convergence: J. Dennis and J. Moré, "A characterization of superlinear convergence and its application to
quasi-Newton methods" (1974).
"""

# %%
# What is kept, and what follows a failure
# ----------------------------------------
# `Curved` judges each step as the guard of `14_tuning_free.py` does. The differences: a step that fails is repeated
# along its own line, up to 10 times, each time by a share that a cubic finds and that lies within q = 0.05 and 0.9. If
# it still fails, or at once if the cosine between it and :math:`-g` is below 1e-10, the metric is forgotten, and steps
# along the gradient alone follow, :math:`x' = x - ag`: the first with :math:`a \ge r`, then shorter by the same shares.
# r, the least :math:`\|x - x'\|/\|g - g'\|` of all steps so far, is not forgotten.
#
# **Theorem 1.** *Let f be bounded below and have an L-Lipschitz gradient, convex or not. Count K kept steps after the
# first that was kept and the first that changed the gradient. Whatever finite steps a metric proposes that is the
# identity where it was forgotten, theorem 3 of* `14_tuning_free.py` *holds for gradient descent in this metric, with
# its constants* :math:`\delta = 0.01`, :math:`q = 0.05`, :math:`N = 50`:
#
# .. math:: \min_t \|g_t\|^2 \le \frac{L\,(f(x_0) - \inf f)}{\delta q\,\lfloor K/N \rfloor},
#
# *the bound for convex f with it, and after a step that fails there are finitely many shorter ones before one is kept.*
#
# *Proof.* What is kept: f does not rise, and of N in a row one is good, :math:`f(x) - f(x') \ge \delta\rho\|g'\|^2`,
# with :math:`\rho = r`, or :math:`\min(r, a)` along the gradient alone. Neither asks where the step came from. A
# gradient has changed, so :math:`1/L \le r < \infty`. Where steps fail, at most 1 + 10 are the metric's; those that
# follow go along the gradient, from :math:`a \ge r \ge 1/L` down, at each failure to a share of 0.05 to 0.9, so some
# :math:`a \le 1/L` is reached unless one before is kept, and the first such a is at least :math:`q/L`. By the proof of
# theorem 3 that step is good: kept. So every good step has :math:`\rho \ge q/L`, and lowers f by
# :math:`\delta(q/L)\|g'\|^2` or more. The rest is as there. ∎ (Until a gradient has changed r is infinite, and a fall
# of any size counts as good: theorem 3 tacitly starts there too.)
#
# So a metric may be drawn at random, or point uphill in each step. `QuasiNewton` does neither: it keeps pairs with
# :math:`\langle s, y\rangle > 10^{-10}\|s\|\|y\|` alone, so :math:`\gamma > 0`, and :math:`V^\top HV + ss^\top/\langle
# s, y\rangle` is positive definite if H is: for :math:`u \ne 0` either :math:`Vu \ne 0`, or u is a multiple of y and
# :math:`\langle s, u\rangle \ne 0`. What rounding makes of a nearly singular H is left to the guard. Pairs that change
# no gradient are not kept, so until r is finite H is the identity, as the theorem needs.
#
# Rounding may make r smaller than :math:`1/L`, by moves that are hardly longer than the rounding of x (about five times
# was seen). And two ends of a run are the package's, not the theorem's: where f changes by rounding alone, as in
# `14_tuning_free.py`, and 120 failures in a row. The second comes before :math:`1/L` only from an a beyond all use:
# **Lemma 2.** *If a step falls by less than a quarter of what its slope promised,* :math:`f(x) - f(x') <
# \tfrac14|\langle g, s\rangle|`, *the next share is at most 2/3.* *Proof.* For the cubic c over [0, 1],
# :math:`c'(\tfrac23) = \tfrac13(4(f(x') - f(x)) - \langle g, s\rangle) > 0 > c'(0)`, and a cubic has one local minimum.
# ∎ And :math:`(2/3)^{109} < 10^{-19}`. A step that falls by more fails only if the gradient grew more than twentyfold;
# a row of those is shortened to 0.9 each time, and ends a run where :math:`a` began above some :math:`10^6/L` (seen).
#
# **Theorem 3.** *If moreover* :math:`\|g\|^2 \ge 2m\,(f(x) - f_\star)`, *as where f is m-strongly convex, then*
#
# .. math:: f(x_K) - f_\star \le \Big(1 + \frac{2\delta q m}{L}\Big)^{-\lfloor K/N\rfloor} (f(x_0) - f_\star).
#
# *Proof.* A good step has :math:`f(x) - f(x') \ge \delta\tfrac qL\|g'\|^2 \ge 2\delta q\tfrac mL(f(x') - f_\star)`. ∎
#
# That is linear, at :math:`10^{-3} m/L` for 50 steps: the guard's rate and no more. The rate seen is far better; it is
# measured below. Dennis and Moré characterised the quasi-Newton steps that converge superlinearly; near a minimum with
# a positive definite Hessian those of BFGS, with all pairs and a fixed start, are among them. For a limited number of
# pairs nothing of the kind is claimed.

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from claims import HERE, Claim, load, report
from rubbish import Rubbish, Stretched

from proxmom import GradientDescent
from proxmom.guard.curved import BACK, RETRIES, cubic
from proxmom.guard.judge import DECREASE, PATIENCE, ROUNDING
from proxmom.metrics import QuasiNewton
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy import guard as package

free = load(HERE / "14_tuning_free.py")

METRICS = (
    QuasiNewton(),
    *(Rubbish(scale) for scale in (1.0, 1e8, 1e-8)),
    Rubbish(sign=-1.0),
    Stretched(),
)


class Journey(NamedTuple):
    """A run of `minimize`: points kept, f and gradient there, the evaluation that each was, and how the run ended."""

    points: Any
    values: Any
    gradients: Any
    counts: Any
    status: int
    shortest: float  # r at the end, of all steps beyond rounding

    @property
    def changed(self) -> int:
        """Index of the first kept point whose gradient is not the first one."""
        return max(1, int(np.argmax((self.gradients != self.gradients[0]).any(axis=1))))


def journey(fun: free.Function, x0: Any, metric: Any, first: float, max_iter: int = 400) -> Journey:
    seen: list[Any] = []
    kept: list[int] = []

    def told(x: Any) -> tuple[float, Any]:
        seen.append((x.copy(), *fun(x)))
        return seen[-1][1:]

    run = minimize(
        told,
        x0,
        metric=metric,
        first=first,
        max_iter=max_iter,
        gtol=1e-4,
        callback=lambda x: kept.append(len(seen) - 1),
    )
    ratio = np.inf
    for i, j in zip(kept, [*kept[1:], len(seen) - 1], strict=True):
        for x, _, g in seen[i + 1 : j + 1]:
            move, turn = np.linalg.norm(x - seen[i][0]), np.linalg.norm(g - seen[i][2])
            ratio = min(ratio, move / turn) if turn > 0 and move > 1e-6 * np.linalg.norm(x) else ratio
    points, values, gradients = (np.array([seen[i][part] for i in kept]) for part in range(3))
    return Journey(points, values, gradients, np.array(kept), run.status, ratio)


def without_a_good_step(run: Journey, smoothness: float) -> int:
    """Longest row of kept steps that lower f by less than a good one must, where rounding could not hide it."""
    longest = now = 0
    squares = (run.gradients**2).sum(axis=1)
    for i in range(run.changed, len(run.values)):
        need = DECREASE * BACK / smoothness * squares[i]
        good = run.values[i - 1] - run.values[i] >= need or need <= ROUNDING * abs(run.values[i - 1])
        now = 0 if good else now + 1
        longest = max(longest, now)
    return longest


def round_bowl(x: Any) -> tuple[float, Any]:
    return float(x @ x) / 2, x.copy()


def against_bounds(run: Journey, smoothness: float, best: Any) -> tuple[float, float]:
    """The least squared gradient, and the gap to `best` (None where f is not convex), over the bounds of theorem 1."""
    rounds = np.arange(len(run.values) - run.changed) // PATIENCE * DECREASE * BACK / smoothness
    squares = np.minimum.accumulate((run.gradients[run.changed :] ** 2).sum(axis=1))
    slow = float((squares * rounds).max() / (run.values[0] + 10))
    if best is None:
        return slow, 0.0
    radius = np.linalg.norm(run.points - best.x, axis=1).max()
    return slow, float(((run.values[run.changed :] - best.fun) * rounds).max() / (2 * radius**2))


def _guard_claims() -> list[Claim]:
    x0 = 3 * np.random.default_rng(162).normal(size=10)
    rows, rises, steep, bounds, costs, ends = [], [], [], [], [], set()
    for fun, smoothness, convex in [*free.functions(), (round_bowl, 1.0, True)]:
        best = minimize(fun, x0, gtol=1e-12) if convex else None
        for metric in METRICS:
            for first in (1e-6, 1.0, 1e6):
                run = journey(fun, x0, metric, first / smoothness)
                rows.append(without_a_good_step(run, smoothness))
                rises.append(np.diff(run.values).max())
                steep.append(1 / (smoothness * run.shortest))
                bounds.append(against_bounds(run, smoothness, best))
                costs.append(np.diff(run.counts).max())
                ends.add(run.status)
    slow, far = np.max(bounds, axis=0)
    loose = minimize(round_bowl, x0, lr=0.3, metric=Rubbish(1e8), max_iter=5)
    return [
        Claim(
            "guard: longest row without a good step, six metrics, five of them bad", max(rows), PATIENCE - 1, "tight"
        ),
        Claim("... largest rise of f between kept points", max(rises), 1e-12, "upper bound"),
        Claim("... 1 / (L r)", max(steep), 1, "upper bound", 1e-6),
        Claim("... min ‖g‖² / bound of theorem 1", slow, 1, "upper bound"),
        Claim("... gap / bound of theorem 1, convex", far, 1, "upper bound"),
        Claim("... runs that ended neither in success nor at max_iter", len(ends - {0, 1}), 0, "identity"),
        Claim(
            "... most evaluations for a kept step: ten retries were in vain", max(costs), RETRIES + 1, "counterexample"
        ),
        Claim("the same without the guard: f after 5 steps / f", loose.fun / (x0 @ x0 / 2), 1e6, "counterexample"),
    ]


def _definite_claims() -> list[Claim]:
    """On a function that is not convex, from starts where many pairs have no curvature."""
    least, dropped = np.inf, 0
    for seed in range(10):
        x = 6 * np.random.default_rng([163, seed]).normal(size=10)
        optimizer = Optimizer(x, GradientDescent(), lr=0.3, metric=QuasiNewton(5))
        before = None
        for _ in range(20):
            g = free.waves(optimizer.x)[1]
            if before is not None:
                dropped += (optimizer.x - before[0]) @ (g - before[1]) <= 0
            inverse = optimizer.preview(g).inverse
            least = min(least, np.linalg.eigvalsh((inverse + inverse.T) / 2)[0])
            before = optimizer.x, g
            optimizer.step(g)
    return [
        Claim("not convex: least eigenvalue of H", least, 0, "counterexample"),
        Claim("... pairs with <s, y> <= 0: else it says little", dropped, 10, "counterexample"),
    ]


def _share_claims() -> list[Claim]:
    """Of lemma 2: the largest share, where slopes and the rise are drawn, and where the slope at the end is huge."""
    random, shares = np.random.default_rng(166), []
    for _ in range(2000):
        before, after = -1.0, random.normal() * 10 ** random.uniform(-2, 12)
        rise = -0.25 + 10 ** random.uniform(-12, 12)
        old, new = (
            package.Point(np.array([x]), f, np.array([g]), (None, f, None))
            for x, f, g in ((0.0, 0.0, before), (1.0, rise, after))
        )
        shares.append(cubic(package.Segment(old, new), BACK))
    return [Claim("share of the next try after a fall by less than a quarter", max(shares), 2 / 3, "tight", 1e-6)]


def _rate_claims() -> list[Claim]:
    """The bound, and the rate seen, which no theorem here gives."""
    x0, worst = 3 * np.random.default_rng(164).normal(size=10), []
    eigenvalues = np.geomspace(0.1, 1, 10)
    for metric in METRICS:
        values = journey(partial(free.diagonal, eigenvalues=eigenvalues), x0, metric, 1.0).values
        bound = (1 + 2 * DECREASE * BACK * 0.1) ** -((np.arange(len(values)) - 1) // PATIENCE)
        worst.append((values / values[0] / bound)[1:].max())
    found = journey(partial(free.diagonal, eigenvalues=np.geomspace(1e-3, 1, 10)), x0, QuasiNewton(), 1.0)
    seen = np.log(found.values[0] / found.values[-1]) / found.counts[-1]
    proven = np.log1p(2 * DECREASE * BACK * 1e-3) / PATIENCE
    return [
        Claim("theorem 3: gap / bound, condition 10, six metrics", max(worst), 1, "upper bound"),
        Claim("condition 1e3: rate for each evaluation, proven / seen", proven / seen, 1e-6, "upper bound"),
    ]


def claims() -> list[Claim]:
    return [*_guard_claims(), *_definite_claims(), *_share_claims(), *_rate_claims()]


if __name__ == "__main__":
    report(claims())
