"""Running means over the steps of our optimizers, kept on the device: nobody waits for a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxmom.rules import Facts
from proxmom.study.methods.settings import has_floor
from proxmom.torch import ProxOptimizer

NEARLY = 1 - 1e-6  # of the largest weight counts as the largest


class Means:
    """Of the weight on memory, of the share of steps at its cap, of the share of lr that was moved, per unit.

    Nothing for other optimizers.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer if isinstance(optimizer, ProxOptimizer) else None
        self._count = 0
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        if self._optimizer is not None:
            rule = self._optimizer.rule
            self._cap, self._adaptive = Facts.of(rule).beta_max, has_floor(rule)

    def add(self) -> None:
        """The last step, if one was taken."""
        last = {} if self._optimizer is None else self._optimizer.diagnostics()
        beta, weights = last.get("beta"), last.get("weights")
        if beta is None or weights is None:
            return
        capped = (beta >= NEARLY * self._cap) & (beta > 0)
        moved = 1 - weights[..., -1] if self._adaptive else torch.ones_like(beta)
        self._sums += torch.stack([beta.double().mean(), capped.double().mean(), moved.double().mean()])
        self._count += 1

    def last_betas(self) -> list[float] | None:
        """The weight on memory of each unit in the last step; waits for the device."""
        beta: Tensor | None = None if self._optimizer is None else self._optimizer.diagnostics()["beta"]
        return None if beta is None else [float(value) for value in beta.tolist()]

    def fields(self, lr: float) -> dict[str, float]:
        """Those of an `Ending`; lr: the base learning rate."""
        if not self._count:
            return {}
        beta, capped, moved = (self._sums / self._count).tolist()
        return {"mean_beta": beta, "mean_step": moved * lr, "capped": capped}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["sums"].shape != self._sums.shape:
            raise ValueError(f"sums must have shape {tuple(self._sums.shape)}, got {tuple(state['sums'].shape)}.")
        self._count = int(state["count"])
        self._sums.copy_(state["sums"])
