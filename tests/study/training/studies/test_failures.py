"""Training runs that fail or diverge are results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from typing import Never

from proxmom.study import training
from proxmom.study.record.store import load_runs
from tests.study.training.studies.conftest import MINE, NETWORK, RULES, SMALL, WILD, by_row, run, touched


def test_divergence_and_failure_are_kept_and_retry_failed_repeats_what_raised(study: Any, tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text(RULES)
    (tmp_path / "broken").touch()
    text = SMALL.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK) + MINE.format("Fragile") + WILD
    out = run(study(text), tmp_path / "out")
    before, rows = touched(out), by_row(out)
    assert [(run.status, run.message) for run in rows["mine", "final"]] == [
        ("failed", "RuntimeError: no sixth step")
    ] * 2
    for wild in rows["wild", "final"]:
        assert wild.status == "diverged"
        assert wild.evaluations < 20
        assert "not finite" in wild.message or "the validation loss is" in wild.message
        assert wild.final["initial loss"] > 0
    (tmp_path / "broken").unlink()
    run(study(text), out)
    assert touched(out) == before  # finished runs, too
    run(study(text), out, retry_failed=True)
    after = touched(out)
    assert {key for key in before if after[key] != before[key]} == {run.key for run in rows["mine", "final"]}
    assert {run.status for run in by_row(out)["mine", "final"]} == {"finished"}


def test_a_method_none_of_whose_points_finishes_has_final_runs_all_the_same(study: Any, tmp_path: Path) -> None:
    search = 'search = {lr = {low = 1e9, high = 1e10, scale = "log"}}'
    text = SMALL.replace('[[problem]]\nkind = "logistic"\nbatch = 16\n', NETWORK)
    rows = by_row(run(study(text + WILD.replace("lr = 1e9", search)), tmp_path / "out"))
    assert {run.status for run in (*rows["wild", "search"], *rows["wild", "final"])} == {"diverged"}
    assert [run.point_index for run in rows["wild", "final"]] == [0, 0]


def test_a_task_that_cannot_be_built_where_it_runs_has_failed(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Never:
        raise TypeError("too odd")

    monkeypatch.setattr(training, "build_task", broken)
    monkeypatch.setattr(training, "describe_task", lambda *_, **__: "a task")
    runs = load_runs(run(study(), tmp_path / "out"))
    assert {(run.status, run.message, run.problem) for run in runs} == {("failed", "TypeError: too odd", "a task")}
    assert all(run.curve()["beta"].shape == (0, 0) for run in runs)
