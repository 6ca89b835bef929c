"""A method that raises, diverges or takes its process with it has a result; other runs go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.record import store
from proxmom.study.record.run import Ending
from proxmom.study.record.store import RunWriter, load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import MINE, RULE, SMALL, touched

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


def test_divergence_and_failure_are_kept_with_their_cause(study: Any, tmp_path: Path) -> None:
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
def test_a_run_that_is_killed_with_its_process_is_no_result_and_the_others_go_on(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_rules.py").write_text(DEADLY)
    text = SMALL + MINE.format("Deadly")
    out = run_study(study(text), tmp_path / "out", jobs=2, quiet=True)
    assert {run.method for run in load_runs(out)} == {"heavy ball", "truncated", "NAG", "L-BFGS"}
    assert len(load_runs(out)) == 2 * 6
    dead = store.aborted_runs(out)
    assert [run.method for run in dead] == ["mine"] * 2
    assert all(run.message == "the process ended with {SIGKILL(-9)}: killed, or out of memory" for run in dead)
    assert "A process was killed, or ran out of memory. " in capsys.readouterr().err


def test_a_method_that_ends_its_process_itself_has_failed(study: Any, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(DEADLY.replace("os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"))
    out = run_study(study(SMALL + MINE.format("Deadly")), tmp_path / "out", jobs=2, quiet=True)
    dead = [run for run in load_runs(out) if run.method == "mine"]
    assert [(run.status, run.message) for run in dead] == [("failed", "the process ended with {EXIT(3)}")] * 2
    assert all(np.isinf(run.best_gap) for run in dead)


def test_retry_failed_repeats_what_raised_and_nothing_else(study: Any, tmp_path: Path) -> None:
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


def test_a_run_that_is_started_again_is_not_done_until_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        with RunWriter(tmp_path / "run", {"key": "k"}) as writer:
            assert not (tmp_path / "run/done.json").exists()
            writer.finish(Ending("missed", 2, 0.5, 0.1, ""))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", '{"key": "', "run.json is truncated or unreadable"),
        ("run.json", "{}", "run.json is truncated or unreadable"),
        ("done.json", "", "done.json is truncated or unreadable"),
        ("done.json", "{}", "done.json is truncated or unreadable"),
    ],
)
def test_unreadable_results_are_named_with_the_remedy(
    study: Any, tmp_path: Path, file: Any, content: Any, message: str
) -> None:
    out = run_study(study(), tmp_path / "out", jobs=1, quiet=True)
    run = load_runs(out)[0]
    (run.directory / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{message} .*Delete .*{run.key} and run the study again"):
        load_runs(out)


def test_unreadable_metrics_are_named_when_they_are_read(study: Any, tmp_path: Path) -> None:
    run = load_runs(run_study(study(), tmp_path / "out", jobs=1, quiet=True))[0]
    (run.directory / "metrics.jsonl").write_text('{"evaluations": 1, "g')
    with pytest.raises(ValueError, match=r"metrics.jsonl is truncated or unreadable"):
        run.curve()


def test_no_results_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no results"):
        load_runs(tmp_path)


def test_records_reach_the_file_at_once_and_infinities_survive(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", {"key": "k"}) as writer:
        writer.append(1, 1.0, 0.5)
        assert json.loads((tmp_path / "run/metrics.jsonl").read_text()) == {"evaluations": 1, "gap": 1.0, "beta": 0.5}
        writer.append(2, np.inf, None)
        writer.finish(Ending("diverged", 2, np.inf, 0.1, ""))
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["done.json", "metrics.jsonl", "run.json"]
    assert json.loads((tmp_path / "run/done.json").read_text())["best_gap"] is None
