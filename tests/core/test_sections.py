"""The bracket from many answers at once: against the solver that asks one by one, and in how many questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from proxmom.metrics import LInf
from proxmom.step.in_norm import Answer, Point, Problem, _look, solve
from proxmom.step.sections import SLOPES, bracket
from tests.core.test_in_norm import GRID, NORMS, PRECISION, Planes, _random

HARD = [norm for norm in NORMS if norm.form == "hard"]


class AtOnce:
    """Planes whose backend answers `SLOPES` slopes a question; questions are counted."""

    def __init__(self, planes: Planes, precision: float = PRECISION) -> None:
        self.planes, self.questions = planes, 0
        self.problem = replace(planes.problem, pull=self.never, pulls=self.pulls, precision=precision)

    def never(self, slopes: Any) -> Any:
        raise AssertionError("asked one by one")

    def pulls(self, slopes: Any) -> Any:
        self.questions += 1
        assert slopes.shape[1] == SLOPES
        return np.stack([self.planes.pull(slopes[:, m]) for m in range(SLOPES)], axis=1)

    def solve(self) -> Answer:
        return solve(self.problem)

    def bracket(self) -> tuple[Point, Point]:
        return bracket(self.problem, _look)


@pytest.mark.parametrize("norm", HARD, ids=str)
@pytest.mark.parametrize("floor", [False, True])
def test_the_step_is_as_good_as_one_by_one(norm: Any, floor: bool, random: Any) -> None:
    inside = 0
    for _ in range(15):
        planes = _random(random, norm, floor=floor)
        answer, other = AtOnce(planes).solve(), planes.solve()
        move, scale = planes.step(answer), np.abs(planes.heights).max() + planes.lr
        proved = planes.dual(answer.weights[0, 1])[0]
        assert planes.value(move) >= max(planes.dual(b)[0] for b in GRID) - 1e-12 * scale
        assert planes.value(move) <= proved + answer.gap[0] + 1e-12 * scale
        assert planes.value(move) <= planes.value(planes.step(other)) + 1e-8 * scale
        assert planes.lengths(move).max() <= planes.lr * (1 + 1e-12)
        assert answer.share[0] == pytest.approx(other.share[0], abs=1e-6)
        inside += 0 < answer.weights[0, 1] < 1
    assert inside >= 2


@pytest.mark.parametrize(("precision", "questions"), [(2.0**-23, 2), (2.0**-52, 3)])
def test_the_questions_are_few_and_the_bracket_is_narrow(precision: float, questions: int, random: Any) -> None:
    """Whatever the vectors: the widest part of a bracket that is looked into is less than a fifth of it."""
    for _ in range(20):
        asked = AtOnce(_random(random, LInf()), precision)
        low, high = asked.bracket()
        assert asked.questions == questions
        width = high.b[0] - low.b[0]
        assert 0 <= width <= 0.2 ** (questions - 1) / (SLOPES - 1)
        if width:
            assert low.signal[0] >= 0 > high.signal[0]


def test_many_elements_are_bracketed_closely(random: Any) -> None:
    """The dual is almost smooth there, and places near the crossing pay."""
    for _ in range(5):
        vectors = random.normal(size=(2, 20000))
        planes = Planes(LInf(), random.uniform(-1e3, 1e3, size=2), vectors, shapes=((20000,),))
        low, high = AtOnce(planes, 2.0**-23).bracket()
        assert 0 < high.b[0] - low.b[0] < 2e-3
        low, high = AtOnce(planes).bracket()
        assert 0 < high.b[0] - low.b[0] < 4e-4


def test_the_ends_are_found_and_the_largest_weight_where_all_are_as_good() -> None:
    for heights, best in (([0.0, 100.0], 1.0), ([0.0, -100.0], 0.0)):
        asked = AtOnce(Planes(LInf(), heights, [[1.0, -4.0], [0.5, 8.0]], shapes=((2,),)))
        low, high = asked.bracket()
        assert low.b == high.b == best
        assert asked.solve().gap == 0
    same = Planes(LInf(), [0.0, 0.0], [[1.0, -3.0], [1.0, -3.0]], shapes=((2,),))
    assert AtOnce(same).solve().weights[0, 1] == 1


def test_coordinates_that_cross_zero_together_leave_the_planes_level() -> None:
    for heights, level in (([0.0, 0.0], -1.0), ([0.0, 1.0], -0.5)):
        planes = Planes(LInf(), heights, [[2.0, -4.0, 1.0], [-2.0, 4.0, 1.0]], shapes=((3,),))
        answer = AtOnce(planes).solve()
        assert answer.weights[0, 1] == pytest.approx(0.5, abs=1e-4)
        assert np.allclose(planes.heights[0] + planes.vectors[0] @ planes.step(answer), level, atol=1e-12)


def test_models_side_by_side_are_as_each_alone(random: Any) -> None:
    each = [_random(random, LInf(), floor=True) for _ in range(4)]
    for planes in each:
        planes.lr = 0.3
    heights, vectors = (np.concatenate([getattr(p, name) for p in each]) for name in ("heights", "vectors"))
    together = Planes(LInf(), heights, vectors, np.concatenate([p.floor for p in each]), lr=0.3)
    asked = AtOnce(together)
    answer = asked.solve()
    assert asked.questions == 3
    for s, planes in enumerate(each):
        alone = AtOnce(planes).solve()
        assert np.allclose(together.step(answer, s), planes.step(alone), rtol=1e-9, atol=1e-12)
        assert np.allclose(answer.weights[s], alone.weights[0], atol=1e-12)


def test_what_is_not_finite_is_a_gap_that_is_not(random: Any) -> None:
    planes = _random(random, LInf())

    def pulls(slopes: Any) -> Any:
        return np.full_like(slopes, np.nan)

    problem: Problem = replace(planes.problem, pulls=pulls)
    assert np.isnan(solve(problem).gap)
