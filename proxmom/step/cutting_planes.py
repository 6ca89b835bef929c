"""Three planes and more in a norm: cutting planes, on the host.

Each slope that was asked about has an atom A_j, its best step. The best mixture of the atoms so far is a small linear
programme, whose dual weights say which slope to ask about next. SciPy's HiGHS solves it: rules of so many planes are
prototypes, and wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxmom.planes import Array
from proxmom.step.records import Atom

GAP = 1e-10  # relative, at which nothing more is asked
ROUNDS = 200  # slopes at most
TOLERANCE = 1e-10  # HiGHS's least
Vector = NDArray[np.float64]


class Answer(NamedTuple):
    """Of S models: weights of the planes with a slope (S, K), share of the step (S,), its atoms, the gap (S,).

    along: products (S, B) of the whole step, negated, with the named vectors.
    """

    weights: Array
    share: Array
    atoms: tuple[Atom, ...]
    gap: Array
    along: Array


class _Mixed(NamedTuple):
    """The best mixture of atoms (J,), its value, the weights to ask about next, and whether the floor cuts it short."""

    mixture: Vector
    value: float
    weights: Vector
    short: bool = False


@dataclass
class Model:
    """One model in a norm: heights (K,) and slopes (K, B) of its planes, a floor or None, and atoms.

    power: 1 for the hard form, 2 for the soft one, where a floor is a plane without a slope.
    """

    heights: Vector
    slopes: Vector
    floor: float | None
    power: int

    def __post_init__(self) -> None:
        if self.power == 2 and self.floor is not None:
            self.heights = np.append(self.heights, self.floor)
            self.slopes = np.vstack([self.slopes, 0 * self.slopes[:1]])
        self.weights = np.eye(len(self.heights))[np.argmax(self.heights)]
        self.asked: list[Vector] = []
        self.pulls: list[Vector] = []
        self.products: list[Vector] = []  # <A_j, s_k>
        self.prices: list[float] = []
        self.best, self.lower, self.gap, self.done = self.weights, -np.inf, np.inf, False
        self.mixed = _Mixed(np.zeros(0), np.inf, self.weights)

    @property
    def slope(self) -> Vector:
        """Of the planes' mixture to ask about, (B,)."""
        return np.asarray(self.weights @ self.slopes)

    def learn(self, pull: Vector) -> None:
        """Take in the products of the slope's atom with the named vectors, and mix the atoms anew."""
        if self.done:
            return
        size, height = float(pull @ self.slope), float(self.weights @ self.heights)
        self.asked.append(self.slope)
        self.pulls.append(pull)
        self.products.append(self.slopes @ pull)
        self.prices.append((self.power - 1) * size / 2)
        was_short, self.mixed = self.mixed.short, self._mix()
        if self.mixed.short and not was_short:
            self.lower = -np.inf  # from here on lengths are compared
        lower = height - size / self.power
        if self.mixed.short:
            lower = (height - float(self.floor or 0.0)) / size if size > 0 else -np.inf
        if lower > self.lower:
            self.lower, self.best = lower, self.weights
        unit = size if self.mixed.short else 1.0
        self.gap = max(self.mixed.value - self.lower, 0.0) * unit
        self.done = not self.gap > GAP * max(np.abs(self.heights).max() + abs(size), 1e-300)
        self.weights = self.mixed.weights

    def _mix(self) -> _Mixed:
        """Over the atoms: min t + <prices, m> with every plane below t and m on the simplex."""
        atoms, (count, planes) = np.array(self.products), (len(self.products), len(self.heights))
        below = np.hstack([-atoms.T, -np.ones((planes, 1))])
        found = _programme(
            [*self.prices, 1.0], below, -self.heights, equal=[*[1.0] * count, 0.0], free=count, planes=planes
        )
        if self.power == 2 or self.floor is None or found.value > self.floor:
            return found
        short = _programme([1.0] * count, -atoms.T, self.floor - self.heights, planes=planes)
        return short._replace(short=True)

    def answer(self) -> tuple[Vector, float, Vector, Vector, float, Vector]:
        """Weights of the planes with a slope, share of the step, its mixture and slopes of the atoms, gap, products."""
        mixture, share, best, asked = self.mixed.mixture, 1.0, self.best, np.array(self.asked)
        along = mixture @ np.array(self.pulls)
        if self.mixed.short:
            share = float(min(mixture.sum(), 1.0))
            mixture, along = (mixture / share, along / share) if share > 0 else (mixture, along)
        if self.power == 2 and self.floor is not None:
            share = 1.0 - float(best[-1])
            best = best[:-1] / share if share > 0 else np.full(len(best) - 1, 1 / (len(best) - 1))
            asked, along = (asked / share, along / share) if share > 0 else (asked, along)
        return best, share, mixture, asked, self.gap, along


def many_planes(
    linear: Array, slopes: Array, floor: Array | None, power: int, pull: Callable[[Array], Array]
) -> Answer:
    """The best mixture of steps, for S models side by side.

    Args:
        linear, slopes: heights (S, K) and slopes (S, K, B) of the planes with a slope; floor: (S,) or None.
        power: 1 for the hard form, 2 for the soft one.
        pull: slopes (S, B) -> products (S, B) of their atoms with the named vectors.
    """
    floors: Sequence[Any] = [None] * len(linear) if floor is None else _host(floor).tolist()
    models = [Model(h, s, f, power) for h, s, f in zip(_host(linear), _host(slopes), floors, strict=True)]
    for _ in range(ROUNDS):
        pulls = _host(pull(_like(np.array([model.slope for model in models]), linear)))
        if not np.isfinite(pulls).all():
            bad = _like(np.full(len(models), np.nan), linear)  # such a step is skipped
            return Answer(0 * linear, 1 + 0 * bad, (), bad, 0 * slopes[:, 0, :])
        for model, own in zip(models, pulls, strict=True):
            model.learn(own)
        if all(model.done for model in models):
            break
    weights, share, mixtures, asked, gap, along = zip(*(model.answer() for model in models), strict=True)
    mixed = []
    for j in range(max(map(len, mixtures))):
        part = np.array([mixture[j] if j < len(mixture) else 0.0 for mixture in mixtures])
        if part.any():
            slope = np.array([own[j] if j < len(own) else 0 * own[0] for own in asked])
            mixed.append(Atom(_like(slope, linear), _like(part, linear)))
    found = [_like(np.array(each), linear) for each in (weights, share, gap, along)]
    return Answer(found[0], found[1], tuple(mixed), found[2], found[3])


def _programme(
    cost: Sequence[float],
    below: Vector,
    bound: Vector,
    *,
    planes: int,
    equal: Sequence[float] | None = None,
    free: int | None = None,
) -> _Mixed:
    """Minimise <cost, m> with below·m <= bound, m >= 0 but for the last where `free`, and <equal, m> = 1."""
    from scipy.optimize import linprog  # only rules of three planes and more in a norm need it

    limits: list[Any] = [(0, None)] * len(cost)
    if free is not None:
        limits[free] = (None, None)
    options = {"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    only = {} if equal is None else {"A_eq": np.array([equal]), "b_eq": [1.0]}
    found = linprog(cost, A_ub=below, b_ub=bound, bounds=limits, method="highs", options=options, **only)
    if found.status != 0:
        raise RuntimeError(f"the step's linear programme was not solved: {found.message}")
    weights = np.maximum(-found.ineqlin.marginals, 0.0)
    total = weights.sum()
    weights = weights / total if total > 0 else np.full(planes, 1 / planes)
    return _Mixed(np.maximum(found.x[:free], 0.0), float(found.fun), weights)


def _host(array: Array) -> Vector:
    """As NumPy's, waiting for the device if it must."""
    array = array.detach().cpu() if hasattr(array, "detach") else array
    return np.asarray(array, dtype=np.float64)


def _like(values: Vector, like: Array) -> Array:
    """As an array of the kind of `like`."""
    return like.new_tensor(values.tolist()) if hasattr(like, "new_tensor") else values.astype(like.dtype)
