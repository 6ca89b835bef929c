"""What `proxmom bench` measures: the solver, batched, and one step of the NumPy backend."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np

import proxmom
from proxmom.metrics import Adam
from proxmom.numpy.optimizer import Optimizer
from proxmom.reference import convex_solver, solve_step
from proxmom.rules import AdaptiveMemory, HeavyBall, TruncatedMemory
from proxmom.solve import weights

BATCH, SIZE, ROUNDS = 1000, 100, 30


def measure() -> dict[str, Any]:
    """Medians of interleaved rounds, in milliseconds, with provenance."""
    tasks: dict[str, Callable[[], Any] | None] = {f"solve {BATCH} models of {k} planes": _solver(k) for k in (2, 3, 4)}
    tasks["one model of 2 planes by cvxpy"] = _convex_solver()
    tasks[f"hand-written heavy ball, one step, n = {SIZE}"] = _by_hand()
    for rule, settings in (
        (HeavyBall(), {}),
        (AdaptiveMemory(), {"inertia": 0.1}),
        (AdaptiveMemory(), {"inertia": 0.1, "metric": Adam()}),
        (TruncatedMemory(0.0), {}),
    ):
        metric = type(settings.get("metric", None)).__name__.replace("NoneType", "Euclidean")
        tasks[f"{type(rule).__name__}, {metric}, one step, n = {SIZE}"] = _stepper(rule, **settings)
    return {"milliseconds": _interleaved(tasks), "provenance": _provenance()}


def show(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    width = max(map(len, figures["milliseconds"]))
    lines = [
        f"{name:<{width}}  " + (f"{value:9.4f} ms" if value is not None else "not measured: needs the verify extra")
        for name, value in figures["milliseconds"].items()
    ]
    where = figures["provenance"]
    return "\n".join([*lines, f"proxmom {where['proxmom']}, {where['processor']}, {where['cores']} cores"])


def _interleaved(tasks: dict[str, Callable[[], Any] | None]) -> dict[str, float | None]:
    """Median milliseconds of each task, the tasks taking turns so that a slow moment of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        if task is not None:
            task()
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            if task is not None:
                start = time.perf_counter()
                task()
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * median(seconds) if seconds else None for name, seconds in times.items()}


def _solver(planes: int) -> Callable[[], Any]:
    random = np.random.default_rng(0)
    slopes = random.normal(size=(BATCH, planes, 8))
    heights, products = random.normal(size=(BATCH, planes)), slopes @ slopes.transpose(0, 2, 1)
    return lambda: weights(heights, products)


def _stepper(rule: Any, **settings: Any) -> Callable[[], Any]:
    optimizer = Optimizer(np.ones(SIZE), rule, lr=1e-3, **settings)
    gradient = np.random.default_rng(0).normal(size=SIZE)
    return lambda: optimizer.step(gradient, 1.0)


def _by_hand() -> Callable[[], Any]:
    gradient, state = np.random.default_rng(0).normal(size=SIZE), [np.ones(SIZE), np.zeros(SIZE)]

    def step() -> None:
        state[1] = 0.9 * state[1] + 0.1 * gradient
        state[0] = state[0] - 1e-3 * state[1]

    return step


def _convex_solver() -> Callable[[], Any] | None:
    try:
        convex_solver()
    except ImportError:
        return None
    optimizer = Optimizer(np.ones(12), AdaptiveMemory(), lr=0.1)
    random = np.random.default_rng(0)
    optimizer.step(random.normal(size=12))
    model = optimizer.preview(random.normal(size=12))
    return lambda: solve_step(model)


def _provenance() -> dict[str, Any]:
    return {
        "proxmom": proxmom.__version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
