"""One cell in torch: a parameter set and a number of threads; each metric steps parameters of its own.

Values matter here, unlike in `proxmom.bench.steps`: decompositions of matrices of low rank are quick, and pairs of
curvature are kept only where they fit. So every step has a new gradient, of f(x) = ||x||²/2 with noise, made before the
clock starts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxmom.bench.devices import Device, find_device
from proxmom.bench.metrics.contenders import Contender, race
from proxmom.bench.plan import Plan
from proxmom.bench.rounds import take_turns
from proxmom.bench.sets import METRIC_SETS, Shapes, count
from proxmom.bench.steps import BYTES, parameters, with_threads
from proxmom.rules import AdaptiveMemory
from proxmom.torch import ProxOptimizer

LR, NOISE, WARM = 1e-3, 0.01, 3  # WARM: the first two steps wait for the device, and SOAP has its first basis then
UNIT = "AdamW(fused=True)"


@dataclass(frozen=True)
class Cell:
    """What is measured together."""

    set: str
    threads: int
    device: Device
    rounds: int | None

    def __str__(self) -> str:
        return f"{self.set}, metrics, {self.threads} thread{'s' * (self.threads > 1)}"

    def measure(self) -> dict[str, Any]:
        """Everything raw: each contender's times, state and extra memory, or why it has none."""
        shapes = METRIC_SETS[self.set]()
        gc.collect()  # state of the last cell
        with with_threads(self.threads):
            rows = _race(self, shapes)
        size = {"tensors": len(shapes), "parameters": count(shapes), "bytes": BYTES * count(shapes)}
        where = {"library": "torch", "set": self.set, "device": self.device.name, "threads": self.threads}
        return {**where, **size, "unit": UNIT, "rows": rows}


def cells(plan: Plan) -> list[Cell]:
    """All cells of a plan.

    Raises:
        ValueError: where the device does not exist.
    """
    device = find_device(plan.device)
    threads = plan.threads or (torch.get_num_threads(),)
    return [Cell(name, n, device, plan.rounds) for n in threads for name in METRIC_SETS]


class Runner:
    """Parameters with an optimizer, and a new gradient for every step."""

    def __init__(self, optimizer: Callable[[list[Tensor]], Any], shapes: Shapes, device: Device) -> None:
        self._device, self._params = device, parameters(shapes, device.kind)
        self._random = torch.Generator(device.kind).manual_seed(1)
        self.optimizer = optimizer(self._params)

    def step(self) -> float:
        """Seconds of one step."""
        for p in self._params:
            assert p.grad is not None
            p.grad.normal_(std=NOISE, generator=self._random).add_(p.detach())
        return self._device.seconds(self._step)

    def _step(self) -> None:
        self.optimizer.step()

    def _most(self, cycle: int) -> int:
        """Extra memory of each step of a cycle, the most of them; a gauge takes two steps and sees the second.

        Two at a time, because the gauge's own records of a whole cycle need gigabytes.
        """
        most = 0
        for number in range(cycle):
            if cycle % 2 == 0 and number == cycle // 2:
                self._step()  # pairs have seen every other step so far
            most = max(most, self._device.peak(self._step))
        return most

    def turn(self, cycle: int) -> list[float]:
        """Seconds of each step of a cycle."""
        return [self.step() for _ in range(cycle)]

    def state_bytes(self) -> int:
        """Of all tensors in the optimizer's state."""
        tensors = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def figures(self, cycle: int) -> dict[str, Any]:
        """What a warm optimizer keeps, and the most that a step of a cycle holds besides.

        Raises:
            RuntimeError: where the steps left the parameters as they were, or were skipped.
        """
        before = [p.detach().clone() for p in self._params]
        self.turn(max(cycle, WARM))
        if all(map(torch.equal, before, self._params)):
            raise RuntimeError("the steps did not move the parameters.")
        extra = self._most(cycle)
        skipped = self.optimizer.diagnostics()["skipped"] if isinstance(self.optimizer, ProxOptimizer) else 0
        if skipped:
            raise RuntimeError(f"{int(skipped)} steps were skipped.")
        return {"state_bytes": self.state_bytes(), "extra_bytes": extra}


def _race(cell: Cell, shapes: Shapes) -> list[dict[str, Any]]:
    unit = Runner(lambda params: torch.optim.AdamW(params, lr=LR, fused=True), shapes, cell.device)
    first = {"label": UNIT, "metric": None, "scope": None, "reason": None, "path": "fused", **unit.figures(1)}

    def prepare(contender: Contender) -> tuple[Callable[[], list[float]], dict[str, Any]]:
        runner = Runner(lambda params: proximal(params, contender), shapes, cell.device)
        cycle = contender.cycle(cell.set)
        figures = runner.figures(cycle)
        return lambda: runner.turn(cycle), {**figures, "path": runner.optimizer.path}

    rows, turns = race(cell.set, prepare)
    gc.collect()
    times = take_turns({UNIT: lambda: unit.turn(1), **turns}, rounds=cell.rounds)
    return [{**row, "seconds": times[row["label"]]} if row["reason"] is None else row for row in [first, *rows]]


def proximal(params: list[Tensor], contender: Contender) -> ProxOptimizer:
    """A contender as an optimizer."""
    return ProxOptimizer(params, AdaptiveMemory(), LR, metric=contender.metric, scope=contender.scope)
