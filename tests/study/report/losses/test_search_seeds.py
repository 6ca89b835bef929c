"""What a report says of points that were tried with several training seeds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.report import pictures, tuning
from proxmom.study.report.panels import Style
from proxmom.study.report.results import Losses
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.write import terminal_table, write_report
from tests.study.report.losses.conftest import METHODS, STEPS, make_run, seed_sweep, write_study

LOST = np.nan


def searched(table: Any, start: Any = 4.0, **more: Any) -> Losses:
    """Runs of one method's points, by seed, and a final run of it."""
    return Losses.of([*seed_sweep(table, start, **more), make_run(start=4.0, **more)], STEPS)


def test_lr_sensitivity_is_of_the_means_over_seeds() -> None:
    table = [[3.0, 3.0, 6.0], [1.0, 2.0, LOST], [2.0, 1.0, 0.0], [0.1, 4.0, LOST], [9.0, LOST, LOST]]
    trained = searched(table, start=(4.0, 4.0, 7.0))  # from 5 in the mean to 1 at the best
    expected = (np.array([4.0, 10 / 3, 1.0, 11.1 / 3, 5.0]) - 1) / 4
    np.testing.assert_allclose(tuning.excess_near_best(trained, ("p", "m")), expected)
    sensitivity = tuning.lr_sensitivity(trained)["m"]
    assert (sensitivity.mean, sensitivity.size) == (pytest.approx(expected.mean()), 5)  # points, not runs


def test_best_so_far_is_of_the_means_over_seeds() -> None:
    trained = searched([[0.5, LOST, LOST], [2.0, 2.0, 2.0], [1.0, 2.0, 1.5]])
    budgets, [means] = tuning.best_so_far(trained, np.array([1.0]))
    assert budgets == (1, 2, 3)
    np.testing.assert_allclose(means, [8.5 / 3, 2.0, 1.5])
    assert (trained.best["p", "m"].point_index, trained.points.tolist()) == (2, [[1.5]])


def test_edges_are_of_the_means_over_seeds() -> None:
    table = [[0.1, 3.0, LOST], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    assert [edge.side for edge in tuning.edges(searched(table))] == []
    assert [edge.side for edge in tuning.edges(searched([row[:1] for row in table]))] == ["smallest"]


def test_a_plateau_is_of_the_means_over_seeds() -> None:
    noisy = [[1.0, 1.0, 1.0], *[[0.9, 1.1, 1.3]] * 3]  # 10% more in the mean, and less than 1% of the way from 68
    assert [(e.side, e.plateau) for e in tuning.edges(searched(noisy, start=(2.0, 2.0, 200.0)))] == [("smallest", True)]
    assert [(e.side, e.plateau) for e in tuning.edges(searched(noisy, start=2.0))] == [("smallest", False)]


def test_a_seed_that_failed_at_once_everywhere_counts_as_the_initial_loss_that_another_method_recorded() -> None:
    runs = seed_sweep([[1.0, LOST, 1.0], [2.0, LOST, 2.0]], start=4.0)
    for place in (1, 4):
        runs[place] = replace(runs[place], status="failed", final={})
    others = seed_sweep([[3.0, 3.0, 3.0]], start=(4.0, 7.0, 4.0), method="other")
    trained = Losses.of([*runs, *others, make_run()], STEPS)
    assert trained.points.tolist() == [[3.0, 3.0]]
    np.testing.assert_allclose(tuning.best_so_far(trained, np.array([1.0]))[1], [[3.0, 3.0], [3.0, 3.0]])


def test_a_picture_has_the_means_and_faintly_every_run() -> None:
    table = [[3.0, 3.0, 3.5], [1.0, 2.0, LOST], [2.0, 1.0, 0.5], [LOST, LOST, LOST]]

    def marks(trained: Losses) -> list[int]:
        [picture] = pictures.lr_sensitivity(trained, [Style(0, "m")])
        parts = picture.svg.split('<g class="method">')[1:]
        return [len(re.findall("<use ", part.split('<g id="')[0])) for part in parts]

    shown = searched(table)
    assert [(run.seeds, run.point_index) for run in shown.searched["p", "m"]] == [((0, 101, 102), i) for i in range(4)]
    assert marks(shown) == [3, 1, 8, 4]  # means, points that were lost, single runs, those that were lost
    assert marks(searched([row[:1] for row in table])) == [3, 1]


def study(folder: Path, seeds: int, *more: Any) -> Path:
    """A study of two methods with this many search seeds, as far as its file and its runs say."""
    table = np.array([[3.0, 2.5, 3.5], [1.0, 2.0, LOST], [2.0, 1.0, 0.5], [1.5, 1.5, 1.4]])[:, :seeds]
    runs = [run for method in (METHODS[0], "m") for run in seed_sweep(table, method=method)]
    runs += [make_run(method=method, seed=seed, point={"lr": 0.1}) for method in (METHODS[0], "m") for seed in (1, 2)]
    written = write_study(folder, [*runs, *more])
    text = (written / "study.toml").read_text()
    (written / "study.toml").write_text(text.replace("seeds = 5", f"seeds = 5\nsearch_seeds = {seeds}"))
    return written


def test_the_page_and_the_terminal_say_how_many_seeds_chose_the_points(tmp_path: Path) -> None:
    several = study(tmp_path / "several", 3)
    page, table = write_report([several]).read_text(encoding="utf-8"), " ".join(terminal_table([several]).split())
    assert "each method at its best of 4 points by the mean validation loss of 3 seeds" in page
    assert "Each mark is the mean of a point over 3 seeds, the faint ones are its runs" in page
    assert "best point of each method by the mean validation loss of 3 seeds, mean over 2 seeds;" in table
    assert "A point's loss is the mean over 3 seeds." in table
    assert "one seed" not in page
    one = study(tmp_path / "one", 1)
    page, table = write_report([one]).read_text(encoding="utf-8"), " ".join(terminal_table([one]).split())
    assert "each method’s best point by validation loss on one seed, run again on 2 other seeds" in page
    assert "Each mark is one run of the search" in page
    assert "best point of each method, mean over 2 seeds;" in table
    assert "A point's loss" not in table


def test_budgets_of_their_own_are_named(tmp_path: Path) -> None:
    folder = study(tmp_path / "more", 3, *seed_sweep([[1.0] * 3] * 6, method="wider"))
    page = write_report([folder]).read_text(encoding="utf-8")
    assert "best of 4 to 6 points" in page
    assert "Unequal tuning: 18 runs instead of 12 for wider on p" in page


def test_a_search_where_everything_is_lost_is_warned_of(tmp_path: Path) -> None:
    folder = study(tmp_path / "lost", 3, *seed_sweep([[LOST] * 3, [LOST] * 3], method="wild"), make_run(method="wild"))
    assert "no point of wild finished" in write_report([folder]).read_text(encoding="utf-8")


def test_studies_with_other_numbers_of_search_seeds_are_refused(tmp_path: Path) -> None:
    folders = [study(tmp_path / "three", 3), study(tmp_path / "one", 1)]
    with pytest.raises(ValueError, match=r"must share search_seeds, got 3 in 'three' and 1 in 'one'. Report them one"):
        merge([read_source(folder) for folder in folders])
