"""A user's formula for the weights or the step against the convex solver: right ones pass, each mistake is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom import Adam, AdaptiveMemory, Euclidean, HeavyBall, TruncatedMemory
from proxmom.metrics import LInf, Shampoo
from proxmom.verify import check_rule
from proxmom.verify.cases import CASES

EACH = 3 * len(CASES)


def two_planes(model: Any, sign: float = 1.0) -> Any:
    """The weights of two planes without inertia, by setting the dual's derivative to zero."""
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    first, second = model.slopes
    change = second - first
    heights = model.heights - kappa * model.weight_decay * model.slopes @ model.x
    gain, size = heights[1] - heights[0] - sign * kappa * first @ model.image(change), change @ model.image(change)
    share = min(max(gain / (kappa * size), 0.0), 1.0) if size > 0 else float(gain >= 0)
    return np.array([1 - share, share])


def step_of_heavy_ball(model: Any) -> Any:
    """The one plane's step."""
    kappa = model.lr / (1 + model.lr * model.weight_decay)
    return -kappa * (model.image(model.slopes[0]) + model.weight_decay * model.x)


@pytest.mark.parametrize("metric", [Euclidean(), Adam(), Shampoo()], ids=lambda metric: type(metric).__name__)
@pytest.mark.parametrize("decay", ["proximal", "coupled", "decoupled"])
def test_a_right_formula_passes(metric: Any, decay: str) -> None:
    for rule, formula, gives in (
        (AdaptiveMemory(), two_planes, "weights"),
        (HeavyBall(), step_of_heavy_ball, "step"),
    ):
        report = check_rule(
            rule, metric=metric, weight_decay=0.1, decay=decay, trials=EACH, closed_form=formula, gives=gives
        )
        assert report.ok, str(report)
        assert f"the {gives} by {formula.__name__}" in str(report)


def test_with_inertia_the_weights_alone_are_enough() -> None:
    report = check_rule(HeavyBall(), inertia=0.3, weight_decay=0.1, trials=12, closed_form=lambda model: np.ones(1))
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("rule", "formula", "gives"),
    [
        (AdaptiveMemory(), lambda model: two_planes(model, sign=-1.0), "weights"),
        (AdaptiveMemory(), lambda model: two_planes(model)[::-1], "weights"),
        (TruncatedMemory(0.0), lambda model: np.eye(len(model.heights))[0], "weights"),
        (HeavyBall(), lambda model: 1.001 * step_of_heavy_ball(model), "step"),
        (HeavyBall(), lambda model: -step_of_heavy_ball(model), "step"),
    ],
)
def test_a_wrong_formula_fails(rule: Any, formula: Any, gives: str) -> None:
    report = check_rule(rule, trials=EACH, closed_form=formula, gives=gives)
    assert not report.ok
    assert "FAILED" in str(report)
    assert check_rule(rule, trials=3).ok


def test_what_are_no_weights() -> None:
    for given, said in (([0.5, 0.6], "weights must be >= 0 with the sum 1"), ([np.nan, 1.0], "not finite")):
        report = check_rule(AdaptiveMemory(), trials=1, closed_form=lambda model, given=given: given)
        assert not report.ok
        assert said in report.trials[0].case


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r"must return the weights of 2 planes, shape \(2,\), got shape \(12,\)"):
        check_rule(AdaptiveMemory(), trials=1, closed_form=lambda model: model.x)
    with pytest.raises(ValueError, match=r"must return the step of 12 numbers, shape \(12,\), got shape \(2,\)"):
        check_rule(AdaptiveMemory(), trials=1, closed_form=two_planes, gives="step")
    with pytest.raises(ValueError, match="gives must be one of 'weights', 'step', got 'beta'"):
        check_rule(AdaptiveMemory(), closed_form=two_planes, gives="beta")
    with pytest.raises(TypeError, match="closed_form must be a function of a Model, got 3"):
        check_rule(AdaptiveMemory(), closed_form=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed_form goes with a metric, got the norm LInf"):
        check_rule(AdaptiveMemory(), metric=LInf(), closed_form=two_planes)
