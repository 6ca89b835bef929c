"""Defaults and controls: which runs they are, and what they wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.store import load_runs
from proxmom.study.run.runner import run_study
from tests.study.conftest import BOUND, CONTROLLED, SMALL, by_name, outcomes, touched


def test_defaults_are_one_run_that_searches_nothing(study: Any, tmp_path: Path) -> None:
    runs = by_name(run_study(study(SMALL + CONTROLLED), tmp_path / "out", jobs=1, quiet=True))
    [run] = runs["adaptive, defaults"]
    assert (run.point, run.variant_of) == ({}, "adaptive")
    assert run.configuration["method"]["lr"] == 10
    assert run.configuration["method"]["arguments"] == {"beta_max": 0.8}
    assert run.configuration["method"]["inertia"] == 0.1


def test_momentum_frozen_at_the_mean_of_the_best_run(study: Any, tmp_path: Path) -> None:
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


def test_lr_frozen_at_the_mean_step(study: Any, tmp_path: Path) -> None:
    freeze = BOUND + '\nfreeze = ["momentum", "lr"]'
    runs = by_name(run_study(study(SMALL.replace(BOUND, freeze)), tmp_path / "out", jobs=1, quiet=True))
    [best] = runs["truncated"]
    [step], [momentum] = runs["truncated, lr frozen"], runs["truncated, momentum frozen"]
    assert best.mean_step < 50 < best.configuration["method"]["lr"]  # the floor shortens the steps
    assert step.configuration["method"]["rule"] == "AdaptiveMemory"
    assert step.configuration["method"]["lr"] == pytest.approx(best.mean_step, rel=1e-8)
    assert step.configuration["method"]["arguments"] == {"height": "aggregated"}  # as truncated memory's default
    assert momentum.configuration["method"]["rule"] == "MoMo"
    assert momentum.configuration["method"]["arguments"]["lower_bound"] == "optimum"
    assert momentum.configuration["method"]["lr"] == 100


def test_a_control_waits_for_its_method_and_is_planned_before(study: Any, tmp_path: Path) -> None:
    file, out = load_study(study(SMALL + CONTROLLED)), tmp_path / "out"
    waiting = [cell for cell in plan(file, folder=out) if not cell.ready]
    assert len(waiting) == len({cell.key for cell in waiting}) == 2 * 3
    assert len(list(plan(file, folder=run_study(study(SMALL + CONTROLLED), out, jobs=1, quiet=True)))) == len(
        load_runs(out)
    )
    assert all(cell.ready for cell in plan(file, folder=out))


def test_a_killed_method_is_repeated_and_its_control_is_kept(study: Any, tmp_path: Path) -> None:
    out = run_study(study(SMALL + CONTROLLED), tmp_path / "out", jobs=1, quiet=True)
    before, whole = touched(out), outcomes(out)
    killed = next(run for run in load_runs(out) if run.method == "adaptive")
    (killed.directory / "done.json").unlink()
    run_study(study(SMALL + CONTROLLED), out, jobs=1, quiet=True)
    assert outcomes(out) == whole
    assert [key for key in before if touched(out)[key] != before[key]] == [killed.key]
