"""The two passes by the C++ kernels: on the CPU, in the Euclidean or Adam's metric, with up to 14 further memories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxmom import kernels
from proxmom.kernels.batch import AVERAGE, COMBINATION
from proxmom.memories import Average, Previous
from proxmom.torch.layout import Layout, Part
from proxmom.torch.memory import as_tensor
from proxmom.torch.passes import Motion, Numbers, Settings


def serves(layout: Layout, settings: Settings) -> bool:
    """Whether the kernels can make these passes."""
    return (
        layout.on_host
        and kernels.available()
        and settings.for_kernels
        and all(kernels.supports(dtype_name(part.dtype)) for part in layout.parts)
    )


class NativePasses:
    """See `Passes`."""

    name = "C++ kernels"
    by_kernels = True
    scalars = None

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._settings = settings
        self._batches = batches_of(layout)
        self._turns = _turns(settings) if settings.memories else None

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        self._given = self._numbers(numbers)
        units, total = len(layout.groups), None
        for batch in self._batches:
            batch.refresh(layout)
            sums = kernels.measure(batch.table, units, with_x=numbers.with_x, **self._given)
            total = sums if total is None else total + sums
        return as_tensor(total)

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        to = {"scale": motion.scale, "shrink": motion.shrink, "turns": self._turns}
        if self._turns is not None and motion.combinations:
            to["turns"] = replace(self._turns, combinations=self._combined(motion))
        for batch in self._batches:
            kernels.move(batch.table, motion.direction, **to, **self._given)

    def _combined(self, motion: Motion) -> Any:
        """What combinations become in this step, (U, K, B)."""
        names, units = list(self._settings.memories), len(motion.direction)
        table = np.zeros((units, len(names), len(names) + 2))
        for name, parts in motion.combinations.items():
            table[:, names.index(name)] = parts
        return table

    def release(self) -> None:
        """No tensor is held: addresses are looked up at each step."""

    def _numbers(self, numbers: Numbers) -> dict[str, Any]:
        """What both kernels take besides addresses; the step that was measured is the one to be moved."""
        settings = self._settings
        return {
            "sign": settings.sign,
            "coupled": numbers.coupled,
            "adam": self._adam(numbers.diagonal),
            "inertia": settings.inertia,
            "threads": torch.get_num_threads(),
        }

    def _adam(self, diagonal: tuple[Any, Any] | None) -> tuple[Any, Any, float] | None:
        """a, b with P = a·sqrt(v) + b for each unit, from P at v = 0 and at v = 1."""
        if diagonal is None:
            return None
        zero, one = diagonal
        return one - zero, zero, self._settings.metric.beta2


def _turns(settings: Settings) -> kernels.Turns:
    """What the further memories become in every step; combinations are still to come."""
    places = {name: place for place, name in enumerate(("gradient", "memory", *settings.memories))}
    becomes, coefficient = [], []
    for kind in settings.memories.values():
        told = AVERAGE if isinstance(kind, Average) else COMBINATION
        becomes.append(places[kind.of] if isinstance(kind, Previous) else told)
        coefficient.append(kind.coefficient if isinstance(kind, Average) else 0.0)
    return kernels.Turns(np.array(becomes), np.array(coefficient))


class Addresses:
    """Parameters of one dtype, as addresses; the layout has looked at all of them in this step."""

    def __init__(self, parts: Sequence[Part], places: list[int]) -> None:
        self._places = places if len(places) < len(parts) else slice(None)
        self._version = -1  # of the layout, when x was looked up
        parts = [parts[i] for i in places]
        moments = [part.vectors["second_moment"].data_ptr() for part in parts if part.vectors]
        self.table = kernels.Batch(
            dtype=dtype_name(parts[0].dtype),
            size=np.array([part.count for part in parts]),
            unit=np.array([part.unit for part in parts]),
            x=np.zeros(len(parts), dtype=np.uint64),
            gradient=np.zeros(len(parts), dtype=np.uint64),
            memory=np.array([part.memories[0].data_ptr() for part in parts], dtype=np.uint64),
            second_moment=np.array(moments, dtype=np.uint64) if moments else None,
            further=_further(parts),
        )

    def refresh(self, layout: Layout) -> None:
        """Take over where gradients lie now, and x if it has moved."""
        if layout.version != self._version:
            self.table.x[:] = layout.x_at[self._places]
            self._version = layout.version
        self.table.gradient[:] = layout.gradient_at[self._places]


def _further(parts: Sequence[Part]) -> NDArray[Any] | None:
    """Addresses of further memories, (K, T), or None for none."""
    rows = zip(*([memory.data_ptr() for memory in part.memories[1:]] for part in parts), strict=True)
    addresses = np.array(list(rows), dtype=np.uint64)
    return addresses if len(addresses) else None


def batches_of(layout: Layout) -> list[Addresses]:
    """The parameters of a layout, those of one dtype together."""
    dtypes = [part.dtype for part in layout.parts]
    alike = [[i for i, kind in enumerate(dtypes) if kind == dtype] for dtype in dict.fromkeys(dtypes)]
    return [Addresses(layout.parts, places) for places in alike]


def dtype_name(dtype: torch.dtype) -> str:
    """As `kernels` calls it."""
    return str(dtype).removeprefix("torch.")
