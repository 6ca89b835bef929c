"""An honest optimizer, from which those with a flaw are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxmom.testing import ROWS, Report
from proxmom.testing.row import FIGURE

FIGURES = [name for name, row in ROWS.items() if row.kind == FIGURE]
CUDA = "host synchronisations, cuda"


class Honest(torch.optim.Optimizer):
    """Heavy ball that does all that is asked, in as few lines as that takes."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.1,
        beta: float = 0.8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr must be >= 0, got {lr}.")
        defaults = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in active:
            self.check(p)
        if self.sound([p.grad for _, p in active]):
            for group, p in active:
                self.advance(group, p)
        return loss

    def check(self, p: Any) -> None:
        for word, bad in (("sparse", p.grad.is_sparse), ("complex", p.is_complex())):
            if bad:
                raise RuntimeError(f"{word} gradients are not supported.")

    def sound(self, gradients: list[Tensor]) -> bool:
        return all(bool(g.isfinite().all()) for g in gradients)

    def advance(self, group: dict[str, Any], p: Any) -> None:
        g = self.gradient(group, p)
        if not self.state[p]:
            self.start(p)
        self.state[p]["count"] += 1
        memory = self.memory(p).lerp_(g.to(self.working(p)), 1 - group["beta"])
        self.move(group, p, memory)

    def gradient(self, group: dict[str, Any], p: Any) -> Tensor:
        return (-p.grad if group["maximize"] else p.grad) + group["weight_decay"] * p

    def start(self, p: Any) -> None:
        self.state[p]["count"] = torch.zeros(())
        self.state[p]["memory"] = torch.zeros_like(p, dtype=self.working(p))

    def working(self, p: Any) -> torch.dtype:
        return torch.promote_types(p.dtype, torch.float32)

    def memory(self, p: Any) -> Tensor:
        return self.state[p]["memory"]

    def move(self, group: dict[str, Any], p: Any, memory: Tensor) -> None:
        p.sub_((group["lr"] * memory).to(p.dtype))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for i, state in state_dict["state"].items():
            self.state[params[i]] |= {k: v.clone() for k, v in state.items() if isinstance(v, Tensor)}


def outcome(report: Report, name: str) -> Any:
    return next(result for result in report.rows if result.name == name)


NAN, HALF = "NaN gradient is skipped", "half precision"
