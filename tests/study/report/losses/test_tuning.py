"""What the search and the curves of training studies say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from proxmom.study.report import compare, curves, pictures, statistics, tuning
from proxmom.study.report.panels import Style
from proxmom.study.report.results import Losses
from tests.study.report.losses.conftest import (
    ADAPTIVE,
    DEFAULTS,
    METHODS,
    NETWORK,
    ROWS,
    SEEDS,
    STEPS,
    UNITS,
    make_run,
    sweep,
)


def test_lr_sensitivity_by_hand() -> None:
    losses = {1e-4: 9.0, 1e-3: 2.5, 5e-3: 9.0, 1e-2: 1.0, 3e-2: 2.0, 1e-1: np.nan, 1.0: 3.0}
    wide = sweep(list(losses.values()), values=list(losses), problem="p")
    wide[5] = replace(wide[5], status="diverged")
    best = sweep([0.5, 4.5, 5.0, 0.5], problem="p", method="best")  # 5.0 is above the initial loss, 4.5
    runs = [
        *(replace(r, final={**r.final, "initial loss": 4.5}) for r in (*wide, *best)),
        make_run(loss=1.0, start=4.5),
    ]
    numbers = tuning.lr_sensitivity(Losses.of(runs, STEPS))
    expected = [(2.5 - 0.5) / 4, 1.0, 0.5 / 4, 1.5 / 4, 1.0]  # from 4.5 at the start to 0.5 at the best
    assert numbers["m"].mean == pytest.approx(np.mean(expected))
    assert min(expected) < numbers["m"].low < numbers["m"].mean < numbers["m"].high < 1.0
    assert numbers["m"].size == 5  # one problem: over points
    assert set(numbers) == {"m"}  # the best of the other has one neighbour within a decade: too few


def test_lr_sensitivity_over_problems_is_a_mean_of_means() -> None:
    runs = []
    for problem, losses in {"p": [1.0, 1.0, 1.0, 1.0], "q": [1.0, 3.0, 3.0, 3.0]}.items():
        runs += sweep(losses, values=[1.0, 2.0, 3.0, 4.0], problem=problem, start=5.0)
        runs.append(make_run(problem, loss=1.0, start=5.0))
    mean = tuning.lr_sensitivity(Losses.of(runs, STEPS))["m"]
    assert (mean.mean, mean.size) == (pytest.approx((0 + 3 * 0.5 / 4) / 2), 2)


def test_the_ratio_of_two_lr_sensitivities_is_over_the_problems_of_both() -> None:
    runs = []
    for problem, (ours, theirs) in {"p": (1.5, 2.0), "q": (1.2, 1.4), "r": (1.9, 2.8), "s": (2.0, None)}.items():
        for method, loss in (("ours", ours), ("theirs", theirs)):
            if loss is not None:
                losses, lrs = [1.0, loss, loss, loss], [1.0, 2.0, 3.0, 4.0]
                runs += sweep(losses, values=lrs, problem=problem, method=method, start=5.0)
            runs.append(make_run(problem, method, loss=1.0, start=5.0))
    half = tuning.lr_sensitivity_ratio(Losses.of(runs, STEPS), "ours", "theirs")
    # excess 0.5, 0.2, 0.9 to 1, 0.4, 1.8: resampled together, whatever is drawn, one half
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert half.size == 3
    assert np.isnan(tuning.lr_sensitivity_ratio(Losses.of(runs, STEPS), "ours", "nobody").mean)


def test_the_ratio_of_two_lr_sensitivities_on_one_problem_is_over_the_points_of_each() -> None:
    lrs = [1.0, 2.0, 3.0, 4.0, 5.0]
    runs = [*sweep([1.0, 1.5, 2.0, 1.5, 1.0], values=lrs, method="ours", start=5.0), make_run(method="ours", start=5.0)]
    runs += [*sweep([1.0, 3.0, 3.5, 2.5], values=lrs[:4], method="theirs", start=5.0), make_run(method="theirs")]
    ratio = tuning.lr_sensitivity_ratio(Losses.of(runs, STEPS), "ours", "theirs")
    assert ratio.mean == pytest.approx((2 / 5) / (6 / 4))
    assert 0 < ratio.low < ratio.mean < ratio.high < 1  # the points of one say nothing of those of the other
    assert ratio.size == 4


def test_best_so_far_by_hand() -> None:
    runs = [*sweep([4.0, 2.0, 1.0], method="reference"), *sweep([np.nan, 0.5, 3.0], method="m")]
    runs[3] = replace(runs[3], status="diverged")
    runs += [make_run(method=name) for name in ("reference", "m", "fixed")]
    trained = Losses.of(runs, STEPS)
    budgets, means = tuning.best_so_far(trained, trained.points[:, 0])
    assert budgets == (1, 2, 3)
    np.testing.assert_allclose(means[:2], [[4, 2, 1], [4, 0.5, 0.5]])  # what diverged: the initial loss, 4
    assert np.isnan(means[2]).all()


def test_steps_and_seconds_to_a_target_are_medians_over_seeds_with_misses_as_infinity(
    directory: Any, trained: Any
) -> None:
    firsts = {method: [] for method in METHODS}
    for file in directory.glob("runs/*/run.json"):
        run = json.loads(file.read_text())
        if run["stage"] == "final" and run["problem"] == NETWORK:
            rows = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
            hits = [(row["step"], row["seconds"]) for row in rows if row["validation"] <= 1.5]
            firsts[run["method"]].append(hits[0] if hits else (np.inf, np.inf))
    steps, seconds = (statistics.last_median(values)[0] for values in curves.first_below(trained, 1.5))
    for index, method in enumerate(METHODS):
        assert (steps[index], seconds[index]) == tuple(np.median(firsts[method], axis=0)), method
    assert np.isinf(steps[METHODS.index("SGD")])
    assert np.isfinite(steps[METHODS.index(ADAPTIVE)])


def test_median_by_hand() -> None:
    table = np.array([[3.0, np.inf, 1.0], [np.inf, 1.0, np.inf], [1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(statistics.last_median(table), [3.0, np.inf, 2.0, np.nan])


def test_a_mean_curve_is_over_the_seeds_that_are_still_going(directory: Any, trained: Any) -> None:
    steps, means = curves.curve_of(trained, (NETWORK, "SGD"), "validation")
    assert steps.tolist() == np.linspace(10, STEPS, ROWS).tolist()
    assert [mean.size for mean in means] == [5] * 7 + [3] * 33
    recorded = [trained.curves[run.key]["validation"] for run in trained.final[NETWORK, "SGD"]]
    assert means[-1].mean == pytest.approx(np.mean([curve[-1] for curve in recorded if curve.size == ROWS]))
    assert means[3].mean == pytest.approx(np.mean([curve[3] for curve in recorded]))


def test_the_weight_on_memory_of_final_runs(trained: Any) -> None:
    assert compare.adaptive(trained) == (ADAPTIVE, DEFAULTS)  # not the frozen one, which is always at its cap
    row = compare.memory_weights(trained)[0]
    assert (row.method, row.beta.mean, row.capped.mean) == (ADAPTIVE, pytest.approx(0.6), pytest.approx(0.2))
    steps, betas = curves.betas_of(trained, (NETWORK, ADAPTIVE))
    assert betas.shape == (steps.size, SEEDS * UNITS) == (ROWS, 30)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0, 2.0, 1.0, 2.0, 3.0], []),
        ([4.0, 3.5, 3.0, 2.0, 1.0], [("largest", False)]),
        ([4.0, 3.5, 1.02, 1.02, 1.0], [("largest", True)]),  # 1% of 5 - 1 is 0.04
        ([4.0, 3.5, 3.0, 1.05, 1.0], [("largest", False)]),  # within 20%, yet more than 1% of what was gained
        ([4.9, 3e-3, 1e-3, 1.5e-4, 1e-4], [("largest", False)]),  # within 1% of what was gained, yet 50% more
        ([4.9, 3e-3, 1e-3, 1.1e-4, 1e-4], [("largest", True)]),
    ],
)
def test_edges_and_plateaus(losses: Any, expected: Any) -> None:
    trained = Losses.of([*sweep(losses, start=5.0), make_run(loss=1.0, start=5.0)], STEPS)
    assert [(edge.side, edge.plateau) for edge in tuning.edges(trained)] == expected


def test_a_map_of_units_has_a_path_for_each_shade(trained: Any) -> None:
    shown = trained.without_variants()
    styles = [Style(index, method) for index, method in enumerate(shown.methods)]
    [picture] = pictures.units(shown, styles)
    shades = [int(shade) for shade in re.findall(r'id="units0-heat(\d+)"', picture.svg)]
    run = curves.middle_run(shown, (NETWORK, ADAPTIVE))
    betas = trained.curves[run.key]["beta"]
    assert shades == sorted(set(np.round(10 * betas).astype(int).ravel().tolist()) - {0})
    losses = [trained.loss(each) for each in trained.final[NETWORK, ADAPTIVE]]
    assert trained.loss(run) == np.median(losses)
