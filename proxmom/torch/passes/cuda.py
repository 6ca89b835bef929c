"""The two passes by Triton: on CUDA, in the Euclidean or Adam's metric, with up to 14 further memories.

Parameters are cut into chunks, and tables on the device say where each chunk lies, so that one launch serves all
parameters of one dtype. No scalar comes back to the host, and a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxmom.torch.layout import Layout, Part, working
from proxmom.torch.memory import Integers
from proxmom.torch.passes import Motion, Numbers, Settings
from proxmom.torch.passes.cuda_vectors import Several

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SUMS = 8  # that a program adds up
PROGRAMS = 1 << 11  # enough to keep the largest GPU busy
SMALLEST, LARGEST = 1 << 12, 1 << 16  # elements of a chunk
ROWS = 64  # sums that are added at once
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # explicit, because the default differs between versions
BLOCK = {torch.float32: 1024, torch.float64: 512}  # elements at once: the sums of a block must fit in registers
SPARE = 4  # captures for which memory is laid aside: in a capture none should be asked for

# What captured copies read at every replay: it must outlive graphs that nobody here knows of.
_captured: list[Tensor] = []


def serves(layout: Layout, settings: Settings) -> bool:
    """Whether Triton can make these passes."""
    return (
        layout.device.type == "cuda"
        and torch.version.hip is None
        and settings.for_kernels
        and all(part.dtype in TYPES for part in layout.parts)
        and _works(layout.device)
    )


def _kernels() -> Any:
    return import_module("proxmom.torch.passes.triton_kernels")


def _of_several() -> Any:
    return import_module("proxmom.torch.passes.triton_vectors")


@cache
def _works(device: torch.device) -> bool:
    """Whether there is a Triton that can compile for this device: it needs a C compiler, for one."""
    try:
        kernels = _kernels()
    except ImportError:
        return False
    if not kernels.COMPILED:  # the interpreter cannot follow addresses on a device
        return False
    try:
        with _on(device):
            total = torch.ones((1, SUMS), device=device, dtype=torch.float32)
            ends = torch.zeros(2, dtype=torch.int64, device=device)
            kernels.add_up[(1, 1)](total, ends, total, ROWS=ROWS, WIDTH=SUMS, **OPTIONS)
            return not total.any().item()
    except Exception as error:
        warnings.warn(f"Triton does not work on {device}, torch operations do its work: {error}", stacklevel=2)
        return False


class _Chunk(NamedTuple):
    """A part's elements from `start` on; row: where their sums go."""

    part: int
    start: int
    size: int
    row: int


class TritonPasses:
    """See `Passes`."""

    name = "Triton kernels"
    by_kernels = True
    scalars = None

    def __init__(self, layout: Layout, settings: Settings) -> None:
        self._settings, self._kernels = settings, _kernels()
        parts, table = layout.parts, layout.scalar_rows
        chunks = _chunks(parts)
        self._batches = [
            _Pointers(parts, [chunk for chunk in chunks if parts[chunk.part].dtype == dtype], layout.device)
            for dtype in dict.fromkeys(part.dtype for part in parts if part.count)
        ]
        self._rows = len(chunks)
        self._ends = _ends([parts[chunk.part].unit for chunk in chunks], len(table)).to(layout.device)
        self._several = Several(settings.memories, len(table), table) if settings.memories else None
        self._width = SUMS if self._several is None else self._several.count * (self._several.count + 2)
        self._given: tuple[Numbers, dict[str, Any]] | None = None

    def measure(self, layout: Layout, numbers: Numbers) -> Tensor:
        table = layout.scalar_rows
        sums, total = (table.new_empty((rows, self._width)) for rows in (self._rows, len(table)))
        self._given = (numbers, self._scalars(numbers))
        given = {**self._given[1], "sums": sums, "WITH_X": numbers.with_x}
        with _on(table.device):
            for batch in self._batches:
                batch.refresh(layout)
                self._launch(batch, "measure", given)
            grid = (len(table), -(-self._width // SUMS))
            self._kernels.add_up[grid](sums, self._ends, total, ROWS=ROWS, WIDTH=self._width, **OPTIONS)
        return total

    def move(self, layout: Layout, numbers: Numbers, motion: Motion) -> None:
        given = self._given[1] if self._given and self._given[0] is numbers else self._scalars(numbers)
        target = {"direction": motion.direction, "scale": motion.scale, "shrink": motion.shrink}
        target = {name: value.contiguous() for name, value in target.items()}
        if self._several is not None:
            target["turns"] = self._several.turns(motion.combinations)
        with _on(layout.device):
            for batch in self._batches:
                self._launch(batch, "move", {**given, **target, "sound": motion.sound})

    def _launch(self, batch: _Pointers, name: str, given: dict[str, Any]) -> None:
        """One pass over the parameters of a dtype."""
        if self._several is None:
            batch.launch(getattr(self._kernels, name), **given)
        else:
            constants = self._several.constants(batch.dtype, measure=name == "measure")
            batch.launch(getattr(_of_several(), f"{name}_vectors"), vectors=batch.vectors, **given, **constants)

    def release(self) -> None:
        self._given = None

    def _scalars(self, numbers: Numbers) -> dict[str, Any]:
        """What both kernels take besides addresses; numbers that are one for all steps are compiled into them."""
        metric, (at_zero, at_one) = self._settings.metric, numbers.diagonal or (None, None)
        return {
            "coupled": None if numbers.coupled is None else numbers.coupled.contiguous(),
            "at_zero": at_zero,
            "at_one": at_one,
            "SIGN": self._settings.sign,
            "BETA2": getattr(metric, "beta2", None),
            "INERTIA": float(self._settings.inertia),
        }


class _Pointers:
    """Chunks of parameters of one dtype, as tables of addresses for the kernels; see `triton_kernels`.

    Memories stay where they are; where gradients and x lie is looked up each step, and uploaded when it has changed.
    """

    def __init__(self, parts: Sequence[Part], chunks: Sequence[_Chunk], device: torch.device) -> None:
        used = list(dict.fromkeys(chunk.part for chunk in chunks))
        self._used = used
        self._parts = [parts[i] for i in used]
        self._device, self.dtype = device, self._parts[0].dtype
        place = {part: at for at, part in enumerate(used)}
        self._part = torch.tensor([place[chunk.part] for chunk in chunks], device="cpu")
        self._start = torch.tensor([[chunk.start] for chunk in chunks], device="cpu")
        memory = [part.memories[0].data_ptr() for part in self._parts]
        moment = [part.vectors["second_moment"].data_ptr() for part in self._parts if part.vectors]
        moment = moment or memory  # where there is none, it is not read
        state = self._of_chunks(np.array([memory, moment], dtype=np.int64), working(self.dtype))
        rest = torch.tensor([[chunk.size, parts[chunk.part].unit, chunk.row] for chunk in chunks], device="cpu")
        self._tensors = torch.cat([state, rest], dim=1).to(device)
        memories = [[vector.data_ptr() for vector in part.memories] for part in self._parts]
        self.vectors = self._of_chunks(np.array(memories, dtype=np.int64).T, working(self.dtype)).to(device)
        self._addresses = self._tensors  # until the first step
        self._seen = np.zeros(0, dtype=np.int64)
        self._spare = list(self._buffer(SPARE).unbind())
        self._constants = _constants(self.dtype)

    def refresh(self, layout: Layout) -> None:
        """Upload where x and gradients lie, if that has changed; uploads do not wait for the device."""
        seen = np.stack([layout.x_at[self._used], layout.gradient_at[self._used]])
        capturing = is_capturing(self._device)
        if np.array_equal(seen, self._seen) and not capturing:
            return
        buffer = self._spare.pop() if capturing and self._spare else self._buffer(1)[0]
        buffer.copy_(self._of_chunks(seen, self.dtype))
        self._addresses = buffer.to(self._device, non_blocking=True)
        if capturing:
            _captured.append(buffer)
        self._seen = (
            self._seen[:0] if capturing else seen
        )  # a captured table is filled in replays only, and the graph's own

    def launch(self, kernel: Any, **given: Any) -> None:
        """One program for each chunk."""
        constants = {**self._constants, **OPTIONS, **given}
        kernel[(len(self._tensors),)](self._tensors, self._addresses, **constants)

    def _of_chunks(self, parts: Integers, dtype: torch.dtype) -> Tensor:
        """From addresses of each part, (R, T), to those of each chunk, (C, R)."""
        return torch.from_numpy(parts).T[self._part] + self._start * dtype.itemsize

    def _buffer(self, count: int) -> Tensor:
        """Tables on the host, from which copying does not wait for the device."""
        pinned = self._device.type == "cuda"
        return torch.empty((count, len(self._part), 2), dtype=torch.int64, device="cpu", pin_memory=pinned)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_capturing(device: torch.device) -> bool:
    """Whether what is asked of the device now goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _constants(dtype: torch.dtype) -> dict[str, Any]:
    """What is compiled into the kernels for parameters of a dtype."""
    state = working(dtype)
    tl = import_module("triton.language")
    types = {name: getattr(tl, str(kind).removeprefix("torch.")) for name, kind in (("X", dtype), ("S", state))}
    return {**types, "BLOCK": BLOCK[state]}


def _ends(units: Sequence[int], count: int) -> Tensor:
    """Where each unit's chunks begin, and where the last one's end, (U + 1,)."""
    counts = torch.bincount(torch.tensor(units, dtype=torch.int64, device="cpu") + 1, minlength=count + 1)
    return counts.cumsum(0)


def _chunks(parts: Sequence[Part]) -> list[_Chunk]:
    """All parameters in pieces; those of one unit are neighbours, so that their sums are."""
    total = sum(part.count for part in parts)
    size = min(max(SMALLEST, 1 << (total // PROGRAMS).bit_length()), LARGEST)
    order = sorted(range(len(parts)), key=lambda i: parts[i].unit)
    pieces = [(i, start) for i in order for start in range(0, parts[i].count, size)]
    return [_Chunk(i, at, min(size, parts[i].count - at), row) for row, (i, at) in enumerate(pieces)]
