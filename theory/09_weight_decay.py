r"""
Three kinds of weight decay
===========================

Weight decay :math:`\mu` enters a step in one of three ways. *Proximal* decay is a term of the problem that
the step solves. *Decoupled* decay solves the same problem and ends with a first-order form of its last line,
as AdamW does. *Coupled* decay adds :math:`\mu x` to the gradient, as SGD does, and is no term of the problem.
This page says what each one minimises and how far they are apart, exactly.

Notation: :math:`\kappa = \eta/(1+\eta\mu)`, :math:`F` the objective of the step (`01_duality.py`), :math:`D`
its direction, :math:`z_{\mathrm{prox}} = -\kappa(P^{-1}D + \mu x)` the move that minimises :math:`F`.
"""

# %%
# Proximal against decoupled
# --------------------------
# Both use the same :math:`D`. The last lines are
#
# .. math:: y_{\mathrm{prox}} = \frac{x - \eta P^{-1}D}{1+\eta\mu}, \qquad
#           y_{\mathrm{dec}} = (1-\eta\mu)x - \eta P^{-1}D .
#
# The move of the second is :math:`-\eta(P^{-1}D + \mu x) = (1+\eta\mu) z_{\mathrm{prox}}`: **decoupled decay
# is the proximal step, over-relaxed by the factor** :math:`1+\eta\mu`. Subtracting the two moves leaves the
# exact remainder
#
# .. math:: y_{\mathrm{prox}} - y_{\mathrm{dec}} = -\eta\mu\, z_{\mathrm{prox}}
#           = \frac{\eta^2\mu}{1+\eta\mu}\big(P^{-1}D + \mu x\big) .
#
# *What decoupled decay costs in the problem.* :math:`F` grows from its minimiser at least like
# :math:`\frac{1}{2\kappa}\|\cdot\|^2_{P(I+\lambda P)}` (`01_duality.py`), and the two moves differ by
# :math:`\eta\mu\, z_{\mathrm{prox}}`, so
#
# .. math:: F(z_{\mathrm{dec}}) - F(z_{\mathrm{prox}}) \ge
#           \frac{(\eta\mu)^2}{2\kappa}\|z_{\mathrm{prox}}\|_{P(I+\lambda P)}^2 ,
#
# *attained* by a single plane, for which :math:`F` is a quadratic.
#
# *What it minimises instead.* Replace the decay term of :math:`F` by its tangent at :math:`z = 0`, and let
# the move stand for a direction accordingly:
#
# .. math:: F'(z) = \max_k\{h_k + \langle s_k,z\rangle\} + \tfrac{1}{2\eta}\|z\|_P^2 + \mu\langle Px, z\rangle
#           + \tfrac{\lambda\eta}{2}\|D'(z) - d\|^2, \qquad D'(z) = -\tfrac1\eta Pz - \mu Px .
#
# With :math:`z = -\eta(P^{-1}D' + \mu x)` the two terms in the middle are :math:`\frac{1}{2\eta}\|z + \eta\mu
# x\|_P^2 - \frac{\eta\mu^2}{2}\|x\|_P^2 = \frac\eta2\|D'\|_{P^{-1}}^2` plus a constant. That is the problem
# of `01_duality.py` in the direction, with :math:`\eta` in the place of :math:`\kappa` everywhere. So its
# minimiser has the form of the decoupled step, with weights that come from :math:`\eta` instead of
# :math:`\kappa`. For two planes (`02_two_planes.py`) the height enters the weight of memory as
# :math:`h_m/\kappa`, and :math:`1/\kappa - 1/\eta = \mu`, so before clipping
#
# .. math:: \beta - \beta' = \frac{\mu h_m}{\|d-g\|_M^2} .
#
# With the linearised height, which is of the order of :math:`\eta`, this is of the order of :math:`\eta\mu`.
# So the decoupled step (with :math:`\kappa` in its weights, as in the paper's rule as reconstructed here)
# minimises neither :math:`F` nor :math:`F'` exactly, and differs from both minimisers in the second order of
# :math:`\eta`.
#
# *Stability.* Where the gradient vanishes proximal decay multiplies x by :math:`1/(1+\eta\mu) < 1`, decoupled
# decay by :math:`1-\eta\mu`, which grows without bound for :math:`\eta\mu > 2`.

from __future__ import annotations

from typing import Any

import numpy as np
import sympy
from claims import Claim, report
from states import Array, FixedDiagonal, gradient, primal, settings, underway

from proxmom import Adam, AdaptiveMemory, GradientDescent, HeavyBall
from proxmom.numpy import Optimizer
from proxmom.numpy.optimizer import Model
from proxmom.solve import weights as solve

METRIC = FixedDiagonal(10 ** np.linspace(-0.5, 0.5, 8))


def remainder() -> list[sympy.Expr]:
    """Two expressions in one coordinate that must vanish: the remainder, and the factor 1 + ημ."""
    p, eta, mu = sympy.symbols("p eta mu", positive=True)
    x, d = sympy.symbols("x D", real=True)
    prox, decoupled = (x - eta * d / p) / (1 + eta * mu), (1 - eta * mu) * x - eta * d / p
    claimed = eta**2 * mu / (1 + eta * mu) * (d / p + mu * x)
    return [
        sympy.simplify(prox - decoupled - claimed),
        sympy.simplify(decoupled - x - (1 + eta * mu) * (prox - x)),
    ]


def pairs(rule: Any, seed: int) -> list[tuple[Model, Model]]:
    """Proximal and decoupled models of one state, for every metric and inertia."""
    found = []
    for number, setting in enumerate(settings(decays=("proximal",))):
        models = []
        for decay in ("proximal", "decoupled"):
            random, own = np.random.default_rng([seed, number]), {"weight_decay": 0.3, "decay": decay}
            optimizer = Optimizer(random.normal(size=8), rule, lr=1.0, **(setting | own))
            optimizer.lr = 0.0  # fills memory and leaves x where it is, so that both start from one state
            for _ in range(2):
                optimizer.step(gradient(random))
            optimizer.lr = 10 ** random.uniform(-1, 0.5)
            models.append(optimizer.preview(gradient(random)))
        found.append((models[0], models[1]))
    return found


def remainder_errors() -> tuple[float, float]:
    """Relative errors of the remainder and of the over-relaxation, from the package's two iterates."""
    worst = [0.0, 0.0]
    for seed in range(20):
        for prox, decoupled in pairs(AdaptiveMemory(), seed):
            eta, mu, direction = prox.lr, prox.weight_decay, prox.next_memory
            claimed = eta**2 * mu / (1 + eta * mu) * (direction / prox.diagonal + mu * prox.x)
            difference = prox.next_x - decoupled.next_x
            relaxed = (1 + eta * mu) * (prox.next_x - prox.x) - (decoupled.next_x - decoupled.x)
            size = np.abs(difference).max()
            worst[0] = max(worst[0], np.abs(difference - claimed).max() / size)
            worst[1] = max(worst[1], np.abs(relaxed).max() / size)
    return worst[0], worst[1]


def costs(rule: Any) -> list[float]:
    """The bound on what decoupled decay costs in F, over that cost."""
    ratios = []
    for seed in range(5):
        for prox, decoupled in pairs(rule, seed):
            kappa = prox.lr / (1 + prox.lr * prox.weight_decay)
            best = prox.next_x - prox.x
            cost = primal(prox, decoupled.next_x - decoupled.x) - primal(prox, best)
            metric = prox.diagonal * (1 + prox.inertia * prox.diagonal)
            ratios.append((prox.lr * prox.weight_decay) ** 2 / (2 * kappa) * (metric @ best**2) / cost)
    return ratios


def linearised_problem_error() -> tuple[float, int]:
    """β of the decoupled step minus β' of the problem with linearised decay, against the text, where unclipped."""
    random, worst, count = np.random.default_rng(3), 0.0, 0
    for _ in range(400):
        optimizer = underway(AdaptiveMemory(0.95), random, metric=METRIC, inertia=0.1, weight_decay=0.2)
        optimizer.lr = float(10 ** random.uniform(-2, 0))
        model = optimizer.preview(gradient(random) - random.uniform(0, 1) * optimizer.memory)
        beta, other, claimed = _two_betas(model)
        if 0 < min(beta, other) <= max(beta, other) < 0.95:
            count += 1
            worst = max(worst, abs(beta - other - claimed))
    return worst, count


def linearised_problem_gap() -> float:
    """F' at the decoupled step with weights from η, from plain vectors, minus its dual value; largest, relative."""
    random, worst = np.random.default_rng(4), 0.0
    for setting in settings(decays=("decoupled",)):
        optimizer = underway(AdaptiveMemory(0.95), random, **setting)
        model = optimizer.preview(gradient(random) - 0.5 * optimizer.memory)
        p, lam, mu, eta, d, x, s = _plain(model)
        c = model.heights - eta * s @ (lam * d / (1 + lam * p) + mu * x)
        q = eta * (s / (p * (1 + lam * p))) @ s.T
        w = solve(c, q)
        direction = (w @ s + lam * p * d) / (1 + lam * p)
        z = (1 - eta * mu) * x - eta * direction / p - x
        inertia = lam * eta / 2 * ((-p * z / eta - mu * p * x - d) ** 2).sum()
        value = max(model.heights + s @ z) + p @ z**2 / (2 * eta) + mu * (p * x) @ z + inertia
        constant = eta * lam / 2 * (d**2 / (1 + lam * p)).sum() - eta * mu**2 / 2 * p @ x**2
        size = max(np.abs(c).max(), np.abs(q).max())
        worst = max(worst, abs(value - (c @ w - w @ q @ w / 2 + constant)) / size)
    return float(worst)


def _plain(model: Model) -> tuple[Any, ...]:
    return model.diagonal, model.inertia, model.weight_decay, model.lr, model.memory, model.x, model.slopes


def _two_betas(model: Model) -> tuple[float, float, float]:
    """β of the package, β' of the linearised problem (its dual maximised by hand), and the claimed difference."""
    g, d, p, lam, eta = model.slopes[0], model.memory, model.diagonal, model.inertia, model.lr
    m, mu, height = 1 / (p * (1 + lam * p)), model.weight_decay, float(model.heights[1]) / 0.95
    distance = float((m * (d - g)) @ (d - g))
    pull = (m * (d - g)) @ (g + lam * p * d) + mu * model.x @ (d - g)
    return 0.95 * float(model.weights[1]), float(height / eta - pull) / distance, mu * height / distance


# %%
# Coupled decay, and where the three come to rest
# -----------------------------------------------
# Coupled decay replaces :math:`g` by :math:`g + \mu x` before anything else, so memory averages :math:`g_i +
# \mu x_i`. For a fixed :math:`\beta` (any rule with given weights) that average is linear: with :math:`\bar
# x_t` the average of the iterates with the same weights as in :math:`d_t`, and :math:`P` the identity,
#
# .. math:: y_{\mathrm{coupled}} = x - \eta(d + \mu\bar x) , \qquad
#           y_{\mathrm{coupled}} - y_{\mathrm{dec}} = \eta\mu(x - \bar x) .
#
# The decay acts with the delay of memory; without memory (:math:`\bar x = x`) coupled and decoupled decay are
# the same step.
#
# *Points of rest.* At a point where x, memory and gradient no longer change :math:`d = bd + (1-b)g` in every
# coordinate with a :math:`b < 1`, so :math:`d = g` (plus :math:`\mu x` if coupled), and a move of zero says:
#
# * proximal and decoupled decay need :math:`P^{-1}g + \mu x = 0`: x is stationary for :math:`f +
#   \frac\mu2\|x\|_P^2`;
# * coupled decay needs :math:`g + \mu x = 0`: x is stationary for :math:`f + \frac\mu2\|x\|^2`.
#
# With the identity metric all three agree, for every :math:`\eta`. With another metric they minimise
# different functions: proximal and decoupled decay measure the weights as they measure a move. Under Adam the
# metric is not fixed but ends at :math:`|g|` (:math:`\epsilon` aside), so that :math:`g + \mu P x = 0` reads
# :math:`x = -\mathrm{sign}(g)/\mu` where :math:`g \ne 0`: no coordinate can rest outside :math:`[-1/\mu,
# 1/\mu]`, as is known of AdamW (S. Xie and Z. Li, "Implicit Bias of AdamW: :math:`\ell_\infty` Norm Constrained
# Optimization", ICML 2024).


def rest(metric: Any, decay: str, rule: Any) -> Array:
    """Where the method comes to rest on a quadratic, from the package, with μ = 0.5."""
    a, b = quadratic()
    optimizer = Optimizer(np.ones(8), rule, lr=0.1, metric=metric, weight_decay=0.5, decay=decay)
    for _ in range(1200):
        optimizer.step(a @ optimizer.x - b)
    return np.asarray(optimizer.x)


def quadratic() -> tuple[Array, Array]:
    """A well-conditioned matrix and a right-hand side."""
    random = np.random.default_rng(5)
    root = random.normal(size=(8, 8))
    return root @ root.T / 8 + 0.2 * np.eye(8), random.normal(size=8)


def rest_errors() -> dict[str, float]:
    """Distance between the point of rest and the minimiser that the text names."""
    a, b = quadratic()
    scaled = np.linalg.solve(a + 0.5 * np.diag(METRIC.entries), b)
    plain = np.linalg.solve(a + 0.5 * np.eye(8), b)
    identity = FixedDiagonal(np.ones(8))
    found = {}
    for decay, target in (("proximal", scaled), ("decoupled", scaled), ("coupled", plain)):
        for rule in (AdaptiveMemory(0.8), HeavyBall(0.8)):
            name = type(rule).__name__
            found[f"{decay}, {name}"] = float(np.abs(rest(METRIC, decay, rule) - target).max())
            found[f"{decay}, {name}, P = I"] = float(np.abs(rest(identity, decay, rule) - plain).max())
    return found


def delay_error() -> float:
    """Coupled heavy ball: its iterates against decoupled decay plus ημ(x - x̄), with averages taken by hand."""
    random, beta, lr, mu = np.random.default_rng(6), 0.8, 0.1, 0.3
    optimizer = Optimizer(random.normal(size=8), HeavyBall(beta), lr=lr, weight_decay=mu, decay="coupled")
    d = average = None
    worst = 0.0
    for _ in range(30):
        x, g = optimizer.x, gradient(random)
        d = g if d is None else beta * d + (1 - beta) * g
        average = x if average is None else beta * average + (1 - beta) * x
        decoupled = (1 - lr * mu) * x - lr * d
        worst = max(worst, float(np.abs(optimizer.step(g) - decoupled - lr * mu * (x - average)).max()))
    return worst


def without_memory() -> float:
    """Gradient descent, identity metric: coupled against decoupled decay over 30 steps."""
    random = np.random.default_rng(7)
    start = random.normal(size=8)
    coupled = Optimizer(start, GradientDescent(), lr=0.1, weight_decay=0.3, decay="coupled")
    decoupled = Optimizer(start, GradientDescent(), lr=0.1, weight_decay=0.3, decay="decoupled")
    gradients = [gradient(random) for _ in range(30)]
    return float(max(np.abs(coupled.step(g) - decoupled.step(g)).max() for g in gradients))


def shrinkage() -> tuple[float, float]:
    """|x| after 20 steps without gradient, ημ = 3, from 1: proximal and decoupled."""
    ends = []
    for decay in ("proximal", "decoupled"):
        optimizer = Optimizer(np.ones(1), HeavyBall(), lr=3.0, weight_decay=1.0, decay=decay)
        for _ in range(20):
            optimizer.step(np.zeros(1))
        ends.append(abs(float(optimizer.x[0])))
    return ends[0], ends[1]


def adam_rest() -> float:
    """The largest |x_i|·μ at which AdamW's metric lets a linear function rest: its minimum is at infinity."""
    optimizer = Optimizer(np.zeros(4), AdaptiveMemory(), lr=0.05, metric=Adam(beta2=0.9), weight_decay=0.5)
    for _ in range(600):
        optimizer.step(np.array([1.0, -2.0, 30.0, 1e-3]))
    return float(0.5 * np.abs(optimizer.x).max())


def picture() -> Any:
    """The factor on x of one step without gradient, over ημ."""
    from matplotlib import pyplot

    product = np.linspace(0, 3, 100)
    figure = pyplot.figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(product, 1 / (1 + product), label="proximal")
    axes.plot(product, 1 - product, label="decoupled")
    axes.axhspan(-1, 1, color="gray", alpha=0.15, label="stable")
    axes.set(xlabel="ημ", ylabel="factor on x")
    axes.legend()
    return figure


def claims() -> list[Claim]:
    """Remainders over 240 pairs of steps; points of rest after 1200 steps on a quadratic."""
    exact, relaxed = remainder_errors()
    linear, count = linearised_problem_error()
    prox, decoupled = shrinkage()
    apart = float(np.abs(rest(METRIC, "coupled", HeavyBall(0.8)) - rest(METRIC, "decoupled", HeavyBall(0.8))).max())
    return [
        Claim("algebra: expressions that do not vanish (sympy)", sum(e != 0 for e in remainder()), 0, "identity"),
        Claim("y_prox - y_dec = η²μ(P⁻¹D + μx)/(1+ημ)", exact, 0, "identity", 1e-10),
        Claim("decoupled move = (1+ημ) · proximal move", relaxed, 0, "identity", 1e-10),
        Claim("(ημ)²‖z‖²_P(I+λP) / 2κ over F(z_dec) - F(z_prox)", max(costs(AdaptiveMemory())), 1, "upper bound", 1e-6),
        Claim("the same with one plane", min(costs(HeavyBall())), 1, "tight", 1e-6),
        Claim(
            "decoupled step with weights from η: F' = its dual value", linearised_problem_gap(), 0, "identity", 1e-10
        ),
        Claim("β - β' of the problem with linearised decay = μ h_m/‖d-g‖²_M", linear, 0, "identity", 1e-10),
        Claim("50 / number of states in this check", 50 / count, 1, "upper bound"),
        Claim("coupled = decoupled + ημ(x - x̄), heavy ball", delay_error(), 0, "identity", 1e-10),
        Claim("without memory, P = I: coupled = decoupled", without_memory(), 0, "identity", 1e-12),
        *[Claim(f"point of rest: {name}", error, 0, "identity", 1e-7) for name, error in rest_errors().items()],
        Claim("tempting: with a metric coupled and decoupled rest at one point", apart, 0.01, "counterexample"),
        Claim("ημ = 3, no gradient: proximal decay, |x| after 20 steps · 4²⁰", prox * 4.0**20, 1, "identity", 1e-12),
        Claim("ημ = 3, no gradient: decoupled decay, |x| after 20 steps", decoupled, 1.0, "counterexample"),
        Claim("μ·max|x_i| at rest under Adam, f linear", adam_rest(), 1, "tight", 1e-4),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
