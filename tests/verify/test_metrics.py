"""Every rule in every metric that is not element-wise plain, against the convex solver."""

from __future__ import annotations

from typing import Any

import pytest

from proxmom import SOAP, AdaGrad, QuasiNewton, Shampoo
from proxmom.verify import check_rule

METRICS = (QuasiNewton(3), Shampoo(every=2, largest_side=2), SOAP(every=2), AdaGrad())


@pytest.mark.parametrize("decay", ["proximal", "decoupled", "coupled"])
@pytest.mark.parametrize(
    "metric", [QuasiNewton(3), Shampoo(every=2, largest_side=2), SOAP(every=2), AdaGrad()], ids=repr
)
def test_the_steps_of_every_rule_are_the_convex_solvers(rule: Any, metric: Any, decay: str) -> None:
    report = check_rule(rule, metric=metric, weight_decay=0.05, decay=decay, trials=7)
    assert report.ok, report
