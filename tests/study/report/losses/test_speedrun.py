"""Steps to a loss: the crossing of a known curve, its test against SciPy's, and what a ladder must be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_1samp

from proxmom.cli import main
from proxmom.study.report.export import write_csv
from proxmom.study.report.results import Losses
from proxmom.study.report.speedrun import CERTAINTY, chance_of_none, crossing, speed_runs
from proxmom.study.report.statistics import exponential, t_mean
from tests.study.report.losses.conftest import make_run, sweep, write_study

LENGTHS = (500, 650, 850)
SEEDS = 6
PACES = {"AdamW, tuned": 1.0, "fast": 1.25, "far": 3.0}  # of the studies in folders


def loss_after(steps: float, pace: float = 1.0) -> float:
    """A line in the logarithm of the steps, 2 after 650; a method with pace 2 needs half as many."""
    return float(2.0 - 0.5 * np.log(steps * pace / 650))


def ladder(paces: Any, noise: float = 0.02, lengths: Any = LENGTHS, problem: str = "p") -> dict[int, Losses]:
    """Results of methods that are so much faster, with seeds that are off by the same at all lengths."""
    return {length: Losses.of(runs(paces, length, noise, problem), length) for length in lengths}


def runs(paces: Any, length: int, noise: float = 0.02, problem: str = "p") -> list[Any]:
    rng, found = np.random.default_rng(0), []
    for method, pace in paces.items():
        loss = loss_after(length, pace)
        found += sweep([loss + 0.3, loss, loss + 0.3], problem=problem, method=method)
        found += [
            make_run(problem, method, loss=loss + noise * rng.standard_normal(), seed=seed, point={"lr": 1e-3})
            for seed in range(1, SEEDS + 1)
        ]
    return found


def test_the_crossing_of_a_line_is_found_and_each_seed_is_off_by_its_loss() -> None:
    off = np.array([0.03, -0.01, -0.02])
    losses = np.array([loss_after(length) + off for length in LENGTHS])
    logs = crossing(np.array(LENGTHS, dtype=float), losses, 1.95)
    assert np.exp(logs.mean()) == pytest.approx(650 * np.exp(0.1))
    np.testing.assert_allclose(logs - logs.mean(), off / 0.5)  # one nat is half a unit of the loss


@pytest.mark.parametrize("target", [loss_after(499), loss_after(851)])
def test_what_is_not_enclosed_is_not_guessed(target: float) -> None:
    losses = np.array([[loss_after(length)] * 3 for length in LENGTHS])
    assert np.isnan(crossing(np.array(LENGTHS, dtype=float), losses, target)).all()


def test_a_mean_that_is_there_after_the_shortest_length_has_no_later_crossing() -> None:
    losses = np.array([[1.9] * 3, [2.1] * 3, [1.8] * 3])
    assert np.isnan(crossing(np.array(LENGTHS, dtype=float), losses, 2.0)).all()
    assert not np.isnan(crossing(np.array(LENGTHS, dtype=float), losses[[1, 0, 1]], 2.0)).any()


def test_the_first_crossing_counts() -> None:
    means = np.array([2.1, 1.9, 2.1, 1.7])
    steps = np.exp(crossing(np.array([500.0, 650.0, 850.0, 1100.0]), np.repeat(means[:, None], 3, axis=1), 2.0))
    assert steps == pytest.approx(np.sqrt(500 * 650))


def test_a_seed_that_lacks_a_length_is_left_out_of_all() -> None:
    losses = np.array([[loss_after(length)] * 4 for length in LENGTHS])
    losses[:, 3] += 1.0
    losses[2, 3] = np.nan
    logs = crossing(np.array(LENGTHS, dtype=float), losses, 2.0)
    assert np.isnan(logs).tolist() == [False, False, False, True]
    np.testing.assert_allclose(np.exp(logs[:3]), 650)
    assert np.isnan(crossing(np.array([1.0, 2.0]), np.full((2, 3), np.nan), 1.0)).all()


def test_the_one_sided_test_is_scipys() -> None:
    values = np.random.default_rng(0).standard_normal(7) - 0.5
    assert chance_of_none(values) == pytest.approx(ttest_1samp(values, 0.0, alternative="less").pvalue)
    assert chance_of_none(np.array([-1.0, -1.0, -1.0])) == 0
    assert np.isnan(chance_of_none(np.array([-1.0, -2.0])))


def test_a_faster_method_is_told_with_its_ratio() -> None:
    [run] = speed_runs(ladder({"slow": 1.0, "fast": 1.25, "same": 1.0}), "slow")
    slow, fast, same = run.paces
    assert run.target == pytest.approx(2.0)  # the search's best point at 650 steps
    assert run.origin == "of 'slow' in its search at 650"
    assert slow.steps.low < 650 < slow.steps.high
    assert fast.ratio.low < 0.8 < fast.ratio.high < 0.9
    assert fast.p < 1e-3 < CERTAINTY < same.p
    ahead = fast.logs - slow.logs  # paired: what seeds share does not count
    assert fast.p == pytest.approx(ttest_1samp(ahead, 0.0, alternative="less").pvalue)
    assert fast.ratio == exponential(t_mean(ahead))
    assert np.isnan(slow.p)
    assert [pace.reached for pace in run.paces] == [850, 650, 850]


def test_the_target_is_that_of_the_middle_length_or_given() -> None:
    paces = {"slow": 1.0, "fast": 1.25}
    four = ladder(paces, lengths=(385, *LENGTHS))
    assert speed_runs(four, "slow")[0].target == pytest.approx(2.0)
    assert speed_runs(four, "fast")[0].target == pytest.approx(loss_after(650, 1.25))
    [given] = speed_runs(four, "slow", 2.05)
    assert given.target == 2.05
    assert given.paces[0].steps.mean == pytest.approx(650 * np.exp(-0.1), rel=0.05)


def test_gaps_that_span_decades_are_read_on_their_logarithms() -> None:
    results = {}
    for length in LENGTHS:
        gap = (length / 650) ** -8.0 * 1e-3
        finals = [make_run(loss=gap * f, seed=s, start=1.0) for s, f in enumerate((0.5, 1.0, 2.0), 1)]
        results[length] = Losses.of([*sweep([gap, 2 * gap], start=1.0), *finals], length)
    [run] = speed_runs(results, "m")
    assert run.paces[0].steps.mean == pytest.approx(650)
    assert run.paces[0].losses[1].mean == pytest.approx(1e-3)


def test_what_is_no_ladder_is_refused() -> None:
    full = ladder({"slow": 1.0, "fast": 1.25})
    with pytest.raises(ValueError, match="two lengths or more, got 1: run --steps"):
        speed_runs({500: full[500]}, "slow")
    other = ladder({"slow": 1.0, "new": 1.0})
    with pytest.raises(ValueError, match="same methods, got others at 650 than at 500"):
        speed_runs({500: full[500], 650: other[650]}, "slow")
    with pytest.raises(ValueError, match=r"reference must be a method with final runs \(slow, fast\), got 'slwo'"):
        speed_runs(full, "slwo")
    for target in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="target must be a loss > 0"):
            speed_runs(full, "slow", target)
    finals = {n: Losses.of([r for r in runs({"slow": 1.0}, n) if r.stage == "final"], n) for n in LENGTHS}
    with pytest.raises(ValueError, match="'slow' searched nothing at 650 steps, so it sets no target: give one"):
        speed_runs(finals, "slow")
    assert speed_runs(finals, "slow", 2.0)[0].paces[0].reached == 850


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("ladder")
    return [write_study(home / f"s-{length}", runs(PACES, length), steps=length) for length in LENGTHS]


def asked(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["speedrun", *map(str, arguments)])


def test_the_table_says_who_needs_how_many(folders: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "speed.png"
    result = asked(*reversed(folders), "--picture", file)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "p: steps to a validation loss of 2.000, of 'AdamW, tuned' in its search at 650 steps."
    rows = {line.split("  ")[0]: line for line in lines[2:6]}
    assert "0.8" in rows["fast"]
    assert "[" in rows["fast"]
    assert "< 500" in rows["far"]
    assert max(map(len, lines)) <= 100
    assert file.stat().st_size > 5000


def test_exported_rows_of_all_lengths_need_one_study_file(folders: list[Path], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder.name).mkdir()
        write_csv([folder], tmp_path / folder.name / "runs.csv")
    text = (folders[1] / "study.toml").read_text().replace('name = "s-650"', 'name = "s"').replace("= 650", "= 7")
    methods = "".join(f'[[method]]\nname = "{m}"\ntorch = "torch.optim:AdamW"\n' for m in PACES)
    (tmp_path / "s.toml").write_text(text + methods)
    assert asked(*(tmp_path / folder.name for folder in folders)).output == asked(*folders).output
    own = text.replace('name = "s"', 'name = "s-500"').replace("= 7", "= 650") + methods  # goes before
    (tmp_path / "s-500.toml").write_text(own)
    assert "got 650 steps twice" in asked(tmp_path / "s-500", tmp_path / "s-650").output


def test_studies_that_differ_in_more_are_refused(folders: list[Path], tmp_path: Path) -> None:
    assert "two lengths or more, got 1" in asked(folders[0]).output
    again = asked(folders[0], folders[1], folders[0])
    assert again.exit_code == 1
    assert "each length once, got 500 steps twice: leave 's-500' out" in again.output
    other = write_study(tmp_path / "linear", runs(PACES, 900), schedule="linear", steps=900)
    assert "must share schedule, warmup and search_seeds" in asked(*folders, other).output


def test_other_ranges_are_another_study_and_missing_runs_are_told(folders: list[Path], tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", runs(PACES, 900), steps=900)
    with (other / "study.toml").open("a") as file:
        file.write('[[method]]\nname = "fast"\nlr = 1.0\n')
    assert "differ in their steps alone" in asked(*folders, other).output
    newer = [replace(run, configuration={**run.configuration, "numerics": 2}) for run in runs(PACES, 900)]
    assert "differ in their steps alone" in asked(*folders, write_study(tmp_path / "newer", newer, steps=900)).output
    whole = write_study(tmp_path / "s-900", runs(PACES, 900), steps=900)
    assert "not finished" not in asked(*folders, whole).output
    plan = json.loads((whole / "plan.json").read_text())
    shutil.rmtree(whole / "runs" / plan[-1]["key"])
    assert "are not finished; run it again" in asked(*folders, whole).output
