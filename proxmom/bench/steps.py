"""One cell of the benchmark: a parameter set, a family, a number of threads; torch steps, interleaved."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import proxmom.torch
from proxmom.bench.contenders import FAMILIES, Contender, Family
from proxmom.bench.devices import Device, find_device
from proxmom.bench.metrics.contenders import in_one_line
from proxmom.bench.plan import Plan
from proxmom.bench.rounds import take_turns
from proxmom.bench.sets import SETS, Shapes, count

BYTES = 4  # of a number: all is float32
TRIAD_ROUNDS = 10
Task = Callable[[], Any]


@dataclass(frozen=True)
class Cell:
    """What is measured together."""

    set: str
    family: Family
    threads: int
    device: Device
    rounds: int | None
    compiled: bool

    def __str__(self) -> str:
        return f"{self.set}, {self.family.name}, {self.threads} thread{'s' * (self.threads > 1)}"

    def measure(self) -> dict[str, Any]:
        """Everything raw: the triad's times, and each contender's times and extra memory, or why it has none."""
        return _measure(self)


def cells(plan: Plan) -> list[Cell]:
    """All cells of a plan.

    Raises:
        ValueError: where the device does not exist.
    """
    device = find_device(plan.device)
    threads = plan.threads or (torch.get_num_threads(),)
    return [
        Cell(name, family, n, device, plan.rounds, plan.compiled)
        for n in threads
        for name in plan.chosen
        for family in FAMILIES
    ]


def _measure(cell: Cell) -> dict[str, Any]:
    shapes = SETS[cell.set]()
    contenders = cell.family.contenders(compiled=cell.compiled)
    gc.collect()  # state of the last cell
    with with_threads(cell.threads):
        triad = _triad(cell.device)
        shortage = _shortage(cell, shapes, len(contenders))
        rows = [_row(c, shortage) for c in contenders] if shortage else _race(cell, shapes, contenders)
    return {
        "set": cell.set,
        "family": cell.family.name,
        "title": cell.family.title,
        "fused": cell.family.fused.label,
        "foreach": cell.family.foreach.label,
        "device": cell.device.name,
        "threads": cell.threads,
        "tensors": len(shapes),
        "parameters": count(shapes),
        "bytes": BYTES * count(shapes),
        "triad": triad,
        "contenders": rows,
    }


def _row(contender: Contender, reason: str | None, **figures: Any) -> dict[str, Any]:
    return {"label": contender.label, "accesses": contender.accesses, "reason": reason, **figures}


def _race(cell: Cell, shapes: Shapes, contenders: list[Contender]) -> list[dict[str, Any]]:
    """All contenders step the same parameters with the same gradients: values do not matter, and copies cost memory."""
    if cell.compiled:
        torch.compiler.reset()  # else the last cell's shapes count against the limit of recompilations
    params = parameters(shapes, cell.device.kind)
    rows, ready = [], {}
    for contender in contenders:
        try:
            step, figures = _prepare(contender, params, cell.device)
        except Exception as error:  # whatever is wrong with one contender, the others are measured
            rows.append(_row(contender, in_one_line(error)))
        else:
            ready[contender.label] = partial(cell.device.seconds, step)
            rows.append(_row(contender, None, **figures))
    gc.collect()
    times = take_turns(ready, rounds=cell.rounds)
    return [{**row, "seconds": times[row["label"]]} if row["reason"] is None else row for row in rows]


def _prepare(contender: Contender, params: list[Tensor], device: Device) -> tuple[Task, dict[str, Any]]:
    """The contender's step, warmed up, with what only the first steps can tell."""
    step = _stepper(contender, params)
    before = _probe(params)
    first = device.seconds(step)  # creates state, and compiles
    device.seconds(step)
    if torch.equal(before, _probe(params)):
        raise RuntimeError("two steps did not move the parameters.")
    return step, {"first_seconds": first, "extra_bytes": device.peak(step)}


def _stepper(contender: Contender, params: list[Tensor]) -> Task:
    module = proxmom.torch if hasattr(proxmom.torch, contender.optimizer) else torch.optim
    optimizer = getattr(module, contender.optimizer)(params, **contender.common, **contender.keywords)

    def step() -> None:
        optimizer.step()

    return torch.compile(step) if contender.compiled else step


def parameters(shapes: Shapes, device: str) -> list[Tensor]:
    """Parameters of a usual size, with gradients large enough that their squares are far from denormal numbers."""
    random = torch.Generator(device).manual_seed(0)
    params = [torch.randn(shape, generator=random, device=device).mul_(0.02).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=random, device=device).mul_(0.01)
    return params


def _probe(params: list[Tensor]) -> Tensor:
    return params[0].detach().view(-1)[:8].clone()


def _shortage(cell: Cell, shapes: Shapes, contenders: int) -> str | None:
    """Why the cell does not fit in memory, if so: parameters, gradients, everybody's state, and one's temporaries."""
    need, free = BYTES * count(shapes) * (2 + contenders * cell.family.states + 2), cell.device.free()
    if free is None or need <= free:
        return None
    return f"needs {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free."


def _triad(device: Device) -> dict[str, Any]:
    """Times of a = b + s c, arrays far larger than any cache: what memory can do.

    Bytes are counted as in STREAM, two reads and a write. Where a write first fetches its cache line the memory moves a
    third more; a step writes only what it has read, and may therefore reach more than the triad's rate.
    """
    a, b, c = (torch.ones(device.triad, device=device.kind) for _ in range(3))
    task = partial(torch.add, b, c, alpha=3.0, out=a)
    device.seconds(task)
    return {"bytes": 3 * BYTES * device.triad, "seconds": [device.seconds(task) for _ in range(TRIAD_ROUNDS)]}


@contextmanager
def with_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
