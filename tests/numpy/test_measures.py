"""Metrics that look at whole tensors, and metrics that are operators, in the NumPy optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from proxmom import Adam, AdaptiveMemory, GradientDescent
from proxmom.metrics import Expansion
from proxmom.numpy import Optimizer
from proxmom.verify import check_rule
from tests.metrics import Full, Normed


class Skew(Full):
    def images(self, state: Any, vectors: Any) -> Any:
        return [v + np.roll(v, 1) for v in vectors]


class Negative(Full):
    def images(self, state: Any, vectors: Any) -> Any:
        return [-v for v in vectors]


class Bent(Full):
    def images(self, state: Any, vectors: Any) -> Any:
        return [v * abs(v) for v in vectors]


@dataclass(frozen=True)
class Secants:
    """A diagonal that sees the last move."""

    memory_from_gradient: ClassVar[bool] = True
    sees_move: ClassVar[bool] = True

    def start(self, x: Any) -> Any:
        return {"p": np.ones_like(x), "moves": np.zeros_like(x)}

    def update(self, state: Any, gradient: Any, move: Any) -> Any:
        return {"p": state["p"], "moves": state["moves"] + move}

    def diagonal(self, state: Any, factor: Any) -> Any:
        return state["p"] * factor


def test_a_metric_of_whole_tensors_sees_each_alone() -> None:
    small, large = np.full((2, 2), 0.01), np.full(3, 5.0)
    optimizer = Optimizer([np.zeros((2, 2)), np.zeros(3)], GradientDescent(), lr=1, metric=Normed())
    first, second = optimizer.step([small, large])
    np.testing.assert_allclose(first, -np.ones((2, 2)))
    np.testing.assert_allclose(second, -np.ones(3))


def test_an_operator_sees_shapes_and_moves_by_its_images(random: Any) -> None:
    metric, x0 = Full(), [random.normal(size=(2, 3)), random.normal(size=4)]
    optimizer = Optimizer(x0, GradientDescent(), lr=0.1, metric=metric)
    states, xs = [metric.start(x) for x in x0], x0
    for _ in range(3):
        gradients = [random.normal(size=x.shape) for x in x0]
        states = [metric.update(state, g) for state, g in zip(states, gradients, strict=True)]
        xs = [x - 0.1 * metric.images(state, [g])[0] for x, state, g in zip(xs, states, gradients, strict=True)]
        for ours, theirs in zip(optimizer.step(gradients), xs, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_height_of_memory_is_of_the_true_move(random: Any) -> None:
    """<g, x_{t-1} - x_t> with the move as it was: the metric has changed since."""
    optimizer = Optimizer(random.normal(size=5), AdaptiveMemory(), lr=0.3, metric=Full())
    for _ in range(3):
        before = optimizer.x
        optimizer.step(random.normal(size=5))
    g = random.normal(size=5)
    model = optimizer.preview(g)
    beta = 0.9
    assert model.heights[1] == pytest.approx(beta * float(g @ (before - optimizer.x)), rel=1e-12)


def test_moves_are_seen_where_they_are_asked_for(random: Any) -> None:
    optimizer = Optimizer([np.zeros(2), np.zeros((1, 2))], GradientDescent(), lr=0.5, metric=Secants())
    for _ in range(4):
        x = optimizer.step([random.normal(size=2), random.normal(size=(1, 2))])
    optimizer.step([np.ones(2), np.ones((1, 2))])
    for state, end in zip(optimizer._measure._states, x, strict=True):
        np.testing.assert_allclose(state["moves"], end, rtol=1e-12)


def test_the_operator_is_verified_and_a_wrong_one_is_named() -> None:
    assert check_rule(AdaptiveMemory(), metric=Full(), trials=20).ok
    assert check_rule(AdaptiveMemory(), metric=Full(), weight_decay=0.1, decay="decoupled", trials=20).ok
    for metric, said in ((Skew(), "not symmetric"), (Negative(), "not positive definite"), (Bent(), "not linear")):
        report = check_rule(GradientDescent(), metric=metric, trials=2)
        assert not report.ok
        assert f"the metric is {said}" in str(report)


def test_inertia_is_refused_and_that_is_verified() -> None:
    report = check_rule(AdaptiveMemory(), metric=Full(), inertia=0.1, trials=1)
    assert report.ok
    assert "inertia must be 0 with Full" in str(report.refused)


def test_what_is_no_metric_is_refused() -> None:
    class Both(Full):
        def diagonal(self, state: Any, factor: Any) -> Any:
            return None

    for wrong in (object(), Adam, Both()):
        with pytest.raises(
            TypeError, match=r"metric must be an object like Euclidean\(\) with one of diagonal, images"
        ):
            Optimizer(np.ones(2), GradientDescent(), lr=1, metric=wrong)


@dataclass(frozen=True)
class Sums:
    """P⁻¹ = I + v vᵀ with v the fading sum of moves: what is kept is combined with what was."""

    memory_from_gradient: ClassVar[bool] = True
    numbers: ClassVar[Any] = {"seen": 0.0}
    kept: ClassVar[int] = 1

    def low_rank(self, gram: Any, numbers: Any, forecast: Any) -> Expansion:
        one = np.ones(len(gram))
        keeps = np.broadcast_to([[0.5, 1.0, 0.0]], (len(gram), 1, 3))
        return Expansion(one, one[:, None, None], keeps, {"seen": numbers["seen"] + 1})


def test_kept_vectors_may_be_any_combination(random: Any) -> None:
    optimizer, kept, before = Optimizer(np.zeros(4), GradientDescent(), lr=0.1, metric=Sums()), np.zeros(4), None
    for _ in range(4):
        x, g = optimizer.x, random.normal(size=4)
        kept = 0.5 * kept + (0 if before is None else x - before)
        model = optimizer.preview(g)
        np.testing.assert_allclose(model.inverse, np.eye(4) + np.outer(kept, kept), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(optimizer.step(g), x - 0.1 * (g + kept * (kept @ g)), rtol=1e-12)
        before = x
    assert check_rule(AdaptiveMemory(), metric=Sums(), trials=10).ok


def test_a_metric_of_low_rank_starts_memory_as_the_gradient() -> None:
    class Empty(Sums):
        memory_from_gradient: ClassVar[bool] = False

    with pytest.raises(ValueError, match="memory_from_gradient must be True in a metric of low rank"):
        Optimizer(np.ones(2), GradientDescent(), lr=1, metric=Empty())
