"""The solver, batched, and one step of the NumPy backend, beside a convex solver and a heavy ball written by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from proxmom.bench.rounds import seconds, take_turns
from proxmom.metrics import Adam
from proxmom.numpy.optimizer import Optimizer
from proxmom.reference import convex_solver, solve_step
from proxmom.rules import AdaptiveMemory, HeavyBall, TruncatedMemory
from proxmom.solve import weights

BATCH, SIZE = 1000, 100
Task = Callable[[], Any]


def measure_solver(rounds: int | None = None) -> dict[str, list[float] | None]:
    """Seconds of each task in every round; None where a package is missing."""
    tasks = _tasks()
    ready = {name: task for name, task in tasks.items() if task is not None}
    for task in ready.values():
        task()  # the first call imports and allocates
    times = take_turns({name: partial(seconds, task) for name, task in ready.items()}, rounds=rounds)
    return {name: times.get(name) for name in tasks}


def _tasks() -> dict[str, Task | None]:
    tasks: dict[str, Task | None] = {f"solve {BATCH} models of {k} planes": _solver(k) for k in (2, 3, 4, 8, 16)}
    tasks["one model of 2 planes by cvxpy"] = _convex_solver()
    tasks[f"hand-written heavy ball, one step, n = {SIZE}"] = _by_hand()
    for rule, metric, settings in (
        (HeavyBall(), "Euclidean", {}),
        (AdaptiveMemory(), "Euclidean", {"inertia": 0.1}),
        (AdaptiveMemory(), "Adam", {"inertia": 0.1, "metric": Adam()}),
        (TruncatedMemory(0.0), "Euclidean", {}),
    ):
        tasks[f"{type(rule).__name__}, {metric}, one step, n = {SIZE}"] = _stepper(rule, settings)
    return tasks


def _solver(planes: int) -> Task:
    random = np.random.default_rng(0)
    slopes = random.normal(size=(BATCH, planes, 8))
    heights, products = random.normal(size=(BATCH, planes)), slopes @ slopes.transpose(0, 2, 1)
    return lambda: weights(heights, products)


def _stepper(rule: Any, settings: dict[str, Any]) -> Task:
    optimizer = Optimizer(np.ones(SIZE), rule, lr=1e-3, **settings)
    gradient = np.random.default_rng(0).normal(size=SIZE)
    return lambda: optimizer.step(gradient, 1.0)


def _by_hand() -> Task:
    gradient, state = np.random.default_rng(0).normal(size=SIZE), [np.ones(SIZE), np.zeros(SIZE)]

    def step() -> None:
        state[1] = 0.9 * state[1] + 0.1 * gradient
        state[0] = state[0] - 1e-3 * state[1]

    return step


def _convex_solver() -> Task | None:
    try:
        convex_solver()
    except ImportError:
        return None
    optimizer = Optimizer(np.ones(12), AdaptiveMemory(), lr=0.1)
    random = np.random.default_rng(0)
    optimizer.step(random.normal(size=12))
    model = optimizer.preview(random.normal(size=12))
    return lambda: solve_step(model)
