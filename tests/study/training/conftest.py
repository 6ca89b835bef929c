"""What the tests of training share."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proxmom.study.record.run import METRICS, Ending
from proxmom.study.record.store import RunWriter
from proxmom.study.training import (
    Task,
    build_task,
    train,
)
from proxmom.study.training.convex import KINDS

TINY: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 8, "batch": 16},
    "cnn": {"channels": 4, "blocks": 2, "batch": 8, "shift": 1},
    "language": {"megabytes": 0.05, "layers": 1, "width": 8, "heads": 2, "context": 8, "batch": 4},
    **{kind: {"batch": 8} for kind in KINDS},
}
AMADAMW = {"torch": "AMAdamW", "lr": 0.01}
SGD = {"torch": "torch.optim:SGD", "lr": 0.1}


def tiny(kind: str, seed: int = 0, **arguments: Any) -> Any:
    return build_task(kind, seed=seed, **{**TINY[kind], **arguments})


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as a study fills them in."""
    of_rules = {"arguments": {}, "inertia": 0.0, "weight_decay": 0.0, "decay": "decoupled", "metric": "Euclidean"}
    return {"folder": "", **(of_rules if "rule" in given else {"arguments": {}}), **given}


def run(
    method: Mapping[str, Any], task: Task, directory: Path, *, point: Any = None, steps: int = 20, **options: Any
) -> tuple[Ending, list[dict[str, Any]]]:
    """Trains, with the records in a file as a study writes them."""
    given = {"schedule": "cosine", "warmup": 0.0, "test": False, **options}
    with RunWriter(directory, {}) as writer:
        found = train(
            settings(method), task, point or {}, steps=steps, directory=directory, record=writer.record, **given
        )
    return found, [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


def stop(method: Mapping[str, Any], directory: Path) -> None:
    """Trains the small perceptron, and is interrupted in step 15, with a checkpoint of the step before."""
    with pytest.raises(KeyboardInterrupt):
        run(method, Stops(tiny("mlp")), directory, checkpoint_every=0.0)


def check_that_it_goes_on(method: Mapping[str, Any], folder: Path) -> None:
    """A run that was interrupted ends where one does that was not."""
    stop(method, folder / "a")
    tasks = [tiny("mlp"), tiny("mlp")]
    found, expected = (run(method, task, folder / name)[0] for task, name in zip(tasks, "ab", strict=True))
    assert (found.status, found.final) == ("finished", expected.final)
    assert torch.equal(flat(tasks[0]), flat(tasks[1]))


def flat(task: Task) -> Tensor:
    return torch.cat([p.detach().flatten() for p in task.parameters.values()])


def gradients(task: Task) -> Tensor:
    return torch.cat([p.grad.flatten() for p in task.parameters.values() if p.grad is not None])


class Watched:
    """A task that notes what is asked of it."""

    def __init__(self, task: Any, pause: float = 0.0) -> None:
        self.task, self.splits, self.pause = task, list[str](), pause
        self.name, self.parameters, self.optimum = task.name, task.parameters, task.optimum

    def gradient(self, step: int) -> Tensor:
        loss: Tensor = self.task.gradient(step)
        return loss

    def evaluate(self, split: str) -> dict[str, float]:
        self.splits.append(split)
        time.sleep(self.pause)
        found: dict[str, float] = self.task.evaluate(split)
        return found


class Stops(Watched):
    def gradient(self, step: int) -> Tensor:
        if step == 15:
            raise KeyboardInterrupt
        return super().gradient(step)
