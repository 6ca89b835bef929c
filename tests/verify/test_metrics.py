"""Every rule in every metric that is not element-wise plain, against the convex solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom import SOAP, AdaGrad, Adam, GradientDescent, QuasiNewton, Shampoo
from proxmom.numpy import Optimizer
from proxmom.verify import check_rule
from proxmom.verify.check import _error

METRICS = (QuasiNewton(3), Shampoo(every=2, largest_side=2), SOAP(every=2), AdaGrad())


@pytest.mark.parametrize("decay", ["proximal", "decoupled", "coupled"])
@pytest.mark.parametrize(
    "metric", [QuasiNewton(3), Shampoo(every=2, largest_side=2), SOAP(every=2), AdaGrad()], ids=repr
)
def test_the_steps_of_every_rule_are_the_convex_solvers(rule: Any, metric: Any, decay: str) -> None:
    report = check_rule(rule, metric=metric, weight_decay=0.05, decay=decay, trials=7)
    assert report.ok, report


@pytest.mark.parametrize("metric", [Adam(), QuasiNewton(3)], ids=lambda metric: type(metric).__name__)
def test_an_error_is_seen_beyond_the_rounding_of_x_alone(metric: Any) -> None:
    random = np.random.default_rng(0)
    optimizer = Optimizer(random.normal(size=4), GradientDescent(), lr=0.1, metric=metric)
    for _ in range(3):
        optimizer.step(random.normal(size=4))
    model = optimizer.preview(random.normal(size=4))
    move = model.next_x - model.x
    assert _error(model, move, move) == 0
    assert _error(model, move + 1e-16 * np.abs(model.x), move) == 0
    for wrong in (1e-3, 1e-6):
        seen = _error(model, (1 + wrong) * move, move)
        assert 0.1 * wrong < seen < 2 * wrong
