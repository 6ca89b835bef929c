"""Mini-batches of the regressions in `problems`: the optimum of the whole objective is certified."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proxmom.study.problems.collection import PROBLEMS, Problem, build_problem
from proxmom.study.problems.data import Vector
from proxmom.study.problems.losses import LinearModel, SmoothedL1, Softmax
from proxmom.study.problems.problem import whole
from proxmom.study.training import ranks
from proxmom.study.training.seeds import Indices, Order

KINDS = ("logistic", "softmax", "least_squares", "huber", "smoothed_hinge", "smoothed_l1", "robust_regression")
BATCH = 32
DATA_SEED = "data_seed"  # what a problem calls seed: in a task that is the training seed

Mean = LinearModel | Softmax | SmoothedL1  # a mean over samples, perhaps plus a function of x alone


def rows(objective: Mean, chosen: Indices) -> Mean:
    """The same objective on some of its samples."""
    if isinstance(objective, SmoothedL1):
        model = rows(objective.model, chosen)
        assert isinstance(model, LinearModel)
        return replace(objective, model=model)
    if isinstance(objective, Softmax):
        return replace(objective, matrix=objective.matrix[chosen], one_hot=objective.one_hot[:, chosen])
    offset = objective.offset if isinstance(objective.offset, float) else objective.offset[chosen]
    return replace(objective, matrix=objective.matrix[chosen], offset=offset)


class ConvexTask:
    """Minimise the objective of a problem by gradients of mini-batches, in float64 on the CPU.

    The training seed changes the order of the samples and nothing else: the start is the problem's. Evaluations of
    either split are the relative gap (f - f*) / (f(x0) - f*) of the whole objective.

    Args:
        problem: its objective is a mean over samples.
        batch: samples in a gradient, drawn without replacement in each epoch, in [1, samples].
        seed: the training seed.

    Raises:
        ValueError: for a batch out of range, or if several processes train together.
    """

    def __init__(self, problem: Problem, *, batch: int, seed: int) -> None:
        if ranks.size() > 1:
            raise ValueError(f"{problem.name} trains in one process, got {ranks.size()}: start it without torchrun.")
        assert isinstance(problem.fun, Mean)
        self._problem, self._objective = problem, problem.fun
        self.name = f"{problem.name}, batch {batch}"
        self.parameter = nn.Parameter(torch.from_numpy(problem.x0.copy()))
        self.parameters: Mapping[str, nn.Parameter] = {"x": self.parameter}
        self.optimum: float | None = problem.optimum
        self._order = Order(samples_of(problem.fun), batch, seed)
        self._range = problem.fun(problem.x0)[0] - problem.optimum

    def gradient(self, step: int) -> Tensor:
        """Sets the gradient of batch number `step`; returns the batch's objective, 0-dim."""
        with np.errstate(all="ignore"):
            value, gradient = rows(self._objective, self._order(step))(self._x())
        self.parameter.grad = torch.from_numpy(np.asarray(gradient))
        return torch.tensor(value, dtype=torch.float64)

    def evaluate(self, split: str) -> dict[str, float]:
        """The relative gap of the whole objective, whatever the split."""
        with np.errstate(all="ignore"):
            return {"loss": float((self._objective(self._x())[0] - self._problem.optimum) / self._range)}

    def _x(self) -> Vector:
        return np.asarray(self.parameter.detach().numpy())


def samples_of(objective: Mean) -> int:
    """Over how many samples the objective is a mean."""
    model = objective.model if isinstance(objective, SmoothedL1) else objective
    return int(model.matrix.shape[0])


def builder(kind: str) -> Callable[..., ConvexTask]:
    """The builder of a kind of `PROBLEMS` as a task: its arguments, and `batch`; its `seed` is called `data_seed`."""

    def build(
        *, batch: int = BATCH, seed: int, data_dir: Path | None = None, device: str = "cpu", **arguments: Any
    ) -> ConvexTask:
        if torch.device(device).type != "cpu":
            raise ValueError(f"{kind} trains on the CPU only, got device {device!r}.")
        return ConvexTask(_problem(kind, data_dir, arguments), batch=whole("batch", batch, low=1), seed=seed)

    theirs = [a for name, a in inspect.signature(PROBLEMS[kind]).parameters.items() if name != "data_dir"]
    ours = [a for a in inspect.signature(build).parameters.values() if a.kind != a.VAR_KEYWORD]
    renamed = [a.replace(name=DATA_SEED) if a.name == "seed" else a for a in theirs]
    build.__name__, build.__doc__ = kind, f"Mini-batches of: {PROBLEMS[kind].__doc__}"
    build.__signature__ = inspect.Signature(renamed + ours)  # type: ignore[attr-defined]
    return build


def _problem(kind: str, data_dir: Path | None, arguments: Mapping[str, Any]) -> Problem:
    own = {"seed" if name == DATA_SEED else name: value for name, value in arguments.items()}
    return build_problem(kind, data_dir, **own)
