"""The optimizer that a method's settings ask for: any rule, one of ours by name, or anybody's by import path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from proxmom.lookup import find_factory
from proxmom.study.methods.settings import Values, anchored, rule_of, step_of, with_betas, with_optimum
from proxmom.torch import AMSGD, AMAdamW, AMMuon, AMSign, MoMo, MoMoAdam, ProxOptimizer, TruncatedMemorySGD

OURS = {kind.__name__: kind for kind in (AMSGD, AMAdamW, AMSign, AMMuon, MoMo, MoMoAdam, TruncatedMemorySGD)}
REHEARSED = 2  # steps


def make_optimizer(
    settings: Values, point: Values, parameters: Iterable[nn.Parameter], optimum: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer of these settings, on these parameters.

    Args:
        settings: with one of the keys "rule" and "torch", as `specs.MethodSpec.settings` gives them.
        point: the searched hyper-parameters, which go before fixed ones.
        parameters: all in one group.
        optimum: stands for an argument "optimum".

    Raises:
        ValueError: for what cannot be found, or arguments that it does not take, or an optimum that is not known.
        TypeError: for arguments of the wrong type.
    """
    given = list(parameters)
    if "rule" in settings:
        return _of_a_rule(settings, point, given, optimum)
    factory: Callable[..., Any] = find_factory("optimizer", anchored(settings["torch"], settings["folder"]), OURS)
    fixed = {"lr": settings["lr"]} if settings.get("lr") is not None else {}
    values = with_optimum({**fixed, **settings.get("arguments", {}), **point}, optimum)
    try:
        optimizer = factory(given, **with_betas(settings["torch"], factory, values))
    except TypeError as error:
        raise ValueError(f"optimizer {settings['torch']!r} cannot be made: {error}.") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{settings['torch']!r} must make a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return optimizer


def rehearse(settings: Values, point: Values) -> None:
    """Two steps on a matrix and a vector: raises whatever the method raises there.

    Raises:
        ValueError: for an unknown rule or optimizer, and settings it does not take.
    """
    parameters = [nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]])), nn.Parameter(torch.tensor([1.0, 0.5]))]
    optimizer = make_optimizer(settings, point, parameters, optimum=0.0)
    set_mode(optimizer, "train")
    for _ in range(REHEARSED):
        loss = sum((p.detach().square().sum() / 2 for p in parameters), torch.zeros(()))
        for p in parameters:
            p.grad = p.detach().clone()
        take_step(optimizer, loss)
    set_mode(optimizer, "eval")


def set_mode(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """ "train" or "eval", for optimizers that train other weights than they have evaluated; nothing for others."""
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        getattr(optimizer, mode)()


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step with gradients that are there already; whoever looks at the loss gets it."""
    step: Callable[..., Any] = optimizer.step  # torch says that a closure returns a float; tensors are customary
    step(lambda: loss)


def _of_a_rule(settings: Values, point: Values, parameters: list[nn.Parameter], optimum: float | None) -> ProxOptimizer:
    lr, rule = {**settings, **point}["lr"], rule_of(settings, point, optimum)
    return ProxOptimizer(parameters, rule, lr, scope=settings.get("scope", "model"), **step_of(settings, point))
