"""One step in a norm against the convex solver's, and whether the norm is one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from proxmom.metrics import Euclidean
from proxmom.metrics.protocol import check_shape
from proxmom.now import Now
from proxmom.numpy.measures import split
from proxmom.numpy.optimizer import Model
from proxmom.observed import usual
from proxmom.reference import check_expression, lengths, linear_of, objective, shortest, solve_step
from proxmom.rules import Rule
from proxmom.step import Method
from proxmom.verify.cases import MATRICES, SHAPES, Trial, Vector

WRONG = 1e-8  # relative: what a norm may be off
REACHED = 1e-8  # relative: the solver has reached the floor
ROUNDING = 4 * float(np.finfo(float).eps)


def shapes_for(norm: Any) -> tuple[tuple[int, ...], ...]:
    """The usual shapes of the tensors, or matrices alone where the norm refuses others."""
    try:
        for shape in SHAPES:
            check_shape(norm, shape, "x0")
    except ValueError:
        return MATRICES
    return SHAPES


def check_verifiable(norm: Any) -> None:
    """TypeError for a norm that cannot be told to the solver, ValueError for one whose directions are approximate."""
    check_expression(norm)
    if not getattr(norm, "exact", True):
        raise ValueError(
            f"a norm must have exact steepest directions to be verified, got {norm!r}, whose directions are "
            "approximate: its steps are not the least of their model. Verify polar='exact', or leave exact = "
            "False out of your own."
        )


class _Watched(Now):
    asked = False

    def dot(self, u: Any, v: Any) -> Any:
        self.asked = True
        return super().dot(u, v)


def asks_products(rule: Rule) -> bool:
    """Whether a rule asks for inner products, which a norm has not, at some plain state."""
    method, one = Method(rule, Euclidean(), inertia=0.0, decay="decoupled"), np.ones(1)
    count = len(method.names)
    now = _Watched(
        method.names,
        dual=np.eye(count)[None],
        last_move=-np.ones((1, count)),
        lr=one,
        step=one,
        mass=one,
        normalised=True,
        loss=one,
        previous_loss=one,
        memory_height=one,
        memories=method.memories,
        scalars={name: value * one for name, value in method.scalars.items()},
        observed={name: value * one for name, value in usual(method.observed).items()},
        rule=method.name,
    )
    for ask in (rule.planes, *(part.remember for part in method.remembers)):
        ask(now)
    return now.asked


def compare(number: int, case: str, model: Model) -> Trial:
    """The step of a model against the solver's: objective, certificate and length."""
    eta, linear = model.lr, linear_of(model)
    worth = eta * max(map(float, _duals(model, model.slopes) ** _power(model))) or 1.0
    shift = (1 + eta * model.weight_decay) * np.abs(model.x).max() * ROUNDING  # x + z has lost what x could not hold
    rounding = shift * float(np.abs(model.slopes).sum(axis=1).max())
    ours = model.next_x - (1 - eta * model.weight_decay) * model.x
    reached = objective(model, ours)
    certified = reached - float(model.weights @ linear) + _price(model, model.weights @ model.slopes)
    gap = float(max(model.gap or 0.0, certified - 2 * rounding) / (np.abs(linear).max() + worth))
    if fault := norm_fault(model.norm, model.shapes, model.slopes):
        return Trial(number, f"{case}: the norm is {fault}", np.inf, gap, np.inf)
    try:
        best = objective(model, solve_step(model))
        error = _error(model, ours, shift, best - REACHED * (worth + np.abs(linear).max()))
    except RuntimeError:  # counts as a failure, and leaves the other trials standing
        return Trial(number, f"{case}: the convex solver failed", np.inf, gap, np.inf)
    return Trial(number, case, float(error), gap, float(max(reached - best - 2 * rounding, 0.0) / worth))


def _error(model: Model, ours: Vector, shift: float, best: float) -> float:
    """How much too long a step of the hard form is, relative, beyond the rounding of x."""
    if model.norm.form == "soft":
        return 0.0
    long = (float(lengths(model.norm, model.shapes, ours).max()) - np.sqrt(model.x.size) * shift) / model.lr
    error, floors = float(max(long - 1, 0.0)), linear_of(model)[~model.slopes.any(axis=1)]
    if floors.size and best <= floors.max():
        least = shortest(model)
        if least < np.inf:
            error = max(error, float((long - least) / least if least > 0 else long))
    return error


def _power(model: Model) -> int:
    return 1 if model.norm.form == "hard" else 2


def _duals(model: Model, slopes: Vector) -> Vector:
    """Dual norms of slopes (K, n), the square root of the sum of squares over tensors in the soft form, (K,)."""
    each = [[float(model.norm.steepest(part)[0]) for part in split(slope, model.shapes)] for slope in slopes]
    return np.asarray((np.array(each) ** _power(model)).sum(axis=1) ** (1 / _power(model)))


def _price(model: Model, slope: Vector) -> float:
    """ψ of one slope (n,): what the dual takes off its height."""
    return float(model.lr * _duals(model, slope[None])[0] ** _power(model) / _power(model))


def norm_fault(norm: Any, shapes: Sequence[tuple[int, ...]], slopes: Vector) -> str | None:
    """What a norm is not, at slopes (K, n) and at some of ours; None if nothing is wrong with it.

    `steepest` must give the dual norm and a direction that reaches it, no longer than 1 by `expression`.
    """
    size = slopes.shape[1]
    probes = [np.cos(np.arange(size)), np.sin(1 + 3.0 * np.arange(size)), np.cos(np.arange(size)).round()]
    rows = [split(row, shapes) for row in (*slopes, *probes)]
    for t, shape in enumerate(shapes):
        if fault := _fault(norm, shape, [row[t] for row in rows]):
            return f"{fault}, at shape {shape}"
    return None


def _fault(norm: Any, shape: tuple[int, ...], samples: Sequence[Vector]) -> str | None:
    dual, direction = norm.steepest(np.zeros(shape))
    if dual != 0 or np.any(direction):
        return "not zero at zero, or has a direction there"
    found = [norm.steepest(sample) for sample in samples]
    for sample, (dual, direction) in zip(samples, found, strict=True):
        if fault := _fault_at(norm, sample, float(dual), direction):
            return fault
    for (s, (dual, _)), (_, v) in product(zip(samples, found, strict=True), found):
        if (s * v).sum() > (1 + WRONG) * dual:
            return "not the largest <s, v>: the direction of another slope goes further"
    for (s, (dual, _)), (u, (other, _)) in product(zip(samples, found, strict=True), repeat=2):
        if norm.steepest(s + u)[0] > (1 + WRONG) * (dual + other):
            return "not convex: ||s + u||_* is above ||s||_* + ||u||_*"
    return None


def _fault_at(norm: Any, s: Vector, dual: float, v: Vector) -> str | None:
    if v.shape != s.shape or not (np.isfinite(dual) and np.isfinite(v).all()):
        return "without a finite direction of the slope's shape"
    if not abs((s * v).sum() - dual) <= WRONG * dual:
        return f"not reached: <s, v> and ||s||_* differ by {abs((s * v).sum() - dual) / (dual or 1.0):.1e}, relative"
    long = float(lengths(norm, (v.shape,), v.ravel())[0])
    if long > 1 + WRONG:
        return f"exceeded: ||v|| is {long:.9g} by its expression, above 1"
    if (dual > 0) != bool(s.any()):
        return "zero at a slope that is not"
    for factor, name in ((-1.0, "symmetric"), (4.0, "homogeneous"), (1 / 3, "homogeneous")):
        if not abs(norm.steepest(factor * s)[0] - abs(factor) * dual) <= WRONG * abs(factor) * dual:
            return f"not {name}: ||{factor:g}·s||_* is not {abs(factor):g}·||s||_*"
    return None
