"""Training studies from end to end: search, final runs, defaults and controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from proxmom.study import training
from proxmom.study.plan.cells import plan
from proxmom.study.plan.config import load_study
from proxmom.study.record.ranking import best_run
from proxmom.study.record.store import load_runs
from tests.study.training.studies.conftest import CONTROLLED, NETWORK, SEARCH, SMALL, by_row, outcomes, run


def test_points_are_compared_with_one_seed_and_the_best_is_trained_with_all(study: Any, tmp_path: Path) -> None:
    out = run(study(), tmp_path / "out")
    rows = by_row(out)
    assert {row: [(run.seed, run.point_index) for run in runs] for row, runs in rows.items() if row[1] == "search"} == {
        ("adaptive", "search"): [(0, 0), (0, 1), (0, 2)],
        ("SGD", "search"): [(0, 0), (0, 1), (0, 2)],
    }
    for method in ("adaptive", "SGD"):
        best = min(rows[method, "search"], key=lambda run: run.final["validation loss"])
        assert [(run.seed, run.point_index) for run in rows[method, "final"]] == [(s, best.point_index) for s in (1, 2)]
        assert all(run.point == best.point for run in rows[method, "final"])
    assert [run.seed for run in rows["Adam", "final"]] == [1, 2]  # nothing is searched
    assert json.loads((out / "plan.json").read_text())[3].items() >= {"seed": 1, "stage": "final"}.items()


def test_a_run_says_everything(study: Any, tmp_path: Path) -> None:
    for run_ in load_runs(run(study(), tmp_path / "out")):
        assert (run_.status, run_.evaluations, run_.trained) == ("finished", 20, True)
        assert {"torch", "accelerator", "processor", "commit", "started"} <= set(run_.provenance)
        assert run_.configuration.keys() == {
            *("problem", "method", "point", "steps", "schedule", "warmup", "seed", "test", "device")
        }
        assert run_.configuration["seed"] == run_.seed
        assert run_.configuration["test"] == (run_.stage == "final")
        constant = run_.method == "Adam"
        assert run_.configuration["schedule"] == ("constant" if constant else "cosine")
        assert run_.configuration["warmup"] == (0.0 if constant else 0.1)
        curve = run_.curve()
        assert curve["step"][-1] == 20
        assert all(curve[name].shape == curve["step"].shape for name in ("seconds", "train", "validation"))
        assert curve["validation"][-1] == run_.final["validation loss"]
        assert curve["validation"].min() == run_.best_gap
        assert len(curve["beta"]) == len(curve["step"])
        assert (curve["beta"].size > 0) == (run_.method == "adaptive") == (run_.mean_beta is not None)
        assert {file.name for file in run_.directory.iterdir()} == {"run.json", "metrics.jsonl", "done.json"}


def test_the_test_split_is_read_at_the_end_of_final_runs_alone(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, read = training.build_task, []

    def watched(*arguments: Any, seed: int, **settings: Any) -> Any:
        task = build(*arguments, seed=seed, **settings)
        evaluate = task.evaluate

        def note(split: Any) -> Any:
            read.append((seed, split))
            return evaluate(split)

        task.evaluate = note
        return task

    monkeypatch.setattr(training, "build_task", watched)
    out = run(study(), tmp_path / "out")
    assert {seed for seed, split in read if split == "test"} == {1, 2}
    assert len([split for _, split in read if split == "test"]) == 3 * 2
    for run_ in load_runs(out):
        assert ("test loss" in run_.final) == (run_.stage == "final")


def test_results_depend_neither_on_processes_nor_on_order_nor_on_what_else_is_there(study: Any, tmp_path: Path) -> None:
    text = CONTROLLED.replace("[[problem]]", NETWORK + "[[problem]]", 1)
    text = text.replace("points = 3", "points = 2").replace("seeds = 2", "seeds = 1")
    one = outcomes(run(study(text), tmp_path / "one"))
    assert outcomes(run(study(text), tmp_path / "two", jobs=2)) == one
    head, *methods = text.split("[[method]]")
    top, *problems = head.split("[[problem]]")
    swapped = "[[problem]]".join([top, *(part.rstrip() + "\n\n" for part in reversed(problems))])
    reverse = "[[method]]".join([swapped, *(part.rstrip() + "\n\n" for part in reversed(methods[:2]))])
    few = outcomes(run(study(reverse), tmp_path / "few"))
    assert few.items() < one.items()


def test_momentum_frozen_and_defaults_only(study: Any, tmp_path: Path) -> None:
    rows = by_row(run(study(CONTROLLED), tmp_path / "out"))
    best = best_run(rows["adaptive", "search"])
    frozen, trained = rows["adaptive, momentum frozen", "search"], rows["adaptive, momentum frozen", "final"]
    assert [run.point for run in frozen] == [run.point for run in rows["adaptive", "search"]]  # lr is searched again
    assert [run.point for run in trained] == [best_run(frozen).point] * 2
    for each in (*frozen, *trained):
        method = each.configuration["method"]
        assert (method["rule"], method["metric"], method["inertia"]) == ("HeavyBall", "Adam", 0.1)
        assert method["scope"] == "tensor"
        assert method["arguments"] == {"beta": pytest.approx(best.mean_beta, rel=1e-8)}
        assert each.mean_beta == pytest.approx(best.mean_beta, rel=1e-6)
        assert each.variant_of == "adaptive"
    assert ("adaptive, defaults", "search") not in rows
    for each in rows["adaptive, defaults", "final"]:
        assert each.configuration["method"].items() >= {"lr": 1e-3, "arguments": {"beta_max": 0.8}}.items()
        assert (each.point, each.variant_of) == ({}, "adaptive")


def test_defaults_of_an_optimizer_are_its_arguments(study: Any) -> None:
    text = SMALL.replace(
        '"log"}}\n\n[[method]]\nname = "Adam"',
        '"log"}}\ndefaults = {lr = 0.1, nesterov = true, weight_decay = 0.1}\n\n[[method]]\nname = "Adam"',
    )
    [method] = [m for m in load_study(study(text)).methods if m.name == "SGD, defaults"]
    assert method.configuration["lr"] == 0.1
    assert method.configuration["arguments"] == {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}


def test_lr_frozen_at_the_mean_step(study: Any, tmp_path: Path) -> None:
    text = SMALL.replace(SEARCH, 'lr = 1\nfreeze = ["lr"]\narguments = {lower_bound = "optimum"}')
    text = text.replace("AdaptiveMemory", "TruncatedMemory").replace('inertia = 0.1\nscope = "tensor"\n', "")
    rows = by_row(run(study(text), tmp_path / "out"))
    of, frozen = rows["adaptive", "final"], rows["adaptive, lr frozen", "final"]
    best = best_run(of)
    assert best.mean_step < 1  # the floor shortens the steps
    assert [run.seed for run in frozen] == [1, 2]
    for each in frozen:
        assert each.configuration["method"]["rule"] == "AdaptiveMemory"
        assert each.configuration["method"]["lr"] == pytest.approx(best.mean_step, rel=1e-8)


def test_what_waits_is_planned_before(study: Any, tmp_path: Path) -> None:
    file, out = load_study(study(CONTROLLED)), tmp_path / "out"
    cells = list(plan(file, folder=out))
    waiting = [cell for cell in cells if not cell.ready]
    assert len(waiting) == len({cell.key for cell in waiting}) == 2 + (3 + 2) + 2
    assert {(cell.method.name, cell.stage) for cell in cells if cell.ready} == {
        *(("adaptive", "search"), ("adaptive, defaults", "final"), ("SGD", "search"), ("Adam", "final"))
    }
    run(study(CONTROLLED), out)
    done = list(plan(file, folder=out))
    assert all(cell.ready for cell in done)
    order = [[(cell.method.name, cell.stage, cell.seed) for cell in each] for each in (cells, done)]
    assert order[0] == order[1]
    assert len(load_runs(out)) == len(done)
