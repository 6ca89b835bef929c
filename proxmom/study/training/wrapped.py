"""Optimizers that are not quite torch's: several as one, and such as keep numbers where no checkpoint finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Wrapped(torch.optim.Optimizer):
    """Several optimizers as one, each with parameters of its own; one alone if its state is not all in state_dict().

    Schedules reach the groups of all parts. A step steps each part, with a closure if it was given one. Where a part
    has train() and eval(), so has the whole.

    Args:
        parts: what has `param_groups`, `step`, `state_dict` and `load_state_dict`: a torch optimizer, or what stands in
            for one, as schedulefree's wrapper. At least one; no parameter in two of them.
        keep: attributes of parts that belong to the state: numbers, texts, tensors. A part without one is left alone.

    Raises:
        ValueError: for no part, or a parameter in two of them.

    A study names a function of yours that makes one, `torch = "my_methods.py:muon"`:

        def muon(parameters, lr):
            matrices = [p for p in parameters if p.ndim == 2]
            others = [p for p in parameters if p.ndim != 2]
            return Wrapped([torch.optim.Muon(matrices, lr), torch.optim.AdamW(others, lr)])
    """

    def __init__(self, parts: Sequence[Any], keep: Sequence[str] = ()) -> None:
        self._parts, self._keep = tuple(parts), tuple(keep)
        groups = [group for part in self._parts for group in part.param_groups]
        if not groups:
            raise ValueError("parts must be one optimizer or more, got none.")
        every = [p for group in groups for p in group["params"]]
        if len(set(map(id, every))) < len(every):
            raise ValueError("parts must not share parameters, got one in two of them.")
        super().__init__(every, {})
        self._join()
        if any(hasattr(part, "eval") for part in self._parts):
            self.train, self.eval = (lambda: self._turn("train")), (lambda: self._turn("eval"))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of each part; returns the closure's loss, for which it is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step() if closure is None else part.step(lambda: loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of each part, with what is kept of it."""
        kept = [{name: getattr(part, name) for name in self._keep if hasattr(part, name)} for part in self._parts]
        return {"parts": [part.state_dict() for part in self._parts], "kept": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError for a state of another number of parts."""
        if len(state_dict["parts"]) != len(self._parts):
            raise ValueError(f"state must have {len(self._parts)} parts, got {len(state_dict['parts'])}.")
        for part, state, kept in zip(self._parts, state_dict["parts"], state_dict["kept"], strict=True):
            part.load_state_dict(state)
            for name, value in kept.items():
                setattr(part, name, value)
        self._join()

    def _join(self) -> None:
        """Their groups are ours: what a schedule writes there, they read."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def _turn(self, mode: str) -> None:
        for part in self._parts:
            if hasattr(part, mode):
                getattr(part, mode)()
