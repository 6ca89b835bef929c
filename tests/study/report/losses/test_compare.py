"""Losses compared: by seed, by problem, by variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from proxmom.study.record.ranking import best_run
from proxmom.study.report import compare, statistics
from proxmom.study.report.results import Losses
from tests.study.report.losses.conftest import (
    ADAPTIVE,
    CONVEX,
    DEFAULTS,
    FROZEN,
    METHODS,
    NETWORK,
    START,
    STEPS,
    make_run,
    stored,
    sweep,
)


def trained_of(losses: Mapping[str, Any], start: Any = 4.0, **more: Any) -> Losses:
    """Final runs alone: by method, losses by problem (rows) and seed (columns); nan is a diverged seed."""
    runs = []
    for method, table in losses.items():
        for row, values in enumerate(np.atleast_2d(table)):
            for seed, value in enumerate(values, start=1):
                status = "diverged" if np.isnan(value) else "finished"
                runs.append(make_run(f"p{row}", method, float(value), seed, start=start, status=status, **more))
    return Losses.of(runs, STEPS)


def test_the_answer_is_the_mean_over_seeds_of_the_test_loss_with_a_t_interval(directory: Any, trained: Any) -> None:
    test = stored(directory, "test loss")
    assert set(trained.splits.values()) == {"test"}
    values = np.array([test[NETWORK, ADAPTIVE, seed] for seed in range(1, 6)])
    interval = compare.means(trained, trained.values)[0][trained.methods.index(ADAPTIVE)]
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(5))
    np.testing.assert_allclose([interval.mean, interval.low, interval.high], [values.mean(), low, high])


def test_the_validation_loss_decides_where_there_is_no_test_loss() -> None:
    trained = trained_of({"m": [[1.0, 3.0]]})
    assert (trained.splits, trained.measure) == ({"p0": "validation"}, "validation loss")
    assert compare.means(trained, trained.values)[0][0].mean == 2.0
    tested = trained_of({"m": [[1.0, 3.0]]}, test=7.0)
    assert (tested.measure, compare.means(tested, tested.values)[0][0].mean) == ("test loss", 7.0)
    assert compare.means(tested, tested.validation)[0][0].mean == 2.0


def test_differences_are_paired_by_seed(directory: Any, trained: Any) -> None:
    test = stored(directory, "test loss")
    pairs = [test[NETWORK, ADAPTIVE, seed] - test[NETWORK, METHODS[0], seed] for seed in range(1, 6)]
    pair = compare.comparisons(trained, METHODS[0])[0][trained.methods.index(ADAPTIVE)]
    low, high = stats.ttest_1samp(pairs, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([pair.interval.mean, pair.interval.low, pair.interval.high], [np.mean(pairs), low, high])
    assert (pair.sign, pair.factor) == (-1, False)
    apart = stats.ttest_ind(*([test[NETWORK, m, s] for s in range(1, 6)] for m in (ADAPTIVE, METHODS[0])))
    assert apart.pvalue > 10 * stats.ttest_1samp(pairs, 0.0).pvalue  # without pairing the same means tell less


def test_relative_gaps_are_compared_by_ratios_and_have_geometric_means(directory: Any, trained: Any) -> None:
    test = stored(directory, "test loss")
    own, other = ([test[CONVEX, method, seed] for seed in range(1, 6)] for method in (ADAPTIVE, METHODS[0]))
    assert (trained.by_ratio, trained.names) == ((False, True), ("test loss", "relative gap"))
    pair = compare.comparisons(trained, METHODS[0])[1][trained.methods.index(ADAPTIVE)]
    interval = stats.ttest_1samp(np.log(own) - np.log(other), 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([pair.interval.low, pair.interval.high], np.exp(interval))
    assert (pair.interval.mean, pair.factor) == (pytest.approx(stats.gmean(np.divide(own, other))), True)
    assert pair.sign == -1
    mean = compare.means(trained, trained.values)[1][trained.methods.index(ADAPTIVE)]
    assert mean.mean == pytest.approx(stats.gmean(own))
    assert 0 < mean.low < mean.mean < mean.high


def test_pairs_are_made_by_the_seed_and_not_by_the_order() -> None:
    runs = [make_run("p", "a", float(seed), seed) for seed in (1, 2, 3)]
    runs += [make_run("p", "b", seed + 0.5, seed) for seed in (3, 2)]  # seed 1 is missing, and the order is another
    [[_, b]] = compare.comparisons(Losses.of(runs, STEPS), "a")
    assert (b.interval.mean, b.interval.size) == (0.5, 2)


@pytest.mark.parametrize("start", [9.0, 1.0])  # differences, and relative gaps, which start at 1
@pytest.mark.parametrize(("shift", "sign"), [(-0.1, -1), (0.1, 1), (0.0, 0)])
def test_a_pair_is_marked_where_its_interval_excludes_equality(shift: Any, sign: Any, start: Any) -> None:
    base = np.array([2.0, 3.0, 4.0, 5.0, 6.0])
    noise = np.array([0.01, -0.02, 0.0, 0.02, -0.01])
    trained = trained_of({"a": base, "b": base + shift + noise}, start=start)
    assert compare.comparisons(trained, "a")[0][1].sign == sign


def test_a_lost_seed_counts_as_the_initial_loss_of_its_seed(directory: Any, trained: Any) -> None:
    validation, test = stored(directory, "validation loss"), stored(directory, "test loss")
    values = [test.get((NETWORK, "SGD", seed)) for seed in range(1, 6)]
    assert [value is None for value in values] == [False, True, False, True, False]
    assert validation[NETWORK, "SGD", 2] is None  # nan when it was written
    expected = [value if value is not None else START[seed] for seed, value in enumerate(values, start=1)]
    np.testing.assert_allclose(trained.values[0, trained.methods.index("SGD")], expected)
    assert trained.lost_seeds[NETWORK, "SGD"] == (1, 1, 5)
    assert trained.lost_seeds[CONVEX, "SGD"] == (0, 0, 5)
    accuracy = trained.accuracy[0, trained.methods.index("SGD")]
    assert [accuracy[1], accuracy[3]] == [0.0, 0.0]
    assert accuracy[0] == pytest.approx(1 - validation[NETWORK, "SGD", 1] / 5)
    assert np.isnan(trained.accuracy[1]).all()


def test_an_initial_loss_that_was_not_recorded_is_that_of_another_run() -> None:
    runs = [make_run("p", "a", 1.0, 1, start=6.0), make_run("p", "a", 1.0, 2, start=8.0)]
    runs += [make_run("p", "b", None, seed, start=None, status="failed") for seed in (1, 2, 3)]
    trained = Losses.of(runs, STEPS)
    np.testing.assert_array_equal(trained.values[0, 1], [6.0, 8.0, 7.0])  # of the same seed; else their mean


def test_ratios_are_geometric_over_seeds_and_then_over_problems() -> None:
    rng = np.random.default_rng(2)
    tables = {name: 10.0 ** rng.uniform(-6, 0, (4, 5)) for name in "ab"}
    logs = np.log(tables["b"] / tables["a"]).mean(axis=1)
    mean = compare.mean_ratios(trained_of(tables), "a")["b"]
    assert (mean.mean, mean.size) == (pytest.approx(np.exp(logs.mean())), 4)
    expected = statistics.bootstrap_mean(logs)
    np.testing.assert_allclose([mean.low, mean.high], np.exp([expected.low, expected.high]))
    assert mean.low < mean.mean < mean.high


def test_with_one_problem_the_interval_of_a_ratio_is_over_seeds() -> None:
    a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.1, 2.5, 4.1, 3.9])
    mean = compare.mean_ratios(trained_of({"a": a, "b": b}), "a")["b"]
    low, high = stats.ttest_1samp(np.log(b / a), 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([mean.mean, mean.low, mean.high], np.exp([np.log(b / a).mean(), low, high]))


def test_relative_gaps_below_what_is_known_count_as_that() -> None:
    trained = trained_of({"a": [[1e-10, 1e-14]], "b": [[-1e-17, 1e-8]]})
    assert compare.mean_ratios(trained, "a")["b"].mean == pytest.approx(np.sqrt(100))


def test_variants_are_compared_with_their_own_method(trained: Any) -> None:
    found = {variant.name: variant for variant in compare.variants(trained)}
    assert list(found) == [FROZEN, DEFAULTS]
    assert {variant.of for variant in found.values()} == {ADAPTIVE}
    position = [trained.methods.index(name) for name in (DEFAULTS, ADAPTIVE)]
    worse, own = (trained.values[:, index] for index in position)
    assert found[DEFAULTS].ratio.mean == pytest.approx(np.exp(np.log(worse / own).mean()))
    pairs = [pair.interval.mean for pair in found[DEFAULTS].pairs]
    np.testing.assert_allclose(pairs, [(worse - own)[0].mean(), stats.gmean((worse / own)[1])])
    assert (found[DEFAULTS].lower, found[DEFAULTS].higher) == (0, 2)
    assert trained.without_variants().methods == (METHODS[0], ADAPTIVE, "SGD")


def test_the_best_point_has_the_smallest_loss_at_the_end_among_those_that_finished() -> None:
    runs = sweep([3.0, 1.0, 1.0, 0.5, np.nan])
    runs[3] = replace(runs[3], status="diverged")
    assert best_run(runs).point_index == 1
    assert best_run([runs[4], runs[3]]).point_index == 3  # none finished: the first point
    assert best_run([replace(run, best_gap=-run.point_index) for run in runs]).point_index == 1


def test_only_final_runs_are_the_answer_and_only_search_runs_the_tuning(directory: Any, trained: Any) -> None:
    assert trained.values.shape == (2, 5, 5)
    assert trained.seeds == (1, 2, 3, 4, 5)
    assert {run.seed for runs in trained.tried.values() for run in runs} == {0}
    searched = {pair[1] for pair in trained.tried}
    assert searched == {METHODS[0], ADAPTIVE, FROZEN}
    assert all(len(runs) == 8 for runs in trained.tried.values())
    assert trained.best[NETWORK, ADAPTIVE].point_index == 4


def test_a_profile_is_of_geometric_means_over_seeds() -> None:
    trained = trained_of({"a": [[1.0, 4.0], [1.0, 1.0]], "b": [[1.0, 1.0], [2.0, 8.0]]})
    np.testing.assert_allclose(trained.profiled(), [[2.0, 1.0], [1.0, 4.0]])
    np.testing.assert_allclose(statistics.shares_within(trained.profiled(), np.array([1.0, 2.0, 4.0])).T,
                               [[0.5, 0.5], [1.0, 0.5], [1.0, 1.0]])  # fmt: skip


def test_a_reference_without_final_runs_is_refused() -> None:
    runs = [*sweep([1.0, 2.0], method="only searched"), make_run(method="m")]
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs \('m'\), got 'only searched'"):
        compare.mean_ratios(Losses.of(runs, STEPS), "only searched")
    with pytest.raises(ValueError, match=r"no run of a best point is finished.* Run the study again"):
        Losses.of(sweep([1.0, 2.0]), STEPS)
