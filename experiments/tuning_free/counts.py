"""What is counted: evaluations until a measure is met, on which instances, within which budget; and counts.csv."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
SETS = {
    "in-sample": HERE.parent / "convex" / "small.toml",
    "held-out": HERE / "heldout.toml",
    "non-convex": HERE / "nonconvex.toml",
}
GAP, GRADIENT = "gap", "gradient"
MEASURES = {"in-sample": (GAP,), "held-out": (GAP,), "non-convex": (GRADIENT, GAP)}
TARGET, BUDGET = 1e-6, 3000
LONG = {"boundary value, n 100": 20_000}  # instances that L-BFGS meets beyond the budget, with one that it meets
MISS = 10 * BUDGET  # what a miss counts in means


class Row(NamedTuple):
    """One measure of one run; evaluations is None for a miss."""

    set: str
    instance: str
    method: str
    first: float | None
    measure: str
    evaluations: int | None


class _Enough(Exception):
    pass


class Counter:
    """f and gradient, counted; ends the run where the last of the measures is met, or at the budget.

    gap: f - f* <= 1e-6 (f(x0) - f*); gradient: max|g| <= 1e-6 times its first value. `met` says after how many
    evaluations each first was.
    """

    def __init__(self, problem: Any, measures: Sequence[str]) -> None:
        self.budget = LONG.get(problem.name, BUDGET)
        self.fun, self.count, self.optimum, self.met = problem.fun, 0, problem.optimum, dict[str, int]()
        value, gradient = problem.fun(problem.x0)
        goals = {GAP: TARGET * (value - self.optimum), GRADIENT: TARGET * np.abs(gradient).max()}
        self.goals = {measure: goals[measure] for measure in measures}

    def __call__(self, x: Any) -> tuple[float, Any]:
        if self.count >= self.budget:
            raise _Enough
        self.count += 1
        with np.errstate(all="ignore"):
            value, gradient = self.fun(x)
        for measure, goal in self.goals.items():
            size = value - self.optimum if measure == GAP else np.abs(gradient).max()
            if size <= goal:
                self.met.setdefault(measure, self.count)
        if len(self.met) == len(self.goals):
            raise _Enough
        return float(value), gradient


def count(problem: Any, run: Any, measures: Sequence[str] = (GAP,)) -> tuple[int | None, ...]:
    """Evaluations until run(fun, x0) meets each measure; None for a miss."""
    counter = Counter(problem, measures)
    with contextlib.suppress(_Enough):
        run(counter, problem.x0.copy())
    return tuple(counter.met.get(measure) for measure in measures)


def read() -> list[Row]:
    """The rows of counts.csv."""
    with (HERE / "counts.csv").open(newline="") as file:
        return [
            Row(which, instance, method, float(first) if first else None, measure, int(found) if found else None)
            for which, instance, method, first, measure, found in list(csv.reader(file))[1:]
        ]


def tuned(method: str) -> dict[str, float]:
    """Evaluations of a method of the convex study, the best of its 24 points, in-sample; MISS for a miss."""
    best: dict[str, float] = {}
    with (SETS["in-sample"].parent / "small" / "runs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["method"] == method:
                found = float(row["evaluations"]) if row["status"] == "reached" else MISS
                best[row["problem"]] = min(best.get(row["problem"], MISS), found)
    return best


def write(rows: Iterable[Row]) -> None:
    """Writes counts.csv."""
    with (HERE / "counts.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
