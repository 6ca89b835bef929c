r"""
The weight of memory in a norm
==============================

`17_norms.py` derives the step of a model of planes in any norm. Here are two planes, gradient and memory. Where the
Euclidean rule takes a weighted *mean* of the points at which coordinates change their sign, sign descent takes a
weighted *quantile* of them, and Muon's step does so with singular values.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from claims import HERE, Claim, load, report
from numpy.typing import NDArray

Array = NDArray[np.float64]
norms = load(HERE / "17_norms.py")


# %%
# The weight of memory in :math:`\ell_\infty`
# -------------------------------------------
# Two planes: slope g and height 0, slope d and height h, weight :math:`\beta \in [0, \beta_{\max}]`. (A cap replaces
# the second plane by a mixture, as in `02_two_planes.py`; :math:`\varphi` stays what it was, on a shorter interval.)
# Coordinate i of :math:`s = g + \beta(d-g)` changes its sign at :math:`\beta_i = g_i/(g_i-d_i)`, so
#
# .. math:: \varphi'(\beta) = h - \eta\|s\|_1^{p-1}\sum_i |d_i-g_i|\,\mathrm{sign}(\beta-\beta_i) .
#
# *Hard.* The sum is twice the weight to the left less the whole, :math:`W = \|d-g\|_1`. **So** :math:`\beta` **is the
# quantile of the points** :math:`\beta_i` **with weights** :math:`|d_i-g_i|` **at the level**
#
# .. math:: q = \frac12\Big(1 + \frac{h}{\eta\,\|d-g\|_1}\Big), \qquad\text{clipped to } [0, \beta_{\max}],
#
# the weighted median where h = 0. If exactly the share q lies to the left of a gap between two points, :math:`\varphi`
# is level over the gap; we take its right end, because :math:`\beta_{\max}` is what `02_two_planes.py` takes in a tie.
# With several lr the weights are :math:`\eta_t|d_i-g_i|`.
#
# *Soft.* Between breakpoints :math:`\|s\|_1` has a constant slope m, and :math:`\varphi'` falls at the rate :math:`\eta
# m^2`: the best :math:`\beta` is the first breakpoint with :math:`\varphi' < 0` to its right, or lies before it,
# :math:`\varphi'/(\eta m^2)` beyond the one before.


def quantile(g: Array, d: Array, level_shift: float, beta_max: float = 1.0) -> float:
    """β of the hard form; level_shift: h/η."""
    turn = (d - g)[d != g]
    points = g[d != g] / (g - d)[d != g]
    order = np.argsort(points)
    below = np.cumsum(np.abs(turn[order]))
    if not len(order):
        return beta_max if level_shift >= 0 else 0.0
    if below[-1] + level_shift < 0:
        return 0.0
    place = int(np.searchsorted(below, (below[-1] + level_shift) / 2, side="right"))
    return float(np.clip(points[order][place], 0, beta_max)) if place < len(order) else beta_max


def soft_weight(g: Array, d: Array, height: float, lr: float, beta_max: float = 1.0) -> float:
    """β of the soft form, by a walk along the breakpoints."""
    turn = d - g
    points = np.divide(g, -turn, out=np.full(len(g), -1.0), where=turn != 0)
    nodes = [0.0, *np.sort(points[(points > 0) & (points < beta_max)]), beta_max]
    for node, following in pairwise(nodes):
        s = g + (node + following) / 2 * turn
        slope = float(turn @ np.sign(s))
        signal = height - lr * float(np.abs(g + node * turn).sum()) * slope
        if signal < 0:
            return float(node)
        if slope and node + signal / (lr * slope**2) < following:
            return float(node + signal / (lr * slope**2))
    return beta_max


# %%
# The effective momentum in :math:`\ell_\infty`
# ---------------------------------------------
# With the linearised height and the same lr as before, :math:`h = \eta\langle g, v\rangle` where v is the direction of
# the last step, a steepest direction of d. In the Euclidean case :math:`b = \|g\|^2/\|g-d\|^2`
# (`03_effective_momentum.py`). In terms of the points :math:`\beta_i` that is
#
# .. math:: b = \frac{\sum_i (d_i-g_i)^2\beta_i + \langle g, d\rangle}{\sum_i (d_i-g_i)^2}
#           \qquad\text{beside}\qquad q = \frac12\Big(1 + \frac{\langle g, v\rangle}{\|g-d\|_1}\Big) :
#
# a mean with the weights :math:`(d_i-g_i)^2`, shifted by the rise, and the quantile with the weights :math:`|d_i-g_i|`
# at a level shifted by the rise. Neither depends on :math:`\eta`, or on the common scale of g and d. A rotation of
# both changes the quantile, but not the mean.
#
# *Term by term.* Only where g opposes d is :math:`\beta_i` in (0, 1): it is :math:`|g_i|/(|g_i|+|d_i|)`. Take :math:`v
# = \mathrm{sign}(d)`. A coordinate that agrees adds :math:`2|g_i| - |d_i|` to :math:`\varphi'/\eta`; one that opposes
# adds :math:`|d_i|` before its :math:`\beta_i` and :math:`-2|g_i|-|d_i|` after. So
#
# .. math:: \varphi'(\beta)/\eta = \sum_{agree}(2|g_i|-|d_i|) + \sum_{opposed} |d_i|
#                                  - 2\sum_{opposed,\ \beta_i<\beta}(|g_i|+|d_i|) .
#
# * **Zero** if and only if :math:`2\|g\|_{agree} + \|d\|_{opposed} < \|d\|_{agree}` (1-norms of the parts). The
#   Euclidean b is zero only where g is. A gradient along memory, :math:`g = \gamma d`, leaves no choice in between:
#   memory is dropped if :math:`\gamma < \frac12`, else it is at its cap; Euclidean, :math:`b = \gamma^2/(1-\gamma)^2`.
#   (The step is the same sign either way; what differs is what is remembered.)
# * **At the cap** if and only if the sums are not negative just below :math:`\beta_{\max}`: always where nothing
#   opposes and :math:`\|g\|_1 \ge \frac12\|d\|_1`.
# * **In between** opposition decides. If g opposes d everywhere, memory goes on until coordinates with half of
#   :math:`\|d\|_1`, counted as :math:`|g_i|+|d_i|`, have turned. For :math:`g = -\gamma d` that is :math:`\beta =
#   \gamma/(1+\gamma)` (Euclidean: its square), *all* coordinates are at zero there, and of the many exact steps the
#   mixture of theorem 2 goes back by the share :math:`\gamma/(1+\gamma)` of the last move: to where the slope along
#   that move, interpolated, is zero. It completes a line search, which no sign could.
#
# *The soft form* takes back the jump. Its last move was :math:`\eta\|d\|_*v`. For :math:`g = \gamma d`, in every norm,
# :math:`\|s\|_* = |\gamma+\beta(1-\gamma)|\,\|d\|_*` and :math:`h = \eta\gamma\|d\|_*^2`: :math:`\varphi/\|d\|_*^2` is
# that of one Euclidean coordinate, and :math:`\beta = \gamma^2/(1-\gamma)^2`, clipped.


def signal(g: Array, d: Array, beta: float) -> float:
    """φ'(β)/η of the text."""
    agree = g * d > 0
    turned = ~agree & (np.abs(g) < beta * (np.abs(g) + np.abs(d)))
    size = np.abs(g) + np.abs(d)
    return float((2 * np.abs(g) - np.abs(d))[agree].sum() + np.abs(d)[~agree].sum() - 2 * size[turned].sum())


# %%
# In the spectral norm
# --------------------
# If :math:`g = U\,\mathrm{diag}(\gamma)V^\top` and :math:`d = U\,\mathrm{diag}(\delta)V^\top` with orthogonal U and V
# (signs allowed), then :math:`\|s(\beta)\|_* = \sum_i|\gamma_i + \beta(\delta_i-\gamma_i)|`, and products of g, d and
# :math:`UV^\top` are those of :math:`\gamma, \delta` and signs: everything above holds with singular values in place of
# coordinates. A breakpoint is a singular value that passes through zero.
#
# *Two singular values.* A 2 × 2 matrix with rows (a, b), (c, e) is a pair of complex numbers, :math:`p = \frac12((a+e)
# + i(c-b))` and :math:`r = \frac12((a-e) + i(c+b))`, with singular values :math:`\big||p| \pm |r|\big|`. So
# :math:`\|s\|_* = 2\max(|p|, |r|)`, a maximum of two Euclidean norms. In the hard form :math:`\beta` is an end, a zero
# of the determinant :math:`|p|^2 - |r|^2` (a kink), or the stationary point of one of the two: with :math:`p(\beta) =
# p_0 + \beta p_1` and :math:`k = h/(2\eta|p_1|)`, :math:`|k| < 1`,
#
# .. math:: \beta = -\frac{\mathrm{Re}(p_0\bar p_1)}{|p_1|^2} + \frac{|\mathrm{Im}(p_0\bar p_1)|}{|p_1|^2}\,
#                   \frac{k}{\sqrt{1-k^2}} .
#
# In general matrices do not commute, :math:`\varphi` is smooth between the zeros of singular values, and a bracket does
# it.


def two_by_two(g: Array, d: Array, level_shift: float) -> float:
    """β of the hard form on [0, 1] for 2 × 2 matrices: the best of six candidates."""
    start, end = (np.array([(m[0, 0] + m[1, 1]) + 1j * (m[1, 0] - m[0, 1]),
                            (m[0, 0] - m[1, 1]) + 1j * (m[1, 0] + m[0, 1])]) / 2 for m in (g, d))  # fmt: skip
    turn = end - start
    signs = np.array([1, -1])
    determinant = [signs @ np.abs(turn) ** 2, 2 * signs @ (start * turn.conj()).real, signs @ np.abs(start) ** 2]
    candidates = [0.0, 1.0, *(root.real for root in np.roots(determinant) if abs(root.imag) < 1e-9)]
    for a, b in zip(start, turn, strict=True):
        k = level_shift / 2 / abs(b)
        if abs(k) < 1:
            product = a * b.conjugate()
            candidates.append((abs(product.imag) * k / np.sqrt(1 - k**2) - product.real) / abs(b) ** 2)
    tried = np.clip(candidates, 0, 1)
    values = level_shift * tried - 2 * np.abs(start[:, None] + tried * turn[:, None]).max(axis=0)
    return float(tried[np.argmax(values)])


def _weight_claims() -> list[Claim]:
    random = np.random.default_rng(175)
    hard, soft, inside, terms, mean, lrs = [], [], 0, [], [], []
    for _ in range(300):
        g, d = random.normal(size=7), random.normal(size=7) - random.uniform(-0.5, 1)
        height, lr = random.normal(), 10 ** random.uniform(-1.5, 0.5)
        flat, heights = np.stack([g, d]), np.array([0.0, height])
        for form, weight in (("hard", quantile(g, d, height / lr)), ("soft", soft_weight(g, d, height, lr))):
            found = norms.bracket(heights, flat, norms.Ball("linf", form, ((7,),), (lr,))).weights[1]
            (hard if form == "hard" else soft).append(abs(found - weight))
            inside += 0 < weight < 1
        beta, v = random.uniform(0, 1), np.sign(d)
        terms.append(abs(signal(g, d, beta) - (g @ v - (d - g) @ np.sign(g + beta * (d - g)))))
        turn = d - g
        mean.append(abs((turn**2 @ (g / (g - d)) + g @ d) / (turn @ turn) - g @ g / (turn @ turn)))
        rates = np.repeat([lr, 3 * lr], [3, 4])
        found = norms.bracket(heights, flat, norms.Ball("linf", "hard", ((3,), (4,)), (lr, 3 * lr))).weights[1]
        lrs.append(abs(found - quantile(rates * g, rates * d, height)))
    level = norms.bracket(
        np.zeros(2), np.array([[1.0, 1.0], [-3.0, -1.0 / 3]]), norms.Ball("linf", "hard", ((2,),), (1.0,))
    )
    tie = quantile(np.array([1.0, 3.0]), np.array([-3.0, -1.0]), 0.0)
    return [
        Claim("ℓ∞, hard: β = weighted quantile", max(hard), 0, "identity", 1e-9),
        Claim("ℓ∞, hard: β of two tensors = quantile with lr in the weights", max(lrs), 0, "identity", 1e-9),
        Claim("ℓ∞, soft: β = walk along the breakpoints", max(soft), 0, "identity", 1e-9),
        Claim("share of β at 0 or 1 in these", 1 - inside / 600, 0.8, "upper bound"),
        Claim("φ level from 1/4 to 3/4: β", tie, 0.75, "identity", 1e-12),
        Claim("... φ not level: the bracket's β at a breakpoint", level.weights[1], 0.25, "identity", 1e-12),
        Claim("φ'(β)/η = its terms, agreeing and opposed", max(terms), 0, "identity", 1e-10),
        Claim("Euclidean b = mean of the same points, shifted by the rise", max(mean), 0, "identity", 1e-9),
    ]


def along_memory() -> float:
    """Soft form, g = γd in both norms: largest |β - γ²/(1-γ)²|, clipped."""
    random, worst = np.random.default_rng(179), 0.0
    for trial in range(40):
        d, gamma, lr = random.normal(size=(3, 2)), random.uniform(-3, 2), 10 ** random.uniform(-1, 1)
        ball = norms.Ball(norms.NORMS[trial % 2], "soft", ((3, 2),), (lr,))
        atom = ball.atom(d.ravel())[0]
        heights = np.array([0.0, gamma * d.ravel() @ atom])
        found = norms.bracket(heights, np.stack([gamma * d.ravel(), d.ravel()]), ball)
        worst = max(worst, abs(found.weights[1] - min(1.0, gamma**2 / (1 - gamma) ** 2)))
    return worst


def _momentum_claims() -> list[Claim]:
    random = np.random.default_rng(176)
    wrong, whole, back, commuting, small = 0, [], [], [], []
    for _ in range(200):
        d = random.normal(size=6)
        g = random.normal(size=6) * 10 ** random.uniform(-1, 0.5) + random.uniform(-1, 1) * d
        agree, rise = g * d > 0, float(g @ np.sign(d))
        beta = quantile(g, d, rise)
        one = [float(np.abs(part).sum()) for part in (g[agree], d[agree], d[~agree])]
        wrong += (beta == 0) != (2 * one[0] + one[2] < one[1])
        wrong += (beta == 1) != (signal(g, d, 1 - 1e-12) >= 0)
        gamma = random.uniform(0.05, 3)
        whole.append(abs(quantile(-gamma * d, d, -gamma * np.abs(d).sum()) - gamma / (1 + gamma)))
        lr = 10 ** random.uniform(-1, 0)
        opposed, ball = np.stack([-gamma * d, d]), norms.Ball("linf", "hard", ((6,),), (lr,))
        heights = np.array([0.0, -lr * gamma * np.abs(d).sum()])
        move = norms.mixture(heights, opposed, ball, 0.0, 1.0)[0]
        back.append(np.abs(move - lr * gamma / (1 + gamma) * np.sign(d)).max() / lr)
        back.append(abs(norms.value(move, heights, opposed, ball) - norms.bracket(heights, opposed, ball).dual))
        u, w = (np.linalg.qr(random.normal(size=(6, 6)))[0] for _ in range(2))
        matrices = np.stack([(u * g) @ w, (u * d) @ w])
        _, found = norms.step([0.0, lr * rise], matrices, "spectral", lr, "hard")
        commuting.append(abs(found.weights[1] - beta))
    for _ in range(150):
        a, b = random.normal(size=(2, 2, 2))
        shift = float((a * norms.polar(b)).sum())
        flat, ball = np.stack([a.ravel(), b.ravel()]), norms.Ball("spectral", "hard", ((2, 2),), (1.0,))
        small.append(abs(norms.bracket(np.array([0.0, shift]), flat, ball).weights[1] - two_by_two(a, b, shift)))
    halves = [quantile(share * np.ones(3), np.ones(3), 3 * share, 0.9) for share in (0.49, 0.5)]
    return [
        Claim("β = 0 or β = 1 and the inequalities of the text disagree, of 400", wrong, 0, "identity"),
        Claim("g = 0.49 d: β", halves[0], 0, "identity", 1e-12),
        Claim("g = 0.5 d: β, β_max = 0.9", halves[1], 0.9, "identity", 1e-12),
        Claim("g = -γd: β = γ/(1+γ)", max(whole), 0, "identity", 1e-10),
        Claim("soft, g = γd, both norms: β = γ²/(1-γ)², clipped", along_memory(), 0, "identity", 1e-7),
        Claim("g = -γd: the exact step goes back by γ/(1+γ) of the last move", max(back), 0, "identity", 1e-7),
        Claim("spectral norm, common singular vectors: β = quantile", max(commuting), 0, "identity", 1e-6),
        Claim("spectral norm, 2 × 2: β = best of six candidates", max(small), 0, "identity", 1e-6),
    ]  # fmt: skip


def picture() -> Any:
    """The dual over the weight of memory: sign descent (kinks) beside the Euclidean hard form, one model."""
    from matplotlib import pyplot

    random = np.random.default_rng(8)
    g, d = random.normal(size=8), random.normal(size=8)
    beta = np.linspace(0, 1, 400)
    s = g + beta[:, None] * (d - g)
    figure = pyplot.figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for name, curve, rise in (
        ("ℓ∞", np.abs(s).sum(axis=1), g @ np.sign(d)),
        ("Euclidean", np.sqrt((s**2).sum(axis=1)), g @ d / np.linalg.norm(d)),
    ):
        phi = beta * rise - curve
        axes.plot(beta, phi - phi.max(), label=name)
    points = g / (g - d)
    axes.plot(points[(points > 0) & (points < 1)], 0 * points[(points > 0) & (points < 1)], "k|", label="βᵢ")
    axes.set(xlabel="β", ylabel="φ(β) less its maximum, η = 1", title="hard form, linearised height")
    axes.legend()
    return figure


def claims() -> list[Claim]:
    return [*_weight_claims(), *_momentum_claims()]


if __name__ == "__main__":
    picture()
    report(claims())
