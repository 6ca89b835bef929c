r"""
The effective momentum
======================

Adaptive memory has two knobs, the cap :math:`\beta_{\max}` and the inertia :math:`\lambda`, and its weight
:math:`\beta` comes out of a formula with six inner products (`02_two_planes.py`). With the linearised height,
a constant step size and no decoupled or proximal weight decay, nearly all of it cancels: the new memory is
:math:`b\,d + (1-b)\,g` with

.. math:: b = \frac{\beta+\lambda}{1+\lambda} = \frac{\|g\|^2}{\|g-d\|^2}
          \quad\text{clipped to}\quad \Big[\frac{\lambda}{1+\lambda},\; \frac{\beta_{\max}+\lambda}{1+\lambda}\Big].

So inertia does not enter the choice at all. It only moves the range that the ratio is clipped to.
"""

# %%
# The identity metric
# -------------------
# Let :math:`P = I`, :math:`\mu = 0` (or coupled decay: then :math:`g` stands for :math:`g + \mu x`), and
# :math:`\eta_{t-1} = \eta`. The new memory is :math:`(I+\lambda P)^{-1}(\beta d + (1-\beta)g + \lambda P d)`,
# which is :math:`b d + (1-b) g` with :math:`b = (\beta+\lambda)/(1+\lambda)`. The height is :math:`h_m =
# \eta\langle g,d\rangle`, and :math:`M = I/(1+\lambda)`. Multiply the vertex of the parabola of
# `02_two_planes.py` by :math:`(1+\lambda)/\eta`:
#
# .. math::
#
#     \beta\|d-g\|^2 &= (1+\lambda)\langle g,d\rangle - \langle d-g,\, g+\lambda d\rangle
#                     = \|g\|^2 - \lambda\big(\|d\|^2 - 2\langle g,d\rangle\big) \\
#                    &= (1+\lambda)\|g\|^2 - \lambda\|d-g\|^2 ,
#
# which, with :math:`\lambda\|d-g\|^2` on the other side and divided by :math:`1+\lambda`, is :math:`b\,\|d-g\|^2
# = \|g\|^2`. The map :math:`\beta\mapsto b` increases, so clipping :math:`\beta` to :math:`[0,\beta_{\max}]` is
# clipping :math:`b` to the interval above. With the customary :math:`\lambda = 0.1` and :math:`\beta_{\max} = 0.9`
# that is :math:`[1/11, 10/11]`. ∎
#
# *A changing step size*, :math:`r = \eta_{t-1}/\eta_t`, multiplies the height by :math:`r`; the additional
# term is :math:`(1+\lambda)(r-1)\langle g,d\rangle`, and
#
# .. math:: b = \frac{\|g\|^2 + (r-1)\langle g, d\rangle}{\|g-d\|^2} .
#
# A step size that falls (:math:`r > 1`) lengthens memory while gradient and memory agree.

from __future__ import annotations

from typing import Any

import numpy as np
import sympy
from claims import Claim, report
from states import Array, gradient

from proxmom import Adam, AdaptiveMemory
from proxmom.numpy import Optimizer

INERTIAS = (0.0, 0.1, 1.0)


def after_one_step(random: np.random.Generator, rule: Any, **setting: Any) -> tuple[Optimizer, Array, float]:
    """An optimizer after three steps with a constant lr, a gradient that makes β vary, and that lr."""
    lr = 10 ** random.uniform(-2, 1)
    optimizer = Optimizer(random.normal(size=8), rule, lr=lr, **setting)
    for _ in range(3):
        optimizer.step(gradient(random))
    return optimizer, 10 ** random.uniform(-1, 0.5) * gradient(random) - random.uniform(0, 1) * optimizer.memory, lr


def ratio_error() -> tuple[float, float]:
    """Largest error of b from the package, with a changing lr too; and the share of b at the ends of the range."""
    random = np.random.default_rng(1)
    errors, clipped = [], []
    for inertia in INERTIAS:
        for change in (1.0, 0.5, 3.0):
            for _ in range(100):
                optimizer, g, lr = after_one_step(random, AdaptiveMemory(), inertia=inertia)
                optimizer.lr = lr / change
                d = optimizer.memory
                ratio = (g @ g + (change - 1) * g @ d) / ((g - d) @ (g - d))
                low, high = inertia / (1 + inertia), (0.9 + inertia) / (1 + inertia)
                optimizer.step(g)
                b = (optimizer.diagnostics()["beta"] + inertia) / (1 + inertia)
                errors.append(abs(b - np.clip(ratio, low, high)))
                clipped.append(not low < ratio < high)
    return max(errors), float(np.mean(clipped))


def run_error() -> float:
    """Runs with inertia against d <- b d + (1 - b) g with b clipped to its range: nothing else is in them."""
    random = np.random.default_rng(2)
    worst = 0.0
    for inertia in INERTIAS:
        low, high = inertia / (1 + inertia), (0.9 + inertia) / (1 + inertia)
        curvature, x = 10 ** np.linspace(-2, 0, 8), random.normal(size=8)
        optimizer = Optimizer(x, AdaptiveMemory(), lr=1.5, inertia=inertia)
        d = curvature * x
        for _ in range(40):
            g = curvature * x
            distance = (g - d) @ (g - d)
            b = np.clip(g @ g / distance, low, high) if distance > 0 else high
            d = b * d + (1 - b) * g
            x = x - 1.5 * d
            worst = max(worst, np.abs(optimizer.step(curvature * optimizer.x) - x).max())
    return float(worst)


# %%
# What the ratio sees
# -------------------
# The points :math:`g` with a given ratio of the distances to 0 and to :math:`d` form a circle of Apollonius.
# For :math:`0 < c < 1`, multiply out :math:`\|g\|^2 \ge c\|g-d\|^2` and complete the square:
#
# .. math:: \Big\|g + \frac{c}{1-c}\,d\Big\|^2 \ge \frac{c}{(1-c)^2}\|d\|^2 .
#
# So memory is held at its cap for every :math:`g` *outside* a ball around :math:`-\frac{c}{1-c}d`, where
# :math:`c = (\beta_{\max}+\lambda)/(1+\lambda)`. For :math:`c = 10/11` the centre is :math:`-10\,d`, the
# radius :math:`\sqrt{110}\,\|d\| \approx 10.5\,\|d\|`: the ball reaches from :math:`-20.5\,d` to
# :math:`0.49\,d`, and :math:`\sqrt{10}\,\|d\|` to the sides. A gradient along memory shortens it only once it
# has fallen to less than half of it, one across it or against it much earlier.
#
# *The shortest memory.* For given lengths the ratio is smallest where the gradient opposes memory,
#
# .. math:: \frac{\|g\|^2}{\|g-d\|^2} \ge \Big(\frac{\|g\|}{\|g\|+\|d\|}\Big)^2 ,
#
# by the triangle inequality; *attained* at :math:`g = -a d`, :math:`a > 0`.
#
# *Orthogonal* :math:`g \perp d`, what an exact line search makes, gives :math:`b =
# \|g\|^2/(\|g\|^2+\|d\|^2)`; an acute angle gives more, an obtuse one (the last step was too long) less.


def ball_errors() -> int:
    """How often the package's β is at its cap although g lies inside the ball, or the other way round."""
    random, inertia = np.random.default_rng(3), 0.1
    c = 1.0 / 1.1
    wrong = 0
    for _ in range(500):
        optimizer = Optimizer(np.zeros(2), AdaptiveMemory(), lr=1.0, inertia=inertia)
        d = random.normal(size=2)
        optimizer.step(d)
        g = -c / (1 - c) * d + random.uniform(0, 15) * np.linalg.norm(d) * _unit(random)
        outside = np.linalg.norm(g + c / (1 - c) * d) >= np.sqrt(c) / (1 - c) * np.linalg.norm(d)
        optimizer.step(g)
        wrong += bool(optimizer.diagnostics()["beta"] == 0.9) != bool(outside)
    return wrong


def _unit(random: np.random.Generator) -> Array:
    angle = random.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def shortest() -> tuple[float, float]:
    """Bound over b without inertia: the largest at random, and the smallest where the gradient opposes memory."""
    random = np.random.default_rng(4)
    anywhere, opposed = [], []
    for _ in range(300):
        optimizer, g, _ = after_one_step(random, AdaptiveMemory(beta_max=1.0))
        d = optimizer.memory
        for share, candidate in ((anywhere, g), (opposed, -random.uniform(0.1, 3) * d)):
            size = np.linalg.norm(candidate)
            bound = (size / (size + np.linalg.norm(d))) ** 2
            share.append(bound / optimizer.preview(candidate).weights[1])
    return float(max(anywhere)), float(min(opposed))


# %%
# A diagonal metric
# -----------------
# With :math:`M = P^{-1}(I+\lambda P)^{-1}`, and so :math:`P^{-1} = M(I+\lambda P)`, the same calculation
# gives
#
# .. math::
#
#     \beta\|d-g\|_M^2 &= \langle g,d\rangle_{P^{-1}} - \langle d-g,\, g+\lambda Pd\rangle_M
#                       = \|g\|_M^2 + \lambda\big(2\langle g,d\rangle_{PM} - \|d\|_{PM}^2\big) \\
#                      &= \|g\|_{P^{-1}}^2 - \lambda\|d-g\|_{PM}^2 .
#
# The new memory now has an effective momentum for each coordinate, :math:`b_i = (\beta+\lambda
# p_i)/(1+\lambda p_i)`. The right-hand side moved over is a sum over coordinates with just these factors:
# before clipping,
#
# .. math:: \sum_i b_i\,\frac{(d_i-g_i)^2}{p_i} = \|g\|_{P^{-1}}^2 ,
#           \qquad\text{so}\qquad \bar b = \frac{\|g\|_{P^{-1}}^2}{\|g-d\|_{P^{-1}}^2} ,
#
# where :math:`\bar b` is the average of the :math:`b_i` with weights :math:`(d_i-g_i)^2/p_i`. The ratio,
# measured in the metric, is the *average* effective momentum, and inertia decides how it is spread:
# coordinates with a large :math:`p_i` (large gradients, under Adam) get the longer memory. The spread is
# :math:`b_i - \beta = \lambda p_i (1-\beta)/(1+\lambda p_i) \le \lambda p_i(1-\beta)`. Under Adam :math:`p_i`
# has the size of a gradient. Where that is 1e-3, :math:`\lambda = 0.1` adds less than 1e-4 to the momentum: it
# does next to nothing, and the cap is :math:`\beta_{\max}` itself.


def coordinate() -> sympy.Expr:
    """What must vanish in each coordinate: both sides of the weighted form, from the vertex of the parabola."""
    p, lam = sympy.symbols("p lambda", positive=True)
    d, g = sympy.symbols("d g", real=True)
    m = 1 / (p * (1 + lam * p))
    vertex = g * d / p - m * (d - g) * (g + lam * p * d)
    return sympy.simplify(vertex - (g**2 / p - lam * p * m * (d - g) ** 2))


def weighted_errors() -> dict[str, float]:
    """With Adam's metric and no clipping: errors of β, of the average of b_i, and of their spread, from the package."""
    random = np.random.default_rng(5)
    worst = dict.fromkeys(("beta", "average", "spread"), 0.0)
    free = 0
    for inertia in INERTIAS:
        for _ in range(200):
            optimizer, g, _ = after_one_step(random, AdaptiveMemory(0.95), metric=Adam(0.9), inertia=inertia)
            model = optimizer.preview(g)
            p, d, beta = model.diagonal, model.memory, 0.95 * model.weights[1]
            if not 0 < beta < 0.95:
                continue
            free += 1
            m = 1 / (p * (1 + inertia * p))
            expected = ((g**2 / p).sum() - inertia * (p * m * (d - g) ** 2).sum()) / (m * (d - g) ** 2).sum()
            b = (model.next_memory - g) / (d - g)
            average = np.average(b, weights=(d - g) ** 2 / p)
            ratio = (g**2 / p).sum() / ((d - g) ** 2 / p).sum()
            spread = inertia * p * (1 - beta) / (1 + inertia * p)
            worst["beta"] = max(worst["beta"], abs(beta - expected))
            worst["average"] = max(worst["average"], abs(average - ratio))
            worst["spread"] = max(worst["spread"], float(np.abs(b - beta - spread).max()))
    return worst | {"states": float(free)}


def picture() -> Any:
    """b over the plane of gradients, for d = (1, 0): circles of Apollonius; memory is shortened in the dark ball."""
    from matplotlib import pyplot

    u, v = np.meshgrid(np.linspace(-3, 2, 200), np.linspace(-2, 2, 160))
    b = np.clip((u**2 + v**2) / np.maximum((u - 1) ** 2 + v**2, 1e-12), 1 / 11, 10 / 11)
    figure = pyplot.figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    filled = axes.contourf(u, v, b, levels=np.linspace(0, 1, 21), cmap="viridis")
    axes.contour(u, v, b, levels=[0.25, 0.5, 0.75], colors="white", linewidths=0.8)
    axes.annotate("", (1, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": "red"})
    axes.annotate("d", (1.02, 0.05), color="red")
    axes.set(xlabel="g₁", ylabel="g₂", title="effective momentum, λ = 0.1, β_max = 0.9", aspect="equal")
    figure.colorbar(filled, label="b")
    return figure


def claims() -> list[Claim]:
    """Worst cases over 900 states (ratio), 120 steps (runs), 500 gradients (ball), 600 states under Adam."""
    ratio, clipped = ratio_error()
    anywhere, opposed = shortest()
    weighted = weighted_errors()
    still = Optimizer(np.ones(3), AdaptiveMemory(), lr=1.0, inertia=0.1)
    still.step(np.ones(3))
    still.step(np.zeros(3))
    low = (still.diagnostics()["beta"] + 0.1) / 1.1
    return [
        Claim("(β+λ)/(1+λ) = (‖g‖² + (r-1)<g,d>) / ‖g-d‖², clipped", ratio, 0, "identity", 1e-10),
        Claim("share of these at an end of the range: else they say little", clipped, 0.7, "upper bound"),
        Claim("runs with inertia = d <- b d + (1-b) g with b = clip(‖g‖²/‖g-d‖²)", run_error(), 0, "identity", 1e-9),
        Claim("lower end of the range, at a zero gradient: λ/(1+λ)", low, 1 / 11, "tight", 1e-12),
        Claim("gradients for which β = β_max and the ball disagree", ball_errors(), 0, "identity"),
        Claim("(‖g‖/(‖g‖+‖d‖))² / b, anywhere", anywhere, 1, "upper bound"),
        Claim("(‖g‖/(‖g‖+‖d‖))² / b, where g opposes d", opposed, 1, "tight"),
        Claim("diagonal metric, one coordinate (sympy): sides that differ", float(coordinate() != 0), 0, "identity"),
        Claim("diagonal metric: β = (‖g‖²_P⁻¹ - λ‖d-g‖²_PM)/‖d-g‖²_M", weighted["beta"], 0, "identity", 1e-9),
        Claim("diagonal metric: average of b_i = ‖g‖²_P⁻¹/‖g-d‖²_P⁻¹", weighted["average"], 0, "identity", 1e-9),
        Claim("diagonal metric: b_i - β = λp_i(1-β)/(1+λp_i)", weighted["spread"], 0, "identity", 1e-7),
        Claim("100 / number of states in these three", 100 / weighted["states"], 1, "upper bound"),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
