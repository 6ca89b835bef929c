"""The two passes by the C++ kernels: on the CPU, for rules with one memory in the Euclidean or Adam's metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom import kernels
from proxmom.metrics import Adam
from proxmom.torch.layout import Layout, Rows
from proxmom.torch.passes import Motion, Numbers, Settings


def serves(layout: Layout, settings: Settings) -> bool:
    """Whether the kernels can make these passes."""
    return (
        layout.on_host
        and kernels.available()
        and settings.for_kernels
        and all(kernels.supports(_name(part.x.dtype)) for part in layout.parts)
    )


class NativePasses:
    """See `Passes`."""

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._layout, self._settings = layout, settings
        dtypes = dict.fromkeys(part.x.dtype for part in layout.parts)
        self._batches = [
            _Batch(Rows(layout.parts, [i for i, part in enumerate(layout.parts) if part.x.dtype == dtype]))
            for dtype in dtypes
        ]

    def measure(self, numbers: Numbers) -> Tensor:
        given = self._given(numbers)
        for batch in self._batches:
            batch.refresh(self._layout)
        units = len(self._layout.groups)
        sums = [kernels.measure(batch.table, units, with_x=numbers.with_x, **given) for batch in self._batches]
        return torch.as_tensor(sum(sums[1:], start=sums[0]))

    def move(self, numbers: Numbers, motion: Motion) -> None:
        given = self._given(numbers)
        for batch in self._batches:
            kernels.move(
                batch.table,
                motion.direction,
                scale=motion.scale,
                shrink=motion.shrink,
                **given,
            )

    def _given(self, numbers: Numbers) -> dict[str, Any]:
        settings = self._settings
        return {
            "sign": settings.sign,
            "coupled": numbers.coupled,
            "adam": _adam(settings.metric, numbers) if isinstance(settings.metric, Adam) else None,
            "inertia": settings.inertia,
            "threads": torch.get_num_threads(),
        }


def _adam(metric: Adam, numbers: Numbers) -> tuple[Any, Any, float]:
    """a, b with P = a·sqrt(v) + b for each unit, read off the metric's own formula at v = 0 and v = 1."""
    count = numbers.own["count"][:, 0] + 1
    factor = 1.0 if numbers.factor is None else numbers.factor
    zero, one = np.zeros_like(count), np.ones_like(count)
    b, total = (metric.diagonal({"second_moment": v, "count": count}, factor) for v in (zero, one))
    return total - b, b, metric.beta2


class _Batch:
    """Parameters of one dtype, as addresses; memories stay where they are, gradients and x are looked up each step."""

    def __init__(self, rows: Rows) -> None:
        self._rows, parts = rows, rows.parts
        self._kept: list[Tensor] = []
        self._version = -1
        count = len(parts)
        moments = [part.vectors["second_moment"].data_ptr() for part in parts if part.vectors]
        self.table = kernels.Batch(
            dtype=_name(parts[0].x.dtype),
            size=np.array([part.x.numel() for part in parts]),
            unit=np.array([part.unit for part in parts]),
            x=np.zeros(count, dtype=np.uint64),
            gradient=np.zeros(count, dtype=np.uint64),
            memory=np.array([part.memories[0].data_ptr() for part in parts], dtype=np.uint64),
            second_moment=np.array(moments, dtype=np.uint64) if moments else None,
        )

    def refresh(self, layout: Layout) -> None:
        """Look up where gradients lie now, and x if the layout is of another version."""
        if layout.version != self._version:
            self.table.x[:] = [part.x.data_ptr() for part in self._rows.parts]
            self._version = layout.version
        self._kept = self._rows.of(layout.gradients)  # must live until the step is done
        self.table.gradient[:] = list(map(Tensor.data_ptr, self._kept))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
