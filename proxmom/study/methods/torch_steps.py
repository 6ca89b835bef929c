"""A torch optimizer on a function of NumPy arrays: the same counting as of every other method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxmom.lookup import find_factory
from proxmom.study.methods.settings import Values, anchored, with_betas, with_optimum
from proxmom.study.problems.problem import Problem

Objective = Callable[[Any], tuple[float, Any]]


def run_torch(settings: Values, problem: Problem, point: Values, oracle: Objective) -> str:
    """Steps of the optimizer that settings["torch"] names by import path, on one float64 parameter, from x0.

    Each step gets a closure that leaves the gradient and returns the loss: one evaluation, or as many as the optimizer
    asks for. Only the oracle ends it; lr is in units of 1/L.

    Args:
        settings, point: as for `run_method`.
        problem: what is minimised.
        oracle: x -> (f, gradient), both shaped (n,) as x is.

    Raises:
        ValueError: for what cannot be found, arguments that it does not take, what makes no optimizer, and an optimizer
            that does not call its closure.
    """
    import torch

    x = torch.nn.Parameter(torch.tensor(problem.x0, dtype=torch.float64))
    optimizer = _optimizer(settings, problem, point, [x])
    calls = 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        value, gradient = oracle(x.detach().numpy().copy())
        x.grad = torch.tensor(gradient, dtype=torch.float64)
        return torch.tensor(value, dtype=torch.float64)

    while True:
        before = calls
        optimizer.step(closure)
        if calls == before:
            raise ValueError(f"{settings['torch']!r} must call the closure that its step is given: it did not.")


def _optimizer(settings: Values, problem: Problem, point: Values, parameters: list[Any]) -> Any:
    import torch

    text = settings["torch"]
    if ":" not in text.partition("(")[0]:
        raise ValueError(f"torch must be an import path, torch.optim:Adam or my_file.py:MyOptimizer, got {text!r}.")
    factory: Callable[..., Any] = find_factory("optimizer", anchored(text, settings["folder"]), {})
    fixed = {"lr": settings["lr"]} if settings.get("lr") is not None else {}
    values = with_optimum({**fixed, **settings.get("arguments", {}), **point}, problem.optimum)
    values["lr"] /= problem.smoothness
    try:
        optimizer = factory(parameters, **with_betas(text, factory, values))
    except TypeError as error:
        raise ValueError(f"optimizer {text!r} cannot be made: {error}.") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{text!r} must make a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return optimizer
