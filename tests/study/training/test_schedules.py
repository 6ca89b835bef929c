"""Schedules of the learning rate."""

from __future__ import annotations

import math

import pytest

from proxmom.study.training import (
    factor,
)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("inverse-sqrt", 0.0, [1, 2**-0.5, 3**-0.5, 0.5]),
        ("constant", 0.5, [0.5, 1, 1, 1]),
        ("linear", 0.5, [0.5, 1, 1, 0.5]),
        ("cosine", 0.5, [0.5, 1, 1, 0.5]),
        ("inverse-sqrt", 0.5, [0.5, 1, 1, 1.5**-0.5]),
        ("linear", 0.99, [1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_schedules(schedule: str, warmup: float, expected: list[float]) -> None:
    assert [factor(schedule, warmup, step, 4) for step in range(4)] == pytest.approx(expected)


def test_schedules_end_near_zero_and_refuse_what_they_do_not_know() -> None:
    assert factor("cosine", 0.1, 999, 1000) < 1e-5
    assert factor("linear", 0.1, 999, 1000) < 2e-3
    assert factor("cosine", 0.5, 0, 1) == 1
    with pytest.raises(ValueError, match="schedule must be one of constant, linear, cosine, inverse-sqrt, got 'step'"):
        factor("step", 0.0, 0, 10)
    for warmup in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\)"):
            factor("linear", warmup, 0, 10)
