"""Optimizers of the field that take more than a name: a wrapper, two groups, state that is kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from proxmom.study.training import Wrapped
from proxmom.torch import AMSGD, AMAdamW

OURS = {"AMSGD": AMSGD, "AMAdamW": AMAdamW}
ON_ITSELF = ("_number_steps", "loss_avg", "lb")  # where MoMo's own code has its state


def schedule_free(
    parameters: Sequence[nn.Parameter], lr: float, base: str = "AMAdamW", momentum: float = 0.9, **arguments: Any
) -> Wrapped:
    """schedulefree's wrapper around one of ours; its weight decay, if any, is ours, and acts where ours steps.

    Args:
        parameters: of a network.
        lr: > 0, of ours.
        base: "AMSGD" or "AMAdamW".
        momentum: of the wrapper, the weight of its average in the point of the gradient, in (0, 1).
        arguments: of ours.
    """
    from schedulefree import ScheduleFreeWrapper

    wrapper = ScheduleFreeWrapper(OURS[base](parameters, lr, **arguments), momentum=momentum)
    return Wrapped([wrapper], keep=("train_mode",))


def muon(
    parameters: Sequence[nn.Parameter],
    lr: float,
    embeddings: int = 0,
    head: int = 0,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.99),
) -> Wrapped:
    """torch's Muon on hidden matrices and filters, torch's AdamW on all else, with the lr and decay of AdamW for both.

    Args:
        parameters: of a network, embeddings first, head last.
        lr: > 0; Muon's is scaled to the root mean square of AdamW's steps, as its authors propose.
        embeddings: how many of the first parameters are embeddings.
        head: how many of the last ones are the head.
        weight_decay: >= 0, decoupled.
        betas: of AdamW.
    """
    hidden = [p for p in parameters[embeddings : len(parameters) - head] if p.ndim >= 2]
    others = [p for p in parameters if all(p is not matrix for matrix in hidden)]
    parts: list[torch.optim.Optimizer] = []
    if hidden:
        parts.append(_Filters(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if others:
        parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas))
    return Wrapped(parts)


def momo(parameters: Sequence[nn.Parameter], lr: float, adam: bool = False, **arguments: Any) -> Wrapped:
    """MoMo, or MoMo-Adam, by its authors: package momo-opt."""
    from momo import Momo, MomoAdam

    return Wrapped([(MomoAdam if adam else Momo)(parameters, lr=lr, **arguments)], keep=ON_ITSELF)


class _Filters(torch.optim.Muon):
    """Muon of torch, which refuses all but matrices, on filters too: each output's is a row."""

    def __init__(self, parameters: Sequence[nn.Parameter], **settings: Any) -> None:
        self._whole = list(parameters)
        self._rows = [nn.Parameter(p.detach().flatten(1)) for p in self._whole]  # the same memory
        super().__init__(self._rows, **settings)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for parameter, rows in zip(self._whole, self._rows, strict=True):
            rows.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        return super().step(closure)
