"""The machinery of a study: its file, its points, its oracle, its runs, and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from proxmom.study.methods.baselines import heavy_ball, nag_restart
from proxmom.study.methods.method import Oracle, run_method
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import StudyError, load_study
from proxmom.study.plan.points import Dimension, sample
from proxmom.study.plan.toml import find_lines
from proxmom.study.problems.collection import Problem, build_problem
from proxmom.study.record import store
from proxmom.study.record.store import Outcome, RunWriter, load_runs
from proxmom.study.run.runner import run_study

SMALL = """\
[study]
name = "small"
claim = "for tests"
points = 3
max_evaluations = 60
target = 1e-3
reference = "heavy ball"

[[problem]]
kind = "quadratic"
condition = 10
n = 8

[[problem]]
kind = "least_squares"
name = "diabetes"
data = "diabetes"

[[method]]
name = "heavy ball"
rule = "HeavyBall"
search = {lr = {low = 0.5, high = 20, scale = "log"}, beta = {low = 0.5, high = 0.99, scale = "log1m"}}

[[method]]
name = "truncated"
rule = "TruncatedMemory"
arguments = {lower_bound = "optimum"}
lr = 100

[[method]]
name = "NAG"
solver = "nag-restart"
lr = 1

[[method]]
name = "L-BFGS"
scipy = "L-BFGS-B"
"""
POLYAK = '\n[[method]]\nname = "Polyak"\nrule = "Polyak"\nlr = 10\narguments = {lower_bound = "optimum"}\n'
CONTROLLED = """
[[method]]
name = "adaptive"
rule = "AdaptiveMemory"
inertia = 0.1
search = {lr = {low = 0.5, high = 20, scale = "log"}}
defaults = {lr = 10, beta_max = 0.8}
freeze = ["momentum"]
"""


@pytest.fixture
def study(tmp_path):
    def write(text=SMALL, name="study.toml"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def outcomes(folder):
    """All that must not depend on order, processes or time."""
    return {
        run.key: (run.problem, run.method, run.point, run.status, run.evaluations, run.best_gap, run.message)
        for run in load_runs(folder)
    }


def touched(folder):
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("runs/*/done.json")}


# --- end to end -----------------------------------------------------------------------------------------------


def test_a_study_runs_and_its_runs_say_everything(study, tmp_path):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    runs = load_runs(out)
    assert out == tmp_path / "out"
    assert (out / "study.toml").read_text() == SMALL
    assert len(runs) == 2 * (3 + 1 + 1 + 1) == len(touched(out))
    assert {run.problem for run in runs} == {"quadratic, condition 10, n 8", "diabetes"}
    assert [run.point_index for run in runs if run.method == "heavy ball"] == [0, 1, 2] * 2
    assert all(run.status == "reached" for run in runs if run.method in ("L-BFGS", "truncated"))
    assert all(set(run.point) == {"lr", "beta"} for run in runs if run.method == "heavy ball")
    assert {"proxmom", "python", "numpy", "scipy", "commit", "dirty", "processor", "cores", "started"} == set(
        runs[0].provenance
    )
    for run in runs:
        curve = run.curve()
        assert curve["evaluations"][0] == 1
        assert curve["gap"][0] == pytest.approx(1)
        assert curve["evaluations"][-1] == run.evaluations
        assert curve["gap"].min() == pytest.approx(run.best_gap)
        assert (run.status == "reached") == (curve["gap"][-1] <= 1e-3)
        assert run.configuration["point"] == run.point


def test_default_folder_is_named_after_the_study(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_study(study(), jobs=1, quiet=True) == Path("results/small")
    assert (tmp_path / "results/small/plan.json").is_file()


def test_tables_do_not_depend_on_the_number_of_processes(study, tmp_path):
    one = run_study(study(), tmp_path / "one", jobs=1, quiet=True)
    two = run_study(study(), tmp_path / "two", jobs=2, quiet=True)
    assert outcomes(one) == outcomes(two)
    curves = zip(load_runs(one), load_runs(two), strict=True)
    assert all(np.array_equal(a.curve()["gap"], b.curve()["gap"]) for a, b in curves)


def test_beta_is_recorded_for_rules_with_memory(study, tmp_path):
    runs = load_runs(run_study(study(), tmp_path / "out", jobs=1, quiet=True))
    for run in runs:
        beta = run.curve()["beta"][1:-1]  # the first evaluation had no step before it, the last ended the run
        if run.method == "heavy ball":
            np.testing.assert_allclose(beta, run.point["beta"], rtol=1e-12)
        if run.method in ("NAG", "L-BFGS"):
            assert np.isnan(beta).all()


# --- resuming -------------------------------------------------------------------------------------------------


def test_nothing_is_run_twice(study, tmp_path, monkeypatch):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    monkeypatch.setattr("proxmom.study.run.runner.build_problem", lambda *_, **__: pytest.fail("nothing to build"))
    run_study(study(), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert {run.problem for run in load_runs(out)} == {"quadratic, condition 10, n 8", "diabetes"}


def test_a_new_method_runs_its_own_cells_only(study, tmp_path):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before, old = touched(out), outcomes(out)
    new = SMALL.replace("\n[[method]]", POLYAK + "\n[[method]]", 1)  # first, so that all others move
    run_study(study(new), out, jobs=1, quiet=True)
    after = touched(out)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 2
    assert {key: value for key, value in outcomes(out).items() if key in old} == old


def test_renaming_reordering_and_removing_repeat_nothing(study, tmp_path):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    head, *methods = SMALL.split("[[method]]")
    shuffled = "[[method]]".join([head, methods[2] + "\n", *methods[:2]]).replace('"NAG"', '"Nesterov"')
    run_study(study(shuffled), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert list(dict.fromkeys(run.method for run in load_runs(out))) == ["Nesterov", "heavy ball", "truncated"]


def test_fewer_points_use_the_first_ones_and_more_points_add(study, tmp_path):
    out = run_study(study(SMALL.replace("points = 3", "points = 5")), tmp_path / "out", jobs=1, quiet=True)
    five, before = outcomes(out), touched(out)
    run_study(study(), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert outcomes(out).items() < five.items()


def test_a_new_problem_or_seed_runs_its_own_cells_only(study, tmp_path):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before, old = touched(out), outcomes(out)
    for text, more in [
        (SMALL.replace("n = 8", "n = 8\nseed = [0, 1]"), 6),
        (SMALL.replace("[[problem]]", '[[problem]]\nkind = "log_sum_exp"\nn = 3\nsamples = 9\n\n[[problem]]', 1), 6),
        (SMALL.replace("points = 3", "points = 3\nseed = 1"), 6),  # other points for the method that searches
    ]:
        run_study(study(text), out, jobs=1, quiet=True)
        after = touched(out)
        assert {key: after[key] for key in before} == before
        assert len(after) == len(before) + more
        run_study(study(), out, jobs=1, quiet=True)
        assert outcomes(out) == old
        before = after


def test_results_depend_neither_on_order_nor_on_what_else_is_there(study, tmp_path):
    text = SMALL + CONTROLLED
    whole = outcomes(run_study(study(text), tmp_path / "whole", jobs=2, quiet=True))
    head, *methods = text.split("[[method]]")
    top, *problems = head.split("[[problem]]")
    swapped = "[[problem]]".join([top, *(part.rstrip() + "\n\n" for part in reversed(problems))])
    reverse = "[[method]]".join([swapped, *(part.rstrip() + "\n\n" for part in reversed(methods))])
    assert outcomes(run_study(study(reverse), tmp_path / "reverse", jobs=1, quiet=True)) == whole
    few = "[[method]]".join([head, methods[0], methods[-1]])
    assert outcomes(run_study(study(few), tmp_path / "few", jobs=1, quiet=True)).items() < whole.items()


def test_a_method_can_have_points_of_its_own(study):
    more = load_study(study(SMALL.replace('"HeavyBall"', '"HeavyBall"\npoints = 5')))
    usual = load_study(study())
    assert more.methods[0].points(3, 0)[:3] == usual.methods[0].points(3, 0)
    assert [cell.method.name for cell in plan(more)].count("heavy ball") == 2 * 5


@pytest.mark.parametrize("left_behind", ['{"evaluations": 1, "gap": 1.0, "be', ""])
def test_a_killed_run_is_started_afresh(study, tmp_path, left_behind):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before, whole = touched(out), outcomes(out)
    killed = next(run for run in load_runs(out) if run.method == "heavy ball")
    (killed.directory / "done.json").unlink()
    (killed.directory / "metrics.jsonl").write_text(left_behind)
    (killed.directory / "run.json").write_text("{")
    (killed.directory / "done.json.123.tmp").write_text("{")
    assert killed.key not in outcomes(out)  # unfinished runs are not shown
    run_study(study(), out, jobs=1, quiet=True)
    after = touched(out)
    assert outcomes(out) == whole
    assert [key for key in before if after[key] != before[key]] == [killed.key]
    again = next(run for run in load_runs(out) if run.key == killed.key)
    assert {file.name for file in again.directory.iterdir()} == {"run.json", "metrics.jsonl", "done.json"}
    assert again.curve()["evaluations"][0] == 1


@pytest.fixture
def long_run(study, tmp_path):
    """A study of 806 runs in a process group of its own, once its first run is done."""
    text = SMALL.replace("points = 3", "points = 400").replace("target = 1e-3", "target = 1e-13")
    file, out = study(text.replace("max_evaluations = 60", "max_evaluations = 400")), tmp_path / "out"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # background jobs may ignore it
        f"from proxmom.study.run.runner import run_study; run_study({str(file)!r}, {str(out)!r}, jobs=2, quiet=True)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not touched(out) and process.poll() is None:
        time.sleep(0.02)
    yield process, out
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(long_run):
    process, out = long_run
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if line.startswith("Interrupted")]
    kept = touched(out)
    assert process.returncode == -signal.SIGINT
    assert lines == [f"Interrupted. {len(kept)} of 806 runs are kept; the same command does the rest."]
    assert errors.count("Traceback") == 1  # no worker complains
    assert 0 < len(kept) < 806
    assert {run.key for run in load_runs(out)} == set(kept)  # what is kept is whole


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no parent there that would change")
def test_workers_leave_with_a_main_process_that_is_killed(long_run):
    process, out = long_run
    process.kill()
    process.communicate(timeout=60)  # ends when the last worker has closed stderr
    kept = touched(out)
    assert 0 < len(kept) < 806
    time.sleep(0.3)
    assert touched(out) == kept
    assert {run.key for run in load_runs(out)} == set(kept)


# --- variants: defaults only, and controls ---------------------------------------------------------------------


def by_name(folder, problem="diabetes"):
    named = {}
    for run in load_runs(folder):
        if run.problem == problem:
            named.setdefault(run.method, []).append(run)
    return named


def test_defaults_are_one_run_that_searches_nothing(study, tmp_path):
    runs = by_name(run_study(study(SMALL + CONTROLLED), tmp_path / "out", jobs=1, quiet=True))
    [run] = runs["adaptive, defaults"]
    assert (run.point, run.variant_of) == ({}, "adaptive")
    assert run.configuration["method"]["lr"] == 10
    assert run.configuration["method"]["arguments"] == {"beta_max": 0.8}
    assert run.configuration["method"]["inertia"] == 0.1


def test_momentum_frozen_at_the_mean_of_the_best_run(study, tmp_path):
    runs = by_name(run_study(study(SMALL + CONTROLLED), tmp_path / "out", jobs=1, quiet=True))
    best = min(runs["adaptive"], key=lambda run: (run.status != "reached", run.evaluations))
    betas = best.curve()["beta"]
    assert best.evaluations < 50  # so that every step is recorded
    assert best.mean_beta == pytest.approx(np.nanmean(betas))
    assert best.capped == pytest.approx(np.mean(betas[np.isfinite(betas)] > 0.9 - 1e-6))
    assert best.mean_step == best.point["lr"]
    frozen = runs["adaptive, momentum frozen"]
    assert [run.point for run in frozen] == [run.point for run in runs["adaptive"]]  # lr is searched again
    for run in frozen:
        method = run.configuration["method"]
        assert method["rule"] == "HeavyBall"
        assert method["arguments"] == {"beta": pytest.approx(best.mean_beta, rel=1e-8)}
        assert method["inertia"] == 0.1
        assert run.mean_beta == pytest.approx(best.mean_beta, rel=1e-8)
        assert run.variant_of == "adaptive"


def test_lr_frozen_at_the_mean_step(study, tmp_path):
    freeze = BOUND + '\nfreeze = ["momentum", "lr"]'
    runs = by_name(run_study(study(SMALL.replace(BOUND, freeze)), tmp_path / "out", jobs=1, quiet=True))
    [best] = runs["truncated"]
    [step], [momentum] = runs["truncated, lr frozen"], runs["truncated, momentum frozen"]
    assert best.mean_step < 50 < best.configuration["method"]["lr"]  # the floor shortens the steps
    assert step.configuration["method"]["rule"] == "AdaptiveMemory"
    assert step.configuration["method"]["lr"] == pytest.approx(best.mean_step, rel=1e-8)
    assert step.configuration["method"]["arguments"] == {}
    assert momentum.configuration["method"]["rule"] == "MoMo"
    assert momentum.configuration["method"]["arguments"]["lower_bound"] == "optimum"
    assert momentum.configuration["method"]["lr"] == 100


def test_a_control_waits_for_its_method_and_is_planned_before(study, tmp_path):
    file, out = load_study(study(SMALL + CONTROLLED)), tmp_path / "out"
    waiting = [cell for cell in plan(file, folder=out) if not cell.ready]
    assert len(waiting) == len({cell.key for cell in waiting}) == 2 * 3
    assert len(list(plan(file, folder=run_study(study(SMALL + CONTROLLED), out, jobs=1, quiet=True)))) == len(
        load_runs(out)
    )
    assert all(cell.ready for cell in plan(file, folder=out))


def test_a_killed_method_is_repeated_and_its_control_is_kept(study, tmp_path):
    out = run_study(study(SMALL + CONTROLLED), tmp_path / "out", jobs=1, quiet=True)
    before, whole = touched(out), outcomes(out)
    killed = next(run for run in load_runs(out) if run.method == "adaptive")
    (killed.directory / "done.json").unlink()
    run_study(study(SMALL + CONTROLLED), out, jobs=1, quiet=True)
    assert outcomes(out) == whole
    assert [key for key in before if touched(out)[key] != before[key]] == [killed.key]


# --- what keys and points depend on ---------------------------------------------------------------------------


def test_points_are_a_prefix_of_more_points():
    dimensions = [Dimension("lr", 0.1, 10, "log"), Dimension("beta", 0.5, 0.99, "log1m")]
    assert sample(dimensions, 8, seed=0) == sample(dimensions, 16, seed=0)[:8]
    assert sample(dimensions, 8, seed=0) == sample(dimensions[::-1], 8, seed=0)
    assert sample(dimensions, 8, seed=0) != sample(dimensions, 8, seed=1)
    alone, other = (sample([Dimension(name, 0.1, 10, "log")], 8, seed=0) for name in ("lr", "inertia"))
    assert [point["lr"] for point in alone] != [point["inertia"] for point in other]


@pytest.mark.parametrize(
    ("dimension", "middle"),
    [
        (Dimension("x", 1, 3, "linear"), 2.0),
        (Dimension("x", 1e-2, 1e2, "log"), 1.0),
        (Dimension("x", 0.9, 0.999, "log1m"), 0.99),
    ],
)
def test_scales_keep_their_ends_and_their_middle(dimension, middle):
    assert dimension.value(0.0) == dimension.low
    assert dimension.value(1.0) == dimension.high
    assert dimension.value(0.5) == pytest.approx(middle, rel=1e-8)


def test_points_fill_the_range_evenly():
    values = [point["lr"] for point in sample([Dimension("lr", 1e-3, 1e3, "log")], 32, seed=0)]
    slots = np.floor((np.log10(values) + 3) / 6 * 32)
    assert sorted(slots) == list(range(32))


def test_keys_depend_on_what_results_depend_on(study, tmp_path):
    def keys(text, **arguments):
        return [cell.key for cell in plan(load_study(study(text)), **arguments)]

    assert keys(SMALL) == keys(SMALL.replace('name = "truncated"', 'name = "other"'))
    assert keys(SMALL) == keys(SMALL.replace("lr = 100", "lr = 1e2\ninertia = 0"))
    assert not set(keys(SMALL)) & set(keys(SMALL.replace("target = 1e-3", "target = 1e-4")))
    changed = set(keys(SMALL)) ^ set(keys(SMALL.replace("n = 8", "n = 9")))
    assert len(changed) == 12
    assert store.key_of({"a": 1, "b": {"c": 2, "d": 3}}) == store.key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_other_data_under_the_same_path_is_another_run(study, tmp_path):
    text = SMALL.replace('data = "diabetes"', 'data = "my.libsvm"')
    study_file = load_study(study(text))
    seen = set()
    for content in ("1 1:2\n-1 1:3\n", "1 1:2\n-1 1:4\n"):
        (tmp_path / "my.libsvm").write_text(content)
        seen |= {cell.key for cell in plan(study_file, tmp_path) if cell.problem == 1}
    assert len(seen) == 12


RULE = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Mine:
    scale: float = 1.0
    def planes(self, now):
        return (now.gradient_plane,)
class Late:
    def planes(self, now):
        if now.step > 3:
            raise RuntimeError("no fourth step")
        return (now.gradient_plane,)
class Broken:
    def planes(self, now):
        return now.gradientplane
"""
DEADLY = """
import os, signal
class Deadly:
    def planes(self, now):
        if now.step > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return (now.gradient_plane,)
"""
FRAGILE = """
from pathlib import Path
class Fragile:
    def planes(self, now):
        if now.step > 3 and Path(__file__).with_name("broken").exists():
            raise RuntimeError("no fourth step")
        return (now.gradient_plane,)
"""
MINE = '\n[[method]]\nname = "mine"\nrule = "my_rules.py:{}"\nlr = 1\n'


def test_a_rule_in_a_file_beside_the_study_is_run_and_its_code_is_part_of_the_key(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    text = SMALL + MINE.format("Mine")
    runs = load_runs(run_study(study(text), tmp_path / "out", jobs=2, quiet=True))
    mine = [run for run in runs if run.method == "mine"]
    assert [run.status for run in mine if run.problem != "diabetes"] == ["reached"]
    key = {cell.key for cell in plan(load_study(study(text))) if cell.method.name == "mine"}
    assert key == {run.key for run in mine}
    (tmp_path / "my_rules.py").write_text(RULE + "\n# changed")
    assert not key & {cell.key for cell in plan(load_study(study(text)))}


def test_a_rule_can_join_a_study_without_a_line_in_its_file(study, tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    run_study(study(), out, jobs=1, quiet=True, rules=["my_rules.py:Mine(scale=2.0)", "Polyak"])
    assert {key: touched(out)[key] for key in before} == before
    runs = by_name(out)
    assert [set(run.point) for run in runs["my_rules.py:Mine(scale=2.0)"]] == [{"lr"}] * 3
    assert runs["Polyak"][0].configuration["method"]["arguments"] == {"lower_bound": "optimum"}
    with pytest.raises(StudyError, match=r"--rule: .* no file 'none.py'"):
        load_study(study(), ["none.py:Mine"])


# --- failures are results -------------------------------------------------------------------------------------


def test_divergence_and_failure_are_kept_with_their_cause(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    text = SMALL + MINE.format("Late") + '\n[[method]]\nname = "wild"\nrule = "GradientDescent"\nlr = 1e3\n'
    out = run_study(study(text), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    by_method = {run.method: run for run in load_runs(out) if run.problem == "diabetes"}
    assert by_method["mine"].status == "failed"
    assert by_method["mine"].message == "RuntimeError: no fourth step"
    assert by_method["wild"].status == "diverged"
    assert "rose above 1e+10" in by_method["wild"].message
    assert by_method["wild"].evaluations == by_method["wild"].curve()["evaluations"][-1] < 60
    run_study(study(text), out, jobs=1, quiet=True)
    assert touched(out) == before  # finished runs, too


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_run_that_is_killed_with_its_process_is_no_result_and_the_others_go_on(study, tmp_path, capsys):
    (tmp_path / "my_rules.py").write_text(DEADLY)
    text = SMALL + MINE.format("Deadly")
    out = run_study(study(text), tmp_path / "out", jobs=2, quiet=True)
    assert {run.method for run in load_runs(out)} == {"heavy ball", "truncated", "NAG", "L-BFGS"}
    assert len(load_runs(out)) == 2 * 6
    dead = store.aborted_runs(out)
    assert [run.method for run in dead] == ["mine"] * 2
    assert all(run.message == "the process ended with {SIGKILL(-9)}: killed, or out of memory" for run in dead)
    assert "A process was killed, or ran out of memory. " in capsys.readouterr().err


def test_a_method_that_ends_its_process_itself_has_failed(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(DEADLY.replace("os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"))
    out = run_study(study(SMALL + MINE.format("Deadly")), tmp_path / "out", jobs=2, quiet=True)
    dead = [run for run in load_runs(out) if run.method == "mine"]
    assert [(run.status, run.message) for run in dead] == [("failed", "the process ended with {EXIT(3)}")] * 2
    assert all(np.isinf(run.best_gap) for run in dead)


def test_retry_failed_repeats_what_raised_and_nothing_else(study, tmp_path):
    text = SMALL + MINE.format("Fragile") + '\n[[method]]\nname = "wild"\nrule = "GradientDescent"\nlr = 1e3\n'
    (tmp_path / "my_rules.py").write_text(FRAGILE)
    (tmp_path / "broken").touch()
    out = run_study(study(text), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    failed = {run.key for run in load_runs(out) if run.status == "failed"}
    assert len(failed) == 2
    (tmp_path / "broken").unlink()
    run_study(study(text), out, jobs=1, quiet=True)
    assert touched(out) == before
    run_study(study(text), out, jobs=1, quiet=True, retry_failed=True)
    after = touched(out)
    assert {key for key in before if after[key] != before[key]} == failed
    assert {run.status for run in load_runs(out) if run.key in failed} <= {"reached", "missed"}
    assert {run.status for run in load_runs(out) if run.method == "wild"} == {"diverged"}


def test_a_run_that_is_started_again_is_not_done_until_it_is(tmp_path):
    for _ in range(2):
        with RunWriter(tmp_path / "run", {"key": "k"}) as writer:
            assert not (tmp_path / "run/done.json").exists()
            writer.finish(Outcome("missed", 2, 0.5, 0.1, ""))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", '{"key": "', "run.json is truncated or unreadable"),
        ("run.json", "{}", "run.json is truncated or unreadable"),
        ("done.json", "", "done.json is truncated or unreadable"),
        ("done.json", "{}", "done.json is truncated or unreadable"),
    ],
)
def test_unreadable_results_are_named_with_the_remedy(study, tmp_path, file, content, message):
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    run = load_runs(out)[0]
    (run.directory / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{message} .*Delete .*{run.key} and run the study again"):
        load_runs(out)


def test_unreadable_metrics_are_named_when_they_are_read(study, tmp_path):
    run = load_runs(run_study(study(), tmp_path / "out", jobs=1, quiet=True))[0]
    (run.directory / "metrics.jsonl").write_text('{"evaluations": 1, "g')
    with pytest.raises(ValueError, match=r"metrics.jsonl is truncated or unreadable"):
        run.curve()


def test_no_results_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="holds no results"):
        load_runs(tmp_path)


def test_records_reach_the_file_at_once_and_infinities_survive(tmp_path):
    with RunWriter(tmp_path / "run", {"key": "k"}) as writer:
        writer.append(1, 1.0, 0.5)
        assert json.loads((tmp_path / "run/metrics.jsonl").read_text()) == {"evaluations": 1, "gap": 1.0, "beta": 0.5}
        writer.append(2, np.inf, None)
        writer.finish(Outcome("diverged", 2, np.inf, 0.1, ""))
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["done.json", "metrics.jsonl", "run.json"]
    assert json.loads((tmp_path / "run/done.json").read_text())["best_gap"] is None


# --- the oracle -----------------------------------------------------------------------------------------------


class Counted:
    """A problem whose calls are counted outside the oracle."""

    def __init__(self, curvature=1.0, offset=0.0):
        self.calls = 0
        self.scale = np.linspace(0.05, 1, 20) * curvature
        self.problem = Problem("counted", self, np.ones(20), 1.0, offset, 0.0)
        self.offset = offset

    def __call__(self, x):
        self.calls += 1
        return float(x @ (self.scale * x)) / 2 + self.offset, self.scale * x

    def oracle(self, **settings):
        self.records = []
        settings = {"max_evaluations": 100, "target": 1e-6, **settings}
        oracle = Oracle(self.problem, record=lambda *record: self.records.append(record), **settings)
        self.calls = 0
        return oracle


RULE_SETTINGS = {"inertia": 0.0, "weight_decay": 0.0, "decay": "decoupled", "metric": "Euclidean", "folder": "."}
ALL = {
    "gradient descent": {"rule": "GradientDescent", "arguments": {}, "lr": 1.0, **RULE_SETTINGS},
    "Polyak": {"rule": "Polyak", "arguments": {"lower_bound": "optimum"}, "lr": 10.0, **RULE_SETTINGS},
    "NAG": {"solver": "nag-restart", "lr": 1.0},
    "L-BFGS": {"scipy": "L-BFGS-B"},
    "CG": {"scipy": "CG"},
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("budget", [1, 5, 500])
def test_every_call_counts_and_the_run_ends_at_the_target_or_the_budget(method, budget):
    counted = Counted()
    outcome = run_method(ALL[method], counted.problem, {}, counted.oracle(max_evaluations=budget))
    assert outcome.status == ("reached" if budget == 500 else "missed")
    assert outcome.evaluations == counted.calls == counted.records[-1][0]
    assert counted.calls <= budget
    assert (outcome.best_gap <= 1e-6) == (outcome.status == "reached")
    assert all(gap > 1e-6 for _, gap, _ in counted.records[:-1])  # it was the first to reach it


@pytest.mark.parametrize("method", ["L-BFGS-B", "CG"])
def test_line_searches_count_as_scipy_counts_them(method):
    counted = Counted()
    oracle = counted.oracle(max_evaluations=7, target=1e-15)
    seen = []

    def fun(x):
        seen.append(x.copy())
        return counted(x)

    scipy_minimize(fun, counted.problem.x0, jac=True, method=method, options={"gtol": 0.0, "maxiter": 100})
    expected = [float(x @ (counted.scale * x)) / 2 for x in seen[:7]]
    run_method({"scipy": method}, counted.problem, {}, oracle)
    start = expected[0]
    np.testing.assert_allclose([gap for _, gap, _ in counted.records], np.array(expected) / start, rtol=1e-12)


def test_a_method_that_stops_by_itself_missed_with_its_message():
    counted = Counted(offset=5.0)
    counted.problem = replace(counted.problem, optimum=4.0)  # out of reach
    outcome = run_method({"scipy": "L-BFGS-B"}, counted.problem, {}, counted.oracle(max_evaluations=10_000))
    assert outcome.status == "missed"
    assert outcome.evaluations == counted.calls < 10_000
    assert outcome.message
    assert outcome.message != "the budget is spent"


@pytest.mark.parametrize("bad", ["value", "gradient"])
def test_a_function_that_is_not_finite_diverged(bad):
    def fun(x):
        broken = np.nan if abs(x[0]) < 0.9 else 1.0
        return float(x @ x) * (broken if bad == "value" else 1), 2 * x * (broken if bad == "gradient" else 1)

    problem = Problem("hole", fun, np.ones(2), 2.0, 0.0, 0.0)
    oracle = Oracle(problem, max_evaluations=50, target=1e-6, record=lambda *_: None)
    outcome = run_method({**ALL["gradient descent"], "lr": 0.02}, problem, {}, oracle)
    assert outcome.status == "diverged"
    assert "not finite" in outcome.message
    assert outcome.best_gap < 1


def test_a_method_cannot_go_on_after_its_budget():
    counted = Counted()
    oracle = counted.oracle(max_evaluations=3)
    for _ in range(10):
        with contextlib.suppress(Exception):
            oracle(np.ones(20))
    oracle.close()
    assert oracle.evaluations == counted.calls == 3
    assert [number for number, _, _ in counted.records] == [1, 2, 3]


def test_learning_rates_are_in_units_of_one_over_l():
    steep, plain = Counted(curvature=100.0), Counted()
    steep.problem = Problem("steep", steep, np.ones(20), 100.0, 0.0, 0.0)
    counts = [run_method(ALL["gradient descent"], c.problem, {}, c.oracle()).evaluations for c in (steep, plain)]
    assert counts[0] == counts[1] < 100


def test_optimum_as_an_argument_is_the_optimum_of_the_problem():
    counts = [
        run_method(ALL["Polyak"], c.problem, {}, c.oracle(max_evaluations=500)).evaluations
        for c in (Counted(), Counted(offset=-7.0))
    ]
    assert abs(counts[0] - counts[1]) <= 1


def test_what_is_recorded():
    counted = Counted()
    run_method(ALL["gradient descent"], counted.problem, {}, counted.oracle(max_evaluations=1000, target=1e-30))
    numbers = np.array([number for number, _, _ in counted.records])
    assert list(numbers[:50]) == list(range(1, 51))
    assert counted.records[-1][0] == counted.calls
    late = numbers[(numbers >= 200) & (numbers < numbers[-1])]
    assert ((late[1:] / late[:-1] >= 1.02) & (late[1:] / late[:-1] < 1.03)).all()


def test_an_interrupt_is_no_failure():
    def fun(x):
        if x[0] != 1:
            raise KeyboardInterrupt
        return float(x @ x), 2 * x

    problem = Problem("interrupted", fun, np.ones(2), 2.0, 0.0, 0.0)
    oracle = Oracle(problem, max_evaluations=50, target=1e-6, record=lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run_method(ALL["gradient descent"], problem, {}, oracle)


# --- Nesterov -------------------------------------------------------------------------------------------------


def test_nag_without_a_restart_is_the_three_lines_of_the_textbook():
    scale = np.array([1.0, 0.01])
    visited = []

    def fun(x):
        visited.append(x)
        return 0.0, scale * x

    last = nag_restart(fun, np.array([1.0, 1.0]), lr=1.0, max_iter=3)
    x0 = np.array([1.0, 1.0])
    x1 = x0 - scale * x0
    x2 = x1 - scale * x1  # the first momentum coefficient is (1 - 1) / t_1 = 0
    t1 = (1 + 5**0.5) / 2
    t2 = (1 + (1 + 4 * t1**2) ** 0.5) / 2
    y2 = x2 + (t1 - 1) / t2 * (x2 - x1)
    np.testing.assert_allclose(visited, [x0, x1, y2], rtol=1e-14)
    np.testing.assert_allclose(last, y2 - scale * y2, rtol=1e-14)


def test_nag_keeps_its_rate_and_restarts_make_it_linear():
    problem = build_problem("quadratic", condition=1e3, n=50)
    solution = scipy_minimize(problem.fun, problem.x0, jac=True, options={"gtol": 1e-10}).x
    distance = np.sum((problem.x0 - solution) ** 2)
    values = []

    def fun(x):
        value, gradient = problem.fun(x)
        values.append(value - problem.optimum)
        return value, gradient

    nag_restart(fun, problem.x0, lr=1 / problem.smoothness, max_iter=1500)
    gaps = np.array(values)
    k = np.arange(1, len(gaps) + 1)
    reached = int(np.argmax(gaps < 1e-12 * gaps[0]))
    assert (gaps <= 2 * problem.smoothness * distance / k**2).all()
    assert 0 < reached < np.sqrt(1e3) * np.log(1e12)  # the rate for a known condition number, here unknown


def test_heavy_ball_is_the_rule_of_that_name_but_for_its_start():
    problem = build_problem("quadratic", condition=10, n=5)
    visited = []

    def fun(x):
        visited.append(x)
        return problem.fun(x)

    heavy_ball(fun, problem.x0, lr=0.5, beta=0.8, max_iter=30)
    x = np.array(visited)
    gradients = np.array([problem.fun(each)[1] for each in x])
    np.testing.assert_allclose(
        x[2:], x[1:-1] - 0.5 * gradients[1:-1] + 0.8 * (x[1:-1] - x[:-2]), rtol=1e-10, atol=1e-12
    )
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1"):
        heavy_ball(fun, problem.x0, lr=0.5, beta=1, max_iter=3)


# --- messages -------------------------------------------------------------------------------------------------

LR = "lr = {low = 0.5, high = 20, scale"
BETA = 'beta = {low = 0.5, high = 0.99, scale = "log1m"}'
BOUND = 'arguments = {lower_bound = "optimum"}'
BAD = [  # what is replaced, by what, and the message; its line is that of the last line put in
    ("points = 3", "pionts = 3", r"unknown key 'pionts' in \[study\]; valid keys: name, claim, seed, points"),
    ("points = 3", "points = 0", r"points must be >= 1, got 0"),
    ("points = 3", 'points = "many"', r"points must be a whole number, got 'many'"),
    ("points = 3", "points = true", r"points must be a whole number, got True"),
    ("points = 3", "points = = 3", r"not valid TOML"),
    ("max_evaluations = 60", "max_evaluations = 0", r"max_evaluations must be >= 1, got 0"),
    ("target = 1e-3", "target = 1", r"target must be > 0 and < 1, got 1.0"),
    ("target = 1e-3", "target = 0.0", r"target must be > 0 and < 1, got 0.0"),
    ("target = 1e-3", "target = nan", r"target must be finite"),
    ('name = "small"', 'name = "../small"', r"name must be letters"),
    ('claim = "for tests"', 'claim = " "', r"claim must not be empty"),
    ('reference = "heavy ball"', 'reference = "HB"', r"got 'HB'; methods: heavy ball, truncated, NAG"),
    ('kind = "quadratic"', 'kind = "quad"', r"unknown kind of problem 'quad'; valid kinds: quadratic, logistic"),
    ("n = 8", "m = 8", r"unknown key 'm' in \[\[problem\]\]; valid keys: kind, name, condition, n, seed, spectrum"),
    ("n = 8", "n = inf", r"n must be a text or a finite number"),
    ('name = "truncated"', 'name = "heavy ball"', r"'heavy ball' stands for two of the \[\[method\]\] tables"),
    ('"HeavyBall"', '"HeavyBalls"', r"rule must be one of GradientDescent, HeavyBall, .* got 'HeavyBalls'"),
    ('"HeavyBall"', '"none.py:Mine"', r"no file 'none.py'"),
    ('"HeavyBall"', '"none.such:Mine"', r"cannot import 'none.such'"),
    ('"HeavyBall"', '"HeavyBall"\nscipy = "CG"', r"exactly one of rule, solver, scipy, got rule and scipy"),
    ('"HeavyBall"', '"HeavyBall"\ninertia = -1', r"inertia must be .* got -1"),
    ('solver = "nag-restart"', 'solver = "nag"', r"solver must be one of nag-restart, heavy-ball, got 'nag'"),
    ('scipy = "L-BFGS-B"', 'scipy = "Powell"', r"scipy must be one of L-BFGS-B, CG, got 'Powell'"),
    ('scipy = "L-BFGS-B"', 'scipy = "CG"\nlr = 1', r"unknown key 'lr' in .* with scipy; valid keys: name, scipy"),
    (LR, LR.replace("0.5", "30"), r"search.lr must have low < high, got 30 and 20"),
    (LR, LR.replace("0.5", "0"), r"search.lr with scale 'log' must have low > 0, got 0"),
    (BETA, BETA.replace("0.99", "1"), r"search.beta with scale 'log1m' must have high < 1, got 1"),
    (BETA, BETA.replace("0.5", "-0.5"), r"beta must be in \[0, 1\], got -0.5"),
    (BETA, BETA.replace("0.99", "1.5").replace("log1m", "linear"), r"beta must be in \[0, 1\], got 1.5"),
    (BETA, BETA.replace("log1m", "logit"), r"scale must be one of linear, log, log1m, got 'logit'"),
    (BETA, BETA.replace("beta", "gamma"), r"'heavy ball' cannot run: .*HeavyBall.*'gamma'"),
    (BETA, BETA.replace("high", "hihg"), r"unknown key 'hihg' in search.beta; valid keys: low, high, scale"),
    (BETA, "beta = 0.9", r"beta must be a table, got 0.9"),
    ("lr = 100", "lr = -1", r"lr must be > 0 and finite, got -1"),
    ("lr = 100", 'lr = "high"', r"lr must be a number, got 'high'"),
    ("lr = 100", 'lr = 100\nsearch = {lr = {low = 1, high = 2, scale = "log"}}', r"lr is both fixed and searched"),
    ("lr = 100", "lr = 100\ninertia = 0.1", r"inertia"),
    ("lr = 100", "lr = 100\nmetric = 'Eukl'", r"metric must be one of Euclidean, Adam.* got 'Eukl'"),
    ("lr = 100", "lr = 100\ndecay = 'soft'", r"decay must be .* got 'soft'"),
    ("lr = 100", "lr = 100\nrate = 3", r"unknown key 'rate' in \[\[method\]\]; valid keys: name, lr, inertia"),
    (BOUND, BOUND + "\ndefaults = {lr = 1}", r"method 'truncated' searches nothing: its defaults are what it is"),
    ("}}", "}}\ndefaults = {beta = 0.9}", r"defaults must give lr, in units of 1/L, as it is searched"),
    ("}}", "}}\ndefaults = {lr = 1, gamma = 2}", r"'heavy ball, defaults' cannot run: .*'gamma'"),
    (BOUND, BOUND + '\nfreeze = ["beta"]', r"freeze must list some of momentum, lr, got 'beta'"),
    ('"HeavyBall"', '"HeavyBall"\nfreeze = ["lr"]', r"freeze 'lr' needs a rule whose step size adapts \(Trunc.*HeavyB"),
    ('"HeavyBall"', '"HeavyBall()"\nfreeze = ["momentum"]', r"freeze needs the rule's arguments in the key arguments"),
    ('"NAG"\nsolver = "nag-restart"', '"NAG"\nsolver = "heavy-ball"\nfreeze = ["lr"]', r"unknown key 'freeze' in"),
    ('"HeavyBall"', '"HeavyBall"\npoints = 0', r"points must be >= 1, got 0"),
    ("n = 8", "n = []", r"n must be a value or a list of some, got \[\]"),
    ('name = "diabetes"', 'l2 = [0.1, 0.2]\nname = "diabetes"', r"'diabetes' cannot name 2 problems"),
    (BOUND, "arguments = 3", r"arguments must be a table, got 3"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.splitlines()[-1] for _, new, _ in BAD])
def test_every_mistake_is_named_with_file_and_line(study, tmp_path, old, new, message):
    assert old in SMALL
    text = SMALL.replace(old, new, 1)
    line = text[: SMALL.index(old) + len(new)].count("\n") + 1
    with pytest.raises(StudyError, match=rf"study.toml, line {line}: .*{message}"):
        run_study(study(text), tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "line", "message"),
    [
        ("points = 3\n", 1, r"\[study\] lacks the key 'points': it must be a whole number"),
        ('rule = "HeavyBall"\n', 19, r"a \[\[method\]\] needs exactly one of rule, solver, scipy, got none of them"),
        ("lr = 100\n", 24, r"method 'truncated' has no lr: set lr or search.lr, in units of 1/L"),
        (BOUND + "\n", 26, r"method 'truncated' cannot run: .*'lower_bound'"),
        ('kind = "quadratic"\n', 9, r"\[\[problem\]\] lacks the key 'kind'"),
        ("[study]\n", 1, r"unknown key 'name' in the study file; valid keys: study, problem, method"),
        (SMALL[: SMALL.index("[[problem]]")], 1, r"a study needs a \[study\] table"),
        (SMALL[SMALL.index("[[method]]") :], 1, r"a study needs at least one \[\[method\]\] table"),
    ],
)
def test_what_is_missing_is_named_where_it_belongs(study, old, line, message):
    with pytest.raises(StudyError, match=f"study.toml, line {line}: {message}"):
        load_study(study(SMALL.replace(old, "", 1)))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("condition = 10", "condition = 0.5", 9, r"condition must be >= 1"),
        ("n = 8", 'n = "eight"', 9, r"n must be a whole number, got 'eight'"),
        ('data = "diabetes"', 'data = "diabetis"', 14, r"data must be one of breast_cancer.* got 'diabetis'"),
        ('data = "diabetes"', 'data = "sub/a8a.txt"', 14, r"'sub/a8a.txt' not found"),
        ('name = "diabetes"', 'name = "quadratic, condition 10, n 8"', 14, r"two problems are called"),
    ],
)
def test_bad_problems_fail_before_anything_is_written(study, tmp_path, old, new, line, message):
    with pytest.raises(StudyError, match=f"study.toml, line {line}: .*{message}"):
        run_study(study(SMALL.replace(old, new)), tmp_path / "out", jobs=1, data=tmp_path, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_rule_that_cannot_take_a_step_is_refused_before_the_study(study, tmp_path):
    (tmp_path / "my_rules.py").write_text(RULE)
    text = SMALL + MINE.format("Broken")
    line = text[: text.index("my_rules")].count("\n") + 1
    with pytest.raises(StudyError, match=f"line {line}: method 'mine' cannot run: AttributeError: .*gradientplane"):
        load_study(study(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe\x00")
    for file, message in [("latin.toml", "latin.toml is not a TOML file"), ("none.toml", "cannot read .*none.toml")]:
        with pytest.raises(StudyError, match=message):
            load_study(tmp_path / file)


@pytest.mark.parametrize("jobs", [0, -2])
def test_jobs_out_of_range(study, tmp_path, jobs):
    with pytest.raises(ValueError, match=f"jobs must be >= 1, or -1 for one per core, got {jobs}"):
        run_study(study(), tmp_path / "out", jobs=jobs)


def test_lines_are_found_in_all_spellings():
    text = """\
a.b = 1
text = '''
not = "a key"
[nor.a.table]
'''
[[method]]
"quoted key" = 1
[method.search]
lr = {low = 1}
[[method]]
search.lr.low = 1   # [comment]
[ other . table ]
x = [
  1,
]
y = 1
"""
    lines = find_lines(text)
    assert lines["a", "b"] == 1
    assert lines["text",] == 2
    assert lines["method", 0] == 6
    assert lines["method", 0, "quoted key"] == 7
    assert lines["method", 0, "search", "lr"] == 9
    assert lines["method", 1, "search", "lr", "low"] == 11
    assert lines["other", "table", "y"] == 16
    assert ("not",) not in lines
    assert ("nor", "a", "table") not in lines


def test_a_step_size_without_lr_is_minimize_without_lr(tmp_path):
    from proxmom.numpy import minimize
    from proxmom.study.problems.collection import build_problem

    file = tmp_path / "free.toml"
    file.write_text(
        '[study]\nname = "free"\nclaim = "none"\npoints = 2\nmax_evaluations = 200\ntarget = 1e-6\nreference = "free"\n'
        '[[problem]]\nkind = "quadratic"\nn = 20\n'
        '[[method]]\nname = "free"\nrule = "ConjugateMemory"\nstep_size = "Secant"\n'
    )
    [run] = load_runs(run_study(file, tmp_path / "out", jobs=1, quiet=True))
    problem, gaps = build_problem("quadratic", n=20), []
    first = problem.fun(problem.x0)[0] - problem.optimum

    def fun(x):
        value, gradient = problem.fun(x)
        gaps.append((value - problem.optimum) / first)
        return value, gradient

    minimize(fun, problem.x0, gtol=0, max_iter=199)
    assert run.status == "reached"
    assert run.evaluations == 1 + next(i for i, gap in enumerate(gaps) if gap <= 1e-6)
    assert run.mean_step is None


def test_an_unknown_step_size_is_refused_before_anything_runs(tmp_path):
    file = tmp_path / "free.toml"
    file.write_text(
        '[study]\nname = "free"\nclaim = "none"\npoints = 2\nmax_evaluations = 200\ntarget = 1e-6\nreference = "free"\n'
        '[[problem]]\nkind = "quadratic"\nn = 20\n'
        '[[method]]\nname = "free"\nrule = "ConjugateMemory"\nstep_size = "Secent"\n'
    )
    with pytest.raises(StudyError, match="Secent"):
        run_study(file, tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out").exists()
