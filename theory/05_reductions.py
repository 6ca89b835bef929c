r"""
Reductions and invariances
==========================

The step contains known methods as special choices of planes and metric. Each section here derives one of
them, and the checks run the package next to the published formulas, written out as loops that share no code
with it. At the end stand the changes of the problem that do not change the method, and two that one might
expect not to and that do.
"""

# %%
# Heavy ball is SGD with momentum and dampening
# ---------------------------------------------
# With one plane the simplex is a point, so :math:`w = 1`. The plane :math:`(1-\beta)\cdot` gradient
# :math:`+\,\beta\cdot` memory has the slope :math:`\beta d + (1-\beta)g`, and without inertia the step is
#
# .. math:: d \leftarrow \beta d + (1-\beta) g, \qquad x \leftarrow x - \eta P^{-1} d .
#
# For :math:`P = I` and :math:`d_0 = g_0` this is SGD with momentum :math:`\beta` and dampening :math:`\beta`,
# as in torch: the buffer starts as the first gradient, and from then on is :math:`\beta\cdot` buffer
# :math:`+\,(1-\beta)g`. Inertia only changes the coefficient, to :math:`(\beta+\lambda)/(1+\lambda)`
# (`03_effective_momentum.py`).
#
# For Adam's metric with the factor :math:`1-\beta^t` (`02_two_planes.py`) it is :math:`x - \eta\,
# d/\big((1-\beta^t)(\sqrt{v/(1-\beta_2^t)}+\epsilon)\big)`, with :math:`(1-\eta\mu)x` in the place of
# :math:`x` for decoupled decay: AdamW (I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization",
# ICLR 2019). With :math:`\beta_{\max} = 0` both planes of adaptive memory are the gradient plane: plain
# gradient descent, and under Adam's metric Adam with :math:`\beta_1 = 0`.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize
from claims import Claim, report
from states import Array, Planes, Random, dual_parts, gradient, underway

from proxmom import (
    Adam,
    AdaptiveMemory,
    GradientDescent,
    HeavyBall,
    MoMo,
    Plane,
    Polyak,
    TruncatedMemory,
    mix,
)
from proxmom.now import Now
from proxmom.numpy import Optimizer
from proxmom.numpy.optimizer import Model
from proxmom.planes import Vector

STEPS = 40
Gradients = Callable[[Array], Array]


@dataclass(frozen=True)
class Convex:
    """f(x) = scale · (Σ_i log cosh(<a_i, x> - b_i) + offset): smooth, convex, no special structure."""

    a: Array
    b: Array
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def random(cls, seed: int) -> Convex:
        random = np.random.default_rng(seed)
        return cls(random.normal(size=(12, 6)), random.normal(size=12))

    def value(self, x: Array) -> float:
        return self.scale * (float(np.log(np.cosh(self.a @ x - self.b)).sum()) + self.offset)

    def gradient(self, x: Array) -> Array:
        return self.scale * self.a.T @ np.tanh(self.a @ x - self.b)

    def start(self) -> Array:
        return np.linspace(-1, 1, self.a.shape[1])


def path(problem: Any, rule: Any, *, lrs: Sequence[float] = (0.05,) * STEPS, **setting: Any) -> Array:
    """The package's iterates, (steps, n)."""
    optimizer = Optimizer(problem.start(), rule, lr=1.0, **setting)
    iterates = []
    for lr in lrs:
        optimizer.lr = lr
        iterates.append(optimizer.step(problem.gradient(optimizer.x), problem.value(optimizer.x)))
    return np.array(iterates)


def apart(first: Array, second: Array) -> float:
    """Largest difference between two paths, relative to how far they go."""
    return float(np.abs(first - second).max() / np.abs(second - second[0]).max())


def schedule(random: Random) -> Array:
    return 0.05 * 10 ** random.uniform(-0.5, 0.5, size=STEPS)


def lower_bound(problem: Convex) -> float:
    """A bound two percent below the minimum, which is positive."""
    return 0.98 * float(scipy.optimize.minimize(problem.value, problem.start(), jac=problem.gradient).fun)


def sgd(problem: Convex, lrs: Array, *, momentum: float, decay: float) -> Array:
    """SGD with momentum, dampening = momentum, and coupled decay."""
    x, buffer, iterates = problem.start(), None, []
    for lr in lrs:
        g = problem.gradient(x) + decay * x
        buffer = g if buffer is None else momentum * buffer + (1 - momentum) * g
        x = x - lr * buffer
        iterates.append(x)
    return np.array(iterates)


def adamw(problem: Convex, lrs: Array, *, beta1: float, decay: float, beta2: float = 0.999, eps: float = 1e-8) -> Array:
    """AdamW."""
    x, m, v, iterates = problem.start(), 0.0, 0.0, []
    for t, lr in enumerate(lrs, start=1):
        g = problem.gradient(x)
        x = x - lr * decay * x
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        x = x - lr / (1 - beta1**t) * m / (np.sqrt(v) / np.sqrt(1 - beta2**t) + eps)
        iterates.append(x)
    return np.array(iterates)


# %%
# Polyak's step size, capped
# --------------------------
# Planes: the gradient plane and the lower bound :math:`\ell`, a plane with slope 0 and height :math:`\ell -
# f(x)`. With weight :math:`\theta` on the gradient the dual is :math:`(1-\theta)(\ell - f(x)) -
# \frac{\eta}{2}\theta^2\|g\|_{P^{-1}}^2`, so
#
# .. math:: \theta = \mathrm{clip}\Big(\frac{f(x)-\ell}{\eta\|g\|_{P^{-1}}^2}, 0, 1\Big), \qquad
#           x \leftarrow x - \eta\theta P^{-1}g
#             = x - \min\Big\{\frac{f(x)-\ell}{\|g\|_{P^{-1}}^2},\, \eta\Big\}P^{-1}g ,
#
# (:math:`f \ge \ell`, no weight decay). For :math:`P = I` that is SPS_max with its constant c = 1 (N. Loizou et al.,
# "Stochastic Polyak step-size for SGD", AISTATS 2021).
#
# MoMo
# ----
# MoMo (F. Schaipp et al., "MoMo: Momentum Models for Adaptive Learning Rates", ICML 2024) averages the past
# gradient planes, :math:`f(x_i) + \langle g_i, \cdot - x_i\rangle` with weights :math:`\rho_i`, into one
# plane with slope :math:`d = \sum\rho_i g_i` and value
#
# .. math:: \bar f + \langle d, x\rangle - \gamma \text{ at } x, \qquad
#           \bar f = \sum\rho_i f(x_i), \quad \gamma = \sum\rho_i\langle g_i, x_i\rangle ,
#
# and adds the lower bound. This is the rule `MoMo`: one plane with the aggregated height, one floor. With
# proximal decay, :math:`\kappa = \eta/(1+\eta\mu)`, the dual of the two planes, in the weight :math:`\theta`
# of the first, is :math:`\theta(\bar f + \langle d,x\rangle - \gamma - \ell - \kappa\mu\langle d, x\rangle) -
# \frac\kappa2\theta^2\|d\|_{P^{-1}}^2` plus a constant. Multiplying the vertex by :math:`\eta` and using
# :math:`\eta/\kappa = 1+\eta\mu`,
#
# .. math:: \eta\theta = \min\Big\{\eta,\ \frac{\big((1+\eta\mu)(\bar f - \gamma - \ell) + \langle d,x\rangle\big)_+}
#                                        {\|d\|_{P^{-1}}^2}\Big\}, \qquad
#           x \leftarrow \frac{x - \eta\theta P^{-1}d}{1+\eta\mu} ,
#
# since :math:`(1+\eta\mu)\langle d,x\rangle - \eta\mu\langle d,x\rangle = \langle d,x\rangle`. That is the
# published update with weight decay, as the authors' code has it (`momo_adam.py` in their repository; with
# `divide=False` it ends with the decoupled form instead). MoMo-Adam lets all three averages start from zero and
# so carries their mass :math:`\rho_t = 1-\beta^t` through the formula: with :math:`d = \rho_t\tilde d`,
# :math:`\bar f = \rho_t\tilde f`, :math:`\gamma = \rho_t\tilde\gamma` it has the step size :math:`\tau =
# \min\{\eta/\rho_t,\ ((1+\eta\mu)(\bar f - \gamma - \rho_t\ell) + \langle d,x\rangle)_+/\|d\|_{P^{-1}}^2\}`
# along :math:`d`. A factor :math:`\rho_t` cancels from :math:`\tau d`, which leaves the formula above for
# :math:`\tilde d, \tilde f, \tilde\gamma`: the package keeps these averages in normalised form, and starts
# them, whatever the metric, from the first gradient.
#
# *A step size of zero.* Without weight decay, with :math:`\beta < 1` and losses :math:`f > \ell`, it does not
# occur. The first averaged plane is the tangent plane, :math:`f > \ell` at x. Where the averaged plane is above
# :math:`\ell` at x, the step :math:`\eta\theta` stops no later than where it falls to :math:`\ell`, so it is at least
# :math:`\ell` at the new iterate; its mixture with a tangent plane that has the height :math:`f > \ell` there is
# above :math:`\ell` again. Weight decay adds a move of its own, after which the averaged
# plane may lie below the bound although :math:`f` does not: then :math:`\theta = 0`, x only decays, and memory
# goes on averaging, in the package as in the published update. At or below the bound, :math:`f \le \ell`, the
# package keeps memory as it is; there the two differ, and the statement of equality is for :math:`f > \ell`.


def polyak(problem: Convex, lrs: Array, bound: float) -> Array:
    """SPS_max with c = 1."""
    x, iterates = problem.start(), []
    for lr in lrs:
        g = problem.gradient(x)
        x = x - min((problem.value(x) - bound) / (g @ g), lr) * g
        iterates.append(x)
    return np.array(iterates)


def momo(problem: Convex, lrs: Array, bound: float, *, adam: bool, divide: bool = True) -> Array:
    """MoMo (averages start from the first values) or MoMo-Adam (from zero); `divide` as in the authors' code."""
    x, iterates, beta, decay = problem.start(), [], 0.8, 0.1
    d = v = f_bar = gamma = 0.0
    for t, lr in enumerate(lrs, start=1):
        g, f = problem.gradient(x), problem.value(x)
        if t == 1 and not adam:
            d, f_bar, gamma = g, f, g @ x
        d, f_bar, gamma = (beta * old + (1 - beta) * new for old, new in ((d, g), (f_bar, f), (gamma, g @ x)))
        v = 0.9 * v + 0.1 * g * g
        scale = np.sqrt(v / (1 - 0.9**t)) + 1e-8 if adam else np.ones_like(x)
        rho = 1 - beta**t if adam else 1.0
        top = (1 + lr * decay) * (f_bar - gamma - rho * bound) + d @ x
        tau = min(lr / rho, max(top, 0.0) / (d @ (d / scale)))
        shrunk = x if divide else (1 - lr * decay) * x
        x = (shrunk - tau * d / scale) / (1 + lr * decay if divide else 1.0)
        iterates.append(x)
    return np.array(iterates)


def reduction_errors() -> dict[str, float]:
    """Distance between the package's path and the loop's, worst over ten problems with a changing lr."""
    worst: dict[str, float] = {}
    for seed in range(10):
        problem, lrs = Convex.random(seed), schedule(np.random.default_rng(seed))
        bound = lower_bound(problem)
        for name, ours, theirs in _pairs(problem, lrs, bound):
            worst[name] = max(worst.get(name, 0.0), apart(ours, theirs))
    return worst


def _pairs(problem: Convex, lrs: Array, bound: float) -> list[tuple[str, Array, Array]]:
    def ours(rule: Any, **setting: Any) -> Array:
        return path(problem, rule, lrs=lrs, **setting)

    def decayed(decay: str) -> dict[str, Any]:
        return {"weight_decay": 0.1, "decay": decay}

    adam, fast, rule = {"metric": Adam()}, {"metric": Adam(beta2=0.9)}, MoMo(bound, 0.8)
    plain = sgd(problem, lrs, momentum=0, decay=0)
    lagged = sgd(problem, lrs, momentum=0.9 / 1.1, decay=0)
    dampened = sgd(problem, lrs, momentum=0.8, decay=0.1)
    adamw_9, adamw_0 = (adamw(problem, lrs, beta1=beta1, decay=0.1) for beta1 in (0.9, 0.0))
    stepped = momo(problem, lrs, bound, adam=True, divide=False)
    return [
        ("gradient descent = SGD", ours(GradientDescent()), plain),
        ("heavy ball = SGD, momentum = dampening", ours(HeavyBall(0.8), **decayed("coupled")), dampened),
        ("heavy ball with λ = SGD, momentum (β+λ)/(1+λ)", ours(HeavyBall(0.8), inertia=0.1), lagged),
        ("heavy ball × Adam = AdamW", ours(HeavyBall(0.9), **adam, **decayed("decoupled")), adamw_9),
        ("β_max = 0: SGD", ours(AdaptiveMemory(0.0)), plain),
        ("β_max = 0 × Adam: AdamW, β₁ = 0", ours(AdaptiveMemory(0.0), **adam, **decayed("decoupled")), adamw_0),
        ("Polyak = SPS_max", ours(Polyak(bound)), polyak(problem, lrs, bound)),
        ("MoMo, proximal decay", ours(rule, **decayed("proximal")), momo(problem, lrs, bound, adam=False)),
        ("MoMo-Adam, proximal", ours(rule, **fast, **decayed("proximal")), momo(problem, lrs, bound, adam=True)),
        ("MoMo-Adam, decoupled (AdamW-like) decay", ours(rule, **fast, **decayed("decoupled")), stepped),
    ]


def floor_weights(decay: float = 0.0) -> Array:
    """Weights of the bound in noisy runs of MoMo, whose batch losses never fall below it."""
    weights = []
    for seed in range(10):
        problem, random = Convex.random(seed), np.random.default_rng(seed)
        bound, lrs = lower_bound(problem), schedule(random)
        optimizer = Optimizer(problem.start(), MoMo(bound, 0.8), lr=1.0, weight_decay=decay, decay="proximal")
        for lr in lrs:
            optimizer.lr, x = lr, optimizer.x
            optimizer.step(problem.gradient(x) + random.normal(size=6), problem.value(x) + random.uniform(0, 1))
            weights.append(optimizer.diagnostics()["weights"][-1])
    return np.array(weights)


# %%
# Mixing planes is mixing rows
# ----------------------------
# Let :math:`A` be a matrix whose :math:`J` rows lie on the simplex. Mixing :math:`K` planes with these rows
# gives :math:`J` planes with slopes :math:`S' = AS` and heights :math:`h' = Ah`. Since :math:`c` is linear in
# :math:`(h, S)` and :math:`Q` quadratic in :math:`S`, the mixed model has
#
# .. math:: c' = Ac, \qquad Q' = A Q A^\top, \qquad
#           \langle c', w'\rangle - \tfrac12\langle w', Q'w'\rangle = \langle c, w\rangle - \tfrac12\langle w, Qw\rangle
#           \quad\text{with } w = A^\top w' .
#
# While :math:`w'` runs over its simplex, :math:`A^\top w'` runs over the convex hull of the rows of
# :math:`A`. So solving the mixed model is maximising the old dual over that polytope, and *every* polytope
# inside the simplex comes about this way, with its vertices as rows: a cap on memory, a floor under it, two
# weights that must be equal. The cap of adaptive memory is the case of the rows :math:`(1,0)` and
# :math:`(1-\beta_{\max}, \beta_{\max})`.


def mixing_errors() -> tuple[float, float]:
    """Error of c' = Ac, Q' = AQAᵀ in the package; and by how much a point of the polytope beats its weights."""
    random, worst, beaten = np.random.default_rng(11), 0.0, 0.0
    for trial in range(60):
        count, mixed = 2 + trial % 3, 2 + (trial // 3) % 3
        rows, heights = random.dirichlet(np.ones(4), size=count), 20 * random.normal(size=count)
        matrix, seed, g = random.dirichlet(np.ones(count), size=mixed), 100 + trial, gradient(random)
        rule = Planes(rows, heights)
        base, other = (_previewed(candidate, g, seed) for candidate in (rule, _Mixed(rule, matrix)))
        c, q, _ = dual_parts(base)
        scale = max(np.abs(heights).max(), np.abs(q).max())
        worst = max(worst, np.abs(other.linear - matrix @ c).max() / scale)
        worst = max(worst, np.abs(other.quadratic - matrix @ q @ matrix.T).max() / scale)
        tried = np.vstack([random.dirichlet(np.full(mixed, 0.5), size=200), np.eye(mixed)]) @ matrix
        values = tried @ c - (tried @ q * tried).sum(axis=1) / 2
        ours = other.weights @ matrix
        beaten = max(beaten, (values.max() - (ours @ c - ours @ q @ ours / 2)) / scale)
    return float(worst), float(beaten)


def _previewed(rule: Any, g: Array, seed: int) -> Model:
    switch = _Switch(Planes(np.eye(4)[:1], [0.0]), rule)
    setting: dict[str, Any] = {"inertia": 0.2, "weight_decay": 0.3, "decay": "proximal"}
    return underway(switch, np.random.default_rng(seed), **setting).preview(g)


@dataclass(frozen=True)
class _Switch:
    """One rule for the first three steps, so that both models are reached from one state, and another from then on."""

    warm: Any
    rule: Any
    beta_max: float = 0.9

    @property
    def memories(self) -> Any:
        return self.warm.memories

    def planes(self, now: Now) -> Sequence[Plane]:
        return (self.warm if now.step[0] < 3 else self.rule).planes(now)


@dataclass(frozen=True)
class _Mixed:
    """The planes of a rule, mixed with the rows of a matrix by repeated `mix`."""

    rule: Any
    matrix: Array

    def planes(self, now: Now) -> Sequence[Plane]:
        planes = self.rule.planes(now)
        return tuple(self._row(planes, row) for row in self.matrix)

    @staticmethod
    def _row(planes: Sequence[Plane], row: Array) -> Plane:
        result, total = planes[0], row[0]
        for plane, weight in zip(planes[1:], row[1:], strict=True):
            total = total + weight
            result = mix(result, plane, weight / total)
        return result


# %%
# What does not change the method
# -------------------------------
# The weights depend on heights and inner products only, and the new direction is a combination of the named
# vectors.
#
# * **Orthogonal change of variables.** Let :math:`f'(x) = f(Ux)` with :math:`U^\top U = I`, started at
#   :math:`U^\top x_0`. If :math:`x'_t = U^\top x_t` and :math:`d'_t = U^\top d_t`, the new gradient is
#   :math:`U^\top g_t`; with :math:`P = I` all inner products, with :math:`x` too, are what they were, so are
#   the weights, and both relations hold at :math:`t+1`. A diagonal metric is tied to the coordinates: with
#   Adam's the statement is false.
# * **Order and repetition of planes, planes that are never active.** A permutation permutes :math:`w`. A
#   plane that is there twice adds a row and a column that repeat others: the polytope of the section above is
#   the same. A plane that lies below the others around the minimiser of the model leaves that minimiser what
#   it is, because the objective is convex and a local minimiser is the minimiser. The direction is unique
#   (`01_duality.py`), so the step is the same in each case.
# * **A constant added to f** (and to its lower bound): only differences of values enter.
# * **Scale.** Let :math:`f' = af`, :math:`\eta' = \eta/a`, :math:`\mu' = a\mu` with :math:`a > 0`, and
#   :math:`P = I`. Then slopes and heights scale by :math:`a`, :math:`c' = ac`, because :math:`\kappa'\langle
#   s', \lambda d'/(1+\lambda) + \mu'x\rangle = a\,\kappa\langle s, \lambda d/(1+\lambda) + \mu x\rangle` with
#   :math:`\kappa' = \kappa/a`; and :math:`Q' = \kappa' a^2 \langle\cdot,\cdot\rangle = aQ`. Same weights,
#   directions scaled by :math:`a`, same iterates, with any inertia.
# * **Scale, with Adam's metric.** Here :math:`P` itself scales by :math:`a` (if :math:`\epsilon` does), so
#   :math:`P^{-1}D` does not scale and :math:`\eta, \mu` must be left alone. But :math:`\lambda P` scales:
#   inertia breaks the invariance, unless :math:`\lambda' = \lambda/a`.


@dataclass(frozen=True)
class Rotated:
    """f(Ux), from the corresponding start."""

    problem: Convex
    u: Array

    def value(self, x: Array) -> float:
        return self.problem.value(self.u @ x)

    def gradient(self, x: Array) -> Array:
        return self.u.T @ self.problem.gradient(self.u @ x)

    def start(self) -> Array:
        return self.u.T @ self.problem.start()


@dataclass(frozen=True)
class Edited:
    """A rule with its planes rearranged by `edit`, and the rule's own facts."""

    rule: Any
    edit: Callable[[Sequence[Plane], Now], Sequence[Plane]]
    beta_max: float = 0.9

    @property
    def normalised(self) -> bool:
        return bool(getattr(self.rule, "normalised", False))

    @property
    def needs_loss(self) -> bool:
        return bool(self.rule.needs_loss)

    def planes(self, now: Now) -> Sequence[Plane]:
        return self.edit(tuple(self.rule.planes(now)), now)


def _never_active(planes: Sequence[Plane], now: Now) -> Sequence[Plane]:
    slope = now.gradient - 2.0 * now.memory
    return (*planes, Plane(Vector(slope.coefficients), -1e6))


EDITS: dict[str, Callable[[Sequence[Plane], Now], Sequence[Plane]]] = {
    "planes permuted": lambda planes, now: planes[::-1],
    "first plane twice": lambda planes, now: (planes[0], *planes),
    "second plane twice": lambda planes, now: (*planes, planes[1]),
    "a plane that is never active": _never_active,
}


def invariance_errors() -> dict[str, float]:
    """Distance between the changed and the unchanged path, worst over ten problems and two rules."""
    worst: dict[str, float] = {}
    for seed in range(10):
        problem = Convex.random(seed)
        bound = lower_bound(problem)
        for name, changed, unchanged in [*_same_planes(problem, bound), *_same_problem(problem, bound, seed)]:
            worst[name] = max(worst.get(name, 0.0), apart(changed, unchanged))
    return worst


def _same_planes(problem: Convex, bound: float) -> list[tuple[str, Array, Array]]:
    pairs = []
    for rule, setting in (
        (AdaptiveMemory(), {"inertia": 0.1, "weight_decay": 0.1}),
        (TruncatedMemory(bound), {"weight_decay": 0.1, "decay": "proximal"}),
    ):
        plain = path(problem, rule, **setting)
        pairs += [(name, path(problem, Edited(rule, edit), **setting), plain) for name, edit in EDITS.items()]
    return pairs


def _same_problem(problem: Convex, bound: float, seed: int) -> list[tuple[str, Array, Array]]:
    u, a = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0], 7.0
    rotated, shifted, scaled = Rotated(problem, u), replace(problem, offset=5.0), replace(problem, scale=a)
    memory, truncated, lrs = AdaptiveMemory(), TruncatedMemory(bound), (0.05 / a,) * STEPS
    held: dict[str, Any] = {"inertia": 0.1, "weight_decay": 0.1}
    plain, floor = path(problem, memory, **held), path(problem, truncated)
    adam: dict[str, Any] = {"metric": Adam(eps=1e-8), "weight_decay": 0.1}
    adam_a: dict[str, Any] = {"metric": Adam(eps=a * 1e-8), "weight_decay": 0.1}
    light, heavy = path(problem, memory, **adam), path(problem, memory, inertia=1.0, **adam)
    scaled_held = path(scaled, memory, lrs=lrs, inertia=0.1, weight_decay=a * 0.1)
    scaled_floor = path(scaled, TruncatedMemory(a * bound), lrs=lrs)
    return [
        ("orthogonal change of variables", path(rotated, memory, **held) @ u.T, plain),
        ("orthogonal change of variables, with a floor", path(rotated, truncated) @ u.T, floor),
        ("constant added to f and its bound", path(shifted, TruncatedMemory(bound + 5)), floor),
        ("af, η/a, aμ, identity metric, any inertia", scaled_held, plain),
        ("af, η/a, identity metric, floor aℓ", scaled_floor, floor),
        ("af, Adam, aε, no inertia", path(scaled, memory, **adam_a), light),
        ("af, Adam, aε, inertia λ/a", path(scaled, memory, inertia=1 / a, **adam_a), heavy),
        ("NOT: af, Adam, aε, inertia λ", path(scaled, memory, inertia=1.0, **adam_a), heavy),
        ("NOT: orthogonal change of variables, Adam", path(rotated, memory, **adam) @ u.T, light),
    ]


def claims() -> list[Claim]:
    """Distances between paths of 40 steps, relative to how far they go, worst over ten problems."""
    reductions, invariances = reduction_errors(), invariance_errors()
    mixing, beaten = mixing_errors()
    light = floor_weights()
    untouched = float(np.mean(light == 0))
    kept = {name: error for name, error in invariances.items() if not name.startswith("NOT: ")}
    broken = {name[5:]: error for name, error in invariances.items() if name.startswith("NOT: ")}
    return [
        *[Claim(name, error, 0, "identity", 1e-9) for name, error in reductions.items()],
        Claim("MoMo, noisy, no decay: share of steps that the bound did not shorten", untouched, 0.9, "upper bound"),
        Claim("MoMo, noisy, no decay: largest weight of the bound", light.max(), 1 - 1e-6, "upper bound"),
        Claim("MoMo with strong decay: the same", floor_weights(2.0).max(), 1 - 1e-6, "counterexample"),
        Claim("mixing rows: c' = Ac, Q' = AQAᵀ", mixing, 0, "identity", 1e-12),
        Claim("mixing rows: by how much a point of the polytope beats the weights", beaten, 1e-12, "upper bound"),
        *[Claim(f"same step: {name}", error, 0, "identity", 1e-8) for name, error in kept.items()],
        *[Claim(f"not the same step: {name}", error, 1e-3, "counterexample") for name, error in broken.items()],
    ]


if __name__ == "__main__":
    report(claims())
