"""The solver in norms alone: against a grid of weights, against the Euclidean solver, at ties, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from proxmom import AdaptiveMemory, Plane, mix
from proxmom.metrics import LInf, Spectral
from proxmom.numpy import Optimizer
from proxmom.numpy.measures import join, split
from proxmom.solve import weights
from proxmom.step import cutting_planes
from proxmom.step.in_norm import Answer, Problem, solve

PRECISION = 2.0**-52
SHAPES = ((2, 3), (3, 2))
GRID = np.linspace(0, 1, 61)


@dataclass(frozen=True)
class L2:
    """A norm of one's own, in which the soft form is the Euclidean metric."""

    form: str = "soft"
    calls = 60

    def steepest(self, slope: Any) -> Any:
        long = np.sqrt((slope**2).sum())
        return long, slope / (long or 1.0)


NORMS = (LInf(), LInf("soft"), Spectral(), Spectral("soft"), Spectral("soft", scale="original"), L2("hard"))
named_norms = pytest.mark.parametrize("norm", NORMS, ids=str)


class Planes:
    """S models of K planes over vectors (S, K, n), with lr in each tensor, and what the solver says of them."""

    def __init__(self, norm: Any, heights: Any, vectors: Any, floor: Any = None, lr: float = 1.0, shapes: Any = SHAPES):
        self.norm, self.lr, self.shapes = norm, lr, shapes
        self.heights, self.vectors = np.atleast_2d(heights), np.asarray(vectors).reshape(*np.shape(heights), -1)
        self.vectors = self.vectors.reshape(*self.heights.shape, -1)
        self.floor = None if floor is None else np.atleast_1d(np.asarray(floor, dtype=float))
        self.power = 1 if norm.form == "hard" else 2
        self.named, self.asked = self.vectors.cumsum(axis=1), 0  # so that slopes are differences of named vectors

    @property
    def problem(self) -> Problem:
        count, planes = self.heights.shape
        slopes = np.tile(np.eye(planes) - np.eye(planes, k=-1), (count, 1, 1))
        return Problem(self.heights, slopes, self.floor, self.pull, self.power, self.norm.calls, True, PRECISION, True)

    def solve(self) -> Answer:
        return solve(self.problem)

    def pull(self, slopes: Any) -> Any:
        self.asked += 1
        atoms = [self.atom(slope @ named) for slope, named in zip(slopes, self.named, strict=True)]
        return np.stack([named @ atom for named, atom in zip(self.named, atoms, strict=True)])

    def duals(self, slope: Any) -> Any:
        return np.array([float(self.norm.steepest(part)[0]) for part in split(slope, self.shapes)])

    def atom(self, slope: Any) -> Any:
        found = [self.norm.steepest(part) for part in split(slope, self.shapes)]
        return self.lr * join([v if self.power == 1 else dual * v for dual, v in found])

    def step(self, answer: Answer, s: int = 0) -> Any:
        parts = [part.share[s] * self.atom(part.slope[s] @ self.named[s]) for part in answer.atoms]
        return -answer.share[s] * sum(parts, start=0 * self.vectors[s, 0])

    def value(self, move: Any, s: int = 0) -> float:
        """What the model says of a move, its price included."""
        top = (self.heights[s] + self.vectors[s] @ move).max()
        top = top if self.floor is None else max(top, self.floor[s])
        if self.power == 1:
            return float(top)
        return float(top + (self.lengths(move) ** 2).sum() / (2 * self.lr))

    def lengths(self, move: Any) -> Any:
        parts = split(move, self.shapes)
        if isinstance(self.norm, LInf):
            return np.array([np.abs(part).max() for part in parts])
        if isinstance(self.norm, L2):
            return np.array([np.sqrt((part**2).sum()) for part in parts])
        scales = [self.norm.steepest(np.ones(part.shape))[0] / np.sqrt(part.size) for part in parts]
        return np.array([np.linalg.svd(p, compute_uv=False)[0] / scale for p, scale in zip(parts, scales, strict=True)])

    def dual(self, b: float, s: int = 0) -> tuple[float, float]:
        """The least value that a weight b of the second plane proves, and the share of lr that a floor then needs."""
        slope, height = np.array([1 - b, b]) @ self.vectors[s], np.array([1 - b, b]) @ self.heights[s]
        price = self.lr * (self.duals(slope) ** self.power).sum()
        if self.floor is None:
            return height - price / self.power, 1.0
        share = float(np.clip((height - self.floor[s]) / price, 0, 1)) if price > 0 else 0.0
        if self.power == 1:
            return max(height - price, self.floor[s]), share
        return self.floor[s] + share * (height - self.floor[s]) - share**2 * price / 2, share


def _random(random: Any, norm: Any, *, count: int = 2, floor: bool = False) -> Planes:
    vectors = random.normal(size=(count, 12)) * 10 ** random.uniform(-1, 1, size=(count, 1))
    lr = 10 ** random.uniform(-1.5, 0)
    heights = lr * random.normal(size=count) * 10 ** random.uniform(-1, 1) * (1 if norm.form == "hard" else 5)
    below = heights.max() - lr * 10 ** random.uniform(-2, 2) if floor else None
    return Planes(norm, heights, vectors, below, lr)


@named_norms
@pytest.mark.parametrize("floor", [False, True])
def test_two_planes_are_as_good_as_the_best_weight_of_a_grid(norm: Any, floor: bool, random: Any) -> None:
    shortened = inside = 0
    for _ in range(25):
        planes = _random(random, norm, floor=floor)
        answer = planes.solve()
        move, scale = planes.step(answer), np.abs(planes.heights).max() + planes.lr
        values, shares = zip(*map(planes.dual, GRID), strict=True)
        assert planes.value(move) >= max(values) - 1e-12 * scale
        assert planes.value(move) <= planes.dual(answer.weights[0, 1])[0] + 1e-10 * scale
        assert abs(answer.gap[0]) <= 1e-12 * max(scale, planes.lr * planes.duals(planes.vectors[0, 0]).sum() ** 2)
        assert planes.lengths(move).max() <= planes.lr * (1 + 1e-12) or planes.power == 2
        inside += 0 < answer.weights[0, 1] < 1
        if floor and planes.power == 1 and answer.share[0] < 1:  # then the shortest is meant
            shortened += 1
            assert max(shares) - 1e-12 <= answer.share[0] <= planes.dual(answer.weights[0, 1])[1] + 1e-12
            assert planes.value(move) == pytest.approx(planes.floor[0], abs=1e-10 * scale)
        along = planes.named[0] @ move
        assert np.allclose(-answer.share[0] * answer.along[0], along, atol=1e-12 * np.abs(along).max())
    assert inside >= 2
    assert shortened >= 2 or not floor or planes.power == 2


def test_a_floor_above_the_gradients_plane_is_reached_by_the_shortest_step() -> None:
    """Where decay has led below one plane and above another: in length, not in the dual's value, b = 1 is better."""
    planes = Planes(LInf(), [-0.01, 0.04], [[1.0, -4.0], [0.1, 8.0]], floor=0.0, lr=0.8, shapes=((2,),))
    answer = planes.solve()
    assert planes.value(planes.step(answer)) == 0.0
    assert max(planes.dual(b)[1] for b in GRID) - 1e-12 <= answer.share[0]
    assert answer.share[0] <= planes.dual(answer.weights[0, 1])[1] + 1e-12


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm.form == "hard"], ids=str)
def test_a_floor_between_the_planes_is_reached_by_the_shortest_step(norm: Any, random: Any) -> None:
    for _ in range(30):
        vectors = random.normal(size=(2, 12)) * [[1.0], [2.0]]
        vectors[1] -= 1.5 * vectors[0]  # they pull against each other
        planes = Planes(norm, random.uniform([-0.05, 0.0], [0.0, 0.1]), vectors, floor=0.0, lr=0.5)
        answer = planes.solve()
        proved, share = planes.dual(answer.weights[0, 1])
        assert planes.value(planes.step(answer)) <= proved + 1e-12
        assert planes.asked <= 30  # to compare lengths tells the better end of the bracket
        if answer.share[0] < 1:
            assert max(planes.dual(b)[1] for b in GRID) - 1e-12 <= answer.share[0] <= share + 1e-12


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("floor", [False, True])
def test_the_euclidean_norm_in_the_soft_form_is_the_euclidean_metric(count: int, floor: bool, random: Any) -> None:
    for _ in range(20):
        planes = _random(random, L2(), count=count, floor=floor)
        planes.shapes = ((12,),)
        answer, vectors, linear = planes.solve(), planes.vectors[0], planes.heights[0]
        floors = ()
        if floor:
            linear, floors = np.append(linear, planes.floor), (count,)
            vectors = np.vstack([vectors, 0 * vectors[:1]])
        best = weights(linear, planes.lr * vectors @ vectors.T, floors=floors)
        tolerance = {2: 1e-9}.get(count, 1e-4)
        assert np.allclose(planes.step(answer), -planes.lr * best @ vectors, atol=tolerance * np.abs(vectors).max())
        if floor:
            assert answer.share[0] == pytest.approx(1 - best[-1], abs=tolerance)
        if best[:count].sum() > 1e-3:
            assert np.allclose(answer.weights[0], best[:count] / best[:count].sum(), atol=30 * tolerance)


@pytest.mark.parametrize("norm", [LInf(), LInf("soft"), Spectral(), Spectral("soft")], ids=str)
@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("floor", [False, True])
def test_three_and_four_planes_are_certified(norm: Any, count: int, floor: bool, random: Any) -> None:
    for _ in range(6):
        planes = _random(random, norm, count=count, floor=floor)
        answer = planes.solve()
        move = planes.step(answer)
        slope, height = answer.weights[0] @ planes.vectors[0], answer.weights[0] @ planes.heights[0]
        price = planes.lr * (planes.duals(slope) ** planes.power).sum()
        scale = np.abs(planes.heights).max() + price
        proved = height - price / planes.power
        if floor:
            share = np.clip((height - planes.floor[0]) / price, 0, 1) if price > 0 else 0.0
            proved = max(proved, planes.floor[0])
            if planes.power == 2:
                proved = planes.floor[0] + share * (height - planes.floor[0]) - share**2 * price / 2
            elif answer.share[0] < 1:
                assert share - 1e-12 <= answer.share[0] <= share + 1e-7
        assert -1e-12 * scale <= planes.value(move) - proved <= 1e-9 * scale
        assert answer.gap[0] <= 1e-9 * scale
        assert planes.lengths(move).max() <= planes.lr * (1 + 1e-9) or planes.power == 2


def test_the_third_plane_is_noticed(random: Any) -> None:
    planes = _random(random, LInf(), count=3)
    planes.heights[0, 2] = planes.heights.max() + 20.0
    assert np.allclose(planes.solve().weights, [[0, 0, 1]])


@named_norms
@pytest.mark.parametrize("count", [1, 2, 3])
def test_models_side_by_side_are_as_each_alone(norm: Any, count: int, random: Any) -> None:
    each = [_random(random, norm, count=count, floor=True) for _ in range(4)]
    for planes in each:
        planes.lr = 0.3
    heights, vectors = (np.concatenate([getattr(p, name) for p in each]) for name in ("heights", "vectors"))
    together = Planes(norm, heights, vectors, np.concatenate([p.floor for p in each]), lr=0.3)
    answer = together.solve()
    for s, planes in enumerate(each):
        alone = planes.solve()
        assert np.allclose(together.step(answer, s), planes.step(alone), rtol=1e-9, atol=1e-12)
        assert np.allclose(answer.weights[s], alone.weights[0], atol=1e-9)
        assert np.allclose(answer.share[s], alone.share[0], atol=1e-9)


def _pair(norm: Any, heights: Any, first: Any, second: Any, lr: float = 1.0) -> tuple[Planes, Answer]:
    planes = Planes(norm, heights, [first, second], lr=lr, shapes=((len(first),),))
    return planes, planes.solve()


def test_coordinates_that_cross_zero_together_leave_the_planes_level() -> None:
    planes, answer = _pair(LInf(), [0.0, 0.0], [2.0, -4.0, 1.0], [-2.0, 4.0, 1.0])  # all but the last at b = 1/2
    move = planes.step(answer)
    assert answer.weights[0, 1] == pytest.approx(0.5, abs=1e-12)
    assert np.allclose(planes.heights[0] + planes.vectors[0] @ move, -1.0)
    planes, answer = _pair(LInf(), [0.0, 1.0], [2.0, -4.0, 1.0], [-2.0, 4.0, 1.0])
    move = planes.step(answer)
    assert answer.weights[0, 1] == pytest.approx(0.5, abs=1e-12)
    assert np.allclose(planes.heights[0] + planes.vectors[0] @ move, -0.5)


def test_where_every_weight_is_as_good_the_largest_counts() -> None:
    for norm in (LInf(), LInf("soft"), L2("hard"), L2()):
        _, answer = _pair(norm, [0.0, 0.0], [1.0, -3.0], [1.0, -3.0])
        assert answer.weights[0, 1] == 1
    _, answer = _pair(LInf(), [0.0, 1.0], [1.0, -3.0, 1.0], [1.0, -3.0, 2.0])  # c rises as much as the norm
    assert answer.weights[0, 1] == 1
    _, answer = _pair(LInf(), [0.0, 0.0], [1.0, 1.0], [3.0, -1.0])  # level between 0 and 1/2, then worse
    assert answer.weights[0, 1] == pytest.approx(0.5, abs=1e-10)
    _, answer = _pair(LInf(), [0.0, 0.0], [1.0, 1.0], [2.0, -1.0])  # better all the way to 1/2, then worse
    assert answer.weights[0, 1] == pytest.approx(0.5, abs=1e-12)
    _, answer = _pair(LInf(), [0.0, -1e-3], [1.0, -3.0], [1.0, -3.0])
    assert answer.weights[0, 1] == 0


def test_the_number_of_slopes_asked_about_is_bounded(random: Any) -> None:
    for norm in NORMS:
        planes = _random(random, norm, floor=True)
        planes.solve()
        assert 1 <= planes.asked <= norm.calls


def test_cutting_planes_that_are_not_finite_are_a_gap_that_is_not(random: Any) -> None:
    def pull(slopes: Any) -> Any:
        return np.full_like(slopes, np.nan)

    found = cutting_planes.many_planes(np.zeros((1, 3)), np.eye(3)[None], None, 1, pull)
    assert not found.atoms
    assert np.isnan(found.gap).all()
    assert np.isnan(found.share).all()


class _Watching(AdaptiveMemory):
    """Adaptive memory that writes down what it is told of the last move."""

    def planes(self, now: Any) -> Any:
        object.__setattr__(self, "rise", float(np.ravel(now.dot_last_move(now.gradient))[0]))
        return super().planes(now)


@pytest.mark.parametrize("norm", [LInf(), LInf("soft"), Spectral()], ids=str)
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_rule_is_told_how_far_the_last_move_went(norm: Any, size: int, weight_decay: float, random: Any) -> None:
    """At small sizes most steps are at a kink, where the direction of a coordinate is no sign.

    Where memory recalls the direction, what decay did is taken at today's x, as in a metric with a diagonal.
    """
    kinks = 0
    for _ in range(5):
        rule, x = _Watching(0.9), random.normal(size=(1, size) if isinstance(norm, Spectral) else size)
        optimizer = Optimizer(x, rule, lr=0.1, metric=norm, weight_decay=weight_decay)
        optimizer.step(random.integers(-3, 4, size=x.shape) * 1.0)
        for _ in range(12):
            gradient, before, x = random.integers(-3, 4, size=x.shape) * 1.0, x, optimizer.x
            move = x - before
            if norm == LInf():
                move = optimizer.last_step - optimizer.last_lr * weight_decay * x
            optimizer.lr = 10 ** random.uniform(-2, 0)
            optimizer.step(gradient)
            assert rule.rise == pytest.approx(float((gradient * move).sum()), abs=1e-12)
            kinks += np.any(np.abs(optimizer.last_step) < 0.99 * optimizer.lr) and optimizer.diagnostics()["beta"] > 0
    assert kinks >= 5


@dataclass(frozen=True)
class _Fan:
    """Three planes with a slope."""

    beta_max = 0.9

    def planes(self, now: Any) -> Any:
        g, memory = now.gradient_plane, now.memory_plane("linearised")
        return g, mix(g, memory, now.weight(0.9)), Plane(mix(g, memory, now.weight(0.5)).slope, -1e-3)


def test_a_step_of_three_planes_is_the_shown_models(random: Any) -> None:
    optimizer = Optimizer(random.normal(size=5), _Fan(), lr=0.1, metric=LInf())
    for _ in range(5):
        optimizer.step(random.normal(size=5))
    model = optimizer.preview(random.normal(size=5))
    assert model.gap < 1e-9
    move = model.next_x - model.x
    proved = model.weights @ model.linear - 0.1 * np.abs(model.weights @ model.slopes).sum()
    assert (model.linear + model.slopes @ move).max() - proved < 1e-9


@pytest.mark.parametrize(
    ("scale", "tall", "wide"),
    [(None, 1.0, 1.0), ("original", 2.0, 1.0), ("match_rms_adamw", 0.2 * 8**0.5, 0.2 * 8**0.5)],
)
def test_the_scales_are_those_of_muon(scale: Any, tall: float, wide: float, random: Any) -> None:
    norm = Spectral(scale=scale)
    for shape, expected in (((8, 2), tall), ((2, 8), wide), ((2, 2, 4), wide)):
        slope = random.normal(size=shape)
        dual, direction = norm.steepest(slope)
        assert np.allclose(np.linalg.svd(direction.reshape(shape[0], -1), compute_uv=False), expected)
        nuclear = np.linalg.svd(slope.reshape(shape[0], -1), compute_uv=False).sum()
        assert dual == pytest.approx(expected * nuclear)
