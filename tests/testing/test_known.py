"""torch's own optimizers and ours in the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

import proxmom.torch as ours
from proxmom import AdaptiveMemory, QuasiNewton, mix
from proxmom.testing import check_optimizer
from proxmom.testing.known import torchs_own
from tests.core.test_observed import NUMBERS, Cautious
from tests.testing.optimizers import FIGURES, HALF, NAN
from tests.torch.common import anchored

KNOWN = {  # what torch's own are known to fail; all else they pass
    "SGD": {NAN},
    "AdamW": {NAN, HALF},
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_torchs_own_pass(name: str) -> None:
    report = check_optimizer(torchs_own()[name], skip=FIGURES)
    assert set(report.failed) <= KNOWN[name], str(report)


@dataclass(frozen=True)
class Halfway:
    """A rule of somebody's own."""

    beta_max: float = 0.9

    def planes(self, now: Any) -> Any:
        return now.gradient_plane, mix(now.gradient_plane, now.memory_plane(now.rise / 2), now.weight(0.5))


OURS = {
    "AMSGD": partial(ours.AMSGD, scope="model"),
    "AMSGD per tensor": partial(ours.AMSGD, scope="tensor"),
    "AMAdamW": partial(ours.AMAdamW, scope="tensor"),
    "AMAdamW whole model": partial(ours.AMAdamW, scope="model"),
    "MoMo": partial(ours.MoMo, lower_bound=0.0),
    "MoMoAdam": partial(ours.MoMoAdam, lower_bound=0.0),
    "TruncatedMemorySGD": partial(ours.TruncatedMemorySGD, lower_bound=0.0),
    "a rule of one's own": partial(ours.ProxOptimizer, rule=Halfway(), lr=0.1),
    "a rule of one's own per tensor": partial(ours.ProxOptimizer, rule=Halfway(), lr=0.1, scope="tensor"),
}


class Measuring(ours.ProxOptimizer):
    """Whoever measures something outside gives it in a step of their own."""

    def step(self, closure: Any = None, *, loss: Any = None) -> Any:  # type: ignore[override]
        return super().step(closure, loss=loss, observed=NUMBERS[1])


WHOLE = {  # and what they are known to fail: there is one length of a step for a metric that is one for all groups
    "looks at x": (anchored, ()),
    "looks outside": (partial(Measuring, rule=Cautious(), lr=0.1), ()),
    "AMShampoo": (ours.AMShampoo, ()),
    "AMSOAP": (ours.AMSOAP, ()),
    "AMSign": (ours.AMSign, ()),
    "AMMuon": (ours.AMMuon, ()),
    "quasi-Newton": (
        partial(ours.ProxOptimizer, rule=AdaptiveMemory(), lr=0.1, metric=QuasiNewton()),
        ("each group its lr",),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_ours_that_see_more_pass_every_row(name: str) -> None:
    """Figures are left out: their vectors are so long that factors take minutes."""
    factory, known = WHOLE[name]
    report = check_optimizer(factory, skip=FIGURES)
    assert report.failed == known, str(report)


@pytest.mark.parametrize("factory", OURS.values(), ids=OURS.keys())
def test_ours_pass_every_row(factory: Any) -> None:
    report = check_optimizer(factory)
    assert report.failed == (), str(report)
