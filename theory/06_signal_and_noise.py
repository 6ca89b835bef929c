r"""
Signal and noise: what adaptive memory does when gradients are noisy
====================================================================

With the linearised height, the identity metric, a constant step size and no weight decay, adaptive memory
averages with the effective momentum

.. math:: b_t = \frac{\beta_t+\lambda}{1+\lambda} =
          \mathrm{clip}\Big( \frac{\|g_t\|^2}{\|g_t-d_t\|^2},\; \frac{\lambda}{1+\lambda},\;
          \frac{\beta_{\max}+\lambda}{1+\lambda} \Big), \qquad
          d_{t+1} = b_t d_t + (1-b_t) g_t, \qquad x_{t+1} = x_t - \eta d_{t+1}

(`03_effective_momentum.py`). This page asks what the ratio is when :math:`g_t = \bar g_t + \xi_t` is a gradient
plus noise. The answer: noise lengthens memory until the cap stops it, at every step size; what lets go of the
cap is overshoot, and chance where the noise has few dimensions. Formulas are proven for a momentum that is fixed
(at the cap, say); for adaptive memory itself, whose weight depends on the noise, they are a forecast, and how
far off it is is measured.
"""

# %%
# The noise in memory
# -------------------
# Assume for this section and the next that :math:`b` is fixed, :math:`\bar g` is constant, and the noise has
# mean zero, :math:`\mathbb E\|\xi_t\|^2 = \sigma^2`, and is uncorrelated between steps. Its distribution does
# not matter. Then :math:`d_t = \bar g + \nu_t` (up to :math:`b^t`) with
# :math:`\nu_{t+1} = b\nu_t + (1-b)\xi_t`, and :math:`\nu_t` is a combination of earlier noise, uncorrelated
# with :math:`\xi_t`. Taking squares, :math:`v = b^2 v + (1-b)^2\sigma^2` in the stationary state, so
#
# .. math:: \mathbb E\|\nu\|^2 = \frac{(1-b)^2}{1-b^2}\,\sigma^2 = \frac{1-b}{1+b}\,\sigma^2 .
#
# The ratio
# ---------
# Because :math:`\xi_t` and :math:`\nu_t` are uncorrelated,
# :math:`\mathbb E\|g-d\|^2 = \sigma^2 + \frac{1-b}{1+b}\sigma^2 = \frac{2}{1+b}\sigma^2`, and
#
# .. math:: r = \frac{\mathbb E\|g\|^2}{\mathbb E\|g-d\|^2}
#             = \frac{1+b}{2}\Big(1 + \frac{\|\bar g\|^2}{\sigma^2}\Big) \;\ge\; \frac{1+b}{2} \;>\; b .
#
# A memory that averages with :math:`b` is told to average with more than :math:`b`, and a steady signal only
# adds to that. The map :math:`b\mapsto(1+b)/2` has no fixed point but 1.

from __future__ import annotations

from typing import Any

import numpy as np
import sympy
from claims import Claim, report
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from proxmom import AdaptiveMemory, HeavyBall
from proxmom.numpy import Optimizer, Runs

Array = NDArray[np.float64]
LAMBDA, BETA_MAX = 0.1, 0.9
CAP = (BETA_MAX + LAMBDA) / (1 + LAMBDA)


def heavy_ball_moments(b: float, signal: float) -> tuple[float, float]:
    """Measured E||ν||² (1+b)/((1-b)σ²) and E||g||²/E||g-d||², with skewed noise of σ = 1 in four dimensions."""
    random = np.random.default_rng(0)
    mean = np.full(4, signal / 2)
    runs = Runs(np.zeros((2000, 4)), HeavyBall(b), lr=1.0)
    noise = top = bottom = 0.0
    for t in range(120):
        g = mean + (random.exponential(size=(2000, 4)) - 1) / 2
        if t >= 60:
            noise += ((runs.memory - mean) ** 2).sum(axis=1).mean() / 60
            top, bottom = top + (g**2).sum(), bottom + ((g - runs.memory) ** 2).sum()
        runs.step(g)
    return noise * (1 + b) / (1 - b), top / bottom


# %%
# Without a cap: the mean of all gradients
# ----------------------------------------
# Let the gradients be orthogonal to each other and of one length :math:`s`, as noise nearly is in many
# dimensions, and let there be no cap. If :math:`d_t` is the mean of :math:`t` of them, then
# :math:`\|d_t\|^2 = s^2/t` and :math:`\langle g_t,d_t\rangle = 0`, so
#
# .. math:: b_t = \frac{s^2}{s^2+s^2/t} = \frac{t}{t+1}, \qquad
#           d_{t+1} = \frac{t\,d_t+g_t}{t+1} :
#
# the mean of :math:`t+1` of them. By induction (:math:`d_0=g_0`) memory is exactly the running mean of all
# gradients ever seen: the best linear estimate of a constant gradient, and useless for one that moves. So
# where noise dominates, :math:`\beta_{\max}` *is* the momentum.


def running_mean(gradients: Array) -> tuple[float, float]:
    """Adaptive memory without a cap: how far d is from the mean of the gradients, and b from t/(t+1), at worst."""
    optimizer = Optimizer(np.zeros(gradients.shape[1]), AdaptiveMemory(1.0), lr=1.0)
    apart = off = 0.0
    for t, g in enumerate(gradients):
        optimizer.step(g)
        mean = gradients[: t + 1].mean(axis=0)
        apart = max(apart, float(np.linalg.norm(optimizer.memory - mean) / np.linalg.norm(mean)))
        if t:
            off = max(off, abs(optimizer.diagnostics()["beta"] - t / (t + 1)))
    return apart, off


def below_cap_in(dimensions: int, steps: int = 150) -> float:
    """Largest distance of b from the cap under pure noise, after the first fifteen steps."""
    random = np.random.default_rng(2)
    optimizer = Optimizer(np.zeros(dimensions), AdaptiveMemory(BETA_MAX), lr=1.0, inertia=LAMBDA)
    betas = []
    for _ in range(steps):
        optimizer.step(random.normal(size=dimensions))
        betas.append((optimizer.diagnostics()["beta"] + LAMBDA) / (1 + LAMBDA))
    return float(max(abs(b - CAP) for b in betas[15:]))


# %%
# With a step size: noise moves the iterate, and still lengthens memory
# ---------------------------------------------------------------------
# A constant :math:`\bar g` neglects that the noise moves :math:`x`. Near a minimiser let
# :math:`f = \tfrac12\langle x,Hx\rangle`. First a fact about *any* rule with
# :math:`x_{t+1} = x_t-\eta d_{t+1}`. Because :math:`f` is quadratic and :math:`x_t = x_{t+1}+\eta d_{t+1}`,
#
# .. math:: f(x_t) = f(x_{t+1}) + \eta\langle\nabla f(x_{t+1}), d_{t+1}\rangle
#                    + \tfrac{\eta^2}{2}\langle d_{t+1}, H d_{t+1}\rangle .
#
# Summed over a run, whatever chose the directions,
#
# .. math:: \frac1T\sum_{t=1}^{T}\langle\nabla f(x_t),d_t\rangle
#           = -\frac\eta2\,\frac1T\sum_{t=1}^{T}\langle d_t,Hd_t\rangle + \frac{f(x_0)-f(x_T)}{\eta T} .
#
# In a stationary state the last term vanishes: gradient and memory are opposed on average, by
# :math:`\tfrac\eta2\langle d,Hd\rangle`. That is overshoot, and it shortens memory. Does it win against the
# noise?
#
# With fixed :math:`b` and one eigenvalue :math:`h` write :math:`a=\eta h`, :math:`q=\mathbb Ex_t^2`,
# :math:`p=\mathbb Ex_td_t`, :math:`u=\mathbb Ed_t^2`. The step :math:`d' = bd+(1-b)(hx+\xi)`,
# :math:`x'=x-\eta d'` leaves them unchanged (for :math:`0<a<2(1+b)/(1-b)`, where heavy ball is stable):
#
# .. math::
#
#     u &= b^2u + (1-b)^2(h^2q+\sigma^2) + 2b(1-b)hp, \\
#     p &= \mathbb E x d' - \eta u, \qquad \mathbb Exd' = bp+(1-b)hq, \\
#     q &= q - 2\eta\,\mathbb Exd' + \eta^2u .
#
# `stationary` lets sympy solve these, with :math:`\mathbb E\|g\|^2 = h^2q+\sigma^2` and
# :math:`\mathbb E\|g-d\|^2 = h^2q+\sigma^2-2hp+u`:
#
# .. math:: u = \frac{2(1-b)\,\sigma^2}{2(1+b)-(1-b)a}, \qquad
#           r = \frac{1+b+ab}{2+a}, \qquad r-b = \frac{1-b}{2+a} > 0 .
#
# So overshoot lowers the ratio from :math:`(1+b)/2` at :math:`a=0` towards :math:`b`, and never below. With
# several eigenvalues numerators and denominators add up, :math:`r` is a mean of such fractions with positive
# weights, and still exceeds :math:`b`. **At every stable step size a memory that noise has brought to its cap
# is told, in the ratio of the means, to stay there.**


def stationary() -> tuple[sympy.Expr, sympy.Expr]:
    """What must vanish: u and r solved from the moment equations, minus the formulas above."""
    b, h, eta, sigma, q, p, u = sympy.symbols("b h eta sigma q p u", positive=True)
    forward = b * p + (1 - b) * h * q
    second = h**2 * q + sigma**2
    equations = [
        b**2 * u + (1 - b) ** 2 * second + 2 * b * (1 - b) * h * p - u,
        forward - eta * u - p,
        -2 * eta * forward + eta**2 * u,
    ]
    solution = sympy.solve(equations, [u, p, q], dict=True)[0]
    a = eta * h
    ratio = (second / (second - 2 * h * p + u)).subs(solution)
    energy = 2 * (1 - b) * sigma**2 / (2 * (1 + b) - (1 - b) * a)
    return sympy.simplify(solution[u] - energy), sympy.simplify(ratio - (1 + b + a * b) / (2 + a))


def predicted_ratio(b: float, a: Array, noise: Array) -> float:
    """r for eigenvalues a = ηh with noise variances `noise`, both (n,): numerators and denominators added up."""
    share = noise / (2 * (1 + b) - (1 - b) * a)
    return float((share * (1 + b + a * b)).sum() / (share * (2 + a)).sum())


def measured_ratio(b: float, a: Array) -> float:
    """E||g||²/E||g-d||² of heavy ball on the quadratic with Hessian diag(a) and lr 1, by simulation."""
    random = np.random.default_rng(3)
    runs = Runs(np.zeros((1000, len(a))), HeavyBall(b), lr=1.0)
    top = bottom = 0.0
    for t in range(500):
        g = a * runs.x + random.normal(size=runs.x.shape)
        if t >= 250:
            top, bottom = top + (g**2).sum(), bottom + ((g - runs.memory) ** 2).sum()
        runs.step(g)
    return top / bottom


def opposition() -> float:
    """Both sides of the identity for <∇f, d>, apart, on a noisy run of adaptive memory."""
    random = np.random.default_rng(4)
    h, lr, steps = np.array([0.1, 1.0, 3.0]), 0.4, 300
    x = random.normal(size=3)
    optimizer = Optimizer(x, AdaptiveMemory(BETA_MAX), lr=lr, inertia=LAMBDA)
    left, right = 0.0, h @ x**2 / (2 * lr)
    for _ in range(steps):
        x = optimizer.step(h * optimizer.x + random.normal(size=3))
        left += (h * x) @ optimizer.memory
        right -= lr / 2 * h @ optimizer.memory**2
    return float(left - right + h @ x**2 / (2 * lr)) / steps


# %%
# Few dimensions: how often chance lets go of the cap
# ---------------------------------------------------
# :math:`r` is a ratio of means; the rule looks at one draw. Let the noise be Gaussian in :math:`n`
# dimensions, :math:`g\sim N(0,I)`, and let memory be in the stationary state of the cap :math:`b`:
# :math:`d\sim N(0,uI)`, :math:`u=(1-b)/(1+b)`, independent of :math:`g`. The step falls below the cap where
# :math:`\|g\|^2 < b\|g-d\|^2`. With :math:`d=\sqrt u\,e` the difference of the two sides is a sum over
# coordinates of
#
# .. math:: (g_i, e_i)\,A\,(g_i, e_i)^T, \qquad
#           A = \begin{pmatrix} 1-b & b\sqrt u \\ b\sqrt u & -bu \end{pmatrix}, \qquad \det A = -bu < 0 .
#
# In the eigenvectors of :math:`A`, with eigenvalues :math:`\alpha_1>0>\alpha_2`, it is
# :math:`\alpha_1X+\alpha_2Y` with :math:`X, Y` independent and :math:`\chi^2_n`. Hence, exactly,
#
# .. math:: \Pr[\text{below the cap}] = F_{n,n}\big(|\alpha_2|/\alpha_1\big),
#
# the distribution function of Fisher's F: about 0.46 for one dimension, 0.32 for 16 and 0.09 for 128 at
# :math:`b=0.9`. Adaptive memory's own :math:`d` is noisier than that, because it did fall below the cap before.
# How much more often it therefore does so again is measured: by less than 0.04 at 1, 16 and 64 dimensions. For
# noise with covariance :math:`\Sigma`, and :math:`\eta h` small enough that memory has the same one up to a
# factor, the sums are weighted; matching mean and variance of a weighted :math:`\chi^2` (an approximation)
# replaces :math:`n` by the effective dimension :math:`(\mathrm{tr}\,\Sigma)^2/\mathrm{tr}\,\Sigma^2`.


def below_formula(b: float, dimension: float) -> float:
    """Probability that a step of pure Gaussian noise falls below the cap b."""
    u = (1 - b) / (1 + b)
    low, high = np.linalg.eigvalsh([[1 - b, b * np.sqrt(u)], [b * np.sqrt(u), -b * u]])
    return float(f_distribution.cdf(-low / high, dimension, dimension))


def below_share(rule: Any, b: float, dimension: int) -> float:
    """The same by simulation: the share of steps with ||g||² < b||g-d||², memory being the rule's own."""
    random = np.random.default_rng(5)
    runs = Runs(np.zeros((64000 // dimension // 8, dimension)), rule, lr=1.0)
    below = []
    for t in range(140):
        g = random.normal(size=runs.x.shape)
        if t >= 60:
            below.append(np.mean((g**2).sum(axis=1) < b * ((g - runs.memory) ** 2).sum(axis=1)))
        runs.step(g)
    return float(np.mean(below))


# %%
# A small training run
# --------------------
# Logistic regression, 400 examples, 20 weights, batches of 64 drawn with replacement, from the zero vector. At
# the minimiser the batch gradient has the covariance :math:`\Sigma/64`, :math:`\Sigma` that of single examples,
# and the Hessian :math:`H` of the full loss. The formulas above know nothing else: :math:`\eta`, the diagonal
# of :math:`\Sigma` in the eigenvectors of :math:`H`, and the effective dimension of :math:`\Sigma`. Compared
# are, over the last part of the run, the ratio (as :math:`1-r`, the part that carries information), and the
# share of steps below the cap, once with the momentum fixed at the cap and once with adaptive memory. What the
# trace of :math:`b_t` in this run says: it sits at the cap in 64% of the steps and falls from it by chance, as
# often (within two points) with batches of 16 as with batches of 64; nothing in it tells how far the run is
# from the minimiser, or how large the noise is.


class Logistic:
    """l2-regularised logistic regression on made-up data: gradient, Hessian, covariance of the single gradients."""

    def __init__(self, examples: int = 400, weights: int = 20, l2: float = 1e-2) -> None:
        random = np.random.default_rng(6)
        self.data = random.normal(size=(examples, weights)) * np.linspace(1, 0.3, weights)
        chance = 1 / (1 + np.exp(-self.data @ random.normal(size=weights)))
        self.data *= np.where(random.random(examples) < chance, 1.0, -1.0)[:, None]
        self.l2 = l2

    def gradient(self, x: Array, rows: Any = slice(None)) -> Array:
        chosen = self.data[rows]
        return self.l2 * x - chosen.T @ (1 / (1 + np.exp(chosen @ x))) / len(chosen)

    def hessian(self, x: Array) -> Array:
        p = 1 / (1 + np.exp(self.data @ x))
        return (self.data * (p * (1 - p))[:, None]).T @ self.data / len(p) + self.l2 * np.eye(len(x))

    def minimiser(self) -> Array:
        x = np.zeros(self.data.shape[1])
        for _ in range(20):  # Newton
            x = x - np.linalg.solve(self.hessian(x), self.gradient(x))
        return x

    def covariance(self, x: Array) -> Array:
        each = self.l2 * x - self.data / (1 + np.exp(self.data @ x))[:, None]
        return each.T @ each / len(each)


def training(rule: Any, inertia: float, batch: int, steps: int = 3000, lr: float = 0.5) -> tuple[Array, Array, Array]:
    """||g||², ||g-d||² and the effective momentum b at every step of one run."""
    problem, random = Logistic(), np.random.default_rng(7)
    optimizer = Optimizer(np.zeros(20), rule, lr=lr, inertia=inertia)
    top, bottom, used = np.empty(steps), np.empty(steps), np.empty(steps)
    for t in range(steps):
        g = problem.gradient(optimizer.x, random.integers(400, size=batch))
        d = optimizer.memory if t else g
        top[t], bottom[t] = g @ g, (g - d) @ (g - d)
        optimizer.step(g)
        used[t] = (optimizer.diagnostics()["beta"] + inertia) / (1 + inertia)
    return top, bottom, used


def training_prediction(lr: float = 0.5) -> tuple[float, float]:
    """1 - r, and the share of steps below the cap, from H and Σ at the minimiser alone."""
    problem = Logistic()
    x = problem.minimiser()
    sigma = problem.covariance(x)
    h, basis = np.linalg.eigh(problem.hessian(x))
    dimension = np.trace(sigma) ** 2 / (sigma**2).sum()
    return 1 - predicted_ratio(CAP, lr * h, np.diag(basis.T @ sigma @ basis)), below_formula(CAP, dimension)


def late(trace: tuple[Array, Array, Array], skip: int = 500) -> tuple[float, float]:
    """1 - r and the share of steps below the cap, after `skip` steps."""
    top, bottom = trace[0][skip:], trace[1][skip:]
    return float(1 - top.sum() / bottom.sum()), float(np.mean(top < CAP * bottom))


# %%
# What follows for the cap and for large batches
# ----------------------------------------------
# Predictions, of which the first and the third are checked on the training run:
#
# * The size of the noise appears in none of the formulas for the stationary state. There the trace of
#   :math:`b_t` is the same for every batch size; it says nothing about the level of the noise.
# * Where noise dominates :math:`\beta_{\max}` is the momentum, to be chosen as a fixed one would be: raising
#   it lengthens memory.
# * A larger batch makes the stationary state begin later, when :math:`\|\nabla f\|^2` has come down to
#   :math:`\sigma^2/B`. Until then the ratio follows the geometry, as with exact gradients, and that is where
#   :math:`\beta_t` can earn something. So any gain over a fixed momentum should grow with the batch. (`opening`
#   measures the first two statements; the last is left to experiments.)
# * One weight per parameter tensor leaves the cap more often than one for the whole model, and small tensors
#   (biases, norms) by chance far more often than large ones. What that chance costs is the subject of
#   `07b_bias.py`.


def opening(batch: int, runs: int = 10, steps: int = 120) -> tuple[float, float]:
    """Steps until ||∇f||² <= tr Σ / batch, and the mean distance of b_1 to b_19 from those of exact gradients."""
    problem = Logistic()
    level = np.trace(problem.covariance(problem.minimiser())) / batch

    def trace(random: Any) -> tuple[Array, int]:
        optimizer = Optimizer(np.zeros(20), AdaptiveMemory(BETA_MAX), lr=0.5, inertia=LAMBDA)
        used, above = [], 0
        for t in range(steps):
            above += above == t and float((problem.gradient(optimizer.x) ** 2).sum()) > level
            optimizer.step(problem.gradient(optimizer.x, random.integers(400, size=batch) if random else slice(None)))
            used.append((optimizer.diagnostics()["beta"] + LAMBDA) / (1 + LAMBDA))
        return np.array(used[1:20]), above

    exact, _ = trace(None)
    found = [trace(np.random.default_rng(seed)) for seed in range(runs)]
    return float(np.mean([t for _, t in found])), float(np.mean([np.abs(used - exact).mean() for used, _ in found]))


def picture() -> Any:
    """How often chance lets go of the cap, by dimension; and memory without a cap under noise."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    dimensions = np.geomspace(1, 1000, 60)
    for cap in (0.5, 0.9, CAP, 0.99):
        left.semilogx(dimensions, [below_formula(cap, n) for n in dimensions], label=f"b = {cap:.3g}")
    left.set(xlabel="dimension of the noise", title="probability to fall below the cap")
    left.legend()
    random, t = np.random.default_rng(1), np.arange(60)
    for n in (3, 30, 3000):
        optimizer = Optimizer(np.zeros(n), AdaptiveMemory(1.0), lr=1.0)
        betas = []
        for _ in t:
            optimizer.step(random.normal(size=n))
            betas.append(optimizer.diagnostics()["beta"])
        right.plot(t[1:], betas[1:], label=f"n = {n}")
    right.plot(t[1:], t[1:] / (t[1:] + 1), "k--", label="t/(t+1)")
    right.set(xlabel="step", title="pure noise, no cap")
    right.legend()
    return figure


def simulated() -> list[Claim]:
    """Fixed momentum against the formulas for the mean."""
    found = []
    for b in (0.5, 0.9):
        share, ratio = heavy_ball_moments(b, signal=0.0)
        found += [
            Claim(f"noise in memory / ((1-b)/(1+b) σ²), b = {b}, skewed noise", share, 1, "identity", 0.02),
            Claim(f"pure noise: ‖g‖²/‖g-d‖² = (1+b)/2, b = {b}", ratio, (1 + b) / 2, "identity", 0.005),
        ]
    signal = heavy_ball_moments(0.9, signal=0.5)[1]
    found.append(Claim("with a signal: (1+b)/2 · (1 + ‖ḡ‖²/σ²), b = 0.9", signal, 0.95 * 1.25, "identity", 0.01))
    for b, a in ((0.9, [0.1]), (0.5, [3.0]), (0.9, [0.03, 1.0, 10.0])):
        hessian = np.array(a)
        forecast = predicted_ratio(b, hessian, np.ones(len(a)))
        text = f"noise on a quadratic: (1-r)/(1-b), b = {b}, ηh = {a}"
        loss = (1 - measured_ratio(b, hessian)) / (1 - b)
        found.append(Claim(text, loss, (1 - forecast) / (1 - b), "identity", 0.02))
    return found


def chances() -> list[Claim]:
    """The share of steps below the cap."""
    found = []
    for n in (1, 16, 64):
        formula, text = below_formula(0.9, n), f"share of steps below the cap 0.9, pure noise, n = {n}"
        fixed, own = below_share(HeavyBall(0.9), 0.9, n), below_share(AdaptiveMemory(0.9), 0.9, n)
        found.append(Claim(text + ", memory at the cap", fixed, formula, "identity", 0.01))
        found.append(
            Claim(f"... n = {n}: adaptive memory falls below more often, by", own - formula, 0.04, "upper bound")
        )
    return found


def trained() -> list[Claim]:
    """The training run."""
    loss, share = training_prediction()
    trace = training(AdaptiveMemory(BETA_MAX), LAMBDA, 64)
    fixed, own = late(training(HeavyBall(CAP), 0.0, 64)), late(trace)
    top, bottom, used = (values[1:] for values in trace)
    off = np.abs(used - np.clip(top / bottom, LAMBDA / (1 + LAMBDA), CAP)).max()
    small = late(training(AdaptiveMemory(BETA_MAX), LAMBDA, 16))
    begins, apart = ({batch: opening(batch)[i] for batch in (16, 1024)} for i in range(2))
    upper = "upper bound"
    return [
        Claim("logistic, batch 64, adaptive memory: b_t apart from the clipped ratio", float(off), 0, "identity"),
        Claim("logistic, batch 64, momentum at the cap: (1-r) / forecast", fixed[0] / loss, 1, "identity", 0.05),
        Claim("the same run: |share of ratios below the cap - forecast from Σ|", abs(fixed[1] - share), 0.04, upper),
        Claim("adaptive memory: |(1-r) / forecast - 1|", abs(own[0] / loss - 1), 0.15, upper),
        Claim("adaptive memory: |share of steps below the cap - forecast from Σ|", abs(own[1] - share), 0.06, upper),
        Claim("adaptive memory: |share below the cap, batch 16 - batch 64|", abs(small[1] - own[1]), 0.05, upper),
        Claim("adaptive memory: 1 - r stays below 1 - cap", own[0], 1 - CAP, upper),
        Claim("steps until ‖∇f‖² <= tr Σ/B: batch 16 / batch 1024", begins[16] / begins[1024], 0.2, upper),
        Claim("first 20 steps, |b - b of exact gradients|: batch 1024 / batch 16", apart[1024] / apart[16], 0.7, upper),
    ]


def claims() -> list[Claim]:
    """Simulations are seeded; tolerances of identities are a few standard errors. Bounds on forecasts are measured."""
    apart, off = running_mean(2 * np.eye(40))
    random = np.random.default_rng(1)
    nearly, _ = running_mean(random.normal(size=(40, 20000)))
    energy, ratio = stationary()
    return [
        *simulated(),
        Claim("moment equations: u and r (sympy)", float((energy != 0) + (ratio != 0)), 0, "identity"),
        Claim("orthogonal gradients, no cap: memory = mean of all gradients", apart, 0, "identity", 1e-12),
        Claim("and b_t = t/(t+1)", off, 0, "identity", 1e-12),
        Claim("noise in 20,000 dimensions, no cap: ‖memory - mean‖/‖mean‖", nearly, 0.1, "upper bound"),
        Claim("pure noise in 3,000 dimensions: distance of b_t from its cap", below_cap_in(3000), 0, "identity"),
        Claim("mean <∇f(x_t), d_t> = -η/2 mean <d, Hd> + boundary term", opposition(), 0, "identity", 1e-12),
        *chances(),
        *trained(),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
