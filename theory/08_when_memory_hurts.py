r"""
When memory hurts
=================

Adaptive memory trusts its memory plane when that plane stands high. This page is about the three ways in which
such trust goes wrong, or does not. At a kink the linearised height misjudges where the planes cross, and a
method with memory can need more steps than one without. In a direction of negative curvature every height
praises memory, and only the cap on its weight lets the iterate escape. And where the gradient changes so
suddenly that memory is worthless, momentum with a fixed weight is carried on for a time that grows with the
size of what it remembers, whereas adaptive memory forgets within one step: that is a theorem, with constants.

Throughout the metric is the identity (except in the last theorem), there is no weight decay, and the step size
:math:`\eta` is constant. The rule is that of K. Topollai and A. Choromanska, AISTATS 2026, arXiv 2510.04988;
heights other than the linearised one are not theirs. The aggregated height is that of MoMo (F. Schaipp et al.,
ICML 2024, arXiv 2305.07583); the cutting plane is that of bundle methods.
"""

# %%
# What the linearised height assumes
# ----------------------------------
# At :math:`x_t = x_{t-1} - \eta d_t` the memory plane is :math:`f(x_t) + h + \langle d_t, z\rangle`. The
# heights are
#
# .. math::
#
#     h_{lin} = \langle g_t, x_{t-1}-x_t\rangle, \qquad h_{prev} = f(x_{t-1}) - f(x_t), \qquad
#     h_{cut} = f(x_{t-1}) + \langle d_t, x_t - x_{t-1}\rangle - f(x_t),
#
# and :math:`h_{agg}`, the convex combination of the tangent planes at past iterates that :math:`d_t` stands
# for, taken at :math:`x_t`, minus :math:`f(x_t)`. With the Bregman divergence :math:`B = f(x_{t-1}) - f(x_t)
# - \langle g_t, x_{t-1} - x_t\rangle`,
#
# .. math:: h_{prev} = h_{lin} + B, \qquad h_{cut} = h_{lin} + B - \eta\|d_t\|^2 .
#
# The first is the definition of :math:`B`, the second adds :math:`\langle d_t, x_t - x_{t-1}\rangle =
# -\eta\|d_t\|^2`. So the linearised height is the cutting plane's for a function with :math:`B =
# \eta\|d_t\|^2`, that is with curvature :math:`2/\eta` along the last move. No height but the aggregated one
# gives a plane that lies below a convex :math:`f` in general: the cutting plane does if :math:`d_t` is the
# gradient at :math:`x_{t-1}`, but :math:`d_t` is an average of older ones; for the other two see proposition 1.
#
# One kink, four heights
# ----------------------
# Let :math:`f` on the line have slope :math:`-a < 0` to the left of a kink and :math:`b > 0` to its right.
# The last step crossed it from the left with :math:`d = -a`, and the kink lies at the fraction :math:`\tau`
# of that step, whose length is :math:`\eta a`. Let :math:`(1-\tau)a \le b`. **Proposition 1. Without a cap
# the next iterate lies, as a fraction of the last step counted from where that step began, at**
#
# .. math::
#
#     \text{linearised: } \frac{a}{a+b}, \qquad \text{cutting plane, aggregated: } \tau, \qquad
#     \text{previous value: } \tau + \frac{a}{a+b} .
#
# *Proof.* The model :math:`\max\{bz,\, h - az\} + z^2/(2\eta)` has its kink at :math:`z = h/(a+b)`, and that
# is its minimiser if :math:`-z/\eta` lies between the slopes: :math:`-\eta b \le h/(a+b) \le \eta a`. Here
# :math:`f(x_{t-1}) - f(x_t) = \eta a\,(\tau a - (1-\tau) b)`. Linearised: :math:`h = -\eta ab`, so :math:`z =
# -\eta ab/(a+b)`, inside the range; in units of :math:`\eta a`, counted from :math:`x_{t-1}`, the iterate
# lands at :math:`1 - b/(a+b)`. Cutting plane: :math:`h = \eta a(\tau a - (1-\tau)b) - \eta a^2 = -\eta a
# (1-\tau)(a+b)`, so :math:`z = -(1-\tau)\eta a`, inside the range by the assumption: the kink. All gradients
# that memory averages are :math:`-a`, so the aggregated plane is the same plane. Previous value:
# :math:`h/(a+b) = \eta a\,(\tau - b/(a+b))`, at most :math:`\eta a` and at least :math:`-\eta b \cdot
# a/(a+b)`; the landing point is :math:`1 + \tau - b/(a+b) = \tau + a/(a+b)`. ∎
#
# So the linearised height always lands at the same fraction, wherever the kink is: it is blind to it. The
# previous value sees the kink and misses it by a fixed fraction.
#
# A run that never gets there
# ---------------------------
# **Proposition 2. On** :math:`f(x) = |x|` **from** :math:`x_0 = -\eta\ln 2` **the linearised height without a
# cap makes steps of length** :math:`\eta, \eta/2, \eta/3, \dots` **to alternating sides, and for every**
# :math:`k \ge 1`
#
# .. math:: \frac{\eta}{2(k+1)} < f(x_k) < \frac{\eta}{2k} .
#
# **With the cutting plane or the aggregated height** :math:`x_2 = 0`.
#
# *Proof.* Let :math:`g = \pm1` point against the last direction :math:`d` with :math:`|d| = 1/k`. The weight
# is :math:`\beta = 1/(1+1/k)^2`, below 1, so :math:`d_+ = (1-\beta)g + \beta d` has the sign of :math:`g` and
# the size :math:`1 - \beta(1 + 1/k) = 1 - k/(k+1) = 1/(k+1)`. Memory starts as :math:`g_0`, so :math:`|d_1| =
# 1`. While the sides alternate, :math:`x_k/\eta = -\ln 2 + 1 - \tfrac12 + \dots \pm \tfrac1k`, the negative
# of the remainder :math:`r_k` of the alternating series of :math:`\ln 2`. Such remainders alternate in sign,
# so the iterates do, and the induction goes on. Further :math:`|r_k| + |r_{k+1}| = 1/(k+1)` and :math:`|r_k|
# > |r_{k+1}|`, because :math:`|r_k| = \int_0^1 u^k/(1+u)\,du`. Hence :math:`|r_k| > 1/(2(k+1))`; the same for
# :math:`k-1` gives :math:`|r_k| < 1/(2k)`. The last statement is proposition 1 with :math:`a = b = 1`,
# :math:`\tau = \ln 2`. ∎
#
# Smooth the kink to a Huber function of half width :math:`\delta`: nothing changes outside :math:`[-\delta,
# \delta]`. So it takes the linearised height at least :math:`1/(2\delta) - 1` steps to come that near,
# without any bound as :math:`\delta \to 0`, and the true lower planes two. One may object that the start was
# chosen to suit the proof; the table at the end of this section has random starts, 50 dimensions and the best
# step size for each entry, and tells the same story for kinks, and the opposite one for quadratics.

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from claims import Claim, report
from many import Array, Functions, evaluations
from scipy.optimize import brentq

from proxmom import Adam, AdaptiveMemory, GradientDescent, HeavyBall
from proxmom.now import HEIGHTS
from proxmom.numpy import Optimizer, Runs

KINK_BLIND, KINK_BIASED, *KINK_SHARP = HEIGHTS


def two_slopes(points: Array, a: float, b: float) -> tuple[Array, Array]:
    """max(-a x, b x) summed over the coordinates: values (N,), gradients (N, n)."""
    slopes = np.where(points > 0, b, -a)
    return (slopes * points).sum(axis=-1), slopes


def huber(points: Array, delta: float) -> tuple[Array, Array]:
    """Sum of |x_i|, with a parabola of half width delta at the kink."""
    size = np.abs(points)
    values = np.where(size <= delta, points**2 / (2 * delta), size - delta / 2)
    return values.sum(axis=-1), np.clip(points / delta, -1, 1)


def ellipsoid(points: Array, condition: float) -> tuple[Array, Array]:
    eigenvalues = np.geomspace(1 / condition, 1, points.shape[-1])
    return (eigenvalues * points**2).sum(axis=-1) / 2, eigenvalues * points


def quartic(points: Array) -> tuple[Array, Array]:
    return (points**4).sum(axis=-1) / 4 + (points**2).sum(axis=-1) / 2, points**3 + points


def path(function: Functions, x0: Sequence[float], rule: Any, *, lr: float, steps: int, inertia: float = 0.0) -> Array:
    """Iterates (steps + 1, n) of one run."""
    optimizer = Optimizer(np.array(x0), rule, lr=lr, inertia=inertia)
    points = [optimizer.x]
    for _ in range(steps):
        value, gradient = function(points[-1])
        points.append(optimizer.step(gradient, float(value)))
    return np.array(points)


def landing(height: str, a: float, b: float, fraction: float) -> float:
    """Proposition 1's fraction, from two steps of the package."""
    lr, rule = 0.5, AdaptiveMemory(1.0, height)
    points = path(partial(two_slopes, a=a, b=b), [-fraction * lr * a], rule, lr=lr, steps=2)
    return float(points[2, 0] - points[0, 0]) / (lr * a)


def landing_formula(height: str, a: float, b: float, fraction: float) -> float:
    if height == KINK_BLIND:
        return a / (a + b)
    return fraction + a / (a + b) if height == KINK_BIASED else fraction


def steps_to_kink(height: str, delta: float) -> int:
    """Steps until |x| <= delta on the Huber function from -ln 2 with lr 1 and no cap."""
    rule, steps = AdaptiveMemory(1.0, height), int(1 / delta)
    points = path(partial(huber, delta=delta), [-np.log(2)], rule, lr=1.0, steps=steps)
    return int(np.argmax(np.abs(points[:, 0]) <= delta))


# %%
# Counts
# ------
# Sums of 50 Huber functions (kinks of half width 0.1 and 0.01), and quadratics of condition number 1e2 and
# 1e3. Evaluations to a relative gap of 1e-6: the median over three random starts, each entry with its best
# step size on a grid of 30 from 0.5/L to 500/L. 600 means not reached.

PROBLEMS: dict[str, tuple[Functions, float]] = {
    "kinks 0.1": (partial(huber, delta=0.1), 10.0),
    "kinks 0.01": (partial(huber, delta=0.01), 100.0),
    "condition 1e2": (partial(ellipsoid, condition=1e2), 1.0),
    "condition 1e3": (partial(ellipsoid, condition=1e3), 1.0),
}
RULES: dict[str, Any] = {
    **{f"{height}, no cap": AdaptiveMemory(1.0, height) for height in HEIGHTS},
    **{f"{height}, cap 0.9": AdaptiveMemory(0.9, height) for height in HEIGHTS},
    "gradient descent": GradientDescent(),
    "heavy ball 0.9": HeavyBall(0.9),
}


@lru_cache
def count(problem: str, rule: str) -> float:
    function, smoothness = PROBLEMS[problem]
    starts = np.random.default_rng(8).normal(size=(3, 50))
    lrs = np.geomspace(0.5, 500, 30) / smoothness
    best = evaluations(function, starts, RULES[rule], lrs, target=1e-6, budget=600).min(axis=1)
    return float(np.median(best))


def print_counts() -> None:
    print(f"{'':28}" + "".join(f"{problem:>15}" for problem in PROBLEMS))
    for rule in RULES:
        print(f"{rule:28}" + "".join(f"{count(problem, rule):15.0f}" for problem in PROBLEMS))


# %%
# What the table shows (an observation): on the kinks of half width 0.1 memory with the linearised height loses
# to plain gradient descent, with the cap and without it, and the planes that truly lie below :math:`f` beat
# both. On the sharper kinks it loses without a cap; the cap limits the damage. On quadratics the order is
# reversed: there the linearised height nearly conjugates (`04_conjugate_gradients.py`), and true lower planes
# do not. Without a cap none of the four heights does worse than the previous value on any of the four: its
# plane stands higher than the linearised one by :math:`B \ge 0`, so that memory is trusted even more.
#
# Negative curvature: every height praises memory
# -----------------------------------------------
# **Proposition 3. On** :math:`f(y) = -\tfrac12 y^2` **from** :math:`y_0 = \varepsilon > 0` **adaptive memory
# with cap b and any of the four heights makes the steps of heavy ball with weight b. Without a cap (b = 1):**
# :math:`y_k = \varepsilon(1 + k\eta)`, **while gradient descent has** :math:`\varepsilon(1+\eta)^k`.
#
# *Proof.* Suppose so up to step :math:`t`; then :math:`y` increases and :math:`-d_t`, an average of past
# :math:`-g_i = y_i`, lies in :math:`(0, y_{t-1}]`. The uncapped weight is at least 1 if :math:`h/\eta \ge
# \langle d, d-g\rangle` (the vertex of the parabola in `02_two_planes.py`), and :math:`\langle d, d-g\rangle
# = -|d|(|g|-|d|) \le 0`. So :math:`h \ge 0` is enough. Linearised: :math:`h = \eta|g||d| > 0`. Previous
# value: :math:`f` fell, so :math:`h > 0`. Cutting plane: :math:`h = (y_t - y_{t-1})(\tfrac12(y_t+y_{t-1}) -
# |d_t|) \ge 0`. Aggregated: tangents of a concave function lie above it. Hence :math:`\beta = b` (also at the
# first step, where :math:`d = g`, and the weight does not matter). With :math:`b = 1` memory stays :math:`g_0
# = -\varepsilon`. ∎
#
# The maximum of planes is a pessimist: of two slopes it believes the flatter. From :math:`10^{-6}` to 1 this
# takes about :math:`10^6/\eta` steps without a cap, and no choice among the heights helps: only the cap does.
#
# Stale memory: the trap of a fixed weight
# ----------------------------------------
# **Proposition 4. Let heavy ball with weight** :math:`\beta` **hold** :math:`d_0 = D > 0` **on the line, and
# let all later gradients be at least** :math:`-\varepsilon`. **Then** :math:`d_k \ge (D+\varepsilon)\beta^k -
# \varepsilon`: **it moves on, whatever the gradients say, at every step** :math:`k < \ln(1 +
# D/\varepsilon)/\ln(1/\beta)`. **With gradients equal to** :math:`-\varepsilon` **this is exact.**
#
# *Proof.* :math:`d_{k+1} = \beta d_k + (1-\beta)g \ge \beta\big((D+\varepsilon)\beta^k - \varepsilon\big) -
# (1-\beta)\varepsilon = (D+\varepsilon)\beta^{k+1} - \varepsilon`, with equality for :math:`g =
# -\varepsilon`. ∎
#
# On :math:`f(x) = \max(Dx, -\varepsilon x)` a step that crosses the kink from the right springs the trap.
# From a start at the kink :math:`x_1 = -\eta D`, and :math:`x_T = x_1 - \eta\sum_{k=1}^{T-1} d_k` is back when
#
# .. math:: (T-1)\,\varepsilon = D + (D+\varepsilon)\,\frac{\beta - \beta^T}{1-\beta},
#
# that is, for :math:`D \gg \varepsilon`, after about :math:`D/(\varepsilon(1-\beta))` steps: :math:`1/(1-\beta)` times
# as late as gradient descent.
#
# How the adaptive weight escapes
# -------------------------------
# **Theorem 5. Let** :math:`\lambda = 0`, **the height be linearised, the step size as at the last step, and**
# :math:`d \ne 0`. **Then in the norm of** :math:`P^{-1}`, **for every** :math:`g \ne 0`, **every cap and
# every metric:**
#
# 1. :math:`\langle g, P^{-1} d_+\rangle > 0`: **every step goes downhill,**
# 2. :math:`\|d_+\| \le 2\|g\|`: **no step is more than twice that of gradient descent,**
# 3. :math:`\|d_+\| \le \|g\|` **if** :math:`\langle g, P^{-1}d\rangle \le 0`.
#
# *Proof.* Write :math:`G = \|g\|^2`, :math:`D = \|d\|^2`, :math:`c = \langle g, P^{-1}d\rangle`. The height
# is :math:`\eta c`, and the uncapped weight is :math:`\hat\beta = \min(1, G/\|g-d\|^2)`
# (`03_effective_momentum.py`), with :math:`\|g-d\|^2 = G + D - 2c`. First let there be no cap.
#
# If :math:`D \le 2c` the weight is 1, :math:`d_+ = d`, :math:`\langle g, P^{-1}d_+\rangle = c \ge D/2 > 0`,
# and :math:`D \le 2c \le 2\sqrt{GD}` is the second statement. Else :math:`\hat\beta < 1` and
#
# .. math:: \langle g, P^{-1}d_+\rangle = (1-\hat\beta)G + \hat\beta c = \frac{G(D-c)}{G+D-2c} > 0,
#
# because :math:`D > 2c` and :math:`D > 0` give :math:`D > c`. For the second statement let :math:`\|d\| =
# R\|g\|`. If :math:`R \le 2`, an average of two vectors of norm at most :math:`2\|g\|` is no longer. If
# :math:`R > 2`, then :math:`\|g-d\| \ge \|g\|`, so :math:`\hat\beta \le (R-1)^{-2}` and :math:`\|d_+\|
# \le (1 + \hat\beta(R-1))\|g\| \le (1 + 1/(R-1))\|g\| < 2\|g\|`. For the third, :math:`c \le 0` implies
# :math:`\hat\beta < 1`, and with :math:`\langle d, P^{-1}d_+\rangle = (1-\hat\beta)c + \hat\beta D` one finds
# :math:`\langle d - g, P^{-1}d_+\rangle = c` (the derivative that vanishes at :math:`\hat\beta`), so
# :math:`\|d_+\|^2 = \langle g, P^{-1}d_+\rangle + \hat\beta c \le \langle g, P^{-1}d_+\rangle \le
# \|g\|\,\|d_+\|`.
#
# A cap b below :math:`\hat\beta` replaces :math:`d_+` by a point on the segment from :math:`g` to it. The
# first quantity is linear on the segment and positive at both ends, the norm is convex and bounded at both
# ends. ∎
#
# The bound 2 is attained at :math:`d = 2g`. Inertia brings some staleness back: memory then never has less
# than the weight :math:`\lambda/(1+\lambda)` (`03_effective_momentum.py`), and where it has just that,
# proposition 4 holds with this weight: 1 wrong step instead of 43 in the example below, with :math:`\lambda =
# 0.1`.

TRAP = {"steep": 100.0, "gentle": 1.0, "lr": 0.01, "start": 1e-6}


def trapped(rule: Any, steps: int, inertia: float = 0.0) -> Array:
    """Iterates of a run that springs the trap with its first step."""
    function = partial(two_slopes, a=TRAP["gentle"], b=TRAP["steep"])
    return path(function, [TRAP["start"]], rule, lr=TRAP["lr"], steps=steps, inertia=inertia)[:, 0]


def wrong_way(points: Array) -> int:
    """How many steps after the first go on to the left, against the gradient."""
    return int(np.argmax(np.diff(points)[1:] > 0))


def wrong_way_formula(weight: float) -> int:
    return int(np.ceil(np.log1p(TRAP["steep"] / TRAP["gentle"]) / np.log(1 / weight))) - 1


def home(points: Array) -> int:
    """Steps until the iterate is back at the kink; after that it may cross again."""
    return int(np.argmax(points[2:] >= 0)) + 2


def home_formula(weight: float) -> int:
    """The least T at which the equation of the text holds or is exceeded, from a start slightly right of the kink."""
    steep, gentle, early = TRAP["steep"], TRAP["gentle"], TRAP["start"] / TRAP["lr"]

    def excess(count: float) -> float:
        left = (steep + gentle) * (weight - weight**count) / (1 - weight)
        return (count - 1) * gentle - steep - left + early

    return int(np.ceil(brentq(excess, 2, 1e5)))


def sizes(rule: Any, *, runs: int = 1000, steps: int = 30) -> tuple[float, float, float]:
    """With gradients of random size and direction: the largest ||d+||/||g||, the largest where <g,d> <= 0, and the
    share of steps that do not go downhill."""
    random = np.random.default_rng(9)
    many = Runs(np.zeros((runs, 3)), rule, lr=0.2)
    rows = []
    for t in range(steps):
        g = random.normal(size=(runs, 3)) * 10 ** random.uniform(-2, 2, size=(runs, 1))
        along = (g * many.memory).sum(axis=1)
        many.step(g)
        ratio = np.linalg.norm(many.memory, axis=1) / np.linalg.norm(g, axis=1)
        if t:
            uphill = (g * many.memory).sum(axis=1) <= 0
            rows.append(np.stack([ratio, np.where(along <= 0, ratio, 0), uphill]))
    largest, opposed, share = np.concatenate(rows, axis=1)
    return float(largest.max()), float(opposed.max()), float(share.mean())


def sizes_with_adam(steps: int = 300) -> tuple[float, float]:
    """The same in Adam's metric: the largest ratio of norms, the least cosine."""
    random, ratios, cosines = np.random.default_rng(10), [], []
    optimizer = Optimizer(np.zeros(4), AdaptiveMemory(0.9), lr=0.1, metric=Adam(beta2=0.9))
    for _ in range(steps):
        g = random.normal(size=4) * 10 ** random.uniform(-2, 2)
        p = optimizer.preview(g).diagonal
        optimizer.step(g)
        d = optimizer.memory
        ratios.append(np.sqrt((d**2 / p).sum() / (g**2 / p).sum()))
        cosines.append((g * d / p).sum() / np.sqrt((d**2 / p).sum() * (g**2 / p).sum()))
    return float(max(ratios)), float(min(cosines))


# %%
# Left: the run of proposition 2. Right: the trap, distance from the kink.


def picture() -> Any:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for height in HEIGHTS:
        run = path(partial(two_slopes, a=1, b=1), [-np.log(2)], AdaptiveMemory(1.0, height), lr=1.0, steps=30)
        left.semilogy(np.maximum(np.abs(run[:, 0]), 1e-6), label=height)
    left.set(xlabel="step", ylabel="|x|")
    rules = {"heavy ball 0.9": HeavyBall(), "adaptive memory": AdaptiveMemory(), "gradient descent": GradientDescent()}
    for name, rule in rules.items():
        right.plot(trapped(rule, 1100), label=name)
    right.set(xlabel="step", ylabel="x")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


# %%
# Checks
# ------


def _heights(x0: Array, lr: float) -> tuple[dict[str, float], float, float]:
    """The package's heights at the second step on the quartic, B, and lr·||d||²."""
    found = {}
    for height in HEIGHTS:
        optimizer = Optimizer(x0, AdaptiveMemory(1.0, height), lr=lr)
        value, gradient = quartic(x0)
        x1 = optimizer.step(gradient, float(value))
        after, g = quartic(x1)
        found[height] = float(optimizer.preview(g, float(after)).heights[1])
    return found, float(value - after - g @ (x0 - x1)), lr * float(gradient @ gradient)


def _height_claims() -> list[Claim]:
    random = np.random.default_rng(11)
    off = []
    for _ in range(20):
        h, divergence, size = _heights(random.normal(size=3), 10 ** random.uniform(-3, -1))
        scale = max(map(abs, h.values()))
        off.append(abs(h["previous value"] - h["linearised"] - divergence) / scale)
        off.append(abs(h["cutting plane"] - h["linearised"] - divergence + size) / scale)
    return [Claim("heights differ by B and η‖d‖²", max(off), 0, "identity", 1e-10)]


def _kink_claims() -> list[Claim]:
    cases = [(a, b, f) for a, b in ((1.0, 1.0), (1.0, 3.0), (2.0, 1.5)) for f in (0.3, 0.55, 0.8)]
    found = []
    for height in HEIGHTS:
        off = max(abs(landing(height, *case) - landing_formula(height, *case)) for case in cases)
        found.append(Claim(f"kink: landing point, {height}", off, 0, "identity", 1e-12))
    run = np.abs(path(partial(two_slopes, a=1, b=1), [-np.log(2)], AdaptiveMemory(1.0), lr=1.0, steps=200)[:, 0])
    k = np.arange(1, 201)
    series = np.abs(np.cumsum(np.where(k % 2, 1, -1) / k) - np.log(2))
    found += [
        Claim("kink, linearised: |x_k| = remainder of ln 2's series", np.abs(run[1:] - series).max(), 0, "identity"),
        Claim("... |x_k| · 2k, largest of 200", (run[1:] * 2 * k).max(), 1, "upper bound"),
        Claim("... 1 / (|x_k| · 2(k+1)), largest of 200", (1 / (run[1:] * 2 * (k + 1))).max(), 1, "upper bound"),
    ]
    wide, narrow = (steps_to_kink(KINK_BLIND, delta) * 2 * delta for delta in (1e-1, 2.5e-3))
    sharp = max(steps_to_kink(height, delta) for height in KINK_SHARP for delta in (1e-1, 2.5e-3))
    found += [
        Claim("steps to a kink of half width 0.1, times 0.2, linearised", wide, 0.8, "counterexample"),
        Claim("steps to a kink of half width 0.0025, times 0.005, linearised", narrow, 0.99, "counterexample"),
        Claim("steps to either kink, cutting plane and aggregated", sharp, 2, "tight"),
    ]
    return found


def _count_claims() -> list[Claim]:
    def ratio(problem: str, rule: str, other: str) -> float:
        return count(problem, rule) / count(problem, other)

    blind, capped, true = "linearised, no cap", "linearised, cap 0.9", "aggregated, no cap"
    biased = max(ratio(p, f"{height}, no cap", f"{KINK_BIASED}, no cap") for p in PROBLEMS for height in HEIGHTS)
    wide, narrow = "kinks 0.1", "kinks 0.01"
    return [
        Claim("kinks 0.1: linearised / gradient descent", ratio(wide, blind, "gradient descent"), 3, "counterexample"),
        Claim("... with cap 0.9", ratio(wide, capped, "gradient descent"), 2, "counterexample"),
        Claim("kinks 0.1: linearised / aggregated", ratio(wide, blind, true), 4, "counterexample"),
        Claim(
            "kinks 0.01: linearised / gradient descent", ratio(narrow, blind, "gradient descent"), 2, "counterexample"
        ),
        Claim("kinks 0.01: linearised / aggregated", ratio(narrow, blind, true), 4, "counterexample"),
        Claim("kinks 0.01: linearised with cap 0.9 / without", ratio(narrow, capped, blind), 0.5, "upper bound"),
        Claim("condition 1e2: linearised / aggregated", ratio("condition 1e2", blind, true), 0.8, "upper bound"),
        Claim("condition 1e3: linearised / aggregated", ratio("condition 1e3", blind, true), 0.8, "upper bound"),
        Claim("no cap: any height / previous value, largest over the table", biased, 1, "upper bound"),
    ]


def _concave(points: Array) -> tuple[Array, Array]:
    return -(points**2).sum(axis=-1) / 2, -points


def _concave_claims() -> list[Claim]:
    steps, lr, tiny = 60, 0.1, 1e-6
    straight = tiny * (1 + lr * np.arange(steps + 1))
    alike, slow = 0.0, 0.0

    def run(rule: Any) -> Array:
        return path(_concave, [tiny], rule, lr=lr, steps=steps)[:, 0]

    for height in HEIGHTS:
        slow = max(slow, np.abs(run(AdaptiveMemory(1.0, height)) / straight - 1).max())
        alike = max(alike, np.abs(run(AdaptiveMemory(0.9, height)) / run(HeavyBall(0.9)) - 1).max())
    descent = run(GradientDescent())
    power = np.abs(descent / (tiny * (1 + lr) ** np.arange(steps + 1)) - 1).max()
    return [
        Claim("negative curvature, no cap, all heights: y_k = ε(1 + kη)", slow, 0, "identity"),
        Claim("negative curvature, cap 0.9, all heights: heavy ball 0.9", alike, 0, "identity"),
        Claim("negative curvature, gradient descent: y_k = ε(1 + η)^k", power, 0, "identity"),
        Claim("after 60 steps, gradient descent / no cap", float(descent[-1] / straight[-1]), 40, "counterexample"),
    ]


def _trap_claims() -> list[Claim]:
    heavy = {beta: trapped(HeavyBall(beta), 1500) for beta in (0.9, 0.5)}
    adaptive, descent = trapped(AdaptiveMemory(), 200), trapped(GradientDescent(), 200)
    inert = trapped(AdaptiveMemory(), 200, inertia=0.1)
    late, soon = (home(points) / home(descent) for points in (heavy[0.9], adaptive))
    return [
        Claim("trap: wrong-way steps of heavy ball 0.9", wrong_way(heavy[0.9]), wrong_way_formula(0.9), "tight"),
        Claim("trap: wrong-way steps of heavy ball 0.5", wrong_way(heavy[0.5]), wrong_way_formula(0.5), "tight"),
        Claim("trap: wrong-way steps of adaptive memory", wrong_way(adaptive), 0, "identity"),
        Claim("trap: the same with λ = 0.1, weight 1/11", wrong_way(inert), wrong_way_formula(1 / 11), "tight"),
        Claim("trap: steps to come home, heavy ball 0.9", home(heavy[0.9]), home_formula(0.9), "identity"),
        Claim("trap: steps to come home, heavy ball 0.5", home(heavy[0.5]), home_formula(0.5), "identity"),
        Claim("trap: steps to come home, heavy ball 0.9 / gradient descent", late, 10, "identity", 0.02),
        Claim("trap: steps to come home, adaptive memory / gradient descent", soon, 1.1, "upper bound"),
    ]


def _twice() -> float:
    """||d+||/||g|| at d = 2g."""
    optimizer = Optimizer(np.zeros(2), AdaptiveMemory(1.0), lr=0.3)
    g = np.array([0.6, -0.8])
    optimizer.step(2 * g)
    optimizer.step(g)
    return float(np.linalg.norm(optimizer.memory))


def _escape_claims() -> list[Claim]:
    free, capped, heavy = sizes(AdaptiveMemory(1.0)), sizes(AdaptiveMemory(0.9)), sizes(HeavyBall(0.9))
    ratio, cosine = sizes_with_adam()
    return [
        Claim("largest ‖d+‖/‖g‖, 29,000 steps each without cap and with", max(free[0], capped[0]), 2, "upper bound"),
        Claim("... attained at d = 2g", _twice(), 2, "tight"),
        Claim("... where <g,d> <= 0", max(free[1], capped[1]), 1, "upper bound"),
        Claim("... steps that do not go downhill", max(free[2], capped[2]), 0, "identity"),
        Claim("... heavy ball 0.9: largest ‖d+‖/‖g‖", heavy[0], 100, "counterexample"),
        Claim("... heavy ball 0.9: share of steps that do not go downhill", heavy[2], 0.2, "counterexample"),
        Claim("in Adam's metric, its norm: largest ‖d+‖/‖g‖", ratio, 2, "upper bound"),
        Claim("in Adam's metric: -cos(g, d+), largest", -cosine, 0, "upper bound"),
    ]


def claims() -> list[Claim]:
    return [
        *_height_claims(),
        *_kink_claims(),
        *_count_claims(),
        *_concave_claims(),
        *_trap_claims(),
        *_escape_claims(),
    ]


if __name__ == "__main__":
    print_counts()
    picture()
    report(claims())
