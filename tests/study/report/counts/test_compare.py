"""Counts compared, and numbers as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proxmom.study.report import compare, statistics
from proxmom.study.report.results import Counts
from proxmom.study.report.text import few_text, interval_text, number_text, ratio_text
from tests.study.report.counts.conftest import BUDGET, make_run


def results_of(counts: dict[str, list[int | None]]) -> Counts:
    """One run of each method (keys) on the problems p0, p1, ..."""
    runs = [make_run(f"p{row}", m, c) for m, column in counts.items() for row, c in enumerate(column)]
    return Counts.of(runs, BUDGET)


def test_best_run_is_fewest_evaluations_then_smallest_gap() -> None:
    runs = [make_run(count=None, gap=1e-9, index=0), make_run(count=50, gap=1e-7, index=1)]
    runs += [make_run(count=50, gap=5e-8, index=2), make_run(count=51, gap=1e-12, index=3)]
    assert Counts.of(runs, BUDGET).best["p", "m"].point_index == 2
    missed = [make_run(count=None, gap=np.nan, index=0), make_run(count=None, gap=0.1, index=1)]
    assert Counts.of(missed, BUDGET).best["p", "m"].point_index == 1


def test_counts_are_infinite_for_misses_and_nan_without_runs() -> None:
    runs = [make_run("a", "x", 10), make_run("a", "y", None), make_run("b", "x", 20)]
    results = Counts.of(runs, BUDGET)
    assert (results.problems, results.methods) == (("a", "b"), ("x", "y"))
    np.testing.assert_array_equal(results.counts, [[10, np.inf], [20, np.nan]])


def test_ratio_counts_a_miss_as_ten_times_the_budget_and_leaves_out_what_was_not_run() -> None:
    results = results_of({"reference": [100, 100, 400], "m": [50, None, 200], "short": [200]})
    means = compare.mean_ratios(results, "reference")
    assert means["m"].mean == pytest.approx((0.5 * 100 * 0.5) ** (1 / 3))
    assert means["m"].low == pytest.approx(0.5)
    assert means["m"].high == pytest.approx(100.0)
    assert means["reference"] == statistics.Interval(1.0, 1.0, 1.0, 3)
    assert (means["short"].mean, means["short"].size) == (pytest.approx(2.0), 1)
    assert np.isnan(means["short"].low)
    assert compare.mean_ratios(results, "m")["reference"].mean == pytest.approx(1 / means["m"].mean)


def test_ratio_to_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"reference must be .*'a', 'b'.*got 'c'"):
        compare.log_ratios(results_of({"a": [1], "b": [2]}), "c")


def test_bootstrap_interval_covers_a_known_mean_and_is_reproducible() -> None:
    rng = np.random.default_rng(1)
    intervals = [statistics.bootstrap_mean(rng.normal(3.0, 1.0, 40)) for _ in range(100)]
    assert 85 <= sum(i.low <= 3.0 <= i.high for i in intervals) <= 100
    assert np.mean([i.high - i.low for i in intervals]) == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.1)
    values = np.arange(5.0)
    assert statistics.bootstrap_mean(values, seed=3) == statistics.bootstrap_mean(values, seed=3)


def test_performance_profile_by_hand() -> None:
    results = results_of({"a": [10, 40, None, None], "b": [20, 10, 30, None], "c": [10]})
    shares = statistics.shares_within(results.counts, np.array([1.0, 1.9, 2.0, 4.0, 1e9]))
    np.testing.assert_allclose(shares, [[0.25, 0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75, 0.75], [1.0] * 5])
    np.testing.assert_allclose(statistics.steps_of(results.counts), [1, 2, 4])


def test_variants_are_compared_with_their_own_method() -> None:
    runs = [make_run(f"p{i}", "m", c) for i, c in enumerate([100, 100, 100])]
    runs += [make_run(f"p{i}", "m, defaults", c, variant_of="m") for i, c in enumerate([400, 100, 25])]
    runs += [make_run(f"p{i}", "other", 1000) for i in range(3)]
    results = Counts.of(runs, BUDGET)
    [variant] = compare.variants(results)
    assert (variant.name, variant.of, variant.lower, variant.higher) == ("m, defaults", "m", 1, 1)
    assert variant.ratio.mean == pytest.approx(1.0)
    assert results.without_variants().methods == ("m", "other")
    alone = Counts.of([run for run in runs if run.variant_of], BUDGET)
    assert alone.without_variants().methods == ("m, defaults",)
    assert compare.variants(alone) == []


def test_the_share_of_steps_at_the_cap_is_that_of_the_best_runs() -> None:
    def runs(method: Any, betas: Any, caps: Any) -> Any:
        rows = zip(betas, caps, strict=True)
        return [make_run(f"p{i}", method, 10, mean_beta=b, capped=c, mean_step=1.0) for i, (b, c) in enumerate(rows)]

    worse = make_run("p0", "derived", 99, index=1, mean_beta=0.0, capped=0.0)
    fixed, none = runs("fixed", [0.9, 0.9], [1.0, 1 - 1e-15]), runs("gradient", [0.0, 0.0], [0.0, 0.0])
    scipy = [make_run("p0", "scipy", 10)]
    results = Counts.of([*runs("derived", [0.6, 0.8], [0.5, 0.1]), worse, *fixed, *none, *scipy], BUDGET)
    [row] = compare.memory_weights(results)
    assert (row.method, row.beta.mean, row.capped.mean) == ("derived", pytest.approx(0.7), pytest.approx(0.3))
    assert row.capped.size == 2
    assert np.isnan([row.capped.low, row.capped.high]).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.nan, ""), (0.0, "0"), (0.00123, "0.0012"), (0.456, "0.46"), (9.996, "10.0"), (99.96, "100"), (20000, "20000")],
)
def test_numbers_as_text(value: Any, text: Any) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(461021464.0, "4.6e8"), (1e-6, "1e-6"), (-0.0, "0"), (-27.31, "-27.3"), (-2.7, "-2.70"), (np.inf, "inf")],
)
def test_extreme_numbers_as_text(value: Any, text: Any) -> None:
    assert number_text(value) == text


def test_an_interval_without_spread_is_its_mean() -> None:
    assert interval_text(statistics.Interval(0.5, 0.25, 0.75, 4)) == "0.50 [0.25, 0.75]"
    assert interval_text(statistics.Interval(1.0, 1.0, 1.0, 4)) == "1.00"
    assert interval_text(statistics.Interval(2.0, np.nan, np.nan, 1)) == "2.00"


def test_the_interval_of_a_ratio_holds_the_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = dict.fromkeys((True, False), 0)
    for _ in range(200):
        shared, ours, theirs = rng.normal(0, 0.3, (3, 30))
        for paired in hits:
            interval = statistics.bootstrap_ratio(2 + 3 * shared + ours, 4 + 6 * shared + theirs, paired=paired)
            hits[paired] += interval.low <= 0.5 <= interval.high
    assert 180 <= hits[True] <= 198 < hits[False]  # of 200 at 95%; apart, what both share would spread the ratio
    assert statistics.bootstrap_ratio(2 * shared**2, shared**2) == statistics.Interval(2, 2, 2, 30)
    assert np.isnan(statistics.bootstrap_ratio(ours, np.zeros(30)).mean)
    few = statistics.bootstrap_ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    assert few.mean == 0.5
    assert np.isnan(few.low)
    assert statistics.bootstrap_ratio(np.ones(4), np.array([0, 0, 0, 1.0]), paired=False).high == np.inf
    assert statistics.bootstrap_ratio(np.array([0, 0, 0.1]), np.array([0, 0, 0.1])) == statistics.Interval(1, 1, 1, 3)


@pytest.mark.parametrize("mean", [statistics.bootstrap_mean, statistics.t_mean, statistics.geometric_mean])
def test_two_values_have_a_mean_and_no_interval(mean: Any) -> None:
    two, three = mean(np.array([1.0, 4.0, np.nan])), mean(np.array([1.0, 4.0, 2.0]))
    assert (two.size, interval_text(two)) == (2, "2.00" if mean is statistics.geometric_mean else "2.50")
    assert three.low < three.mean < three.high


def test_a_bound_that_says_nothing_has_no_digits() -> None:
    assert ratio_text(statistics.Interval(22.0, 1e-6, 461021464.0, 3)) == "22.0 [<0.022, >22000]"
    assert ratio_text(statistics.Interval(22.0, 0.03, 21000.0, 3)) == "22.0 [0.03, 21000]"
    assert ratio_text(statistics.Interval(1.0, 0.5, 2.0, 3)) == "1.000 [0.500, 2.000]"


def test_missing_intervals_are_explained() -> None:
    assert few_text(results_of({"m": [1, 2]})) == "Means over fewer than 3 problems have no interval."
    assert few_text(results_of({"m": [1, 2, 3]})) == ""
