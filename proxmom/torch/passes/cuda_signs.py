"""The passes of a hard step in the maximum norm by Triton, on CUDA: its directions are signs, element by element.

Nobody may wait for an answer, so the solver asks about many slopes at once, in one pass over gradients and memory; see
`proxmom.step.sections`. Nothing is kept but sums of chunks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from proxmom.metrics import LInf
from proxmom.metrics.norms import FAINT
from proxmom.planes import Array
from proxmom.torch.layout import Layout, working
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.cuda import ROWS, SUMS, TYPES, _chunks, _constants, _ends, _on, _Pointers, _works

MEASURED = 4
TILE = {torch.float32: 4096, torch.float64: 2048}  # slopes times elements at once: their sums must fit in registers
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # see `triton_signs`


def serves(layout: Layout, settings: Settings) -> bool:
    """Whether Triton can make these passes."""
    return (
        layout.device.type == "cuda"
        and torch.version.hip is None
        and type(settings.metric) is LInf
        and settings.metric.form == "hard"
        and not settings.memories
        and not settings.stochastic_rounding
        and all(part.dtype in TYPES for part in layout.parts)
        and _works(layout.device)
    )


def _kernels() -> Any:
    return import_module("proxmom.torch.passes.triton_signs")


class TritonSignPasses:
    """See `Passes`; what `measure` gives is as for `NormPasses`."""

    name = "Triton kernels"
    by_kernels = False

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._sign, self._kernels = settings.sign, _kernels()
        self.scalars: dict[str, Array] | None = {}
        parts, units = layout.parts, len(layout.scalar_rows)
        chunks = _chunks(parts)
        self._batches = [
            _Unfused(parts, [chunk for chunk in chunks if parts[chunk.part].dtype == dtype], layout.device)
            for dtype in dict.fromkeys(part.dtype for part in parts if part.count)
        ]
        self._rows = len(chunks)
        self._ends = _ends([parts[chunk.part].unit for chunk in chunks], units).to(layout.device)
        self.release()

    def release(self) -> None:
        """No tensor is held: addresses are looked up at each step."""
        self._given: dict[str, Any] = {}

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        coupled: Any = numbers.coupled
        self._given = {"coupled": None if coupled is None else coupled.contiguous(), "SIGN": self._sign}
        for batch in self._batches:
            batch.refresh(layout)
        return self._summed(layout, self._kernels.recall, MEASURED, INVERSE=1 / FAINT, WITH_X=numbers.with_x)

    def pull(self, layout: Layout, slopes: Array) -> Tensor:
        """Σ <sign(s), u> over the elements of each unit, s its slope, (U, 2) -> (U, 2)."""
        return self.pulls(layout, slopes[:, None, :])[:, 0]

    def pulls(self, layout: Layout, slopes: Array) -> Tensor:
        """`pull` of several slopes at once, (U, M, 2) -> (U, M, 2); M is a power of two."""
        count = slopes.shape[1]
        found = self._summed(layout, self._kernels.pull, 2 * count, slopes=slopes.contiguous(), COUNT=count)
        return found.reshape(slopes.shape)

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        parts = torch.cat([torch.cat([slope, share[:, None]], dim=1) for slope, share in motion.atoms], dim=1)
        target: dict[str, Any] = {"direction": motion.direction, "scale": motion.scale, "shrink": motion.shrink}
        target = {name: value.contiguous() for name, value in {**target, "parts": parts}.items()}
        with _on(layout.device):
            for batch in self._batches:
                batch.launch(
                    self._kernels.move,
                    **self._given,
                    **target,
                    sound=motion.sound,
                    FAINT=FAINT,
                    PARTS=len(motion.atoms),
                )

    def _summed(self, layout: Layout, kernel: Any, columns: int, **given: Any) -> Tensor:
        """What a kernel finds in each chunk, added up over those of each unit, (U, columns)."""
        table = layout.scalar_rows
        sums, total = (table.new_empty((rows, columns)) for rows in (self._rows, len(table)))
        with _on(table.device):
            for batch in self._batches:
                batch.launch(kernel, **self._given, **given, sums=sums)
            grid = (len(table), -(-columns // SUMS))
            self._kernels.add_up[grid](sums, self._ends, total, ROWS=ROWS, WIDTH=columns, **OPTIONS)
        return total


class _Unfused(_Pointers):
    """Chunks for kernels in which products are not fused into sums."""

    def launch(self, kernel: Any, **given: Any) -> None:
        """One program for each chunk."""
        constants = _constants_for(self.dtype, given)
        kernel[(len(self._tensors),)](self._tensors, self._addresses, **constants, **OPTIONS)


def _constants_for(dtype: torch.dtype, given: dict[str, Any]) -> dict[str, Any]:
    """What is given to a kernel, and the types and the number of elements at once that it is compiled for."""
    types = _constants(dtype)
    block = types.pop("BLOCK")
    piece = {"PIECE": min(TILE[working(dtype)] // given["COUNT"], block)} if "COUNT" in given else {"BLOCK": block}
    return {**given, **types, **piece}
