"""Factories for other people's optimizers, as their documentation asks to use them; see `docs/conformance.md`.

proxmom conformance docs/conformance/field.py:ScheduleFreeSGD ... with schedulefree, momo-opt and pytorch_optimizer
installed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import momo
import pytorch_optimizer
import schedulefree


class ScheduleFreeSGD(schedulefree.SGDScheduleFree):
    """In train mode, which its documentation asks for before the first step."""

    def __init__(self, params: Any, lr: float = 0.1, **settings: Any) -> None:
        super().__init__(params, lr, **settings)
        self.train()


class ScheduleFreeAdamW(schedulefree.AdamWScheduleFree):
    """In train mode."""

    def __init__(self, params: Any, lr: float = 0.0025, **settings: Any) -> None:
        super().__init__(params, lr, **settings)
        self.train()


Momo, MomoAdam = momo.Momo, momo.MomoAdam
Lion = partial(pytorch_optimizer.Lion, lr=0.01)  # its default is for large networks: too short for the smoke test
AdaBelief, Adai = pytorch_optimizer.AdaBelief, pytorch_optimizer.Adai
Prodigy = pytorch_optimizer.Prodigy
