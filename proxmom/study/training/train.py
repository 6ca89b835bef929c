"""One training run: steps under a schedule, evaluated on the way, and continued after it was killed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from proxmom.study.methods.settings import Values
from proxmom.study.record import faults, store
from proxmom.study.record.run import Ending
from proxmom.study.training import checkpoint, ranks
from proxmom.study.training.clock import Clock
from proxmom.study.training.means import Means
from proxmom.study.training.optimizers import make_optimizer, set_mode, take_step
from proxmom.study.training.schedules import factor
from proxmom.study.training.tasks import Task

Record = Callable[[dict[str, Any]], None]

ROWS = 40  # recorded, evenly spaced
RISE, ALLOWANCE = 10.0, 10.0  # a validation loss above RISE times the initial one, plus ALLOWANCE, has diverged


def train(
    settings: Values,
    task: Task,
    point: Values,
    *,
    steps: int,
    schedule: str,
    warmup: float,
    test: bool,
    directory: Path,
    record: Record,
    device: str = "cpu",
    checkpoint_every: float = 60.0,
    threads: int = 1,
) -> Ending:
    """Trains a task, from its checkpoint if there is one.

    On the CPU a run that was killed ends bit for bit as one that was not. Where several processes train together, the
    first one records and saves.

    Args:
        settings: the method's, with one of the keys "rule" and "torch"; its own "schedule" and "warmup" go first.
        task: fresh, with the training seed in it.
        point: the searched hyper-parameters.
        steps: >= 1, all of them counted from the run's start.
        schedule, warmup: as for `factor`.
        test: whether the test split is evaluated, once, at the end.
        directory: where the checkpoint is; the records in it are cut to those that the checkpoint knows.
        record: called with each row: "step", "seconds" of training, "train" (mean loss of the batches since the last
            row), "validation", and "beta", the weight on memory of each unit in the last step, or None.
        device: of the task.
        checkpoint_every: seconds.
        threads: that torch computes with, >= 1; results may depend on it by rounding.

    Returns:
        how it ended: "finished", "diverged" (loss, parameters or validation loss not finite at a row, or the latter
        above 10 times the initial one plus 10), "failed" if the method raised, or "aborted" if the machine was at fault
        (disk, memory, device). Its `final` has "initial loss", "validation loss", "test loss", and accuracies likewise.
    """
    place = torch.device(device)
    schedule, warmup = settings.get("schedule", schedule), settings.get("warmup", warmup)
    with _reproducible(place, threads):
        course: _TrainingRun | None = None
        status, message = "failed", ""
        try:
            course = _TrainingRun(settings, task, point, place, directory)
            message = course.run(lambda step: factor(schedule, warmup, step, steps), steps, record, checkpoint_every)
            status = "diverged" if message else "finished"
            if test:
                course.score("test")
        except Exception as error:
            status, message = faults.status_of(error), faults.described(error)
        if course is None:
            return Ending(status, 0, math.inf, 0.0, message)
        return course.outcome(status, message)


class _TrainingRun:
    """The state of a run."""

    def __init__(self, settings: Values, task: Task, point: Values, device: torch.device, directory: Path) -> None:
        self._task, self._device, self._directory = task, device, directory
        self._make = partial(make_optimizer, settings, point, task.parameters.values(), task.optimum)
        self._before: _InitialState | None = None  # until a step was taken from the checkpoint
        self._begin()
        if not self._continue():
            self._final["initial loss"] = self._evaluate("validation")["loss"]

    def _begin(self) -> None:
        """A run that has taken no step."""
        self._optimizer = self._make()
        self._lrs = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._means = Means(self._optimizer, self._device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self._device)  # summed since the last row
        self._step = self._rows = self._last_row = 0
        self._best, self._final = math.inf, dict[str, float]()
        self._seconds = 0.0

    def run(self, factor: Callable[[int], float], steps: int, record: Record, checkpoint_every: float) -> str:
        """Takes the steps that are left; returns why the run diverged, or nothing."""
        marks = {math.ceil(steps * row / ROWS) for row in range(1, ROWS + 1)}
        clock, saved = Clock(self._device, self._seconds), time.perf_counter()
        set_mode(self._optimizer, "train")
        while self._step < steps:
            try:
                self._take_step(factor(self._step), clock)
            except Exception as error:
                if self._before is None or faults.status_of(error) == faults.ABORTED:
                    raise
                self._begin_again(f"its first step fails ({faults.described(error)})")
                clock = Clock(self._device)
                continue
            self._before = None
            if self._step in marks:
                with clock.paused() as self._seconds:
                    reason = self._row(record)
                if reason:
                    return reason
            if time.perf_counter() - saved >= checkpoint_every and self._step < steps:
                with clock.paused() as self._seconds:
                    self._save()
                saved = time.perf_counter()
        return ""

    def score(self, split: str) -> None:
        """Adds a split's loss and accuracy to the final ones."""
        self._final |= {f"{split} {name}": value for name, value in self._evaluate(split).items()}

    def outcome(self, status: str, message: str) -> Ending:
        means = self._means.fields(self._lrs[0])
        return Ending(status, self._step, self._best, self._seconds, message, **means, final=self._final)

    def _take_step(self, factor: float, clock: Clock) -> None:
        for group, lr in zip(self._optimizer.param_groups, self._lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * factor)
            else:
                group["lr"] = lr * factor
        loss = self._task.gradient(self._step)
        take_step(self._optimizer, loss)
        self._step += 1
        with clock.aside():
            self._loss += loss
            self._means.add()

    def _row(self, record: Record) -> str:
        """Records where the run is; returns why it diverged, or nothing."""
        train = float(self._loss) / (self._step - self._last_row)
        finite = all(bool(torch.isfinite(p).all()) for p in self._task.parameters.values())
        self.score("validation")
        validation = self._final["validation loss"]
        row = {"step": self._step, "seconds": self._seconds, "train": train, "validation": validation}
        if ranks.first():
            record({**row, "beta": self._means.last_betas()})
        self._loss.zero_()
        self._rows, self._last_row = self._rows + 1, self._step
        self._best = min(self._best, validation) if math.isfinite(validation) else self._best
        return self._why_diverged(train, finite, validation)

    def _why_diverged(self, train: float, finite: bool, validation: float) -> str:
        most = RISE * self._final["initial loss"] + ALLOWANCE
        if not math.isfinite(train):
            return f"a batch loss is not finite, by step {self._step}"
        if not finite:
            return f"a parameter is not finite at step {self._step}"
        return "" if validation <= most else f"the validation loss is {validation:.3g} at step {self._step}"

    def _evaluate(self, split: str) -> dict[str, float]:
        set_mode(self._optimizer, "eval")
        try:
            return self._task.evaluate(split)
        finally:
            set_mode(self._optimizer, "train")

    def _save(self) -> None:
        if not ranks.first():
            return
        parameters = {name: p.detach() for name, p in self._task.parameters.items()}
        counts = {"step": self._step, "rows": self._rows, "last_row": self._last_row, "seconds": self._seconds}
        found = {"loss": self._loss, "best": self._best, "final": self._final, "means": self._means.state_dict()}
        state = {"parameters": parameters, "optimizer": self._optimizer.state_dict(), "random": _random(self._device)}
        checkpoint.save(self._directory, {**counts, **found, **state})

    def _continue(self) -> bool:
        """Continues from the checkpoint; False if there is none that fits, or its records are gone."""
        state = ranks.from_first(self._known_state)
        if state is None:
            return False
        parameters = {name: p.detach().clone() for name, p in self._task.parameters.items()}
        self._before = _InitialState(parameters, _random(self._device))
        try:
            self._restore(state)
        except Exception as error:
            if faults.status_of(error) == faults.ABORTED:
                raise
            self._return_to_the_beginning(f"it does not fit this run ({faults.described(error)})")
            return False
        return True

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Everything as the checkpoint has it; raises, halfway perhaps, if that is not what this run would save."""
        _refuse_other_tensors(state["parameters"], self._task.parameters)
        with torch.no_grad():
            for name, parameter in self._task.parameters.items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._means.load_state_dict(state["means"])
        self._loss.copy_(state["loss"])
        self._step, self._rows, self._last_row = (int(state[key]) for key in ("step", "rows", "last_row"))
        self._seconds, self._best = float(state["seconds"]), float(state["best"])
        self._final = {str(name): float(value) for name, value in state["final"].items()}
        if "initial loss" not in self._final or not 0 <= self._last_row <= self._step:
            raise ValueError(f"its counts are those of no run: row at step {self._last_row} of {self._step}")
        _set_random(state["random"], self._device)

    def _begin_again(self, reason: str) -> None:
        """Starts afresh, since the run cannot continue from its checkpoint."""
        self._return_to_the_beginning(reason)
        self._final["initial loss"] = self._evaluate("validation")["loss"]

    def _return_to_the_beginning(self, reason: str) -> None:
        assert self._before is not None
        if ranks.first():
            checkpoint.refuse(self._directory, reason)
            store.cut_records(self._directory, 0)
        with torch.no_grad():
            for name, parameter in self._task.parameters.items():
                parameter.copy_(self._before.parameters[name])
                parameter.grad = None
        _set_random(self._before.random, self._device)
        self._before = None
        self._begin()

    def _known_state(self) -> Mapping[str, Any] | None:
        state = checkpoint.load(self._directory)
        rows = 0 if state is None else state.get("rows")
        if type(rows) is not int or rows < 0:
            checkpoint.refuse(self._directory, f"its number of rows must be a whole number >= 0, got {rows!r}")
            state, rows = None, 0
        whole = store.cut_records(self._directory, rows)
        if state is not None and not whole:
            checkpoint.refuse(self._directory, "its records are gone")
        return state if whole else None


@dataclass(frozen=True)
class _InitialState:
    """What a run starts with, so that it can still start afresh."""

    parameters: Mapping[str, Tensor]
    random: Mapping[str, Tensor]


def _refuse_other_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """ValueError unless the names are the same, and shapes and types are: `copy_` alone would broadcast and cast."""
    if list(found) != list(wanted):
        raise ValueError(f"its parameters must be {', '.join(wanted)}, got {', '.join(found)}")
    for name, tensor in wanted.items():
        kind, theirs = (tuple(tensor.shape), tensor.dtype), (tuple(found[name].shape), found[name].dtype)
        if kind != theirs:
            raise ValueError(f"{name} must have shape and type {kind}, got {theirs}")


def _random(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, for optimizers that draw numbers."""
    return {
        "cpu": torch.get_rng_state(),
        **({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}),
    }


def _set_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    for kind, numbers in states.items():
        torch.cuda.set_rng_state(numbers, device) if kind == "cuda" else torch.set_rng_state(numbers)


@contextlib.contextmanager
def _reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Inside: this number of threads, torch's generators seeded, and on the CPU deterministic algorithms."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    on_cpu = device.type == "cpu"
    with threadpool_limits(threads), torch.random.fork_rng(devices=[] if on_cpu else [device]):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(on_cpu or strict)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(before)
