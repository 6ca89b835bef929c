"""Points that were tried with several training seeds: which of them is the best, and what stands for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from proxmom.study.record.ranking import best_run, lost, points
from tests.study.report.losses.conftest import make_run, seed_sweep

LOST = math.nan


def best(table: Any, **more: Any) -> int:
    return best_run(seed_sweep(table, **more)).point_index


def test_the_smallest_mean_is_the_best_and_not_the_smallest_run() -> None:
    assert best([[0.1, 3.0, 3.0], [1.0, 1.5, 2.0], [1.6, 1.6, 1.6]]) == 1
    assert best([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0]]) == 0  # of equal ones the earlier


def test_a_run_that_was_lost_counts_as_its_initial_loss() -> None:
    assert best([[0.1, 0.1, LOST], [1.5, 1.5, 1.5]], start=4.0) == 0  # 1.4 in the mean
    assert best([[0.1, 0.1, LOST], [1.5, 1.5, 1.5]], start=5.0) == 1  # 1.73
    runs = seed_sweep([[0.1, 0.1, 0.1], [1.5, 1.5, 1.5]], start=5.0)
    runs[2] = replace(runs[2], final={"initial loss": 5.0, "validation loss": math.inf})  # finished, and not finite
    assert best_run(runs).point_index == 1


def test_a_loss_above_the_initial_one_counts_as_that() -> None:
    assert best([[1.0, 1.0, 50.0], [2.1, 2.1, 2.1]], start=4.0) == 0
    assert best([[1.0, 1.0, 50.0], [2.1, 2.1, 2.1]], start=5.0) == 1


def test_the_initial_loss_is_that_of_the_seed_whoever_recorded_it() -> None:
    starts = (4.0, 8.0, 4.0)
    assert best([[1.0, LOST, 1.0], [3.0, 3.0, 3.0]], start=starts) == 1
    assert best([[1.0, 1.0, LOST], [3.0, 3.0, 3.0]], start=starts) == 0
    runs = seed_sweep([[1.0, LOST, 1.0], [3.0, 3.0, 3.0]], start=starts)
    runs[1] = replace(runs[1], status="failed", final={})
    assert points(runs)[0].final["validation loss"] == pytest.approx(10 / 3)
    assert best_run(runs).point_index == 1


def test_a_point_is_lost_only_if_all_its_runs_are() -> None:
    all_lost, saved = points(seed_sweep([[LOST] * 3, [LOST, LOST, 3.9]]))
    assert (lost(all_lost), lost(saved)) == (True, False)
    assert best([[LOST] * 3, [9.0] * 3]) == 1  # both count as the initial loss, and one ended
    assert best([[LOST] * 3, [LOST] * 3]) == 0


def test_what_stands_for_a_point_has_the_means_over_its_seeds() -> None:
    runs = seed_sweep([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    betas = [(0.2, 1.0), (0.4, 2.0), (0.9, 6.0)]
    runs[:3] = [replace(run, mean_beta=b, mean_step=s) for run, (b, s) in zip(runs[:3], betas, strict=True)]
    point, other = points(runs)
    assert (point.seeds, point.final) == ((0, 101, 102), {"validation loss": pytest.approx(7 / 3)})
    assert (point.mean_beta, point.mean_step) == (pytest.approx(0.5), pytest.approx(3.0))
    assert (other.mean_beta, other.point, other.point_index) == (None, runs[3].point, 1)
    runs[0] = replace(runs[0], mean_beta=None)  # it failed before its first step
    assert points(runs)[0].mean_beta == pytest.approx(0.65)
    assert points(points(runs)) == points(runs)


def test_one_seed_is_the_run_itself() -> None:
    runs = seed_sweep([[3.0], [LOST], [9.0]])
    assert points(runs) == tuple(runs)
    assert best([[9.0], [LOST], [7.0]], start=4.0) == 2  # as it ended, also above the initial loss
    twice = [*runs, *(replace(run, key="on another device") for run in runs)]
    assert points(twice) == tuple(twice)


def test_runs_that_are_no_search_are_no_seeds_of_a_point() -> None:
    finals = [make_run(loss=loss, seed=seed) for seed, loss in ((1, 2.0), (2, 1.0), (3, 9.0))]
    assert best_run(finals) is finals[1]


def test_a_point_that_lacks_a_seed_is_compared_where_all_do() -> None:
    runs = seed_sweep([[1.0, 1.0, 9.0], [3.0, 3.0, 3.0]])
    assert best_run(runs).point_index == 0
    assert best_run([*runs[:2], *runs[3:]]).point_index == 1
    assert best_run([runs[0], *runs[3:]]).point_index == 1
    assert best_run([*runs[:2], *runs[3:5]]).point_index == 0
