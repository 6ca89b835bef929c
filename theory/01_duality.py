r"""
The dual of the step
====================

One step minimises, over the move :math:`z`, a model made of :math:`K` planes plus three quadratic terms.
Written with :math:`x` the iterate, :math:`d` the memory, :math:`P` a diagonal positive metric, step size
:math:`\eta > 0`, weight decay :math:`\mu \ge 0` and inertia :math:`\lambda \ge 0`, and leaving out the
constant :math:`f(x)`, it minimises

.. math::

    F(z) = \max_k \{ h_k + \langle s_k, z\rangle \} + \tfrac{1}{2\eta}\|z\|_P^2 + \tfrac{\mu}{2}\|x+z\|_P^2
           + \tfrac{\lambda\eta}{2(1+\eta\mu)} \|D(z) - d\|^2,
    \qquad D(z) = -\tfrac{1+\eta\mu}{\eta} P z - \mu P x .

The problem has as many unknowns as the model has parameters. This page derives a problem with :math:`K`
unknowns that has the same solution, proves that the two have the same value, and turns the difference of
their values into a certificate that can be computed without a single vector.

Nothing is assumed of :math:`f`: heights and slopes are any numbers and vectors. What is proven here is that
the *model* is minimised exactly. The argument is that of S. Boyd and L. Vandenberghe, *Convex Optimization*
(2004), sections 5.2 (strong duality) and 5.5.1 (a dual point as certificate), and it is written out in full:
no theorem is borrowed. Steps on a maximum of planes with a proximal term are those of bundle methods; their
dual is the subject of J.-B. Hiriart-Urruty and C. Lemaréchal, *Convex Analysis and Minimization Algorithms
II* (1993), chapter XIV.
"""

# %%
# In the direction instead of the move
# ------------------------------------
# Put :math:`\kappa = \eta/(1+\eta\mu)`. Then :math:`D(z) = -Pz/\kappa - \mu P x`, an affine bijection, with
# the inverse
#
# .. math:: z = -\kappa\,(P^{-1}D + \mu x).
#
# Completing the square, with :math:`1/\eta + \mu = 1/\kappa` and :math:`1 - \kappa\mu = 1/(1+\eta\mu)`,
#
# .. math::
#
#     \tfrac{1}{2\eta}\|z\|_P^2 + \tfrac{\mu}{2}\|x+z\|_P^2
#       = \tfrac{1}{2\kappa}\|z + \kappa\mu x\|_P^2 + \tfrac{\mu(1-\kappa\mu)}{2}\|x\|_P^2
#       = \tfrac{\kappa}{2}\|D\|_{P^{-1}}^2 + \tfrac{\mu}{2(1+\eta\mu)}\|x\|_P^2 ,
#
# because :math:`z + \kappa\mu x = -\kappa P^{-1}D`. So, up to a constant, the step minimises over :math:`D`
#
# .. math::
#
#     \max_k \ell_k(D) + \tfrac{\kappa}{2}\|D\|_{P^{-1}}^2 + \tfrac{\lambda\kappa}{2}\|D-d\|^2,
#     \qquad \ell_k(D) = h_k - \kappa\langle s_k, P^{-1}D + \mu x\rangle .
#
# The quadratic part has the second derivative :math:`\kappa H` with :math:`H = P^{-1} + \lambda I =
# P^{-1}(I+\lambda P)`, which is positive definite: the minimiser exists and is unique. In the move the second
# derivative is :math:`PHP/\kappa = P(I+\lambda P)/\kappa`, because :math:`\Delta D = -P\Delta z/\kappa`.
#
# *The new iterate* is :math:`y = x + z = (1-\kappa\mu)x - \kappa P^{-1}D = (x - \eta P^{-1}D)/(1+\eta\mu)`.
# That is proximal decay. Decoupled decay takes the same :math:`D` and ends with :math:`y = (1-\eta\mu)x - \eta
# P^{-1}D` instead; coupled decay adds :math:`\mu x` to the gradient and has :math:`\mu = 0` in the problem
# (`09_weight_decay.py`).
#
# Weights instead of a maximum
# ----------------------------
# A maximum of numbers is the maximum of their averages, :math:`\max_k \ell_k = \max_w \sum_k w_k \ell_k` over
# the simplex (:math:`w \ge 0`, :math:`\sum w = 1`). For a fixed :math:`w` write :math:`s = \sum_k w_k s_k`
# and minimise over :math:`D`
#
# .. math:: L(D, w) = \sum_k w_k \ell_k(D) + \tfrac{\kappa}{2}\|D\|_{P^{-1}}^2 + \tfrac{\lambda\kappa}{2}\|D-d\|^2 .
#
# The derivative is :math:`\kappa\,( -P^{-1}s + P^{-1}D + \lambda(D-d) )`. It vanishes, after multiplication
# by :math:`P/\kappa`, where :math:`(I+\lambda P) D = s + \lambda P d`:
#
# .. math:: D(w) = (I+\lambda P)^{-1}\Big(\sum_k w_k s_k + \lambda P d\Big).
#
# Inserted, with :math:`M = P^{-1}(I+\lambda P)^{-1}`, the planes have the values (no constant is left out
# here)
#
# .. math::
#
#     \ell_k(D(w)) = c_k - (Qw)_k, \qquad Q_{jk} = \kappa\langle s_j, M s_k\rangle, \qquad
#     c_k = h_k - \kappa\langle s_k, \lambda(I+\lambda P)^{-1}d + \mu x\rangle ,
#
# since :math:`P^{-1}D(w) = Ms + \lambda(I+\lambda P)^{-1}d`. And the value is
#
# .. math::
#
#     q(w) = L(D(w), w) = \langle c, w\rangle - \tfrac12\langle w, Qw\rangle
#            + \tfrac{\kappa\lambda}{2}\langle d, (I+\lambda P)^{-1} d\rangle :
#
# all metrics are diagonal, so it is enough to check this coordinate by coordinate, which `stationarity` does
# with symbols.

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import sympy
from claims import Claim, report
from states import Array, Planes, Random, dual, dual_parts, gradient, move_of, primal, settings, underway

from proxmom import AdaptiveMemory
from proxmom.certify import certify
from proxmom.numpy.optimizer import Model
from proxmom.solve import weights as solve


def stationarity() -> list[sympy.Expr]:
    """Four expressions in one coordinate that must vanish identically."""
    p, eta = sympy.symbols("p eta", positive=True)
    lam, mu = sympy.symbols("lambda mu", nonnegative=True)
    x, d, s, z, big_d, h, other = sympy.symbols("x d s z D h s_k", real=True)
    kappa = eta / (1 + eta * mu)
    direction = -(1 + eta * mu) / eta * p * z - mu * p * x
    in_z = p * z**2 / (2 * eta) + mu / 2 * p * (x + z) ** 2 + lam * eta / (2 * (1 + eta * mu)) * (direction - d) ** 2
    in_d = kappa / 2 * big_d**2 / p + mu / (2 * (1 + eta * mu)) * p * x**2 + lam * kappa / 2 * (big_d - d) ** 2
    lagrangian = h - kappa * s * (big_d / p + mu * x) + kappa / 2 * big_d**2 / p + lam * kappa / 2 * (big_d - d) ** 2
    best = (s + lam * p * d) / (1 + lam * p)
    m = 1 / (p * (1 + lam * p))
    linear = h - kappa * s * (lam * d / (1 + lam * p) + mu * x)
    constant = kappa * lam / 2 * d**2 / (1 + lam * p)
    plane = kappa * other * (-(best / p + mu * x) + lam * d / (1 + lam * p) + mu * x + m * s)
    residuals = [
        in_d.subs(big_d, direction) - in_z,
        sympy.diff(lagrangian, big_d).subs(big_d, best),
        lagrangian.subs(big_d, best) - (linear - kappa * m * s**2 / 2 + constant),
        plane,
    ]
    return [sympy.simplify(residual) for residual in residuals]


# %%
# Weak and strong duality, without a theorem
# ------------------------------------------
# For every :math:`D` and every :math:`w` on the simplex, with :math:`F` now written as a function of
# :math:`D` and both sides without the constant of :math:`x`,
#
# .. math:: F(D) = \max_{w'} L(D, w') \ge L(D, w) \ge \min_{D'} L(D', w) = q(w).
#
# So :math:`q` is never above the minimum of :math:`F` (weak duality). And the two functions are closest where
# both use one and the same :math:`w`: the quadratic terms cancel in
#
# .. math:: \mathrm{gap}(w) = F(D(w)) - q(w) = \max_k \ell_k(D(w)) - \sum_k w_k \ell_k(D(w)),
#
# which by the formula for the planes' values needs :math:`c`, :math:`Q` and :math:`w` only.
#
# **Strong duality.** The concave function :math:`q` is continuous on the compact simplex, so it has a
# maximiser :math:`w^*`. Its gradient is :math:`c - Qw = (\ell_k(D(w)))_k`. At the maximiser no direction
# :math:`e_k - w^*` into the simplex ascends, so :math:`\ell_k \le \sum_j w^*_j \ell_j` for every :math:`k`:
# the gap at :math:`w^*` is zero. With weak duality, :math:`D(w^*)` minimises :math:`F`. Conversely, a gap of
# zero proves of *any* :math:`w` that :math:`D(w)` is the step.
#
# What a small gap says
# ---------------------
# A gap that is small but not zero bounds the error of the step:
#
# .. math:: \kappa\,\|D(w) - D(w^*)\|_H^2 \le \mathrm{gap}(w), \qquad H = P^{-1} + \lambda I .
#
# *Proof.* Split the gap into :math:`[F(D(w)) - F(D^*)] + [q(w^*) - q(w)]`, both non-negative, with :math:`D^*
# = D(w^*)`. (a) :math:`F` is the sum of a convex function and a quadratic with second derivative
# :math:`\kappa H`, so on the segment from :math:`D^*` to :math:`D` it lies below its chord by
# :math:`\frac{\kappa}{2}\alpha(1-\alpha)\|D - D^*\|_H^2` at least, :math:`\alpha` being the fraction of the way.
# It is not below :math:`F(D^*)` there: :math:`\alpha(F(D) - F(D^*)) \ge \frac{\kappa}{2}\alpha(1-\alpha)\|D -
# D^*\|_H^2`. Divide by :math:`\alpha` and let it go to zero: :math:`F` grows from its minimiser at least like
# :math:`\frac{\kappa}{2}\|D - D^*\|_H^2`. (b)
# :math:`q` is a quadratic with second derivative :math:`-Q`, and its gradient at :math:`w^*` makes no acute
# angle with :math:`w - w^*`, so :math:`q(w^*) - q(w) \ge \frac12\langle w - w^*, Q(w - w^*)\rangle =
# \frac{\kappa}{2}\|s - s^*\|_M^2`. Because :math:`s - s^* = (I+\lambda P)(D(w) - D^*)` and :math:`(I+\lambda
# P)M(I+\lambda P) = H`, that is :math:`\frac{\kappa}{2}\|D(w) - D^*\|_H^2` again. Add (a) and (b). ∎
#
# Part (a) alone, written in the move, says what *any* wrong move costs: :math:`F(z + \Delta z) - F(z) \ge
# \frac{1}{2\kappa}\|\Delta z\|_{P(I+\lambda P)}^2` at the minimiser :math:`z`, with equality if there is one plane.
#
# *Attained* for two planes whose optimum is exactly a vertex, :math:`q'(1) = 0` on the edge, certified at the
# other vertex: there gap and bound are both :math:`\langle e_2 - e_1, Q(e_2 - e_1)\rangle`.
#
# The KKT residual :math:`r = \max_k w_k(\max_j \ell_j - \ell_k)` says the same in another unit. The gap is
# the sum over :math:`k` of the terms whose maximum is :math:`r`, all of them non-negative, so :math:`r \le
# \mathrm{gap} \le K r`.


def planes_and_state(random: Random, count: int, setting: dict[str, Any]) -> Model:
    """The model of a step with `count` planes in the middle of a run; their heights make them compete for weight."""
    rows, seed, g = random.dirichlet(np.ones(4), size=count), int(random.integers(2**32)), gradient(random)

    def model(heights: Array) -> Model:
        return underway(Planes(rows, heights), np.random.default_rng(seed), **setting).preview(g)

    level = model(np.zeros(count))
    middle = level.quadratic @ random.dirichlet(np.ones(count)) - level.linear  # all planes meet at these weights
    return model(middle + 10 ** random.uniform(-3, 0) * np.ptp(middle) * random.normal(size=count))


@cache
def models() -> list[tuple[str, Model]]:
    """Models with one to four planes in every setting, each with the form of its weight decay."""
    random = np.random.default_rng(1)
    return [
        (setting["decay"], planes_and_state(random, count, setting))
        for setting in settings()
        for count in (1, 2, 3, 4)
        for _ in range(4)
    ]


def direction_of(model: Model, weights: Array) -> Array:
    """D(w)."""
    pull = model.inertia * model.diagonal
    return (weights @ model.slopes + pull * model.memory) / (1 + pull)


def scale(model: Model) -> float:
    """The size of the numbers that the dual is made of, for relative errors."""
    return max(float(np.abs(model.heights).max()), float(np.abs(model.quadratic).max()), 1e-300)


def difference(measured: Array, expected: Array) -> float:
    """Largest difference, relative to the largest entry."""
    return float(np.abs(measured - expected).max() / max(np.abs(expected).max(), 1e-300))


def formula_errors(decay: str, model: Model) -> tuple[float, float, float]:
    """Relative errors of the package's c and Q, of its direction, and of its next iterate."""
    linear, quadratic, _ = dual_parts(model)
    direction = direction_of(model, model.weights)
    eta, mu = model.lr, model.weight_decay
    following = model.x + move_of(model, direction)
    if decay == "decoupled":  # the same direction, with the first-order form of the last line
        following = (1 - eta * mu) * model.x - eta * direction / model.diagonal
    size = scale(model)
    products = max(np.abs(model.linear - linear).max(), np.abs(model.quadratic - quadratic).max()) / size
    return float(products), difference(model.next_memory, direction), difference(model.next_x, following)


def primal_minus_dual(model: Model) -> float:
    """Relative: the objective at the step, from plain vectors, minus the dual value at its weights."""
    value = primal(model, move_of(model, model.next_memory))
    return (value - dual(model, model.weights)) / scale(model)


def elsewhere(model: Model, random: Random) -> Iterator[tuple[float, float, float, float]]:
    """At weights that do not solve the model: gap by the package, gap from plain vectors, bound, KKT residual."""
    best = direction_of(model, model.weights)
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    for w in random.dirichlet(np.full(len(model.heights), 0.5), size=4):
        certificate = certify(model.linear, model.quadratic, w)
        direction = direction_of(model, w)
        value = primal(model, move_of(model, direction))
        plain = value - dual(model, w)
        bound = kappa * ((direction - best) ** 2 * (1 / model.diagonal + model.inertia)).sum()
        yield float(certificate.gap), plain, float(bound), float(certificate.kkt)


def growth(model: Model, random: Random) -> float:
    """The largest ratio of ‖Δz‖² / (2κ), in the metric P(I + λP), to what a wrong move Δz costs: never above 1."""
    z = move_of(model, model.next_memory)
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    best, metric = primal(model, z), model.diagonal * (1 + model.inertia * model.diagonal)
    ratios = []
    for size in (0.01, 1.0, 100.0):
        wrong = size * np.abs(z).max() * random.normal(size=z.size)
        ratios.append((metric @ wrong**2) / (2 * kappa) / (primal(model, z + wrong) - best))
    return float(max(ratios))


def vertex() -> float:
    """Gap over bound for two planes whose optimum is exactly the second vertex, certified at the first."""
    random = np.random.default_rng(2)
    ratios = []
    for _ in range(20):
        slopes = random.normal(size=(2, 5))
        quadratic = slopes @ slopes.T
        linear = np.array([0.0, quadratic[1, 1] - quadratic[0, 1]])  # makes the dual flat at the second vertex
        best, wrong = solve(linear, quadratic), np.array([1.0, 0.0])
        bound = (wrong - best) @ quadratic @ (wrong - best)
        ratios.append(certify(linear, quadratic, wrong).gap / bound)
    return max(ratios, key=lambda ratio: abs(ratio - 1))


# %%
# Degenerate states
# -----------------
# The proof needs no rank condition: planes may coincide, memory may equal the gradient or its negative, the
# gradient may be zero. Then :math:`w` need not be unique, but :math:`D` is, and the certificate holds as it
# stands.


def degenerate_gap() -> float:
    """The largest relative gap where slopes coincide, vanish or are opposite."""
    random = np.random.default_rng(3)
    worst = 0.0
    for setting in settings(decays=("proximal",)):
        for turn in (lambda r, d: d, lambda r, d: -d, lambda r, d: 0 * r, lambda r, d: d + 1e-9 * r):
            optimizer = underway(AdaptiveMemory(), random, **setting)
            model = optimizer.preview(turn(gradient(random), optimizer.memory))
            rows = np.array([[1, 0, 0, 0], [0.01, 0.99, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
            many = underway(Planes(rows, [0.0, 0.1, 0.0, 0.05]), copy.deepcopy(random), **setting)
            for candidate in (model, many.preview(turn(gradient(random), many.memory))):
                worst = max(worst, abs(primal_minus_dual(candidate)))
    return worst


def picture() -> Any:
    """The primal in one dimension, and its dual on the edge between two planes: the same number."""
    from matplotlib import pyplot

    slopes, heights, eta = np.array([-1.0, 2.0]), np.array([0.0, 0.5]), 0.5
    quadratic = eta * np.outer(slopes, slopes)
    w = solve(heights, quadratic)
    z, t = np.linspace(-1.2, 1.2, 200), np.linspace(0, 1, 200)
    objective = (heights[:, None] + slopes[:, None] * z).max(axis=0) + z**2 / (2 * eta)
    edge = np.stack([1 - t, t])
    dual = heights @ edge - (edge * (quadratic @ edge)).sum(axis=0) / 2
    figure = pyplot.figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for height, slope in zip(heights, slopes, strict=True):
        left.plot(z, height + slope * z, "--", lw=1)
    left.plot(z, objective, "k")
    left.plot(-eta * w @ slopes, objective.min(), "o")
    left.set(xlabel="move z", title="primal: planes + proximal term", ylim=(-1.5, 2.5))
    right.plot(t, dual, "k")
    right.plot(w[1], dual.max(), "o")
    right.set(xlabel="weight of the second plane", title="dual")
    return figure


def claims() -> list[Claim]:
    """All numbers are the worst over 384 models: 1 to 4 planes, two metrics, with and without inertia and decay."""
    random = np.random.default_rng(4)
    products, directions, iterates = np.array([formula_errors(decay, model) for decay, model in models()]).max(axis=0)
    gaps = [abs(primal_minus_dual(model)) for _, model in models()]
    package = [float(certify(m.linear, m.quadratic, m.weights).gap) / scale(m) for _, m in models()]
    wrong = [(len(m.heights), scale(m), *row) for _, m in models() for row in elsewhere(m, random)]
    several = [row for row in wrong if row[0] > 1]
    single = [model for _, model in models() if len(model.heights) == 1]
    mixed = np.mean([(model.weights > 0).sum() > 1 for _, model in models() if len(model.heights) > 1])
    wrong_gap = max(abs(gap - plain) / max(size, gap) for _, size, gap, plain, _, _ in wrong)
    distance = max(bound / gap for _, _, gap, _, bound, _ in several)
    kkt_low = max(kkt / gap for _, _, gap, _, _, kkt in several)
    kkt_high = max(gap / (count * kkt) for count, _, gap, _, _, kkt in several)
    grown = max(growth(model, random) for _, model in models())
    grown_one = min(growth(model, random) for model in single)
    return [
        Claim("algebra: expressions that do not vanish (sympy)", sum(e != 0 for e in stationarity()), 0, "identity"),
        Claim("share of the models with one active plane: else the checks say little", 1 - mixed, 0.5, "upper bound"),
        Claim("c and Q of the package = their formulas from plain vectors", products, 0, "identity", 1e-12),
        Claim("new memory = (I + λP)⁻¹(Σ w s + λPd)", directions, 0, "identity", 1e-12),
        Claim("new x = move of D (decoupled: its first-order form)", iterates, 0, "identity", 1e-12),
        Claim("strong duality: |primal value from plain vectors - dual value|", max(gaps), 1e-10, "upper bound"),
        Claim("the certificate's gap at the package's weights", max(package), 1e-10, "upper bound"),
        Claim("gap from c, Q, w = gap from plain vectors, at wrong weights", wrong_gap, 0, "identity", 1e-10),
        Claim("κ‖D(w) - D*‖²_H / gap(w)", distance, 1, "upper bound"),
        Claim("gap(w) / (κ‖D(w) - D*‖²_H), optimum a vertex with zero slope", vertex(), 1, "tight"),
        Claim("KKT residual / gap", kkt_low, 1, "upper bound"),
        Claim("gap / (K · KKT residual)", kkt_high, 1, "upper bound"),
        Claim("‖Δz‖²/2κ in the metric P(I + λP) / cost of a wrong move Δz", grown, 1, "upper bound", 1e-6),
        Claim("the same with one plane, where nothing is lost", grown_one, 1, "tight", 1e-6),
        Claim("gap where planes coincide, vanish or are opposite", degenerate_gap(), 1e-10, "upper bound"),
    ]


if __name__ == "__main__":
    picture()
    report(claims())
