"""Studies that count evaluations, from end to end: run, killed, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import CONTROLLED, SMALL, outcomes, touched

POLYAK = '\n[[method]]\nname = "Polyak"\nrule = "Polyak"\nlr = 10\narguments = {lower_bound = "optimum"}\n'


def test_a_study_runs_and_its_runs_say_everything(study: Any, tmp_path: Path) -> None:
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


def test_default_folder_is_named_after_the_study(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_study(study(), jobs=1, quiet=True) == Path("results/small")
    assert (tmp_path / "results/small/plan.json").is_file()


def test_tables_do_not_depend_on_the_number_of_processes(study: Any, tmp_path: Path) -> None:
    one = run_study(study(), tmp_path / "one", jobs=1, quiet=True)
    two = run_study(study(), tmp_path / "two", jobs=2, quiet=True)
    assert outcomes(one) == outcomes(two)
    curves = zip(load_runs(one), load_runs(two), strict=True)
    assert all(np.array_equal(a.curve()["gap"], b.curve()["gap"]) for a, b in curves)


def test_beta_is_recorded_for_rules_with_memory(study: Any, tmp_path: Path) -> None:
    runs = load_runs(run_study(study(), tmp_path / "out", jobs=1, quiet=True))
    for run in runs:
        beta = run.curve()["beta"][1:-1]  # the first evaluation had no step before it, the last ended the run
        if run.method == "heavy ball":
            np.testing.assert_allclose(beta, run.point["beta"], rtol=1e-12)
        if run.method in ("NAG", "L-BFGS"):
            assert np.isnan(beta).all()


def test_nothing_is_run_twice(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    monkeypatch.setattr("proxmom.study.run.runner.build_problem", lambda *_, **__: pytest.fail("nothing to build"))
    run_study(study(), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert {run.problem for run in load_runs(out)} == {"quadratic, condition 10, n 8", "diabetes"}


def test_a_new_method_runs_its_own_cells_only(study: Any, tmp_path: Path) -> None:
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before, old = touched(out), outcomes(out)
    new = SMALL.replace("\n[[method]]", POLYAK + "\n[[method]]", 1)  # first, so that all others move
    run_study(study(new), out, jobs=1, quiet=True)
    after = touched(out)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 2
    assert {key: value for key, value in outcomes(out).items() if key in old} == old


def test_renaming_reordering_and_removing_repeat_nothing(study: Any, tmp_path: Path) -> None:
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    before = touched(out)
    head, *methods = SMALL.split("[[method]]")
    shuffled = "[[method]]".join([head, methods[2] + "\n", *methods[:2]]).replace('"NAG"', '"Nesterov"')
    run_study(study(shuffled), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert list(dict.fromkeys(run.method for run in load_runs(out))) == ["Nesterov", "heavy ball", "truncated"]


def test_fewer_points_use_the_first_ones_and_more_points_add(study: Any, tmp_path: Path) -> None:
    out = run_study(study(SMALL.replace("points = 3", "points = 5")), tmp_path / "out", jobs=1, quiet=True)
    five, before = outcomes(out), touched(out)
    run_study(study(), out, jobs=1, quiet=True)
    assert touched(out) == before
    assert outcomes(out).items() < five.items()


def test_a_new_problem_or_seed_runs_its_own_cells_only(study: Any, tmp_path: Path) -> None:
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


def test_results_depend_neither_on_order_nor_on_what_else_is_there(study: Any, tmp_path: Path) -> None:
    text = SMALL + CONTROLLED
    whole = outcomes(run_study(study(text), tmp_path / "whole", jobs=2, quiet=True))
    head, *methods = text.split("[[method]]")
    top, *problems = head.split("[[problem]]")
    swapped = "[[problem]]".join([top, *(part.rstrip() + "\n\n" for part in reversed(problems))])
    reverse = "[[method]]".join([swapped, *(part.rstrip() + "\n\n" for part in reversed(methods))])
    assert outcomes(run_study(study(reverse), tmp_path / "reverse", jobs=1, quiet=True)) == whole
    few = "[[method]]".join([head, methods[0], methods[-1]])
    assert outcomes(run_study(study(few), tmp_path / "few", jobs=1, quiet=True)).items() < whole.items()


def test_a_method_can_have_points_of_its_own(study: Any) -> None:
    more = load_study(study(SMALL.replace('"HeavyBall"', '"HeavyBall"\npoints = 5')))
    usual = load_study(study())
    assert more.methods[0].points(3, 0)[:3] == usual.methods[0].points(3, 0)
    assert [cell.method.name for cell in plan(more)].count("heavy ball") == 2 * 5


@pytest.mark.parametrize("left_behind", ['{"evaluations": 1, "gap": 1.0, "be', ""])
def test_a_killed_run_is_started_afresh(study: Any, tmp_path: Path, left_behind: Any) -> None:
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
def long_run(study: Any, tmp_path: Path) -> Any:
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


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(long_run: Any) -> None:
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
def test_workers_leave_with_a_main_process_that_is_killed(long_run: Any) -> None:
    process, out = long_run
    process.kill()
    process.communicate(timeout=60)  # ends when the last worker has closed stderr
    kept = touched(out)
    assert 0 < len(kept) < 806
    time.sleep(0.3)
    assert touched(out) == kept
    assert {run.key for run in load_runs(out)} == set(kept)
