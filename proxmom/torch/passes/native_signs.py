"""The passes of a hard step in the maximum norm by the C++ kernels: its directions are signs, element by element.

`measure` and `move` read every element, and so does `focus`, once: between two slopes few elements change sign. It sets
these aside, and the solver, which asks about slopes between the two from then on, is answered from the few. Which two,
it chooses from a `glance` at a sample. A slope that lies elsewhere costs a pass of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom import kernels
from proxmom.kernels import signs
from proxmom.metrics import LInf
from proxmom.metrics.norms import FAINT
from proxmom.planes import Array
from proxmom.torch.layout import Layout
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.native import batches_of, dtype_name

WHOLE = 1 << 14  # elements of a unit that a glance looks at all of
PARTS = 1 << 14  # of the ways of all units together
FEWEST, MOST = 64, 1024  # parts of one way


def serves(layout: Layout, settings: Settings) -> bool:
    """Whether the kernels can make these passes."""
    return (
        layout.on_host
        and kernels.available()
        and knows(settings)
        and all(kernels.supports(dtype_name(part.dtype)) for part in layout.parts)
    )


def knows(settings: Settings) -> bool:
    """Whether they are written for this: hard steps in the maximum norm, plain rounding, no further memory."""
    metric = settings.metric
    plain = not settings.memories and not settings.stochastic_rounding
    return plain and type(metric) is LInf and metric.form == "hard"


class NativeSignPasses:
    """See `Passes`; what `measure` gives is as for `NormPasses`."""

    name = "C++ kernels"
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._sign = settings.sign
        self._batches = batches_of(layout)
        self._count = np.zeros(len(layout.groups))
        for part in layout.parts:
            self._count[part.unit] += part.count
        # The sample costs as it is long, and the elements near the best slope as its error, which is 1/√: both alike.
        # Odd, so that it meets every column of a matrix.
        self._stride = np.where(self._count > WHOLE, np.cbrt(self._count) / 4, 1).astype(np.int64) | 1
        self._parts = int(np.clip(PARTS // max(len(layout.groups), 1), FEWEST, MOST))
        self.scalars: Mapping[str, Array] | None = {}
        self._windows: list[signs.Window | None] = []
        self._between: Any = None  # slopes (U, 2, 2)

    def release(self) -> None:
        """No tensor is held: addresses are looked up at each step."""
        for window in self._windows:
            if window is not None:
                window.close()
        self._windows, self._between = [], None

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        self._given = signs.Given(
            len(layout.groups), FAINT, self._sign, numbers.coupled, threads=torch.get_num_threads()
        )
        for batch in self._batches:
            batch.refresh(layout)
        sums = self._total(lambda batch: signs.recall(batch, self._given, with_x=numbers.with_x), (6,))
        self._of_gradient = sums[:, 4:]
        return as_tensor(np.ascontiguousarray(sums[:, :4]))

    def pull(self, layout: Layout, slopes: Array) -> Tensor:
        """Σ <sign(s), u> over the elements of each unit, s its slope, (U, 2) -> (U, 2)."""
        inside = self._inside(slopes)
        total = np.zeros(np.shape(slopes))
        if inside.any():
            threads = self._given.threads
            total += sum(window.pull(slopes, threads) for window in self._windows if window is not None)
            total[~inside] = 0.0
        if not inside.all():
            total += self._total(lambda batch: signs.pull(batch, self._given, slopes, ~inside), (2,))
        return as_tensor(total)

    def glance(self, layout: Layout, slopes: Array) -> Tensor:
        """On the way between two slopes, (U, 2, 2): see `Glance`, (U, 2 + 2·E + 2)."""
        units = len(slopes)
        first = slopes[:, 0]
        along = (first[:, 1] == 0) & (first[:, 0] > 0)
        base = self._of_gradient if along.all() else self.pull(layout, first).numpy()
        table, seen = np.zeros((units, self._parts, 2)), np.zeros((units, 3))
        for batch in self._batches:
            found = signs.glance(batch.table, self._given, slopes, stride=self._stride, bins=self._parts)
            table, seen = table + found[0], seen + found[1]
        scale = self._count / np.maximum(seen[:, 0], 1.0)
        flat = (table * scale[:, None, None]).reshape(units, -1)
        unseen = np.where(scale > 1, scale**2 * seen[:, 2], 0.0)
        return as_tensor(np.concatenate([base, flat, (scale * seen[:, 1])[:, None], unseen[:, None]], axis=1))

    def focus(self, layout: Layout, slopes: Array) -> None:
        """From now on `pull` is cheap between two slopes of each unit, (U, 2, 2)."""
        windows = [signs.focus(batch.table, self._given, slopes) for batch in self._batches]
        if all(window is not None for window in windows):
            self._windows, self._between = windows, slopes

    def _inside(self, slopes: Array) -> Any:
        """Which units' slopes lie in their window, (U,)."""
        if self._between is None:
            return np.zeros(len(slopes), dtype=bool)
        low, high = self._between[:, 0], self._between[:, 1]
        slack = 16 * np.finfo(np.float64).eps * _size(slopes)
        turn, after, before = np.sign(_cross(low, high)), _cross(low, slopes), _cross(slopes, high)
        near = (turn * after >= -slack * _size(low)) & (turn * before >= -slack * _size(high))
        near &= (turn != 0) | (abs(after) <= slack * _size(low))
        inside: Any = near & (np.sum((low + high) * slopes, axis=1) > 0)
        return inside

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        parts = np.zeros((len(layout.groups), len(motion.atoms), 3))
        for place, (slopes, shares) in enumerate(motion.atoms):
            parts[:, place, :2], parts[:, place, 2] = slopes, shares
        lengths = {"scale": motion.scale, "shrink": motion.shrink, "backwards": not self._windows}
        for batch in self._batches:
            signs.mix(batch.table, self._given, motion.direction, parts=parts, **lengths)

    def _total(self, ask: Any, shape: tuple[int, ...]) -> Any:
        """Over the types of parameters."""
        return sum((ask(batch.table) for batch in self._batches), np.zeros((len(self._count), *shape)))


def _cross(a: Any, b: Any) -> Any:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _size(a: Any) -> Any:
    return np.sqrt(np.sum(a * a, axis=1))
