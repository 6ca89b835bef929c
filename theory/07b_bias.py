r"""
Bias: when the weight of memory and the gradient share a batch
==============================================================

With mini-batches adaptive memory decides the weight of memory by looking at the gradient it is about to average.
A gradient that decides its own weight is a biased estimate. This page says by how much, shows with a counterexample
that no step size removes it, gives its size for small skewness and large batches, and proves what can be proven:
no bias under symmetric noise, a neighbourhood that shrinks with the batch for any rule, and the rate
:math:`O(1/\sqrt T)` where the weight is known before the batch, provided that the step size pays for its changes.

The update is :math:`d_{t+1} = b_td_t+(1-b_t)g_t`, :math:`x_{t+1}=x_t-\eta d_{t+1}`, :math:`d_0=g_0`. For adaptive
memory, *as reconstructed here* from the formula for its weight, with the identity metric, a constant step size and
no weight decay, :math:`b_t = \mathrm{clip}(\|g_t\|^2/\|g_t-d_t\|^2,\, b_{\min},\, b)` with
:math:`b_{\min}=\lambda/(1+\lambda)` and :math:`b=(\beta_{\max}+\lambda)/(1+\lambda)<1`
(`03_effective_momentum.py`). For the published method (K. Topollai and A. Choromanska, AISTATS 2026, arXiv 2510.04988)
the rate :math:`O(1/\sqrt T)` is claimed with stochastic gradients; what is said here concerns the reconstruction.
"""

# %%
# Where the mean of the gradients goes
# ------------------------------------
# Let :math:`c_t = b_t/(1-b_t)`, the length of memory in steps. The recursion says
# :math:`g_t = d_{t+1} + c_t(d_{t+1}-d_t)`. Summing over a run, the differences by parts, and with
# :math:`\eta\sum_{t<T}d_{t+1}=x_0-x_T`,
#
# .. math:: \frac1T\sum_{t<T} g_t = -\frac1T\sum_{t=1}^{T-1}(c_t-c_{t-1})\,d_t
#           \;+\; \frac1T\Big(\frac{x_0-x_T}{\eta}+c_{T-1}d_T-c_0d_0\Big) .
#
# This holds for every run of every rule. If the run stays bounded the last bracket, divided by :math:`T`,
# vanishes, and: **the mean gradient of a long run is minus the mean of (change of memory's length) ×
# (direction).** With fixed momentum nothing changes, and the mean gradient is zero. If memory tends to become
# longer while it points one way and shorter while it points the other, it is not. The reason can be read off:
# cutting memory throws away :math:`c\,d`, the part of past gradients not yet paid out.
#
# One step at a minimiser shows where the dependence comes from. There :math:`\mathbb Eg_t=0`, so given the
# past
#
# .. math:: \mathbb E[(1-b_t)\,g_t] = -\mathrm{Cov}(b_t, g_t) .
#
# If :math:`b_t` does not depend on :math:`g_t` this is zero. Adaptive memory gives long gradients the weight
# :math:`1-b` and short ones up to :math:`1-b_{\min}`: rare long gradients count less than frequent short
# ones.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from claims import Claim, report
from many import Played
from numpy.typing import NDArray
from scipy.optimize import brentq

from proxmom import AdaptiveMemory, HeavyBall
from proxmom.numpy import Optimizer, Runs

Array = NDArray[np.float64]
Random = np.random.Generator
LAMBDA, BETA_MAX = 0.1, 0.9
LOW, CAP = LAMBDA / (1 + LAMBDA), (BETA_MAX + LAMBDA) / (1 + LAMBDA)


def identity_error(steps: int = 400) -> float:
    """Both sides of the identity apart, on a noisy run of adaptive memory in three dimensions."""
    random = np.random.default_rng(0)
    h, lr, x0 = np.array([0.1, 1.0, 3.0]), 0.2, np.ones(3)
    optimizer = Optimizer(x0, AdaptiveMemory(BETA_MAX), lr=lr, inertia=LAMBDA)
    gradients, memories, lengths = [], [], []
    for _ in range(steps):
        gradients.append(h * optimizer.x + random.exponential(size=3) - 1)
        optimizer.step(gradients[-1])
        b = (optimizer.diagnostics()["beta"] + LAMBDA) / (1 + LAMBDA)
        memories.append(optimizer.memory)
        lengths.append(b / (1 - b))
    change = np.diff(lengths) @ np.array(memories[:-1])
    bracket = (x0 - optimizer.x) / lr + lengths[-1] * memories[-1] - lengths[0] * gradients[0]
    return float(np.abs(np.sum(gradients, axis=0) + change - bracket).max()) / steps


# %%
# The counterexample
# ------------------
# :math:`f=\frac12x^2`, and a gradient noise of 19 with probability 5%, -1 otherwise: mean zero, and skewed.
# With :math:`\beta_{\max}=0.9`, :math:`\lambda=0.1` the iterates of adaptive memory settle around 0.85 and
# not around 0, for every small step size; heavy ball settles around 0.
#
# **Why no step size helps.** Write the new memory as :math:`F(d,g)`. *Lemma: for every* :math:`g` *the map*
# :math:`d\mapsto F(d,g)` *is a contraction with factor* :math:`b`, *in any dimension.* Where the clip acts,
# :math:`F=\bar b\,d+(1-\bar b)g` with a constant :math:`\bar b\le b`. In between
#
# .. math:: F(d,g) = g - \|g\|^2\,\frac{g-d}{\|g-d\|^2},
#
# an inversion in the sphere of radius :math:`\|g\|` around :math:`g`. The derivative of
# :math:`v\mapsto\|g\|^2v/\|v\|^2` is :math:`\frac{\|g\|^2}{\|v\|^2}(I-2vv^T/\|v\|^2)`: a reflection times the
# effective momentum itself, which is at most :math:`b` there. The clip makes :math:`F` continuous, so along
# any segment its length is at most multiplied by :math:`b`. ∎
#
# Let the noise be independent, :math:`-m\le\xi\le M`, and :math:`f=\frac12x^2` in one dimension.
#
# *Freeze* :math:`x`: memory is fed with :math:`x+\xi_1, x+\xi_2,\dots` By the lemma two memories fed alike approach
# each other like :math:`b^k`. So the distribution after :math:`k` steps depends on the start by :math:`O(b^k)`, and to
# run for one step more, which is to start one step earlier, changes it by :math:`O(b^k)` too: it converges. Call
# the mean of its limit :math:`D(x)`.
#
# *The iterates are bounded.* Let :math:`x_0\in[-M,m]`, :math:`\eta<1-b`, :math:`r=\eta(M+m)/(1-b-\eta)`. Then all
# :math:`x_t` lie in :math:`[-M-r,m+r]`. For suppose it up to :math:`t`, so that no gradient and no memory is below
# :math:`-S`, :math:`S=M+r+m`. While :math:`x>m` every gradient is positive, and each step multiplies the negative part
# of :math:`d` by :math:`b` at most. So :math:`x` rises above :math:`m` by no more than :math:`\eta S(1+b+b^2+\dots) =
# \eta S/(1-b) = r`. Below :math:`-M` the same holds with the signs reversed.
#
# *Unfreeze.* In :math:`k` steps :math:`x` moves by :math:`O(\eta k)`, and :math:`F` is Lipschitz in :math:`g` too (in
# between it is :math:`gd/(d-g)`, with the derivative :math:`d^2/(g-d)^2\le(1+\sqrt b)^2`, as
# :math:`|g|\le\sqrt b\,|g-d|` there), so :math:`\mathbb E[d_{t+1}\mid x_{t-k}] = D(x_{t-k})+O(b^k+\eta k)`. Sum
# :math:`x_{t+1}=x_t-\eta d_{t+1}`, and its square, over the run:
#
# .. math:: \frac1T\sum_{t<T}d_{t+1} = \frac{x_0-x_T}{\eta T}, \qquad
#           \frac1T\sum_{t<T}x_td_{t+1} = \frac\eta{2T}\sum_{t<T}d_{t+1}^2+\frac{x_0^2-x_T^2}{2\eta T} .
#
# With :math:`k\sim\log(1/\eta)` these say, for any number :math:`x^\circ`,
#
# .. math:: \frac1T\sum_{t<T}\mathbb E\big[(x_t-x^\circ)\,D(x_t)\big]
#           = O\Big(\eta\log\frac1\eta+\frac1{\eta T}\Big) .
#
# If :math:`x^\circ` is a zero of :math:`D` and :math:`(x-x^\circ)D(x)\ge\kappa(x-x^\circ)^2` with :math:`\kappa>0` on
# :math:`[-M-r,m+r]`, then the mean of :math:`\mathbb E(x_t-x^\circ)^2` over the run is of that order: with small
# constant step sizes, with :math:`\eta\propto1/\sqrt T`, with any that let :math:`\eta\log\frac1\eta+\frac1{\eta T}` go
# to zero, the iterates and their average go to :math:`x^\circ`, in which :math:`\eta` does not occur, and
# :math:`f(\bar x)-f^\star` to :math:`\frac12{x^\circ}^2`. The condition is checked below, numerically, on
# :math:`[-20,2]`, which is enough for :math:`\eta\le0.004`. It holds, and the zero of :math:`D` lies at 0.85. **So for
# the rule as reconstructed here, with one example per batch, no rate holds on this function, which is convex and
# smooth and has bounded noise.**
#
# `Chain` computes :math:`D` without simulation and without the package: the distribution of memory on a grid,
# the image of a grid point being shared between its two neighbours.


class Chain:
    """Memory in one dimension, fed with independent gradients of the given values and probabilities."""

    def __init__(self, grid: Array, values: Array, chances: Array) -> None:
        g, d = values[:, None], grid[None]
        ratio = np.divide(g**2, (g - d) ** 2, out=np.full((len(values), len(grid)), np.inf), where=g != d)
        b = np.clip(ratio, LOW, CAP)
        image = (b * d + (1 - b) * g - grid[0]) / (grid[1] - grid[0])
        lower = np.clip(image.astype(int), 0, len(grid) - 2)
        self.grid, self.chances, self._share = grid, chances, image - lower
        self._entry = np.arange(len(grid)) * len(grid) + lower
        self._transition = self._weighted(chances)
        system = np.eye(len(grid)) - self._transition
        self.law = np.linalg.solve(np.vstack([system.T[:-1], np.ones(len(grid))]), np.eye(len(grid))[-1])

    def _weighted(self, weights: Array) -> Array:
        """The matrix of d -> Σ_values weight · (unit mass at F(d, value))."""
        size = len(self.grid)
        mass = np.concatenate([weights[:, None] * (1 - self._share), weights[:, None] * self._share])
        entry = np.concatenate([self._entry, self._entry + 1])
        return np.bincount(entry.ravel(), mass.ravel(), minlength=size * size).reshape(size, size)

    @property
    def mean(self) -> float:
        """Stationary mean of memory."""
        return float(self.law @ self.grid)

    def response(self, score: Array) -> float:
        """Σ_k E[d_{t+1} score(g_{t-k})], the derivative of `mean` when chances become chances · (1 + ε score)."""
        value = np.linalg.solve(np.eye(len(self.grid)) - self._transition + self.law, self.grid)
        return float(self.law @ self._weighted(self.chances * score) @ value)


SKEWED = np.array([-1.0, 19.0]), np.array([0.95, 0.05])


def mean_memory(x: float, size: int = 701) -> float:
    """D(x) of the counterexample."""
    return Chain(np.linspace(x - 2, x + 20, size), SKEWED[0] + x, SKEWED[1]).mean


def rest_point() -> float:
    """The zero of D."""
    return float(brentq(mean_memory, 0, 2, xtol=1e-3))


def skewed(random: Random, shape: tuple[int, ...]) -> Array:
    """The noise of the counterexample."""
    return np.where(random.random(shape) < SKEWED[1][1], SKEWED[0][1], SKEWED[0][0])


Noise = Callable[[Random, tuple[int, ...]], Array]


def settled(rule: Any, noise: Noise, lr: float, steps: int, runs: int, size: int = 1) -> Array:
    """Mean of x, (size,), over runs and the last half of the steps, for f = ½||x||² from its minimiser."""
    random = np.random.default_rng(1)
    many = Runs(np.zeros((runs, size)), rule, lr=lr, inertia=0.0 if isinstance(rule, HeavyBall) else LAMBDA)
    mean = np.zeros(size)
    for t in range(steps):
        many.step(many.x + noise(random, (runs, size)))
        if t >= steps // 2:
            mean += many.x.mean(axis=0) / (steps - steps // 2)
    return mean


def reach(lr: float = 0.01) -> float:
    """Largest x in 400 runs of the counterexample over its bound m + r."""
    random, highest = np.random.default_rng(9), 0.0
    many = Runs(np.zeros((400, 1)), AdaptiveMemory(BETA_MAX), lr=lr, inertia=LAMBDA)
    for _ in range(1000):
        highest = max(highest, many.step(many.x + skewed(random, (400, 1))).max())
    return float(highest / (1 + 20 * lr / (1 - CAP - lr)))


def contraction() -> float:
    """Largest ||F(d, g) - F(d', g)|| / (b ||d - d'||) of the package over 20,000 random triples in three dimensions."""
    random, count = np.random.default_rng(2), 20000
    first, g = (random.normal(size=(count, 3)) * 10 ** random.uniform(-1, 1, size=(count, 1)) for _ in range(2))
    second = first + random.normal(size=(count, 3)) * 10 ** random.uniform(-2, 1, size=(count, 1))
    images = []
    for d in (first, second):
        many = Runs(0 * d, AdaptiveMemory(BETA_MAX), lr=1.0, inertia=LAMBDA)
        many.step(d)  # memory starts as the first gradient
        many.step(g)
        images.append(many.memory)
    before, after = (np.linalg.norm(u - v, axis=1) for u, v in ((first, second), images))
    return float((after / (CAP * before)).max())


# %%
# No bias under symmetric noise
# -----------------------------
# **Theorem 1.** Let :math:`f` be quadratic with minimiser :math:`x^\star`, and let the noise be independent
# of the past with :math:`\xi` and :math:`-\xi` equally distributed. Started at :math:`x^\star`, every step
# has :math:`\mathbb Ex_t=x^\star`, :math:`\mathbb Ed_t=0` and :math:`\mathbb E[(1-b_t)g_t]=0`. *For any*
# :math:`f`: *at the minimiser, with* :math:`x` *frozen,* :math:`D(x^\star)=0`.
#
# *Proof.* :math:`F(-d,-g)=-F(d,g)`, because the weight depends on lengths only. So if the noise of a run is
# replaced by its negative, :math:`x_t-x^\star` and :math:`d_t` change sign at every step
# (:math:`g = H(x-x^\star)+\xi` does, by induction). Both runs are equally probable, so :math:`x_t-x^\star`,
# :math:`d_t` and :math:`(1-b_t)g_t` are distributed like their negatives: their means are zero. With
# :math:`x` frozen at :math:`x^\star`, :math:`g=\xi` for any :math:`f`, and the stationary distribution of
# :math:`d`, which is unique by the lemma, is symmetric for the same reason. ∎
#
# Given one :math:`d`, :math:`\mathbb E[(1-b_t)g_t\mid d]` is *not* zero, but odd in :math:`d`; the mean over
# memories is. The theorem says where the iterates settle, not how fast: no rate is proven here for symmetric
# noise. If :math:`f` is not quadratic there remains what heavy ball has as well, of the order of the
# step size.


def mirrored() -> float:
    """x of one run + x of the run with the negative noise, at worst."""
    random = np.random.default_rng(3)
    h = np.array([0.3, 2.0])
    pair = [Optimizer(np.zeros(2), AdaptiveMemory(BETA_MAX), lr=0.3, inertia=LAMBDA) for _ in range(2)]
    worst = 0.0
    for _ in range(300):
        noise = random.exponential(size=2) - 1
        ends = [o.step(h * o.x + sign * noise) for o, sign in zip(pair, (1, -1), strict=True)]
        worst = max(worst, float(np.abs(ends[0] + ends[1]).max()))
    return worst


# %%
# The size of the bias
# --------------------
# Let the noise of single examples in one dimension have standard deviation :math:`\sigma` and skewness
# :math:`\gamma`, and take batches of :math:`B`. What follows is an expansion to leading order for large
# :math:`B`, not a theorem: its remainder is not estimated but measured below. The batch noise is :math:`s\zeta` with
# :math:`s=\sigma/\sqrt B`; :math:`\zeta` has skewness :math:`\varepsilon=\gamma/\sqrt B`, and Edgeworth's
# expansion (W. Feller, *An Introduction to Probability Theory and Its Applications*, vol. 2, chapter XVI,
# "Expansions for densities"; for noise with a bounded density and four moments) gives its density
#
# .. math:: \varphi(z)\Big(1+\frac{\varepsilon}{6}\,\mathrm{He}_3(z)\Big) + O(1/B), \qquad \mathrm{He}_3(z)=z^3-3z .
#
# Let the gradient be :math:`m+s\zeta` with a small mean :math:`m`; to first order that multiplies the density
# by :math:`1+\frac ms z`. What does a factor :math:`1+\epsilon S(z)`, :math:`\mathbb ES=0`, do to the
# stationary mean of memory? For memory after :math:`T` steps the product rule over the :math:`T` independent
# factors gives :math:`\sum_{k<T}\mathbb E[d_{T}S(\zeta_{T-1-k})]`. Changing one gradient changes memory right
# after by no more than twice the largest vector in sight, and :math:`k` steps later by :math:`b^k` times that
# (lemma); since :math:`\mathbb ES=0`, term :math:`k` is :math:`O(b^k)`. So the sum converges and may be
# exchanged with :math:`T\to\infty`. Memory scales with the gradients, so
#
# .. math:: \frac{D}{s} \approx A\,\frac ms + C\,\varepsilon, \qquad
#           A=\sum_{k\ge0}\mathbb E[d_{t+1}\zeta_{t-k}], \qquad
#           C=\frac16\sum_{k\ge0}\mathbb E[d_{t+1}\mathrm{He}_3(\zeta_{t-k})],
#
# both under Gaussian noise (there :math:`D=0` for :math:`m=0`, by symmetry). The iterates rest where
# :math:`D=0`: where the mean gradient is
#
# .. math:: \nabla f(x^\circ) \;\approx\; K\,\frac{\gamma\,\sigma}{B}, \qquad K=-\frac CA .
#
# So the bias falls like :math:`1/B`, and in units of the batch noise like :math:`\gamma/\sqrt B`. For
# :math:`\beta_{\max}=0.9`, :math:`\lambda=0.1`, `response` finds :math:`A=0.218` and :math:`K=0.107`. Heavy
# ball is linear in the noise: :math:`A=1`, :math:`C=0`. The value of :math:`A` says something else as well:
# buried in Gaussian noise a small mean gradient moves adaptive memory by only 0.22 of itself, in one
# dimension.


def response() -> tuple[float, float]:
    """A and C, by quadrature over Gaussian noise."""
    z = np.linspace(-6, 6, 601)
    chances = np.exp(-(z**2) / 2)
    chain = Chain(np.linspace(-3, 3, 401), z, chances / chances.sum())
    return chain.response(z), chain.response((z**3 - 3 * z) / 6)


def exponential(batch: float) -> Noise:
    """Means of `batch` exponential variables, minus one: σ = 1, γ = 2."""
    return lambda random, shape: random.gamma(batch, size=shape) / batch - 1


def wald(batch: float) -> Noise:
    """Means of `batch` inverse Gaussian variables, minus one: σ = 1, γ = 3."""
    return lambda random, shape: random.wald(1, batch, size=shape) - 1


def attenuation(mean: float = 0.1) -> float:
    """Mean of memory / mean of the gradient, Gaussian noise."""
    random = np.random.default_rng(4)
    many, total = Runs(np.zeros((10000, 1)), AdaptiveMemory(BETA_MAX), lr=1.0, inertia=LAMBDA), 0.0
    for t in range(100):
        many.step(mean + random.normal(size=(10000, 1)))
        total += many.memory.mean() / 50 if t >= 50 else 0
    return float(total / mean)


# %%
# Knowing the weight before the batch is not enough
# -------------------------------------------------
# Suppose :math:`b_t` is *predictable*: a function of earlier batches only. Then
# :math:`\mathbb E[(1-b_t)(g_t-\nabla f(x_t))]=0`, and one might think that the bias is gone. But the identity
# at the top still holds, and :math:`c_t-c_{t-1}` may depend on :math:`d_t`: both know batch :math:`t-1`. A
# gradient no longer decides its own weight at its own step, but it can decide how long it will be remembered.
# Its weight in the whole run is :math:`W_s=(1-b_s)(1+b_{s+1}+b_{s+1}b_{s+2}+\dots)`.
#
# Two examples on :math:`f=\frac12x^2`. An enemy who remembers longer while :math:`d>0` (:math:`b_{t+1}=b`
# then, 0 otherwise) moves the iterates to about -0.6 under *Gaussian* noise. And the last batch's ratio,
# :math:`b_{t+1}=\mathrm{clip}(\|g_t\|^2/\|g_t-d_t\|^2)`, settles at about 0.67 under the noise of the
# counterexample, hardly better than 0.85. The ratio of slow averages of :math:`\|g\|^2` and :math:`\|g-d\|^2`
# shows no bias: not because it is predictable, but because it hardly moves.
#
# **Theorem 2.** Let :math:`b_t\in[0,b]` be predictable, :math:`b_0=0`, :math:`\bar c=b/(1-b)`; let
# :math:`\mathbb E[g_t\mid\text{past}]\in\partial f(x_t)` and :math:`\|g_t\|\le G`. Let
# :math:`V=\sum_{t=1}^{T-1}|c_t-c_{t-1}|` be the variation of memory's length. With a constant step size, for
# convex :math:`f` with :math:`R=\|x_0-x^\star\|` and :math:`\bar x=\frac1T\sum_{t<T}x_t`,
#
# .. math:: \mathbb Ef(\bar x)-f^\star \le \frac{R^2}{2\eta T}+\eta G^2\Big(\frac12+\bar c+\mathbb EV\Big),
#
# and for :math:`f` with :math:`L`-Lipschitz gradient, :math:`\Delta=f(x_0)-f^\star`,
#
# .. math:: \frac1T\sum_{t<T}\mathbb E\|\nabla f(x_t)\|^2
#           \le \frac{2\Delta}{\eta T}+\eta LG^2+(\eta LG)^2\,\mathbb E(\bar c+V)^2 .
#
# If the step sizes are :math:`\eta_t=\eta\,(1+c_t-c_{t+1})`, both hold without :math:`V`. So
# :math:`\eta\propto1/\sqrt T` gives :math:`O(1/\sqrt T)`: with a constant step size if :math:`V` is bounded
# (a schedule, a weight that settles), with the corrected one always.
#
# The correction is a statement of the same thing: when memory is cut, the step that cuts it pays out what is
# thrown away. It needs :math:`b_{t+1}` at step :math:`t`, after the batch: predictable weights are known
# then. And :math:`\eta_t\ge0` if memory's length grows by at most one per step, :math:`b_{t+1}\le1/(2-b_t)`,
# as that of a running mean does.
#
# *Proof.* Let :math:`z_t=x_t-\eta c_td_t`. From :math:`(1+c_t)b_t=c_t` and :math:`(1+c_t)(1-b_t)=1`:
# :math:`(1+c_t)d_{t+1}=c_td_t+g_t`. With the corrected step size
#
# .. math:: z_{t+1} = x_t-\eta(1+c_t-c_{t+1})d_{t+1}-\eta c_{t+1}d_{t+1} = x_t-\eta(1+c_t)d_{t+1} = z_t-\eta g_t,
#
# and with the constant one :math:`z_{t+1}=z_t-\eta g_t-\eta(c_{t+1}-c_t)d_{t+1}`. Let :math:`y_0=x_0=z_0`,
# :math:`y_{t+1}=y_t-\eta g_t`: plain stochastic gradient descent, with gradients taken elsewhere, at
# :math:`x_t = y_t+\eta c_td_t+u_t`, where :math:`\|d_t\|\le G` and :math:`u_t=0`, or
# :math:`\|u_t\|\le\eta GV`. All of :math:`x_t`, :math:`y_t`, :math:`d_t`, :math:`c_t`, :math:`u_t` are
# functions of the past.
#
# Convex: expanding :math:`\|y_{t+1}-x^\star\|^2` and summing gives
# :math:`\sum\langle g_t,y_t-x^\star\rangle\le\frac{R^2}{2\eta}+\frac{\eta TG^2}2`. And
#
# .. math:: \mathbb E\langle g_t,y_t-x^\star\rangle
#           = \mathbb E\langle g_t,x_t-x^\star\rangle-\mathbb E\langle g_t,x_t-y_t\rangle
#           \ge\mathbb Ef(x_t)-f^\star-\eta G^2(\bar c+\mathbb EV) :
#
# in the first product the conditional mean of :math:`g_t`, a subgradient, may be put for :math:`g_t`, because
# :math:`x_t` is a function of the past. Divide by :math:`T`, and use Jensen.
#
# Smooth: :math:`f(y_{t+1})\le f(y_t)-\eta\langle\nabla f(y_t),g_t\rangle+\frac{L\eta^2}2G^2`. In the mean
# :math:`g_t` becomes :math:`\nabla f(x_t)`, and
# :math:`-\langle u,v\rangle\le-\frac12\|v\|^2+\frac12\|u-v\|^2` gives
#
# .. math:: \frac\eta2\mathbb E\|\nabla f(x_t)\|^2 \le \mathbb E[f(y_t)-f(y_{t+1})]
#           +\frac{L\eta^2G^2}2+\frac{\eta L^2}2\,\mathbb E\|x_t-y_t\|^2 .
#
# Sum, with :math:`\|x_t-y_t\|\le\eta G(\bar c+V)`. ∎
#
# If the :math:`b_t` are independent of the batches altogether (a schedule) then, given them, the proof of
# theorem 1 in `07a_convergence.py` goes through in the mean, with its weighted average.


Ahead = Callable[[Array, Array, Array], Array]


def enemy(g: Array, d: Array, following: Array) -> Array:
    """Remembers while memory points up."""
    return np.where(following.sum(axis=1) > 0, CAP, 0.0)


def last_ratio(g: Array, d: Array, following: Array) -> Array:
    """Adaptive memory's weight, one batch late."""
    top, bottom = (g**2).sum(axis=1), ((g - d) ** 2).sum(axis=1)
    return np.clip(top / np.where(bottom > 0, bottom, top + 1e-300), LOW, CAP)


class SlowRatio:
    """The ratio of exponential averages of ||g||² and ||g-d||² up to the last batch."""

    def __init__(self, rate: float = 0.02) -> None:
        self.rate, self.top, self.bottom = rate, 0.0, 0.0

    def __call__(self, g: Array, d: Array, following: Array) -> Array:
        self.top = self.top + self.rate * ((g**2).sum(axis=1) - self.top)
        self.bottom = self.bottom + self.rate * (((g - d) ** 2).sum(axis=1) - self.bottom)
        return np.clip(self.top / np.where(self.bottom > 0, self.bottom, self.top), LOW, CAP)


class Predictable:
    """Runs whose weight is named one batch ahead: `ahead(g_t, d_t, d_{t+1})` is b_{t+1}."""

    def __init__(self, x0: Array, ahead: Ahead, *, lr: Array | float, corrected: bool) -> None:
        self.many, self.ahead, self.lr, self.corrected = Runs(x0, Played(), lr=lr), ahead, lr, corrected
        self.length, self.variation = np.zeros(len(x0)), np.zeros(len(x0))

    def step(self, g: Array) -> None:
        """One step from the gradients (N, n); with the correction memory's length grows by at most one."""
        many, b = self.many, self.length / (1 + self.length)
        d = many.memory if many.count else g
        ahead = self.ahead(g, d, b[:, None] * d + (1 - b[:, None]) * g)
        length = ahead / (1 - ahead)
        if self.corrected:
            length = np.minimum(length, self.length + 1)
            many.lr = self.lr * (1 + self.length - length)
        many.rule.beta = b
        many.step(g)
        self.variation += np.abs(length - self.length)
        self.length = length


def settled_ahead(ahead: Ahead, noise: Noise, *, corrected: bool = False, lr: float = 0.02) -> float:
    """Like `settled`, for a predictable weight."""
    random, count, steps, mean = np.random.default_rng(5), 400, 1000, 0.0
    runs = Predictable(np.zeros((count, 1)), ahead, lr=lr, corrected=corrected)
    for t in range(steps):
        runs.step(runs.many.x + noise(random, (count, 1)))
        mean += runs.many.x.mean() / (steps / 2) if t >= steps // 2 else 0
    return float(mean)


class Sampled:
    """P problems in n dimensions, R runs of each, one example per batch; data are skewed.

    f(x) = mean_i Σ_j |x_j - y_ij| / sqrt(n), or, smooth, log cosh for | | and Σ_j a sin(2 x_j) / sqrt(n) added.
    """

    def __init__(self, random: Random, *, smooth: bool, problems: int = 100, runs: int = 20, size: int = 3) -> None:
        self.random, self.smooth, self.shape, self.root = random, smooth, (problems, runs, size), np.sqrt(size)
        self.data = random.exponential(size=(problems, 9, size)) * 10 ** random.uniform(
            -1, 0.5, size=(problems, 1, size)
        )
        self.wave = 0.4 if smooth else 0.0
        self.bound, self.smoothness = 1 + 2 * self.wave, (1 + 4 * self.wave) / self.root

    def value(self, x: Array) -> Array:
        """f of each problem at points (P, n), (P,)."""
        apart = np.abs(x[:, None] - self.data)
        loss = apart + np.log1p(np.exp(-2 * apart)) - np.log(2) if self.smooth else apart
        return (loss.mean(axis=1) + self.wave * np.sin(2 * x)).sum(axis=1) / self.root

    def _slope(self, apart: Array) -> Array:
        return np.tanh(apart) if self.smooth else np.sign(apart)

    def full(self, x: Array) -> Array:
        """Exact gradients at points (P·R, n)."""
        points = x.reshape(self.shape)
        slopes = self._slope(points[:, :, None] - self.data[:, None]).mean(axis=2)
        return ((slopes + 2 * self.wave * np.cos(2 * points)) / self.root).reshape(x.shape)

    def gradient(self, x: Array, batch: int = 1) -> Array:
        """Batch gradients at points (P·R, n), examples drawn with replacement."""
        problems, runs, _ = self.shape
        chosen = self.random.integers(9, size=(problems, runs, batch))
        examples = self.data[np.arange(problems)[:, None, None], chosen]
        points = x.reshape(self.shape)
        slopes = self._slope(points[:, :, None] - examples).mean(axis=2)
        return ((slopes + 2 * self.wave * np.cos(2 * points)) / self.root).reshape(x.shape)


def rate_ratios(ahead: Callable[[], Ahead], *, smooth: bool, corrected: bool, steps: int = 100) -> float:
    """Theorem 2: largest mean over runs / bound of 100 problems."""
    problem = Sampled(np.random.default_rng(6), smooth=smooth)
    problems, count, _ = problem.shape
    best = np.median(problem.data, axis=1)
    start = best + problem.random.normal(size=best.shape) * 10 ** problem.random.uniform(-0.5, 1, size=(problems, 1))
    radius, fall = np.linalg.norm(start - best, axis=1), problem.value(start) + problem.wave * problem.root
    scale = np.sqrt(fall) if smooth else radius
    lr = 0.3 * scale / np.sqrt(steps) * 10 ** problem.random.uniform(-0.5, 0.5, size=problems)
    x0, each = (np.repeat(v, count, axis=0) for v in (start, lr))
    runs, average, squared = Predictable(x0, ahead(), lr=each, corrected=corrected), 0 * x0, 0.0
    for _ in range(steps):
        average = average + runs.many.x / steps
        squared = squared + (problem.full(runs.many.x) ** 2).sum(axis=1) / steps
        runs.step(problem.gradient(runs.many.x))
    variation = (0.0 if corrected else 1.0) * runs.variation.reshape(problems, count)
    longest, g = CAP / (1 - CAP), problem.bound
    if smooth:
        pull = lr * problem.smoothness * g
        bound = 2 * fall / (lr * steps) + pull * g + pull**2 * np.mean((longest + variation) ** 2, axis=-1)
        return float((squared.reshape(problems, count).mean(axis=1) / bound).max())
    gaps = np.stack([problem.value(x) for x in average.reshape(problem.shape).swapaxes(0, 1)]) - problem.value(best)
    bound = radius**2 / (2 * lr * steps) + lr * g**2 * (0.5 + longest + np.mean(variation, axis=-1))
    return float((gaps.mean(axis=0) / bound).max())


# %%
# Large batches: any weight, from any batch
# -----------------------------------------
# **Theorem 3.** Let :math:`\nabla f` be :math:`L`-Lipschitz, :math:`g_t=\nabla f(x_t)+\xi_t` with
# :math:`\mathbb E\|\xi_t\|^2\le\sigma^2/B`, and let :math:`b_t\in[0,b]` depend on anything, the present batch
# included. If :math:`\eta\le(1-b)/(\sqrt2L)`,
#
# .. math:: \frac1T\sum_{t<T}\mathbb E\|\nabla f(x_t)\|^2\le\frac{2\Delta}{\eta T}+\frac{2\sigma^2}{(1-b)B} .
#
# So the rate :math:`O(1/\sqrt T)` for the squared gradient holds for the rule with a shared batch, and for
# every other one, with batches of :math:`B\propto\sqrt T`; with a fixed batch there remains a neighbourhood.
# The counterexample shows that something does remain; the expansion above, that for skewness it is of the
# order of :math:`1/B^2` in the squared gradient, far less than this bound admits.
#
# *Proof.* Memory is the average :math:`d_{t+1}=\sum_{s\le t}a_{t,s}(\nabla f(x_s)+\xi_s)`
# (`07a_convergence.py`). Let :math:`n_t=\sum_sa_{t,s}\xi_s`, and :math:`r_t=d_{t+1}-n_t-\nabla f(x_t)`. As
# there, :math:`r_t=b_t(r_{t-1}+\nabla f(x_{t-1})-\nabla f(x_t))`, so :math:`|r|\le\rho|d|` with
# :math:`\rho=bL\eta/(1-b)`, and, summing
# :math:`f(x_{t+1})\le f(x_t)-\frac\eta2\|\nabla f(x_t)\|^2-\frac\eta2(1-L\eta)\|d_{t+1}\|^2+\frac\eta2\|r_t+n_t\|^2`
# with :math:`\|r+n\|^2\le2\|r\|^2+2\|n\|^2`,
#
# .. math:: \frac\eta2\sum_{t<T}\|\nabla f(x_t)\|^2
#           \le\Delta-\frac\eta2\big(1-L\eta-2\rho^2\big)|d|^2+\eta\sum_{t<T}\|n_t\|^2 .
#
# With :math:`q=L\eta\le(1-b)/\sqrt2`: :math:`q+2\rho^2\le\frac{1-b}{\sqrt2}+b^2\le1`, since
# :math:`1-b^2=(1-b)(1+b)`. And :math:`\|n_t\|^2\le\sum_sa_{t,s}\|\xi_s\|^2` (Jensen), so
# :math:`\sum_t\|n_t\|^2\le\sum_sW_s\|\xi_s\|^2` with :math:`W_s=\sum_ta_{t,s}\le\sum_kb^k=\frac1{1-b}`,
# whatever the weights depend on. Take means. ∎
#
# Convex functions: in theorem 1 of `07a_convergence.py` the noise adds
# :math:`\frac1T\sum_sW_s\langle\xi_s,x^\star-x_s\rangle`, in the mean at most
# :math:`\frac{\sigma}{(1-b)\sqrt B}` times the largest distance from :math:`x^\star`: the same with
# :math:`B\propto T`, for iterates that stay bounded.
#
# Under which assumption the published rate holds
# -----------------------------------------------
# For the reconstruction, with the identity metric: *large batches*, :math:`B\propto\sqrt T` (theorem 3). Not for
# a fixed batch and skewed noise, whatever the step size (the counterexample). Symmetric noise removes the bias at
# the minimiser of a quadratic (theorem 1); a rate under it is neither proven nor refuted here. *A predictable
# weight* has the rate at every batch size, convex or not, if the variation of memory's length is bounded or the
# step size pays for it (theorem 2); predictable alone is not enough (the enemy).


def neighbourhood(rule: str, batch: int, steps: int = 150) -> float:
    """Theorem 3: largest mean over runs / bound of 100 smooth problems; the rule sees the batch it weighs."""
    problem = Sampled(np.random.default_rng(8), smooth=True)
    problems, count, _ = problem.shape
    start = np.repeat(problem.data[:, 0] + 1, count, axis=0)
    lr = (1 - CAP) / (np.sqrt(2) * problem.smoothness)
    own = rule == "adaptive memory"
    runs = Runs(start, AdaptiveMemory(BETA_MAX) if own else Played(), lr=lr, inertia=LAMBDA if own else 0.0)
    squared, noise = np.zeros(problems), np.zeros(problems)
    for _ in range(steps):
        exact, g = problem.full(runs.x), problem.gradient(runs.x, batch)
        squared += (exact**2).sum(axis=1).reshape(problems, count).mean(axis=1) / steps
        noise = np.maximum(noise, ((g - exact) ** 2).sum(axis=1).reshape(problems, count).mean(axis=1))
        if not own:  # keeps what points uphill
            runs.rule.beta = np.where(((g - runs.memory) * exact).sum(axis=1) > 0, CAP, 0.0)
        runs.step(g)
    fall = problem.value(problem.data[:, 0] + 1) + problem.wave * problem.root
    return float((squared / (2 * fall / (lr * steps) + 2 * noise / (1 - CAP))).max())


def picture() -> Any:
    """The mean of memory against x in the counterexample, and the bias against the batch size."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.linspace(-2, 4, 25)
    left.plot(x, [mean_memory(v, 401) for v in x], label="adaptive memory")
    left.plot(x, x, "--", label="heavy ball: ∇f")
    left.axhline(0, color="k", lw=0.5)
    left.set(xlabel="x", title="mean of memory")
    left.legend()
    a, c = response()
    batches = np.array([1, 4, 16])
    for noise, gamma in ((exponential, 2), (wald, 3)):
        measured = [settled(AdaptiveMemory(BETA_MAX), noise(b), 0.1, 400, 500)[0] for b in batches]
        right.loglog(batches, measured, "o", label=f"skewness {gamma}")
        right.loglog(batches, -c / a * gamma / batches, "k--", lw=0.8)
    right.set(xlabel="batch", title="bias")
    right.legend()
    return figure


def counterexample() -> list[Claim]:
    """The stationary mean, whatever the lr."""
    zero = rest_point()
    rule, found = AdaptiveMemory(BETA_MAX), []
    slope = min(mean_memory(x, 401) / (x - zero) for x in np.linspace(-20, 2, 45))
    inverse = 1 / slope if slope > 0 else np.inf
    for lr, steps, runs in ((0.1, 500, 1000), (0.01, 1500, 500), (0.003, 3500, 200)):
        mean = float(settled(rule, skewed, lr, steps, runs)[0])
        found.append(Claim(f"counterexample: mean of x against lr = {lr}", mean, lr, "counterexample"))
        if lr < 0.1:
            found.append(Claim(f"the same = the zero of D, lr = {lr}", mean, zero, "identity", 0.03))
    ball = float(settled(HeavyBall(BETA_MAX), skewed, 0.1, 500, 1000)[0])
    return [
        Claim("mean gradient = -mean change of length × direction + boundary", identity_error(), 0, "identity", 1e-12),
        Claim("memory contracts: ‖F(d,g) - F(d',g)‖ / (b‖d - d'‖), 20,000 triples", contraction(), 1, "upper bound"),
        *found,
        Claim("largest (x - zero)/D(x) at 45 points of [-20, 2], of one sign there: 1/κ", inverse, 4, "upper bound"),
        Claim("largest x / (m + r), lr = 0.01", reach(), 1, "upper bound"),
        Claim("heavy ball: mean of x, lr = 0.1", ball, 0, "identity", 0.03),
    ]


def sizes() -> list[Claim]:
    """The bias to leading order, and without skewness."""
    a, c = response()
    rule, found = AdaptiveMemory(BETA_MAX), []
    cases = (
        (exponential, 2, 1, 0.2),
        (exponential, 2, 4, 0.1),
        (exponential, 2, 16, 0.1),
        (wald, 3, 4, 0.2),
        (wald, 3, 16, 0.1),
    )
    for noise, gamma, batch, tolerance in cases:
        measured = float(settled(rule, noise(batch), 0.1, 400, 2000)[0])
        text = f"|bias / (K γ σ / B) - 1|, {noise.__name__} noise, γ = {gamma}, B = {batch}"
        found.append(Claim(text, abs(measured / (-c / a * gamma / batch) - 1), tolerance, "upper bound"))
    laplace = settled(rule, lambda random, shape: random.laplace(size=shape), 0.1, 400, 2000, size=2)
    return [
        *found,
        Claim(
            "A and K as in the text: largest deviation", max(abs(a - 0.218), abs(-c / a - 0.107)), 1e-3, "upper bound"
        ),
        Claim("Gaussian noise: mean of memory / mean gradient = A", attenuation(), a, "identity", 0.02),
        Claim("mirrored noise, mirrored run", mirrored(), 0, "identity", 1e-12),
        Claim(
            "symmetric (Laplace) noise in two dimensions: largest mean",
            float(np.abs(laplace).max()),
            0,
            "identity",
            0.01,
        ),
    ]


def ahead_of_time() -> list[Claim]:
    """Predictable weights."""

    def gauss(random: Random, shape: tuple[int, ...]) -> Array:
        return random.normal(size=shape)

    hostile, late = settled_ahead(enemy, gauss), settled_ahead(last_ratio, skewed)
    found = [
        Claim("predictable enemy, Gaussian noise: |mean of x| against lr", abs(hostile), 0.02, "counterexample"),
        Claim("last batch's ratio, counterexample's noise: mean of x against lr", late, 0.02, "counterexample"),
        Claim("slow ratio, counterexample's noise: mean", settled_ahead(SlowRatio(), skewed), 0, "identity", 0.03),
    ]
    for ahead, noise, name in ((enemy, gauss, "enemy"), (last_ratio, skewed, "last batch's ratio")):
        mean = settled_ahead(ahead, noise, corrected=True)
        found.append(Claim(f"{name}, corrected step size: mean", mean, 0, "identity", 0.03))
    for smooth, kind in ((False, "convex"), (True, "smooth")):
        for corrected in (False, True):
            worst = max(
                rate_ratios(make, smooth=smooth, corrected=corrected)
                for make in (lambda: enemy, lambda: last_ratio, SlowRatio)
            )
            how = "corrected" if corrected else "constant"
            text = f"theorem 2, {kind}, {how} step size: mean / bound, worst of 3 rules × 100 problems"
            found.append(Claim(text, worst, 1, "upper bound"))
    return found


def claims() -> list[Claim]:
    """Simulations are seeded; tolerances are a few standard errors, or what the expansion leaves out."""
    worst = {rule: max(neighbourhood(rule, b) for b in (1, 16)) for rule in ("adaptive memory", "enemy")}
    return [
        *counterexample(),
        *sizes(),
        *ahead_of_time(),
        *(
            Claim(f"theorem 3, {rule}: mean / bound, worst of 2 × 100", w, 1, "upper bound")
            for rule, w in worst.items()
        ),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
