"""A training study in a folder, for the tests of its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxmom.study.record.run import Ending, Planned, Run
from proxmom.study.record.store import RunWriter, key_of, run_directory, write_plan
from proxmom.study.report.results import Losses
from proxmom.study.report.sources import merge, read_source

STEPS, ROWS, SEEDS, UNITS = 400, 40, 5, 6
SEARCH_SEEDS = (0, 101, 102)
START = {0: 5.0, 1: 4.0, 2: 4.1, 3: 4.2, 4: 4.3, 5: 4.4}  # initial loss by seed: those of the network below
PROVENANCE = {"proxmom": "0.1.0", "python": "3.11", "numpy": "2.0", "scipy": "1.15", "torch": "2.9", "cores": 2}
PROVENANCE |= {"commit": "abc1234", "dirty": False, "processor": "Z80", "started": "2026-01-02T03:04:05+00:00"}


def make_run(
    problem: Any = "p",
    method: Any = "m",
    loss: Any = 1.0,
    seed: int = 1,
    stage: Any = "final",
    start: Any = 4.0,
    status: Any = "finished",
    **more: Any,
) -> Any:
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


def sweep(losses: Any, name: str = "lr", values: Any = None, **more: Any) -> list[Run]:
    """Search runs of one method over values of a hyper-parameter, 1e-4, 1e-3, ... unless given."""
    values = 10.0 ** np.arange(-4, len(losses) - 4) if values is None else values
    return [
        make_run(loss=loss, seed=0, stage="search", point={name: float(value)}, index=i, **more)
        for i, (loss, value) in enumerate(zip(losses, values, strict=True))
    ]


def seed_sweep(table: Any, start: Any = 4.0, **more: Any) -> list[Run]:
    """Search runs of one method: losses by value of lr (rows) and training seed (columns); nan is one that diverged.

    start: the initial loss, or one for each seed.
    """
    rows = np.atleast_2d(np.array(table, dtype=float))
    starts = np.broadcast_to(start, rows.shape[1])
    return [
        make_run(
            loss=float(loss),
            seed=seed,
            stage="search",
            start=float(first),
            status="diverged" if np.isnan(loss) else "finished",
            point={"lr": 10.0 ** (0.4 * index - 4)},
            index=index,
            **more,
        )
        for index, row in enumerate(rows)
        for seed, loss, first in zip(SEARCH_SEEDS, row, starts, strict=False)
    ]


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
            Ending(
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


def _of(problem: Any, method: Any, shared: Any, rng: Any) -> list[Run]:
    def value(seed: int, worse: Any = 0.0) -> Any:
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


def write_study(
    folder: Path, runs: Any = None, schedule: Any = "cosine", steps: Any = STEPS, targets: Any = "2.0, 1.5"
) -> Path:
    folder.mkdir(parents=True)
    every = study_runs() if runs is None else [(run, 4.0) for run in runs]
    write_plan(folder, [write_run(folder, run, start) for run, start in every])
    text = TEXT.format(name=folder.name, schedule=schedule, steps=steps, targets=targets)
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="package")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "first")


@pytest.fixture(scope="package")
def trained(directory: Any) -> Losses:
    return merge([read_source(directory)])


def stored(directory: Path, column: str, stage: str = "final") -> dict[tuple[str, str, int], float]:
    """A measure by problem, method and seed, read from the files with nothing of the package."""
    found = {}
    for file in directory.glob("runs/*/run.json"):
        run, done = json.loads(file.read_text()), json.loads((file.parent / "done.json").read_text())
        if run["stage"] == stage and column in done["final"]:
            found[run["problem"], run["method"], run["seed"]] = done["final"][column]
    return found
