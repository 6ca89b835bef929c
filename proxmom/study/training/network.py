"""A network and its examples as a task: cross-entropy, on one process or on this one's share of each batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from proxmom.study.training import ranks

Pair = tuple[Tensor, Tensor]  # inputs, and a class for each prediction

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


class Examples(Protocol):
    """Training batches, a function of the step, and the fixed other splits."""

    batch: int
    accuracy: bool  # whether evaluations count right predictions, too

    def training(self, step: int) -> Pair: ...
    def split(self, name: str) -> Iterator[Pair]: ...


class NetworkTask:
    """Minimise the mean cross-entropy of a network's predictions.

    Where torch.distributed is initialised, each process takes its share of every batch, and gradients and loss are
    averaged.

    Args:
        name: for people.
        module: predictions (..., classes) of inputs; moved to the device.
        examples: on the device.
        precision: "float32", or "bfloat16" for mixed precision.

    Raises:
        ValueError: for a batch that the processes cannot share evenly, or an unknown precision.
    """

    optimum: float | None = None

    def __init__(
        self, name: str, module: nn.Module, examples: Examples, device: torch.device, precision: str = "float32"
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.name = name
        self.module = module.to(device)
        self.parameters: Mapping[str, nn.Parameter] = dict(self.module.named_parameters())
        self._examples = examples
        self._share = ranks.share(examples.batch)
        self._averaging = ranks.averaging(self.module)
        self._device, self._precision = device, PRECISIONS[precision]

    def gradient(self, step: int) -> Tensor:
        """Sets the gradients of batch number `step`; returns its mean loss, 0-dim, detached."""
        for parameter in self.parameters.values():
            parameter.grad = None
        inputs, classes = self._examples.training(step)
        loss = self._loss(self._averaging, inputs[self._share], classes[self._share])[0]
        loss.backward()  # type: ignore[no-untyped-call]
        return ranks.mean(loss.detach())

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Mean loss and, for images, accuracy on the whole "validation" or "test" split."""
        loss, right, count = 0.0, 0, 0
        for inputs, classes in self._examples.split(split):
            mean, predictions = self._loss(self.module, inputs, classes)
            loss += float(mean) * classes.numel()
            right += int((predictions.argmax(dim=-1) == classes).sum()) if self._examples.accuracy else 0
            count += classes.numel()
        return {"loss": loss / count, **({"accuracy": right / count} if self._examples.accuracy else {})}

    def _loss(self, module: nn.Module, inputs: Tensor, classes: Tensor) -> Pair:
        mixed = self._precision is not None
        with torch.autocast(self._device.type, self._precision) if mixed else contextlib.nullcontext():
            predictions = module(inputs)
            return cross_entropy(predictions.flatten(0, -2), classes.flatten()), predictions
