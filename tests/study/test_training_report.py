"""Reports of training studies: numbers known by hand, seeds paired, lost runs counted, and a page that stands alone."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from proxmom.cli import main
from proxmom.study.record.ranking import best_run
from proxmom.study.record.store import Outcome, Planned, Run, RunWriter, key_of, run_directory, write_plan
from proxmom.study.report import export, finals, finals_compare, finals_curves, finals_pictures, finals_tuning, summary
from proxmom.study.report.finals_terminal import comparison_text
from proxmom.study.report.panels import Style
from proxmom.study.report.sources import merge, merge_trained, read_source
from proxmom.study.report.terminal import difference_text, loss_text, ratio_text
from proxmom.study.report.write import terminal_table, write_report

STEPS, ROWS, SEEDS, UNITS = 400, 40, 5, 6
START = {0: 5.0, 1: 4.0, 2: 4.1, 3: 4.2, 4: 4.3, 5: 4.4}  # initial loss by seed: those of the network below
PROVENANCE = {"proxmom": "0.1.0", "python": "3.11", "numpy": "2.0", "scipy": "1.15", "torch": "2.9", "cores": 2}
PROVENANCE |= {"commit": "abc1234", "dirty": False, "processor": "Z80", "started": "2026-01-02T03:04:05+00:00"}


def make_run(problem="p", method="m", loss=1.0, seed=1, stage="final", start=4.0, status="finished", **more):
    """A training run that ended with this validation loss, and with the test loss and accuracy given, if any."""
    test, accuracy, point = more.pop("test", None), more.pop("accuracy", None), more.pop("point", {})
    known = {"validation loss": loss, "test loss": test, "test accuracy": accuracy, "initial loss": start}
    configuration = {"problem": {"kind": problem}, "method": {"torch": method}, "point": point, "steps": STEPS}
    configuration |= {"seed": seed, "test": stage == "final"}
    return Run(
        problem=problem,
        method=method,
        point=point,
        point_index=more.pop("index", 0),
        status=status,
        evaluations=STEPS,
        best_gap=loss,
        seconds=2.0,
        provenance=PROVENANCE,
        configuration=configuration,
        key=key_of(configuration),
        seed=seed,
        stage=stage,
        final={name: value for name, value in known.items() if value is not None},
        **more,
    )


def trained_of(losses: Mapping[str, Any], start=4.0, **more) -> finals.Trained:
    """Final runs alone: by method, losses by problem (rows) and seed (columns); nan is a diverged seed."""
    runs = []
    for method, table in losses.items():
        for row, values in enumerate(np.atleast_2d(table)):
            for seed, value in enumerate(values, start=1):
                status = "diverged" if np.isnan(value) else "finished"
                runs.append(make_run(f"p{row}", method, float(value), seed, start=start, status=status, **more))
    return finals.collect(runs, STEPS)


def sweep(losses, name="lr", values=None, **more) -> list[Run]:
    """Search runs of one method over values of a hyper-parameter, 1e-4, 1e-3, ... unless given."""
    values = 10.0 ** np.arange(-4, len(losses) - 4) if values is None else values
    return [
        make_run(loss=loss, seed=0, stage="search", point={name: float(value)}, index=i, **more)
        for i, (loss, value) in enumerate(zip(losses, values, strict=True))
    ]


# ------------------------------------------------------------------------------------ a study in a folder

TEXT = """
[study]
name = "{name}"
claim = "A <i>claim</i> & more."
points = 8
steps = {steps}
seeds = 5
schedule = "{schedule}"
warmup = 0.1
reference = "AdamW, tuned"
targets = [{targets}]
"""
NETWORK, CONVEX = "network, <b>small</b>", "logistic, batch 16"
ADAPTIVE, FROZEN, DEFAULTS = "AM-AdamW", "AM-AdamW, momentum frozen", "AM-AdamW, defaults"
METHODS = ("AdamW, tuned", ADAPTIVE, FROZEN, DEFAULTS, "SGD")
ENDS = {"AdamW, tuned": 1.5, ADAPTIVE: 1.4, FROZEN: 1.45, DEFAULTS: 1.9, "SGD": 2.5}
BETAS = {ADAPTIVE: 0.6, FROZEN: 0.7, DEFAULTS: 0.8}


def write_run(folder: Path, run: Run, start: float) -> Planned:
    description = {"key": run.key, "configuration": run.configuration, "problem": run.problem, "method": run.method}
    description |= {"point_index": run.point_index, "seed": run.seed, "stage": run.stage, "provenance": PROVENANCE}
    end = run.final.get("validation loss", start)
    end = end if np.isfinite(end) else 2 * start  # a run that diverges rises until it ends
    units = UNITS if run.problem == NETWORK else 1
    steps = np.linspace(STEPS / ROWS, STEPS, ROWS).round().astype(int)[: None if run.status == "finished" else 7]
    with RunWriter(run_directory(folder, run.key), description) as writer:
        for step in steps:
            loss = float(end * (start / end) ** ((1 - step / STEPS) ** 3))
            wave = 0.3 * np.sin(step / 40 + np.arange(units))
            betas = np.clip(BETAS.get(run.method, 0.0) + (wave if run.method != FROZEN else 0.0 * wave), 0, 0.89)
            row = {"step": int(step), "seconds": 0.01 * step, "train": 0.97 * loss, "validation": loss}
            writer.record(row | {"beta": betas.tolist() if run.method in BETAS else None})
        writer.finish(
            Outcome(
                run.status,
                run.evaluations,
                run.best_gap,
                run.seconds,
                run.message,
                BETAS.get(run.method),
                1e-3 if run.method in BETAS else None,
                {ADAPTIVE: 0.2, DEFAULTS: 0.5, FROZEN: 1.0}.get(run.method),
                dict(run.final),
            )
        )
    return Planned(run.key, run.problem, run.method, run.point_index, run.variant_of, run.seed, run.stage)


def study_runs() -> list[tuple[Run, float]]:
    """All runs of the study, with the initial losses of their curves."""
    rng = np.random.default_rng(0)
    runs = []
    for problem in (NETWORK, CONVEX):
        shared = {seed: rng.normal(0, 0.05) for seed in range(SEEDS + 1)}
        for method in METHODS:
            runs += [(run, START[run.seed] if problem == NETWORK else 1.0) for run in _of(problem, method, shared, rng)]
    return runs


def _of(problem, method, shared, rng) -> list[Run]:
    def value(seed, worse=0.0):
        own = ENDS[method] + worse + shared[seed] + rng.normal(0, 0.01)
        return float(own if problem == NETWORK else 10 ** (2 * own - 6))

    more = {"variant_of": ADAPTIVE} if method in (FROZEN, DEFAULTS) else {}
    start = START if problem == NETWORK else dict.fromkeys(START, 1.0)
    found, point = [], {}
    if method not in (DEFAULTS, "SGD"):
        for index, lr in enumerate(10.0 ** np.linspace(-3.8, -1.2, 8)):
            point = {"lr": float(lr)} | ({"beta1": 0.5 + 0.06 * ((3 * index) % 8)} if method == METHODS[0] else {})
            ends = {"loss": np.nan, "status": "diverged"} if index == 7 else {"loss": value(0, 0.15 * abs(index - 4))}
            found.append(make_run(problem, method, **ends, seed=0, stage="search", start=start[0], point=point,
                                  index=index, **more))  # fmt: skip
        point = found[4].point
    for seed in range(1, SEEDS + 1):
        ends: dict[str, Any] = {"loss": value(seed)}
        ends |= {"test": ends["loss"] + (0.05 if problem == NETWORK else 0.0)}
        ends |= {"accuracy": 1 - ends["loss"] / 5} if problem == NETWORK else {}
        if method == "SGD" and problem == NETWORK and seed in (2, 4):
            ends = {"loss": np.nan, "status": "diverged"} if seed == 2 else {"loss": None, "status": "failed"}
            ends |= {} if seed == 2 else {"message": "RuntimeError: <u>boom</u>"}
        found.append(make_run(problem, method, **{"start": start[seed], **ends}, seed=seed, point=point, **more))
    return found


def write_study(folder: Path, runs=None, schedule="cosine", steps=STEPS, targets="2.0, 1.5") -> Path:
    folder.mkdir(parents=True)
    every = study_runs() if runs is None else [(run, 4.0) for run in runs]
    write_plan(folder, [write_run(folder, run, start) for run, start in every])
    text = TEXT.format(name=folder.name, schedule=schedule, steps=steps, targets=targets)
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "first")


@pytest.fixture(scope="module")
def trained(directory) -> finals.Trained:
    return merge_trained([read_source(directory)])


def stored(directory: Path, column: str, stage: str = "final") -> dict[tuple[str, str, int], float]:
    """A measure by problem, method and seed, read from the files with nothing of the package."""
    found = {}
    for file in directory.glob("runs/*/run.json"):
        run, done = json.loads(file.read_text()), json.loads((file.parent / "done.json").read_text())
        if run["stage"] == stage and column in done["final"]:
            found[run["problem"], run["method"], run["seed"]] = done["final"][column]
    return found


# ------------------------------------------------------------------------------------------------ numbers


def test_the_answer_is_the_mean_over_seeds_of_the_test_loss_with_a_t_interval(directory, trained):
    test = stored(directory, "test loss")
    assert trained.splits == ("test", "test")
    values = np.array([test[NETWORK, ADAPTIVE, seed] for seed in range(1, 6)])
    interval = finals_compare.means(trained, trained.losses)[0][trained.methods.index(ADAPTIVE)]
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(5))
    np.testing.assert_allclose([interval.mean, interval.low, interval.high], [values.mean(), low, high])


def test_the_validation_loss_decides_where_there_is_no_test_loss():
    trained = trained_of({"m": [[1.0, 3.0]]})
    assert (trained.splits, trained.measure) == (("validation",), "validation loss")
    assert finals_compare.means(trained, trained.losses)[0][0].mean == 2.0
    tested = trained_of({"m": [[1.0, 3.0]]}, test=7.0)
    assert (tested.measure, finals_compare.means(tested, tested.losses)[0][0].mean) == ("test loss", 7.0)
    assert finals_compare.means(tested, tested.validation)[0][0].mean == 2.0


def test_differences_are_paired_by_seed(directory, trained):
    test = stored(directory, "test loss")
    pairs = [test[NETWORK, ADAPTIVE, seed] - test[NETWORK, METHODS[0], seed] for seed in range(1, 6)]
    pair = finals_compare.comparisons(trained, METHODS[0])[0][trained.methods.index(ADAPTIVE)]
    low, high = stats.ttest_1samp(pairs, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([pair.interval.mean, pair.interval.low, pair.interval.high], [np.mean(pairs), low, high])
    assert (pair.sign, pair.factor) == (-1, False)
    apart = stats.ttest_ind(*([test[NETWORK, m, s] for s in range(1, 6)] for m in (ADAPTIVE, METHODS[0])))
    assert apart.pvalue > 10 * stats.ttest_1samp(pairs, 0.0).pvalue  # without pairing the same means tell less


def test_relative_gaps_are_compared_by_ratios_and_have_geometric_means(directory, trained):
    test = stored(directory, "test loss")
    own, other = ([test[CONVEX, method, seed] for seed in range(1, 6)] for method in (ADAPTIVE, METHODS[0]))
    assert (trained.gaps, trained.names) == ((False, True), ("test loss", "relative gap"))
    pair = finals_compare.comparisons(trained, METHODS[0])[1][trained.methods.index(ADAPTIVE)]
    interval = stats.ttest_1samp(np.log(own) - np.log(other), 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([pair.interval.low, pair.interval.high], np.exp(interval))
    assert (pair.interval.mean, pair.factor) == (pytest.approx(stats.gmean(np.divide(own, other))), True)
    assert pair.sign == -1
    mean = finals_compare.means(trained, trained.losses)[1][trained.methods.index(ADAPTIVE)]
    assert mean.mean == pytest.approx(stats.gmean(own))
    assert 0 < mean.low < mean.mean < mean.high


def test_pairs_are_made_by_the_seed_and_not_by_the_order():
    runs = [make_run("p", "a", float(seed), seed) for seed in (1, 2, 3)]
    runs += [make_run("p", "b", seed + 0.5, seed) for seed in (3, 2)]  # seed 1 is missing, and the order is another
    [[_, b]] = finals_compare.comparisons(finals.collect(runs, STEPS), "a")
    assert b.interval == summary.Interval(0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize("start", [9.0, 1.0])  # differences, and relative gaps, which start at 1
@pytest.mark.parametrize(("shift", "sign"), [(-0.1, -1), (0.1, 1), (0.0, 0)])
def test_a_pair_is_marked_where_its_interval_excludes_equality(shift, sign, start):
    base = np.array([2.0, 3.0, 4.0, 5.0, 6.0])
    noise = np.array([0.01, -0.02, 0.0, 0.02, -0.01])
    trained = trained_of({"a": base, "b": base + shift + noise}, start=start)
    assert finals_compare.comparisons(trained, "a")[0][1].sign == sign


def test_a_lost_seed_counts_as_the_initial_loss_of_its_seed(directory, trained):
    validation, test = stored(directory, "validation loss"), stored(directory, "test loss")
    values = [test.get((NETWORK, "SGD", seed)) for seed in range(1, 6)]
    assert [value is None for value in values] == [False, True, False, True, False]
    assert validation[NETWORK, "SGD", 2] is None  # nan when it was written
    expected = [value if value is not None else START[seed] for seed, value in enumerate(values, start=1)]
    np.testing.assert_allclose(trained.losses[0, trained.methods.index("SGD")], expected)
    assert finals.lost_seeds(trained)[NETWORK, "SGD"] == (1, 1, 5)
    assert finals.lost_seeds(trained)[CONVEX, "SGD"] == (0, 0, 5)
    accuracy = trained.accuracy[0, trained.methods.index("SGD")]
    assert [accuracy[1], accuracy[3]] == [0.0, 0.0]
    assert accuracy[0] == pytest.approx(1 - validation[NETWORK, "SGD", 1] / 5)
    assert np.isnan(trained.accuracy[1]).all()


def test_an_initial_loss_that_was_not_recorded_is_that_of_another_run():
    runs = [make_run("p", "a", 1.0, 1, start=6.0), make_run("p", "a", 1.0, 2, start=8.0)]
    runs += [make_run("p", "b", None, seed, start=None, status="failed") for seed in (1, 2, 3)]
    trained = finals.collect(runs, STEPS)
    np.testing.assert_array_equal(trained.losses[0, 1], [6.0, 8.0, 7.0])  # of the same seed; else their mean


def test_ratios_are_geometric_over_seeds_and_then_over_problems():
    rng = np.random.default_rng(2)
    tables = {name: 10.0 ** rng.uniform(-6, 0, (4, 5)) for name in "ab"}
    logs = np.log(tables["b"] / tables["a"]).mean(axis=1)
    mean = finals_compare.mean_ratios(trained_of(tables), "a")["b"]
    assert (mean.mean, mean.size) == (pytest.approx(np.exp(logs.mean())), 4)
    expected = summary.bootstrap_mean(logs)
    np.testing.assert_allclose([mean.low, mean.high], np.exp([expected.low, expected.high]))
    assert mean.low < mean.mean < mean.high


def test_with_one_problem_the_interval_of_a_ratio_is_over_seeds():
    a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.1, 2.5, 4.1, 3.9])
    mean = finals_compare.mean_ratios(trained_of({"a": a, "b": b}), "a")["b"]
    low, high = stats.ttest_1samp(np.log(b / a), 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([mean.mean, mean.low, mean.high], np.exp([np.log(b / a).mean(), low, high]))


def test_relative_gaps_below_what_is_known_count_as_that():
    trained = trained_of({"a": [[1e-10, 1e-14]], "b": [[-1e-17, 1e-8]]})
    assert finals_compare.mean_ratios(trained, "a")["b"].mean == pytest.approx(np.sqrt(100))


def test_variants_are_compared_with_their_own_method(trained):
    found = {variant.name: variant for variant in finals_compare.variants(trained)}
    assert list(found) == [FROZEN, DEFAULTS]
    assert {variant.of for variant in found.values()} == {ADAPTIVE}
    position = [trained.methods.index(name) for name in (DEFAULTS, ADAPTIVE)]
    worse, own = (trained.losses[:, index] for index in position)
    assert found[DEFAULTS].ratio.mean == pytest.approx(np.exp(np.log(worse / own).mean()))
    pairs = [pair.interval.mean for pair in found[DEFAULTS].pairs]
    np.testing.assert_allclose(pairs, [(worse - own)[0].mean(), stats.gmean((worse / own)[1])])
    assert (found[DEFAULTS].lower, found[DEFAULTS].higher) == (0, 2)
    assert trained.without_variants().methods == (METHODS[0], ADAPTIVE, "SGD")


def test_the_best_point_has_the_smallest_loss_at_the_end_among_those_that_finished():
    runs = sweep([3.0, 1.0, 1.0, 0.5, np.nan])
    runs[3] = replace(runs[3], status="diverged")
    assert best_run(runs).point_index == 1
    assert best_run([runs[4], runs[3]]).point_index == 3  # none finished: the first point
    assert best_run([replace(run, best_gap=-run.point_index) for run in runs]).point_index == 1


def test_only_final_runs_are_the_answer_and_only_search_runs_the_tuning(directory, trained):
    assert trained.losses.shape == (2, 5, 5)
    assert trained.seeds == (1, 2, 3, 4, 5)
    assert {run.seed for runs in trained.search.runs.values() for run in runs} == {0}
    searched = {pair[1] for pair in trained.search.runs}
    assert searched == {METHODS[0], ADAPTIVE, FROZEN}
    assert all(len(runs) == 8 for runs in trained.search.runs.values())
    assert trained.search.best[NETWORK, ADAPTIVE].point_index == 4


def test_lr_sensitivity_by_hand():
    losses = {1e-4: 9.0, 1e-3: 2.5, 5e-3: 9.0, 1e-2: 1.0, 3e-2: 2.0, 1e-1: np.nan, 1.0: 3.0}
    wide = sweep(list(losses.values()), values=list(losses), problem="p")
    wide[5] = replace(wide[5], status="diverged")
    best = sweep([0.5, 4.5, 5.0, 0.5], problem="p", method="best")  # 5.0 is above the initial loss, 4.5
    runs = [
        *(replace(r, final={**r.final, "initial loss": 4.5}) for r in (*wide, *best)),
        make_run(loss=1.0, start=4.5),
    ]
    numbers = finals_tuning.lr_sensitivity(finals.collect(runs, STEPS))
    expected = [(2.5 - 0.5) / 4, 1.0, 0.5 / 4, 1.5 / 4, 1.0]  # from 4.5 at the start to 0.5 at the best
    assert numbers["m"].mean == pytest.approx(np.mean(expected))
    assert min(expected) < numbers["m"].low < numbers["m"].mean < numbers["m"].high < 1.0
    assert numbers["m"].size == 5  # one problem: over points
    assert set(numbers) == {"m"}  # the best of the other has one neighbour within a decade: too few


def test_lr_sensitivity_over_problems_is_a_mean_of_means():
    runs = []
    for problem, losses in {"p": [1.0, 1.0, 1.0, 1.0], "q": [1.0, 3.0, 3.0, 3.0]}.items():
        runs += sweep(losses, values=[1.0, 2.0, 3.0, 4.0], problem=problem, start=5.0)
        runs.append(make_run(problem, loss=1.0, start=5.0))
    mean = finals_tuning.lr_sensitivity(finals.collect(runs, STEPS))["m"]
    assert (mean.mean, mean.size) == (pytest.approx((0 + 3 * 0.5 / 4) / 2), 2)


def test_best_so_far_by_hand():
    runs = [*sweep([4.0, 2.0, 1.0], method="reference"), *sweep([np.nan, 0.5, 3.0], method="m")]
    runs[3] = replace(runs[3], status="diverged")
    runs += [make_run(method=name) for name in ("reference", "m", "fixed")]
    trained = finals.collect(runs, STEPS)
    budgets, means = finals_tuning.best_so_far(trained, trained.points_losses[:, 0])
    assert budgets == (1, 2, 3)
    np.testing.assert_allclose(means[:2], [[4, 2, 1], [4, 0.5, 0.5]])  # what diverged: the initial loss, 4
    assert np.isnan(means[2]).all()


def test_steps_and_seconds_to_a_target_are_medians_over_seeds_with_misses_as_infinity(directory, trained):
    firsts = {method: [] for method in METHODS}
    for file in directory.glob("runs/*/run.json"):
        run = json.loads(file.read_text())
        if run["stage"] == "final" and run["problem"] == NETWORK:
            rows = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
            hits = [(row["step"], row["seconds"]) for row in rows if row["validation"] <= 1.5]
            firsts[run["method"]].append(hits[0] if hits else (np.inf, np.inf))
    steps, seconds = (finals_curves.median(values)[0] for values in finals_curves.first_below(trained, 1.5))
    for index, method in enumerate(METHODS):
        assert (steps[index], seconds[index]) == tuple(np.median(firsts[method], axis=0)), method
    assert np.isinf(steps[METHODS.index("SGD")])
    assert np.isfinite(steps[METHODS.index(ADAPTIVE)])


def test_median_by_hand():
    table = np.array([[3.0, np.inf, 1.0], [np.inf, 1.0, np.inf], [1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(finals_curves.median(table), [3.0, np.inf, 2.0, np.nan])


def test_a_mean_curve_is_over_the_seeds_that_are_still_going(directory, trained):
    steps, means = finals_curves.curve_of(trained, (NETWORK, "SGD"), "validation")
    assert steps.tolist() == np.linspace(10, STEPS, ROWS).tolist()
    assert [mean.size for mean in means] == [5] * 7 + [3] * 33
    curves = [trained.curves[run.key]["validation"] for run in trained.final.runs[NETWORK, "SGD"]]
    assert means[-1].mean == pytest.approx(np.mean([curve[-1] for curve in curves if curve.size == ROWS]))
    assert means[3].mean == pytest.approx(np.mean([curve[3] for curve in curves]))


def test_the_weight_on_memory_of_final_runs(trained):
    assert finals_compare.adaptive(trained) == (ADAPTIVE, DEFAULTS)  # not the frozen one, which is always at its cap
    row = finals_compare.memory(trained)[0]
    assert (row.method, row.beta.mean, row.capped.mean) == (ADAPTIVE, pytest.approx(0.6), pytest.approx(0.2))
    steps, betas = finals_curves.betas_of(trained, (NETWORK, ADAPTIVE))
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
def test_edges_and_plateaus(losses, expected):
    trained = finals.collect([*sweep(losses, start=5.0), make_run(loss=1.0, start=5.0)], STEPS)
    assert [(edge.side, edge.plateau) for edge in finals_tuning.edges(trained)] == expected


def test_a_profile_is_of_geometric_means_over_seeds():
    trained = trained_of({"a": [[1.0, 4.0], [1.0, 1.0]], "b": [[1.0, 1.0], [2.0, 8.0]]})
    np.testing.assert_allclose(finals_compare.profiled(trained), [[2.0, 1.0], [1.0, 4.0]])
    np.testing.assert_allclose(summary.shares_within(finals_compare.profiled(trained), np.array([1.0, 2.0, 4.0])).T,
                               [[0.5, 0.5], [1.0, 0.5], [1.0, 1.0]])  # fmt: skip


def test_a_reference_without_final_runs_is_refused():
    runs = [*sweep([1.0, 2.0], method="only searched"), make_run(method="m")]
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs \('m'\), got 'only searched'"):
        finals_compare.mean_ratios(finals.collect(runs, STEPS), "only searched")
    with pytest.raises(ValueError, match=r"no run of a best point is finished.* Run the study again"):
        finals.collect(sweep([1.0, 2.0]), STEPS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.500"), (0.0012345, "0.001234"), (1.234e-5, "1.23e-5"), (1234.5, "1234"), (np.nan, ""), (0.0, "0.000")],
)
def test_losses_as_text(value, text):
    assert loss_text(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.0112, -0.0203, -0.0021), "-0.0112 [-0.0203, -0.0021]"),
        ((0.5, 0.25, 0.75), "+0.50 [+0.25, +0.75]"),
        ((1e-7, -2e-7, 4e-7), "+1.0e-7 [-2.0e-7, +4.0e-7]"),
        ((0.25, np.nan, np.nan), "+0.25"),
        ((0.0, 0.0, 0.0), "0"),
        ((np.nan, np.nan, np.nan), ""),
    ],
)
def test_differences_as_text(ends, text):
    assert difference_text(summary.Interval(*ends, 5)) == text


# ------------------------------------------------------------------------------------------------- reports


class Page(HTMLParser):
    """Everything a test asks about a page: ids, tags, attributes that could load something, rows, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.heads: list[str] = []
        self.text = self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h2", "h3", "h4"):
            self.heads.append("")
            self._inside = "heading"
        if tag in ("td", "th"):
            self._inside = "cell"

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag in ("td", "th", "h2", "h3", "h4") else self._inside

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside == "cell":
            self.rows[-1][-1] += f"{data.strip()} " if data.strip() else ""
        if self._inside == "heading":
            self.heads[-1] += data.strip()

    def row(self, *starts: str) -> list[str]:
        """The first row whose cells begin with these."""
        return next(r for r in self.rows if all(c.startswith(s) for c, s in zip(r, starts, strict=False)))


@pytest.fixture(scope="module")
def html(directory) -> str:
    return write_report([directory]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_refers_to_nothing_outside_itself(html, page):
    assert all(link.startswith("#") for link in page.links)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["img"] == 0
    assert not re.search(r"@import|url\((?!#)|https?://", html)
    assert len(html) < 1_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html, page):
    assert [name for name, times in page.ids.items() if times > 1] == []
    used = {first or second for first, second in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)}
    assert used <= set(page.ids)
    assert len(used) > 5


def test_names_are_escaped_and_all_there(html, page):
    assert all(name in page.text for name in (*METHODS, NETWORK, CONVEX, "A <i>claim</i> & more."))
    assert not re.search(r"<b>small|<i>claim|<u>boom", html)
    assert "RuntimeError: <u>boom</u>" in page.text
    assert "#010203" not in html


def test_the_page_shows_the_answer_the_differences_and_the_lost_seeds(page, trained):
    row = page.row(ADAPTIVE, ratio_text(finals_compare.mean_ratios(trained, METHODS[0])[ADAPTIVE]))
    assert [cell.strip() for cell in row[-3:]] == ["2", "0", "2"]
    network = page.row(ADAPTIVE, "1.4", "-0.")
    assert network[2].startswith(comparison_text(finals_compare.comparisons(trained, METHODS[0])[0][1]))
    assert network[2].endswith("lower ")
    convex = page.row(ADAPTIVE, "6.", "×0.")
    assert convex[2].startswith(comparison_text(finals_compare.comparisons(trained, METHODS[0])[1][1]))
    assert [cell.strip() for cell in network[-3:]] == ["0.60", "0.80", "0 of 5"]
    assert page.row("SGD", "3.2", "+1.")[-1] == "1 diverged, 1 failed of 5 "
    seeds = page.row("SGD", loss_text(trained.losses[0, 4, 0]))
    assert [cell.strip() for cell in seeds[2:5:2]] == ["4.100 diverged", "4.300 failed"]
    assert page.row(DEFAULTS, ratio_text(finals_compare.variants(trained)[1].ratio))[-1].endswith("higher ")
    assert "2 of 5 seeds of SGD count as the initial loss" in page.text
    assert "Test loss or relative gap at the end over that of" in page.text


def test_the_page_has_every_section_and_picture(page):
    sections = ("Results", NETWORK, "Defaults only, and controls", "Steps and seconds to a loss", "Validation loss 1.5")
    pictures = ("Validation loss", "Training loss", "Weight on memory", "Weight on memory by unit")
    tuning = ("Sensitivity to lr", "Tuning budget", "Warnings", "Settings of the best runs", "Provenance", "first")
    assert set(sections) | set(pictures) | set(tuning) <= set(page.heads)
    assert "Performance profile" not in page.heads  # two problems only
    assert f"{ADAPTIVE}, {NETWORK}" in page.heads  # the map of the units
    assert f"{ADAPTIVE}, {CONVEX}" not in page.heads  # one unit has no map
    assert page.row("torch")[1].strip() == "2.9"
    assert page.row("device")[1].strip() == "cpu"
    assert page.tags["svg"] == 3 + 2 + 2 + 2 + 1 + 2 + 1  # legend, losses, weights, map, lr, tuning


def test_pictures_show_the_methods_themselves_and_name_them(html):
    named = Counter(re.findall(r'<g class="method"><title>([^<]*)</title>', html))
    assert set(named) == {METHODS[0], ADAPTIVE, "SGD"}


def test_a_profile_is_shown_from_three_problems_on_and_tables_are_folded_from_four(tmp_path):
    for count, folded in ((3, 0), (4, 4)):
        losses = {"AdamW, tuned": 1.0, "m": 0.9}
        runs = [
            make_run(f"p{row}", method, loss + 0.01 * seed, seed, index=0)
            for row in range(count) for method, loss in losses.items() for seed in (1, 2)
        ]  # fmt: skip
        page = Page(write_report([write_study(tmp_path / f"s{count}", runs)]).read_text(encoding="utf-8"))
        assert "Performance profile" in page.heads
        assert page.tags["details"] == 1 + count + folded  # the study's text, every seed, every problem
        assert "Tuning budget" not in page.heads  # nothing was searched


def test_a_study_where_everything_is_lost_has_a_report(tmp_path):
    failed = {"status": "failed", "loss": None, "start": None, "message": "ValueError: no"}
    runs = [make_run(method="AdamW, tuned", seed=0, stage="search", point={"lr": lr}, index=i, **failed)
            for i, lr in enumerate([0.1, 0.2, 0.3])]  # fmt: skip
    runs += [make_run(method="AdamW, tuned", seed=seed, point={"lr": 0.1}, **failed) for seed in (1, 2)]
    folder = write_study(tmp_path / "s", runs)
    for metrics in folder.glob("runs/*/metrics.jsonl"):
        metrics.write_text("")
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "no point of AdamW, tuned finished" in text
    assert "2 of 2 seeds of AdamW, tuned count as the initial loss" in text
    assert "AdamW, tuned" in terminal_table([folder])


def test_a_method_with_its_own_schedule_is_named(tmp_path):
    run = make_run(method="AdamW, tuned")
    run.configuration["method"]["schedule"] = "constant"
    folder = write_study(tmp_path / "own", [run, make_run(method="m")])
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "AdamW, tuned has its own: schedule constant;" in text
    assert text.count("has its own") == 1


def test_unfinished_runs_are_counted_and_missing_seeds_named(tmp_path):
    folder = write_study(tmp_path / "cut")
    runs = merge_trained([read_source(folder)]).final.runs[CONVEX, ADAPTIVE]
    (run_directory(folder, runs[-1].key) / "done.json").unlink()
    text = Page(write_report([folder]).read_text(encoding="utf-8")).text
    assert "1 of the 98 runs of cut are not finished" in text
    assert f"On {CONVEX}, {ADAPTIVE} has 4 of 5 seeds" in text


def test_the_page_does_not_change_when_written_again(directory, html, tmp_path):
    assert write_report([directory], tmp_path / "other.html").read_text(encoding="utf-8") == html


def test_another_reference_can_be_chosen(directory, tmp_path):
    page = Page(write_report([directory], tmp_path / "r.html", reference="SGD").read_text(encoding="utf-8"))
    assert page.row("SGD", "1.000")
    assert "over the one of 'SGD'" in " ".join(terminal_table([directory], "SGD").split())
    with pytest.raises(ValueError, match=r"reference must be a method with finished runs .* got 'none'"):
        terminal_table([directory], "none")


# --------------------------------------------------------------------------------------------- merging


def test_directories_merge(directory, tmp_path):
    mine = [make_run(problem, "mine", 0.2, seed, test=0.2) for problem in (NETWORK, CONVEX) for seed in range(1, 6)]
    runs = [(replace(run, configuration=_same_problem(run)), 4.0) for run in mine]
    other = write_study(tmp_path / "second", [run for run, _ in runs])
    trained = merge_trained([read_source(directory), read_source(other)])
    assert trained.methods == (*METHODS, "mine")
    assert trained.losses.shape == (2, 6, 5)
    page = Page(write_report([directory, other], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.row("mine", "0.2")
    assert page.heads[-2:] == ["first", "second"]


def _same_problem(run: Run) -> dict[str, Any]:
    return {**run.configuration, "problem": {"kind": run.problem}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 200}, "must share steps, got 400 in 'first' and 200 in 'other'. Report them one by one."),
        ({"schedule": "constant"}, "must share schedule, got cosine in 'first' and constant in 'other'"),
    ],
)
def test_studies_with_other_schedules_are_refused(directory, tmp_path, changes, message):
    other = write_study(tmp_path / "other", [make_run(method=METHODS[0])], **changes)
    for report in (write_report, terminal_table):
        with pytest.raises(ValueError, match=re.escape(message)):
            report([directory, other])


def test_training_studies_and_those_that_count_are_not_mixed(directory, tmp_path):
    other = write_study(tmp_path / "counts", [])
    text = '[study]\nname = "counts"\nclaim = "c"\npoints = 1\nreference = "m"\nmax_evaluations = 9\ntarget = 1e-6\n'
    (other / "study.toml").write_text(text, encoding="utf-8")
    run = replace(make_run(), stage="", status="reached")
    write_plan(other, [write_run(other, run, 4.0)])
    message = r"'first' holds a training study.* 'counts' one that counts evaluations.* Report them one by one"
    for folders in ([directory, other], [other, directory]):
        with pytest.raises(ValueError, match=message):
            write_report(folders, tmp_path / "r.html")
    with pytest.raises(ValueError, match="'first' holds a training study"):
        merge([read_source(directory)])


def test_one_name_for_two_methods_is_refused(directory, tmp_path):
    run = make_run(NETWORK, ADAPTIVE)
    run.configuration["method"]["inertia"] = 0.5
    other = write_study(tmp_path / "other", [run])
    with pytest.raises(ValueError, match=rf"method '{ADAPTIVE}' has two meanings.*inertia.*Rename one"):
        write_report([directory, other], tmp_path / "r.html")


# ------------------------------------------------------------------------------------- terminal and files


def test_the_terminal_table_of_several_problems(directory, trained):
    table = terminal_table([directory])
    assert max(map(len, table.splitlines())) <= 100
    ratio = re.escape(ratio_text(finals_compare.mean_ratios(trained, METHODS[0])[ADAPTIVE]))
    assert re.search(rf"^{ADAPTIVE} +1\.4\d+\* +[\d.e-]+\* +{ratio}$", table, re.MULTILINE)
    assert re.search(r"^SGD +0 +2 +2 +2 of 10$", table, re.MULTILINE)
    assert re.search(rf"^{FROZEN} +1\.\d+ \[.*\] +0 +2$", table, re.MULTILINE)
    assert re.search(rf"^{ADAPTIVE} +0\.60 +0\.20$", table, re.MULTILINE)
    sensitivities = finals_tuning.lr_sensitivity(trained)
    assert ADAPTIVE in sensitivities
    for method, value in sensitivities.items():
        assert re.search(rf"^{method} +{re.escape(ratio_text(value))}$", table, re.MULTILINE)
    assert "Test loss or relative gap after 400 steps" in table
    assert "\033" not in table


def test_the_terminal_table_of_one_problem_has_differences(tmp_path, monkeypatch):
    runs = [run for run, _ in study_runs() if run.problem == NETWORK]
    folder = write_study(tmp_path / "one", runs)
    table = terminal_table([folder])
    assert max(map(len, table.splitlines())) <= 100
    difference = r"-0\.\d+ \[-0\.\d+, -0\.\d+\]!"
    assert re.search(rf"^{ADAPTIVE} +1\.4\d+\* +1\.\d+ +1\.\d+ +{difference} +1\.\d+ +0 of 5$", table, re.M)
    assert re.search(r"^SGD .*! +3\.\d+ +2 of 5$", table, re.MULTILINE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"\033\[1m1\.4\d+\*\033\[0m", terminal_table([folder]))


def test_csv_has_a_row_for_each_run_with_seed_stage_and_measures(directory, tmp_path):
    result = CliRunner().invoke(main, ["report", str(directory), "--csv", str(tmp_path / "runs.csv"),
                                       "--out", str(tmp_path / "r.html")])  # fmt: skip
    assert result.exit_code == 0, result.output
    with (tmp_path / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 98
    [row] = [r for r in rows if (r["problem"], r["method"], r["seed"]) == (NETWORK, ADAPTIVE, "3")]
    assert (row["stage"], row["point_index"], row["variant_of"], row["evaluations"]) == ("final", "0", "", "400")
    assert float(row["test_loss"]) == pytest.approx(stored(directory, "test loss")[NETWORK, ADAPTIVE, 3])
    assert float(row["initial_loss"]) == START[3]
    assert {"validation_loss", "test_accuracy", "point.beta1"} <= set(row)
    [lost] = [r for r in rows if r["status"] == "diverged" and r["stage"] == "final"]
    assert (lost["method"], lost["validation_loss"]) == ("SGD", "")
    assert Counter(r["stage"] for r in rows) == {"search": 48, "final": 50}


def test_exported_values_are_those_of_the_runs(directory):
    rows = export.table([directory])
    assert len({tuple(row) for row in rows}) == 1
    assert sum(row["test_accuracy"] is not None for row in rows) == 23


# ----------------------------------------------------------------------------------------------- pictures


def test_a_map_of_units_has_a_path_for_each_shade(trained):
    shown = trained.without_variants()
    styles = [Style(index, method) for index, method in enumerate(shown.methods)]
    [picture] = finals_pictures.units(shown, styles)
    shades = [int(shade) for shade in re.findall(r'id="units0-heat(\d+)"', picture.svg)]
    run = finals_curves.middle_run(shown, (NETWORK, ADAPTIVE))
    betas = trained.curves[run.key]["beta"]
    assert shades == sorted(set(np.round(10 * betas).astype(int).ravel().tolist()) - {0})
    losses = [trained.loss(each) for each in trained.final.runs[NETWORK, ADAPTIVE]]
    assert trained.loss(run) == np.median(losses)
