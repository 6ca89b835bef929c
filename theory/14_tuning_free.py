r"""
Nothing to tune: conjugate gradients at one gradient a step
===========================================================

`proxmom.numpy.minimize(fun, x0, memory="low")` takes neither a momentum nor a learning rate, makes no line search, and
keeps a handful of vectors (the default, which keeps more, is the subject of `16_quasi_newton.py`). This page shows why
adaptive memory then is the method of conjugate gradients, what the forecast of a gradient costs and saves,
and that the guard which judges every step forces convergence on every smooth function, with a constant.

R. Fletcher and C. Reeves, "Function minimization by conjugate gradients" (1964). M. Powell, "Restart procedures for the
conjugate gradient method" (1977). The step along an estimate of curvature between the last two gradients: J. Barzilai
and J. Borwein (1988); with memory, Y. Dai and C. Kou, "A Barzilai-Borwein conjugate gradient method" (2016).
Adaptive memory: K. Topollai and A. Choromanska (AISTATS 2026, arXiv 2510.04988).
"""

# %%
# The last step is made up for
# ----------------------------
# Let the last step have led from the point :math:`b`, with the gradient :math:`p`, to :math:`x = b + s`, with the
# gradient :math:`g`. **Proposition 1.** *If f is quadratic then the minimum along s is at* :math:`b + ts`, :math:`t =
# \langle p, s\rangle / \langle p - g, s\rangle`, *and the gradient there is* :math:`(1-t)\,p + t\,g`.
#
# *Proof.* The gradient is affine along :math:`s`, so at :math:`b + ts` it is :math:`(1-t)p + tg`, and its product with
# :math:`s` is zero for this :math:`t`. ∎
#
# So nobody has to look there. `Secant` moves the point to :math:`b + ts`, takes the forecast for the gradient, and lets
# the rule find its planes. **Proposition 2.** *On a quadratic, adaptive memory without a cap and without inertia then
# runs through the iterates of conjugate gradients, from the first to the last, at one gradient each, whatever the
# lengths of the steps were that led to the points where gradients were taken.*
#
# *Proof.* At :math:`b + ts` the forecast is orthogonal to :math:`d`, the direction of the last step, so the linearised
# height is zero, and the direction of the next step is that of Fletcher and Reeves, by `04_conjugate_gradients.py`. By
# proposition 1 the next point made up is the minimum along it. ∎
#
# Only the length of the step that is really taken is a guess: the curvature along :math:`d` is known, that along the
# gradient is taken as 1.5 times :math:`\|y\|^2/\langle s, y\rangle`, :math:`y = g - p`. A bad guess costs nothing on a
# quadratic, and on other functions an error of the forecast of the order :math:`|t(t-1)|\,\|s\|^2`.

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from claims import HERE, Claim, load, report

from proxmom import AdaptiveMemory, Secant
from proxmom.guard.judge import DECREASE, PATIENCE
from proxmom.numpy import Optimizer, minimize
from proxmom.numpy.forecast import Forecast
from proxmom.numpy.guard import SHORTEST

conjugate = load(HERE / "04_conjugate_gradients.py")
Function = Callable[[Any], tuple[float, Any]]


def diagonal(x: Any, eigenvalues: Any) -> tuple[float, Any]:
    return float(eigenvalues @ (x * x)) / 2, eigenvalues * x


def made_up(eigenvalues: Any, x0: Any, lr: float, steps: int) -> Any:
    """The points where the last steps ended after all, (steps + 1, n)."""
    optimizer = Optimizer(x0, AdaptiveMemory(1.0), lr=lr)
    forecast = Forecast(optimizer, Secant(stretch=1e9, steepness=1e9))
    points = []
    for _ in range(steps + 1):
        forecast.step(diagonal(optimizer.x, eigenvalues)[1], 0.0)
        points.append(optimizer.x - optimizer.last_step)
    return np.array(points)


# %%
# The guard
# ---------
# A run keeps a step from :math:`x` to :math:`x'` only if f does not rise, and of any :math:`N = 50` kept in a row one
# must be *good*: :math:`f(x) - f(x') \ge \delta\rho\,\|g'\|^2` with :math:`\delta = 0.01`. Here :math:`\rho = r`, the
# least :math:`\|x - x'\|/\|g - g'\|` of all steps so far; for a step along the gradient alone, :math:`x' = x - ag`,
# it is :math:`\min(r, a)`. Where a step fails, one along the gradient alone follows, at first with :math:`a \ge r`,
# then each time shorter by a factor of at most :math:`1/q`, :math:`q = 0.05`.
#
# **Theorem 3.** *Let f be bounded below and have an L-Lipschitz gradient, convex or not. After the first step that
# changes the gradient, and after K more that were kept,*
#
# .. math:: \min_t \|g_t\|^2 \le \frac{L\,(f(x_0) - \inf f)}{\delta q\,\lfloor K/N \rfloor},
#
# *and if f is convex, with R the radius about a minimiser of the points where* :math:`f \le f(x_0)`,
#
# .. math:: f(x_K) - f_\star \le \frac{2 L R^2}{\delta q\,\lfloor K/N \rfloor}.
#
# *A step that fails is followed by a finite number of shorter ones.*
#
# *Proof.* :math:`r \ge 1/L`, because gradients are Lipschitz. A step along the gradient with :math:`a \le 1/L` is good:
# :math:`f(x) - f(x') \ge a(1 - aL/2)\|g\|^2 \ge \tfrac a2\|g\|^2` and :math:`\|g'\| \le (1 + aL)\|g\| \le 2\|g\|`, so f
# falls by :math:`\tfrac a8\|g'\|^2` or more, and :math:`\delta < 1/8`. Hence shortening ends, and with :math:`a \ge
# q/L`, as it begins above :math:`1/L`. So every good step has :math:`\rho \ge q/L`. There are at least :math:`\lfloor
# K/N\rfloor` of them, and what f falls adds up to at most :math:`f(x_0) - \inf f`: the first statement. If f is convex
# let :math:`\varphi = f - f_\star` at the ends of good steps; :math:`\varphi' \le \langle g', x' - x_\star\rangle \le
# R\|g'\|`, so :math:`\varphi - \varphi' \ge c\varphi'^2` with :math:`c = \delta q/(LR^2)`. Then :math:`1/\varphi' -
# 1/\varphi \ge c\varphi'/\varphi`, which is at least :math:`c/2` if :math:`\varphi' \ge \varphi/2`, and otherwise
# :math:`1/\varphi' - 1/\varphi \ge 1/\varphi \ge c/2` as long as :math:`\varphi \le 2/c`. ∎
#
# (And :math:`\varphi \le LR^2/2` from the start, far below :math:`2/c`.) The constants are those of the worst case and
# say little about the speed seen, which is that of conjugate gradients. What the theorem says is that no smooth
# function can trap the method, and no length of the first step.
#
# Rounding sets an end to this: where f no longer changes by more than a few units in its last place, the slopes at both
# ends of a step say whether it lowered f. Such steps are kept as long as the gradient becomes smaller, or there are
# fewer than 30 in a row, and then the run ends with a message that says so.


def softplus(x: Any, rows: Any) -> tuple[float, Any]:
    """Mean of log(1 + exp(row · x)), plus ||x||²/200."""
    z = rows @ x
    slope = rows.T @ (0.5 + 0.5 * np.tanh(z / 2)) / len(rows)
    return float(np.logaddexp(0, z).mean() + x @ x / 200), slope + x / 100


def kinks(x: Any, width: float) -> tuple[float, Any]:
    """Sum of Huber functions."""
    size = np.abs(x)
    values = np.where(size <= width, x * x / (2 * width), size - width / 2)
    return float(values.sum()), np.clip(x / width, -1, 1)


def waves(x: Any) -> tuple[float, Any]:
    """Not convex."""
    return float((0.05 * x * x + np.cos(x)).sum()), 0.1 * x - np.sin(x)


def functions() -> list[tuple[Function, float, bool]]:
    """Function, L and whether it is convex; all have their minimum or a lower bound known to be -10."""
    rows = np.random.default_rng(140).normal(size=(60, 10))
    return [
        (partial(softplus, rows=rows), np.linalg.eigvalsh(rows.T @ rows)[-1] / 240 + 0.01, True),
        (partial(kinks, width=0.1), 10.0, True),
        (partial(diagonal, eigenvalues=np.geomspace(1e-4, 1, 10)), 1.0, True),
        (waves, 1.1, False),
    ]


def _guard_claims() -> list[Claim]:
    random = np.random.default_rng(141)
    rises, steep, slow, far = [], [], [], []
    for fun, smoothness, convex in functions():
        for first in (1e-6, 1.0, 1e6):
            x0 = 3 * random.normal(size=10)
            points: list[Any] = []
            minimize(fun, x0, first=first / smoothness, max_iter=400, gtol=1e-6, callback=points.append)
            values, gradients = zip(*(fun(x) for x in points), strict=True)
            rises.append(np.diff(values).max())
            moves, turns = (np.linalg.norm(np.diff(v, axis=0), axis=1) for v in (points, gradients))
            steep.append((turns[moves > 0] / moves[moves > 0]).max() / smoothness)
            rounds = np.arange(len(points)) // PATIENCE
            least = np.minimum.accumulate([g @ g for g in gradients])
            span = values[0] + 10
            slow.append((least * rounds).max() * DECREASE * SHORTEST / (smoothness * span))
            if convex:
                best = minimize(fun, x0, gtol=1e-12)
                radius = max(np.linalg.norm(x - best.x) for x in points)
                gaps = np.array(values) - best.fun
                far.append((gaps * rounds).max() * DECREASE * SHORTEST / (2 * smoothness * radius**2))
    return [
        Claim("guard: largest rise of f between kept points", max(rises), 1e-12, "upper bound"),
        Claim("1 / (L r), from real gradients", max(steep), 1, "upper bound", 1e-6),
        Claim("min ‖g‖² / bound of theorem 3, convex or not, first lr 1e-6/L to 1e6/L", max(slow), 1, "upper bound"),
        Claim("gap / bound of theorem 3, convex", max(far), 1, "upper bound"),
    ]


# %%
# Checks
# ------


def _forecast_claims() -> list[Claim]:
    eigenvalues, x0 = np.geomspace(0.05, 1, 8), np.random.default_rng(142).normal(size=8)
    exact = conjugate.hestenes_stiefel(eigenvalues, x0, 7)
    off = [np.abs(made_up(eigenvalues, x0, lr, 7) - exact).max() for lr in (1e-3, 1.0, 30.0)]
    p, g = (diagonal(v, eigenvalues)[1] for v in (x0, x0[::-1]))
    s = x0[::-1] - x0
    t = p @ s / ((p - g) @ s)
    forecast = (1 - t) * p + t * g
    return [
        Claim(
            "forecast = gradient at b + ts",
            np.abs(forecast - diagonal(x0 + t * s, eigenvalues)[1]).max(),
            0,
            "identity",
        ),
        Claim("forecast ⟂ s", abs(forecast @ s), 0, "identity"),
        Claim("points made up = conjugate gradients, first lr 1e-3, 1, 30", max(off), 0, "identity", 1e-6),
    ]


def counted(eigenvalues: Any, x0: Any, first: float) -> int:
    """Evaluations until f has fallen to 1e-6 of its first value."""
    fun = partial(diagonal, eigenvalues=eigenvalues)
    values = minimize(fun, x0, first=first, max_iter=2000, gtol=0).history["fun"]
    return int(np.argmax(values <= 1e-6 * values[0])) + 1


def _speed_claims() -> list[Claim]:
    """Measured, not proven."""
    eigenvalues, x0 = np.geomspace(1e-3, 1, 100), np.random.default_rng(143).normal(size=100)
    exact = conjugate.hestenes_stiefel(eigenvalues, x0, 200)
    gaps = (eigenvalues * exact**2).sum(axis=1)
    steps = int(np.argmax(gaps <= 1e-6 * gaps[0]))
    counts = [counted(eigenvalues, x0, first) for first in (1e-6, 1e-3, 1.0, 1e3, 1e6)]
    return [
        Claim(
            "condition 1e3: evaluations / steps of conjugate gradients, worst first lr",
            max(counts) / steps,
            1.6,
            "upper bound",
        ),
        Claim(
            "condition 1e3: most / fewest evaluations, first lr 1e-6/L to 1e6/L",
            max(counts) / min(counts),
            1.3,
            "upper bound",
        ),
    ]


def claims() -> list[Claim]:
    return [*_forecast_claims(), *_guard_claims(), *_speed_claims()]


if __name__ == "__main__":
    report(claims())
