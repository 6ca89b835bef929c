"""What the search of studies that count says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom.study.report import tuning
from proxmom.study.report.results import Counts
from tests.study.report.counts.conftest import BUDGET, make_run


def sweep(counts: Any, name: str = "lr", values: Any = None, method: Any = "m", **others: Any) -> Any:
    """Runs of one method over values of a hyper-parameter, 1e-2, 1e-1, ... unless given."""
    values = 10.0 ** np.arange(-2, len(counts) - 2) if values is None else values
    points = [{name: float(v), **{k: float(o[i]) for k, o in others.items()}} for i, v in enumerate(values)]
    return [
        make_run(method=method, count=c, point=p, index=i) for i, (c, p) in enumerate(zip(counts, points, strict=True))
    ]


def test_lr_sensitivity_is_the_mean_capped_gap_within_a_decade_of_the_best() -> None:
    gaps = {0.5: 9.0, 1.0: 1e9, 3.0: 0.25, 10.0: 1e-7, 30.0: 1e-3, 100.0: 0.55, 200.0: 9.0}
    runs = [make_run("p", "m", None, {"lr": lr}, k, gap=gap) for k, (lr, gap) in enumerate(gaps.items())]
    runs[3] = make_run("p", "m", 10, {"lr": 10.0}, 3, gap=1e-7)
    runs[4] = make_run("p", "m", None, {"lr": 30.0}, 4, gap=1e-3, status="diverged")
    three = [make_run("p", "three", 10, {"lr": lr}, k) for k, lr in enumerate([1.0, 2.0, 3.0, 1e3])]
    fixed = [make_run("p", "fixed", 10, {"beta": 0.1 * k}, k) for k in range(1, 6)]
    numbers = tuning.lr_sensitivity(Counts.of([*runs, *three, *fixed], BUDGET))
    assert set(numbers) == {"m"}
    assert numbers["m"].mean == pytest.approx((1.0 + 0.25 + 1e-7 + 1.0 + 0.55) / 5)


def test_best_so_far_by_hand() -> None:
    reference = [
        make_run(method="reference", count=c, index=i, point={"lr": i + 1.0}) for i, c in enumerate([400, 200, 100])
    ]
    tuned = [make_run(method="m", count=c, index=i, point={"lr": i + 1.0}) for i, c in enumerate([None, 50, 300])]
    results = Counts.of([*reference, *tuned, make_run(method="fixed", count=300)], BUDGET)
    budgets, means = tuning.best_so_far(results, results.points[:, 0])
    assert budgets == (1, 2, 3)
    np.testing.assert_allclose(means, [[4, 2, 1], [100, 0.5, 0.5], [3, 3, 3]])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([None, 50, 20, 30, None], []),
        ([None, 90, 70, 50, 20], [("largest", False)]),
        ([20, 50, 70, 90, None], [("smallest", False)]),
        ([None, 90, 24, 23, 20], [("largest", True)]),
        ([None, 90, 23, 25, 20], [("largest", False)]),  # 25 is more than 20% above 20
        ([20, 20, 20, 20, 20], [("smallest", True)]),
        ([None, None, None, None, None], [("smallest", True)]),  # equal gaps: as flat as a plateau
    ],
)
def test_edges_and_plateaus_of_one_dimension(counts: Any, expected: Any) -> None:
    edges = tuning.edges(Counts.of(sweep(counts), BUDGET))
    assert [(edge.side, edge.plateau) for edge in edges] == expected


def test_a_plateau_must_reach_a_decade_from_the_edge() -> None:
    short = Counts.of(sweep([90, 80, 21, 20], values=[0.01, 1.0, 20.0, 100.0]), BUDGET)
    long = Counts.of(sweep([90, 80, 21, 20], values=[0.01, 1.0, 10.0, 100.0]), BUDGET)
    assert [edge.plateau for edge in (*tuning.edges(short), *tuning.edges(long))] == [False, True]


def test_edges_in_two_dimensions_step_over_points_that_are_bad_for_another_reason() -> None:
    lr, beta = [0.01, 0.1, 1.0, 10.0, 100.0], [0.9, 0.5, 0.8, 0.99, 0.7]
    runs = sweep([90, 80, 21, None, 20], values=lr, beta=beta)
    assert [(e.name, e.side, e.plateau) for e in tuning.edges(Counts.of(runs, BUDGET))] == [("lr", "largest", True)]
    on_beta = sweep([20, None, 70, 60, 50], values=[1.0, 0.01, 10.0, 0.1, 100.0], beta=[0.999, 0.5, 0.9, 0.8, 0.99])
    [edge] = tuning.edges(Counts.of(on_beta, BUDGET))
    assert (edge.name, edge.side, edge.value, edge.plateau) == ("beta", "largest", 0.999, False)


@pytest.mark.parametrize(("values", "plateau"), [([0.5, 0.8, 0.93, 0.995], True), ([0.5, 0.8, 0.96, 0.995], False)])
def test_decades_of_a_weight_are_those_of_one_minus_it(values: Any, plateau: Any) -> None:
    [edge] = tuning.edges(Counts.of(sweep([90, 80, 21, 20], "beta", values), BUDGET))
    assert (edge.name, edge.plateau) == ("beta", plateau)


@pytest.mark.parametrize(("values", "plateau"), [([0.0, 0.5, 0.7, 1.0], True), ([0.0, 0.5, 0.9, 1.0], False)])
def test_on_a_linear_scale_a_fifth_of_the_range_is_a_decade(values: Any, plateau: Any) -> None:
    [edge] = tuning.edges(Counts.of(sweep([90, 80, 21, 20], "inertia", values), BUDGET))
    assert edge.plateau == plateau
