"""One cell in NumPy: every metric on one vector, in float64."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxmom.bench.metrics.contenders import VECTOR, Contender, race
from proxmom.bench.rounds import seconds, take_turns
from proxmom.numpy.optimizer import Optimizer
from proxmom.rules import AdaptiveMemory

SIZE, BYTES, UNIT = 100_000, 8, "Euclidean()"
LR, NOISE, WARM = 1e-3, 0.01, 3


@dataclass(frozen=True)
class Cell:
    """What is measured together."""

    rounds: int | None
    size: int = SIZE

    def __str__(self) -> str:
        return "metrics in NumPy"

    def measure(self) -> dict[str, Any]:
        """Everything raw, as in torch."""
        rows, turns = race(VECTOR, self._prepare)
        times = take_turns(turns, rounds=self.rounds)
        rows = [{**row, "seconds": times[row["label"]]} if row["reason"] is None else row for row in rows]
        where = {"library": "NumPy", "set": VECTOR, "device": "cpu", "threads": None}
        return {**where, "tensors": 1, "parameters": self.size, "bytes": BYTES * self.size, "unit": UNIT, "rows": rows}

    def _prepare(self, contender: Contender) -> tuple[Callable[[], list[float]], dict[str, Any]]:
        runner = Runner(contender, self.size)
        return runner.turn, {**runner.figures, "path": "NumPy"}


class Runner:
    """An optimizer, and a new gradient of ||x||²/2 with noise for every step.

    figures: what it keeps besides x after a few steps, and the most that a step holds beyond that, as Python and NumPy
        allocate it; what LAPACK takes for itself is not seen.
    """

    def __init__(self, contender: Contender, size: int) -> None:
        self._random, self._cycle = np.random.default_rng(1), contender.cycle(VECTOR)
        x0 = 0.02 * self._random.normal(size=size)
        self._gradient = np.empty(size)
        tracemalloc.start()
        try:
            self._optimizer = Optimizer(x0, AdaptiveMemory(), lr=LR, metric=contender.metric)
            for _ in range(max(self._cycle, WARM)):
                self.step()
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
            most = max(self._peak() for _ in range(self._cycle))
        finally:
            tracemalloc.stop()
        if self._optimizer.diagnostics()["skipped"]:
            raise RuntimeError("steps were skipped.")
        self.figures = {"state_bytes": kept - x0.nbytes, "extra_bytes": most}

    def step(self) -> float:
        """Seconds of one step."""
        self._renew()
        return seconds(self._step)

    def turn(self) -> list[float]:
        """Seconds of each step of a cycle."""
        return [self.step() for _ in range(self._cycle)]

    def _peak(self) -> int:
        self._renew()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        self._step()
        return tracemalloc.get_traced_memory()[1] - before

    def _step(self) -> None:
        self._optimizer.step(self._gradient)

    def _renew(self) -> None:
        self._random.standard_normal(out=self._gradient)
        self._gradient *= NOISE
        self._gradient += self._optimizer.x
