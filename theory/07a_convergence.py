r"""
Convergence: bounds for any momentum, with exact gradients
==========================================================

What rate survives if the weight of memory is chosen at every step by whatever rule, or by an enemy? Let

.. math:: d_{t+1} = b_t d_t + (1-b_t)\,g_t, \qquad x_{t+1} = x_t - \eta\, d_{t+1}, \qquad d_0 = g_0,
          \qquad t = 0, 1, \dots, T-1,

with :math:`0\le b_t\le b<1` and :math:`g_t` a (sub)gradient of :math:`f` at :math:`x_t`. Adaptive memory with
the identity metric, a constant step size, inertia :math:`\lambda` and no weight decay is of this kind, with
:math:`b_t = (\beta_t+\lambda)/(1+\lambda)` and :math:`b = (\beta_{\max}+\lambda)/(1+\lambda)`,
whatever its heights are. Two rates are proven here with their constants, and each is checked on thousands of
random instances. Gradients are exact: for noisy ones see `07b_bias.py`.

Without memory both are textbook results: Y. Nesterov, *Introductory Lectures on Convex Optimization* (2004),
sections 3.2.3 (subgradient method) and 1.2.3 (gradient method). Of that book only lemma 1.2.3 is used, the inequality
:math:`f(y)\le f(x)+\langle\nabla f(x),y-x\rangle+\frac L2\|y-x\|^2` for a gradient with Lipschitz constant
:math:`L` (integrate :math:`\langle\nabla f(x+\tau(y-x))-\nabla f(x),y-x\rangle\le L\tau\|y-x\|^2` over
:math:`0\le\tau\le1`).
"""

# %%
# Memory is an average, and it is not old
# ---------------------------------------
# Unrolling the recursion, :math:`d_{t+1} = \sum_{s\le t} a_{t,s}\,g_s` with
# :math:`a_{t,s} = (1-b_s)\prod_{r=s+1}^{t} b_r` for :math:`s\ge1` and :math:`a_{t,0} = \prod_{r=1}^{t}b_r`
# (because :math:`d_1=d_0=g_0`, the value of :math:`b_0` does not matter). They are non-negative, and sum to
# one over :math:`s`, because each step takes a convex combination. Call
#
# .. math:: A_t = \sum_{s\le t} a_{t,s}\,(t-s), \qquad W_s = \sum_{t=s}^{T-1} a_{t,s}
#
# the *mean age* of memory after step :math:`t`, and the *total weight* that gradient :math:`s` is given in
# the run. One step makes the old part one older and adds a gradient of age zero:
# :math:`A_t = b_t(A_{t-1}+1)`, :math:`A_0=0`. By induction :math:`A_t\le b/(1-b)`, since
# :math:`b(b/(1-b)+1) = b/(1-b)`. And :math:`\sum_s W_s = T`.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from claims import Claim, report
from many import Played
from numpy.typing import NDArray

from proxmom import AdaptiveMemory
from proxmom.numpy import Runs

Array = NDArray[np.float64]
Random = np.random.Generator


@dataclass
class Trace:
    """What a run of N instances leaves: iterates and gradients (T, N, n), and memory's weights."""

    points: Array
    gradients: Array
    total: Array  # W_s, (T, N)
    age: Array  # mean over t of A_t, (N,)
    final: Array  # weights of the last memory, (T, N)
    memory: Array  # (N, n)

    @property
    def average(self) -> Array:
        """The average of the iterates with weights W, (N, n)."""
        return np.einsum("tk,tkn->kn", self.total, self.points) / len(self.points)


def play(
    gradient: Callable[[Array], Array], runs: Runs, steps: int, choose: Callable[..., Array] | None = None
) -> Trace:
    """Run; `choose(runs, g)` names the effective momentum of the next step, (N,), unless the rule chooses itself."""
    weights = np.zeros((steps, len(runs.x)))
    total, age, points, gradients = np.zeros_like(weights), 0 * weights[0], [], []
    for t in range(steps):
        g = gradient(runs.x)
        points.append(runs.x)
        gradients.append(g)
        if choose is not None:
            runs.rule.beta = choose(runs, g) * (1 + runs.inertia) - runs.inertia
        runs.step(g)
        b = runs.effective if t else 0 * runs.effective
        weights *= b
        weights[t] = 1 - b
        total += weights
        age += (weights * (t - np.arange(steps))[:, None]).sum(axis=0) / steps
    return Trace(np.array(points), np.array(gradients), total, age, weights, runs.memory)


# %%
# Convex and Lipschitz
# --------------------
# **Theorem 1.** Let :math:`f` be convex, :math:`x^\star` a minimiser, :math:`R=\|x_0-x^\star\|`, and
# :math:`\|g_t\|\le G`. Then :math:`\bar x = \frac1T\sum_s W_s x_s` satisfies
#
# .. math:: f(\bar x) - f^\star \;\le\; \frac{R^2}{2\eta T} + \eta G^2\Big(\frac12 + \bar A\Big)
#           \;\le\; \frac{R^2}{2\eta T} + \eta G^2\,\frac{1+b}{2(1-b)}, \qquad
#           \bar A = \frac1T\sum_{t<T} A_t .
#
# With :math:`\eta = \frac RG\sqrt{\frac{1-b}{(1+b)T}}` the right side is :math:`RG\sqrt{\frac{1+b}{(1-b)T}}`.
# The same bound holds for :math:`\min_s f(x_s)-f^\star`.
#
# *Proof.* Expanding the square of :math:`x_{t+1}-x^\star = x_t-x^\star-\eta d_{t+1}` and summing over
# :math:`t`,
#
# .. math:: 2\eta\sum_{t<T}\langle d_{t+1},x_t-x^\star\rangle
#           = R^2 - \|x_T-x^\star\|^2 + \eta^2\sum_{t<T}\|d_{t+1}\|^2 \le R^2 + \eta^2TG^2,
#
# because an average of vectors no longer than :math:`G` is no longer than :math:`G`. On the other side
#
# .. math:: \langle d_{t+1},x_t-x^\star\rangle = \sum_{s\le t}a_{t,s}\big( \langle g_s,x_s-x^\star\rangle
#           + \langle g_s,x_t-x_s\rangle \big)
#           \ge \sum_{s\le t}a_{t,s}\big( f(x_s)-f^\star - G\cdot\eta G(t-s) \big),
#
# by convexity, by Cauchy and Schwarz, and because each of the :math:`t-s` steps from :math:`x_s` to
# :math:`x_t` is no longer than :math:`\eta G`. Summing over :math:`t` gives
# :math:`\sum_sW_s(f(x_s)-f^\star) - \eta G^2\,T\bar A`. Put together and divided by :math:`T`,
#
# .. math:: \frac1T\sum_s W_s\big(f(x_s)-f^\star\big) \le \frac{R^2}{2\eta T}+\frac{\eta G^2}{2}+\eta G^2\bar A .
#
# The :math:`W_s/T` are weights of a convex combination, so the left side is at least
# :math:`f(\bar x)-f^\star` (Jensen), and at least :math:`\min_sf(x_s)-f^\star`. The step size minimises
# :math:`p/\eta+q\eta`, whose least value is :math:`2\sqrt{pq}`. ∎
#
# **It is attained** for every :math:`T` and every sequence :math:`b_t`, at :math:`\eta = R/(GT)`: take
# :math:`f(x)=G|x|`, :math:`x_0=R`. All gradients before the end are :math:`G`, so :math:`x_t = R-\eta Gt`,
# :math:`x_T=0=x^\star`, and every inequality of the proof is an equality. At the best step size it is not
# attained for :math:`b>0` as far as `07c_worst_cases.py` can see; for :math:`b=0` it is, by a function of the
# kind that lower bounds are made of (Y. Drori and M. Teboulle, "An optimal variant of Kelley's cutting-plane
# method", 2016, appendix A): :math:`f(x) = \max(G\max_i x_i, -GR/\sqrt T)` in
# :math:`T` dimensions from :math:`x_0=0`, with an oracle that answers with the first of the largest coordinates.
# The nearest minimiser has all coordinates at :math:`-R/\sqrt T`, at the distance :math:`R`. Gradients are unit
# vectors times :math:`G`, so coordinates only fall, and one that no gradient has named yet is at zero. The last
# point :math:`x_{T-1}` has seen :math:`T-1` gradients at most: in it, and in every average of the iterates, the
# largest coordinate is zero. The gap is :math:`RG/\sqrt T`, whatever the momentum.


@dataclass
class Planes:
    """N convex functions max_k offsets_k + <slopes_k, x>, with a minimiser each and G = 1."""

    slopes: Array  # (N, K, n)
    offsets: Array  # (N, K)
    minimiser: Array  # (N, n)

    def values(self, x: Array) -> Array:
        return self.offsets + np.einsum("kjn,kn->kj", self.slopes, x)

    def gap(self, x: Array) -> Array:
        return self.values(x).max(axis=1) - self.values(self.minimiser).max(axis=1)

    def gradient(self, x: Array) -> Array:
        return self.slopes[np.arange(len(x)), self.values(x).argmax(axis=1)]


def random_planes(random: Random, count: int, size: int = 5) -> Planes:
    """Three planes through zero with 0 in the hull of their slopes, so that 0 is a minimiser, and two lower ones."""
    slopes = random.normal(size=(count, 5, size))
    slopes[:, 2] = -np.einsum("ki,kin->kn", random.uniform(0.1, 2, size=(count, 2)), slopes[:, :2])
    slopes /= np.linalg.norm(slopes, axis=2).max(axis=1)[:, None, None]
    offsets = np.concatenate([np.zeros((count, 3)), -random.exponential(0.3, size=(count, 2))], axis=1)
    return Planes(slopes, offsets, np.zeros((count, size)))


def resisting(count: int, size: int) -> Planes:
    """The classical hard function with R = 1: the largest coordinate, but at least -1/sqrt(size)."""
    slopes = np.concatenate([np.eye(size), np.zeros((1, size))])
    offsets = np.append(np.zeros(size), -1 / np.sqrt(size))
    many = (count, 1, 1)
    return Planes(np.tile(slopes, many), np.tile(offsets, many[:2]), np.full((count, size), -1 / np.sqrt(size)))


def enemy(random: Random, low: float, high: Array, harm: Callable[[Array], Array]) -> Callable[..., Array]:
    """A way to choose b in [low, high] for each run: constant, uniform, on-off, alternating, or what harms most now."""
    kind = np.arange(len(high)) % 5

    def choose(runs: Runs, g: Array) -> Array:
        d = runs.memory if runs.count else g
        lr = (runs.lr + 0 * high)[:, None]
        long, short = (harm(runs.x - lr * (b * d + (1 - b) * g)) for b in (high[:, None], low))
        options = [
            high,
            low + (high - low) * random.random(len(high)),
            np.where(random.random(len(high)) < 0.5, low, high),
            np.where(runs.count % 2, low, high),
            np.where(long > short, high, low),
        ]
        return np.choose(kind, options)

    return choose


def convex_ratios(inertia: float, own_rule: bool) -> tuple[Array, Array, float]:
    """Gap / sharp bound, gap / plain bound (N,), and the largest error of memory = Σ a g; 500 instances."""
    random, count, steps = np.random.default_rng(int(10 * inertia) + own_rule), 500, 30
    planes = random_planes(random, count)
    x0 = random.normal(size=planes.minimiser.shape) * 10 ** random.uniform(-1, 1, size=(count, 1))
    radius, low = np.linalg.norm(x0, axis=1), inertia / (1 + inertia)
    high = (0.9 + inertia) / (1 + inertia) if own_rule else random.uniform(low, 0.99, size=count)
    high = high + np.zeros(count)
    lr = radius * np.sqrt((1 - high) / ((1 + high) * steps)) * 10 ** random.uniform(-0.7, 0.7, size=count)
    runs = Runs(x0, AdaptiveMemory(0.9) if own_rule else Played(), lr=lr, inertia=inertia)
    trace = play(planes.gradient, runs, steps, None if own_rule else enemy(random, low, high, planes.gap))
    gap = planes.gap(trace.average)
    distance = radius**2 / (2 * lr * steps)
    memory = np.einsum("tk,tkn->kn", trace.final, trace.gradients)
    error = float(np.abs(memory - trace.memory).max())
    return gap / (distance + lr * (0.5 + trace.age)), gap / (distance + lr * (1 + high) / (2 * (1 - high))), error


def attained(steps: int = 25) -> tuple[float, float]:
    """Smallest and largest gap / sharp bound for f = |x|, x_0 = R, lr = R/T, any momentum."""
    random, count = np.random.default_rng(20), 200
    planes = Planes(np.tile([[1.0], [-1.0]], (count, 1, 1)), np.zeros((count, 2)), np.zeros((count, 1)))
    radius = random.uniform(0.1, 10, size=count)
    lr, high = radius / steps, random.uniform(0, 1, size=count)
    choose = enemy(random, 0.0, high, planes.gap)
    trace = play(planes.gradient, Runs(radius[:, None], Played(), lr=lr), steps, choose)
    ratio = planes.gap(trace.average) / (radius**2 / (2 * lr * steps) + lr * (0.5 + trace.age))
    return float(ratio.min()), float(ratio.max())


def hard(steps: int = 16) -> tuple[float, float]:
    """The classical function at the best step size for b = 0: gap · sqrt(T), without momentum and at least with any."""
    random, count = np.random.default_rng(21), 200
    planes = resisting(count, steps)
    choose = enemy(random, 0.0, random.uniform(0, 0.99, size=count), planes.gap)
    runs = [Runs(0 * planes.minimiser, Played(), lr=1 / np.sqrt(steps)) for _ in range(2)]
    plain = planes.gap(play(planes.gradient, runs[0], steps, lambda runs, g: np.zeros(count)).average)
    any_momentum = planes.gap(play(planes.gradient, runs[1], steps, choose).average)
    return float(plain.min() * np.sqrt(steps)), float(any_momentum.min() * np.sqrt(steps))


# %%
# Smooth, not convex
# ------------------
# **Theorem 2.** Let :math:`\nabla f` be Lipschitz with constant :math:`L`, :math:`f\ge f^\star`,
# :math:`\Delta=f(x_0)-f^\star`, and :math:`\rho = \frac{b}{1-b}L\eta`. If :math:`L\eta+\rho^2\le1`, and
# :math:`\eta\le(1-b)/L` is enough for that, then
#
# .. math:: \min_{t<T}\|\nabla f(x_t)\|^2 \;\le\; \frac1T\sum_{t<T}\|\nabla f(x_t)\|^2 \;\le\; \frac{2\Delta}{\eta T} .
#
# If :math:`\rho<1` and :math:`\theta = 1-\frac{\rho}{1-\rho}-\frac{L\eta}{2(1-\rho)^2} > 0`, the same holds
# with :math:`\Delta/(\theta\eta T)` on the right, which is the better one for small :math:`\eta`.
#
# So :math:`\eta=(1-b)/L` gives :math:`\min\|\nabla f\|^2\le 2L\Delta/((1-b)T)`: the *norm* of the gradient
# falls like :math:`1/\sqrt T`. With a step size :math:`\eta = c/\sqrt T`, as noise would need, its square
# falls like :math:`2\Delta/(c\sqrt T)`.
#
# *Proof.* Write :math:`g_t=\nabla f(x_t)`, :math:`e_t = d_{t+1}-g_t`. Subtracting :math:`g_t` from the
# recursion, :math:`e_t = b_t\big(e_{t-1} + g_{t-1}-g_t\big)` for :math:`t\ge1`, and :math:`e_0=0`; and
# :math:`\|g_{t-1}-g_t\|\le L\eta\|d_t\|`. With norms over the run, :math:`|v|=(\sum_{t<T}\|v_t\|^2)^{1/2}`,
# and the shift of a sequence by one, which does not increase such a norm, the triangle inequality gives
# :math:`|e| \le b\,|e| + b\,L\eta\,|d|`, where :math:`|d|^2 = \sum_{t<T}\|d_{t+1}\|^2`. Hence
#
# .. math:: |e| \le \rho\,|d| .                                      \qquad\qquad (1)
#
# Smoothness says (lemma 1.2.3) :math:`f(x_{t+1})\le f(x_t)-\eta\langle
# g_t,d_{t+1}\rangle+\frac{L\eta^2}{2}\|d_{t+1}\|^2`. Summed,
#
# .. math:: \eta\sum_{t<T}\langle g_t,d_{t+1}\rangle \le \Delta + \frac{L\eta^2}{2}|d|^2 .  \qquad\qquad (2)
#
# First bound: :math:`\langle g,d\rangle = \frac12(\|g\|^2+\|d\|^2-\|e\|^2)` and (1) turn (2) into
# :math:`\frac\eta2|g|^2 \le \Delta - \frac\eta2\big(1-L\eta-\rho^2\big)|d|^2\le\Delta`. For
# :math:`L\eta\le1-b`: :math:`L\eta+\rho^2\le 1-b+b^2\le1`. Second bound:
# :math:`\sum\langle g_t,d_{t+1}\rangle = |g|^2+\sum\langle g_t,e_t\rangle \ge |g|^2-|g||e|`, and
# :math:`|d|\le|g|+|e|\le|g|+\rho|d|`, so :math:`|d|\le|g|/(1-\rho)` and :math:`|e|\le\rho|g|/(1-\rho)`. In
# (2) this is :math:`\eta|g|^2\big(1-\frac{\rho}{1-\rho}-\frac{L\eta}{2(1-\rho)^2}\big)\le\Delta`. ∎
#
# The second is attained in the limit of small :math:`\eta` and large :math:`\eta T` by Huber's function with slope
# 1 and :math:`L=1`, whose minimum 0 lies at 0, from :math:`x_0=1+\eta(T-1)`: all gradients of the run are 1, with
# any momentum, :math:`\Delta=\frac12+\eta(T-1)`, and bound over mean is :math:`\frac1\theta\big(1+(\frac12-\eta)/(\eta
# T)\big)`, where :math:`\theta\to1`.


@dataclass
class Waves:
    """N smooth functions Σ_j h_j y_j²/2 + a_j cos(ω_j y_j), y = rotation · x, each scaled to L = 1."""

    h: Array
    a: Array
    omega: Array
    rotation: Array

    def value(self, x: Array) -> Array:
        y = np.einsum("kij,kj->ki", self.rotation, x)
        return (self.h * y**2 / 2 + self.a * np.cos(self.omega * y)).sum(axis=1)

    def gradient(self, x: Array) -> Array:
        y = np.einsum("kij,kj->ki", self.rotation, x)
        return np.einsum("kij,ki->kj", self.rotation, self.h * y - self.a * self.omega * np.sin(self.omega * y))

    @property
    def lowest(self) -> Array:
        """A lower bound of each function."""
        return -self.a.sum(axis=1)


def random_waves(random: Random, count: int, size: int = 4) -> Waves:
    """Curvatures h >= 0 of one scale, waves of another; |f''| <= max_j h_j + a_j ω_j² = 1 in every direction."""
    h = 10 ** random.uniform(-2, 0, size=(count, size))
    omega = 10 ** random.uniform(-1, 1, size=(count, size))
    a = 10 ** random.uniform(-2, 1, size=(count, size)) / omega**2
    scale = (h + a * omega**2).max(axis=1, keepdims=True)
    rotation = np.linalg.qr(random.normal(size=(count, size, size)))[0]
    return Waves(h / scale, a / scale, omega, rotation)


def smooth_bounds(fall: Array, lr: Array, b: Array, steps: int) -> tuple[Array, Array]:
    """Both bounds of theorem 2 with L = 1, (N,); infinite where their conditions do not hold."""
    rho = b / (1 - b) * lr
    first = np.where(lr + rho**2 <= 1, 2 * fall / (lr * steps), np.inf)
    left = 1 - np.minimum(rho, 0.999)
    theta = 1 - (1 - left) / left - lr / (2 * left**2)
    return first, np.where((rho < 1) & (theta > 0), fall / (np.maximum(theta, 1e-300) * lr * steps), np.inf)


def smooth_ratios(inertia: float, own_rule: bool) -> tuple[Array, Array, float]:
    """Mean ||∇f||² / first and / second bound (0 where that says nothing), (N,), and the worst |e| / (ρ|d|)."""
    random, count, steps = np.random.default_rng(30 + int(10 * inertia) + own_rule), 1000, 40
    waves = random_waves(random, count)
    x0 = random.normal(size=(count, 4)) * 10 ** random.uniform(-0.5, 1.5, size=(count, 1))
    low = inertia / (1 + inertia)
    high = (0.9 + inertia) / (1 + inertia) if own_rule else random.uniform(low, 0.98, size=count)
    high = high + np.zeros(count)
    lr = (1 - high) * np.where(np.arange(count) % 3, random.uniform(0.02, 0.6, size=count), 1)
    runs = Runs(x0, AdaptiveMemory(0.9) if own_rule else Played(), lr=lr, inertia=inertia)
    trace = play(waves.gradient, runs, steps, None if own_rule else enemy(random, low, high, waves.value))
    squared = (trace.gradients**2).sum(axis=2).mean(axis=0)
    first, second = smooth_bounds(waves.value(x0) - waves.lowest, lr, high, steps)
    moves = -np.diff(np.concatenate([trace.points, runs.x[None]]), axis=0) / lr[:, None]
    lag, length = (np.sqrt((v**2).sum(axis=(0, 2))) for v in (moves - trace.gradients, moves))
    return squared / first, squared / second, float((lag / (high / (1 - high) * lr * length)).max())


def huber(lr: float, b: float, steps: int) -> float:
    """Mean f'² / second bound on Huber's function (slope 1, L = 1) that is left after T steps."""
    start = 1 + lr * (steps - 1)
    runs = Runs(np.array([[start]]), Played(b), lr=lr)
    trace = play(lambda x: np.clip(x, -1, 1), runs, steps)
    second = smooth_bounds(np.array([start - 0.5]), np.array([lr]), np.array([b]), steps)[1]
    return float((trace.gradients**2).mean() / second[0])


def picture() -> Any:
    """How close random and hostile instances come to the two bounds."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, ratios, title in ((left, convex_ratios, "theorem 1"), (right, smooth_ratios, "theorem 2")):
        for index, label in enumerate(
            ("sharp bound", "plain bound") if axes is left else ("first bound", "second bound")
        ):
            axes.hist(ratios(0.0, False)[index], bins=40, range=(0, 1), alpha=0.6, label=label)
        axes.set(xlabel="measured / bound", title=title)
        axes.legend()
    return figure


def claims() -> list[Claim]:
    """Two inertias, b_t from an enemy and from adaptive memory. Where a bound says nothing it is not counted."""
    settings = [(inertia, own) for own in (False, True) for inertia in (0.0, 0.1)]
    convex, smooth = [convex_ratios(*s) for s in settings], [smooth_ratios(*s) for s in settings]
    found = []
    for name, own in (("any b_t", slice(0, 2)), ("adaptive memory", slice(2, 4))):
        for text, ratios, index in (
            ("convex: gap / sharp bound", convex, 0),
            ("convex: gap / plain bound", convex, 1),
            ("smooth: mean ‖∇f‖² / (2Δ/(ηT))", smooth, 0),
            ("smooth: mean ‖∇f‖² / (Δ/(θηT))", smooth, 1),
        ):
            ratio = np.concatenate([r[index] for r in ratios[own]])
            text = f"{text}, {name}, worst of {np.count_nonzero(ratio):,}"
            found.append(Claim(text, float(ratio.max()), 1, "upper bound", 1e-9))
    low, high = attained()
    plain, momentum = hard()
    return [
        *found,
        Claim("memory = Σ a_s g_s with the weights of the text", max(r[2] for r in convex), 0, "identity", 1e-11),
        Claim("|e| / (ρ|d|), inequality (1), worst of 4,000", max(r[2] for r in smooth), 1, "upper bound"),
        Claim("f = G|x|, η = R/(GT), any b_t: gap / sharp bound, least of 200", low, 1, "tight", 1e-9),
        Claim("and its largest", high, 1, "tight", 1e-9),
        Claim("hard function, b = 0, best η: gap / (RG/√T)", plain, 1, "tight", 1e-9),
        Claim("hard function: (RG/√T) / gap for any b_t, worst of 200", 1 / momentum, 1, "upper bound", 1e-9),
        Claim("Huber's function, small η: mean f'² / second bound", huber(5e-3, 0.5, 8000), 1, "tight", 0.02),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
