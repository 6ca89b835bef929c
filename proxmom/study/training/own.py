"""A training task of a user's own, by import path: a network, the loss of its batch number n, and its evaluation.

The file or module is imported, and so runs as code, in every process that trains.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proxmom.lookup import find_factory
from proxmom.study.problems.own import default_name, with_path
from proxmom.study.training import ranks
from proxmom.study.training.seeds import initial_weights

SPLITS = ("validation", "test")
CONTRACT = {
    "model": "a torch.nn.Module",
    "loss": "a function of the number of a batch",
    "evaluate": "a function of 'validation' or 'test'",
}


class OwnTask:
    """Minimise the loss of a user's network, in one process.

    Args:
        text: the import path, for messages.
        name: for people, where the object has none.
        made: has `model`, a module; `loss(step)`, differentiable and 0-dim, of batch number `step`; and
            `evaluate(split)`, of "validation" or "test", a number or a mapping with "loss" and perhaps "accuracy".
            The module is in training mode for the former, in evaluation mode and without gradients for the latter.
        device: where the module goes.

    Raises:
        ValueError: for an object that lacks one of them, a module without parameters, or several processes.
    """

    optimum: float | None = None

    def __init__(self, text: str, name: str, made: Any, device: torch.device) -> None:
        if ranks.size() > 1:
            raise ValueError(f"{text} trains in one process, got {ranks.size()}: start it without torchrun.")
        for attribute, what in CONTRACT.items():
            if not hasattr(made, attribute):
                raise _wrong(text, f"must make an object with {attribute}, {what}, got {type(made).__name__} without")
        if not isinstance(made.model, nn.Module):
            raise _wrong(text, f"model must be a torch.nn.Module, got {type(made.model).__name__}")
        self.name = str(getattr(made, "name", "") or name)
        self.module: nn.Module = made.model.to(device)
        trained = {key: p for key, p in self.module.named_parameters() if p.requires_grad}
        if not trained:
            raise _wrong(text, "model must have parameters that require gradients, got none")
        self.parameters: Mapping[str, nn.Parameter] = trained
        self._text, self._made = text, made

    def gradient(self, step: int) -> Tensor:
        """Sets the gradients of batch number `step`, none where the loss does not reach; returns it, detached."""
        self.module.train()
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self._made.loss(step)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) and loss.dim() else type(loss).__name__
            raise _wrong(self._text, f"loss({step}) must be a 0-dim tensor that has a gradient, got {got} without one")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """ "loss" and, where it is given, "accuracy" of a split."""
        self.module.eval()
        found = self._made.evaluate(split)
        values = found if isinstance(found, Mapping) else {"loss": found}
        if "loss" not in values or not {"loss", "accuracy"} >= set(values):
            raise _wrong(self._text, f"evaluate({split!r}) must give loss, and perhaps accuracy, got {list(values)}")
        return {key: float(value) for key, value in values.items()}


def build_own_task(text: str, folder: Path, *, seed: int, device: str = "cpu", arguments: Mapping[str, Any]) -> OwnTask:
    """The task that an import path makes, its initial weights drawn from torch's generator with this seed.

    Args:
        text: "file.py:name" or "package.module:name", a function or a class that takes the argument seed, and device
            if it wants.
        folder: where a relative file is looked for, and a file that the argument `data` names.
        seed: the training seed, >= 0.
        device: "cpu" or "cuda".
        arguments: of the function or class.

    Raises:
        ValueError: for what cannot be made, or is no task; see `OwnTask`.
    """
    factory = find_factory("problem", text, {}, folders=[folder])
    given = {**with_path(arguments, folder), "seed": seed}
    if "device" in inspect.signature(factory).parameters:
        given["device"] = device
    try:
        with initial_weights(seed):
            made = factory(**given)
    except Exception as error:
        raise ValueError(f"problem {text!r} cannot be made: {type(error).__name__}: {error}.") from error
    return OwnTask(text, default_name(text, arguments), made, torch.device(device))


def rehearse_own(task: OwnTask, text: str) -> None:
    """Takes a gradient and both evaluations; ValueError for what a run could not do, or could not go on from."""
    before = [buffer.clone() for buffer in task.module.buffers()]
    try:
        task.gradient(0)
        for split in SPLITS:
            task.evaluate(split)
    except ValueError:
        raise
    except Exception as error:
        raise _wrong(text, f"its first batch or evaluation raised {type(error).__name__}: {error}") from error
    if not all(map(torch.equal, before, task.module.buffers())):
        raise _wrong(
            text,
            "model must not change its buffers, as BatchNorm does: a run that was stopped goes on from parameters "
            "alone. Take GroupNorm or LayerNorm",
        )


def _wrong(text: str, what: str) -> ValueError:
    return ValueError(f"problem {text!r}: {what}.")
