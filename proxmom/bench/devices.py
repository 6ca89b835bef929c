"""A clock and a memory gauge for each kind of device."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from proxmom.bench import rounds

MEBI = 2**20
Task = Callable[[], Any]


class Device(Protocol):
    """Where steps are taken."""

    kind: str
    triad: int  # numbers in each array of the triad: far more than fit any cache

    @property
    def name(self) -> str:
        """For people."""

    def seconds(self, task: Task) -> float:
        """Time of one call, including everything it started."""

    def peak(self, task: Task) -> int:
        """Most bytes that the device held during a call beyond what it held before."""

    def free(self) -> int | None:
        """Bytes that can still be allocated; None where the system does not say."""


class Cpu:
    """The processor."""

    kind = name = "cpu"
    triad = 64 * MEBI

    def seconds(self, task: Task) -> float:
        """Wall clock."""
        return rounds.seconds(task)

    def peak(self, task: Task) -> int:
        """From every allocation that torch's profiler sees, in the second of two calls.

        It is exact: operations that a dispatch mode would not see, inside foreach and fused kernels, count as well.
        The resident set size is not: freed temporaries stay resident, and pages are rounded. The first call is watched
        because only blocks whose allocation was seen are subtracted when they are freed, e.g. state that each step
        replaces. What is not allocated through torch, such as a kernel's few sums, is not seen.
        """
        most = _highest(*_allocations(task))
        gc.collect()  # the profiler's records, up to gigabytes, hang in a cycle
        _return_memory()
        return most

    def free(self) -> int | None:
        """What Linux calls available."""
        file = Path("/proc/meminfo")
        lines = file.read_text().splitlines() if file.is_file() else []
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


class Cuda:
    """The current CUDA device."""

    kind = "cuda"
    triad = 256 * MEBI

    @property
    def name(self) -> str:
        """The card's model."""
        return torch.cuda.get_device_name()

    def seconds(self, task: Task) -> float:
        """Between two events on the stream: launches that keep the device waiting count, the clock itself does not."""
        make: Any = torch.cuda.Event  # has no annotations
        start, end = (make(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        task()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * float(start.elapsed_time(end))

    def peak(self, task: Task) -> int:
        """From the caching allocator's own statistics."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def free(self) -> int | None:
        """What the driver has, after torch returned what it holds without using it."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]


def find_device(kind: str) -> Device:
    """The device of that kind.

    Raises:
        ValueError: where there is none.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu here, got 'cuda': torch sees no CUDA device.")
    return Cuda() if kind == "cuda" else Cpu()


_MARK = "proxmom: the step that counts"


def _allocations(task: Task) -> tuple[list[tuple[int, int]], int]:
    """Of two calls, every change of the bytes held, as (nanosecond, bytes), and when the second call began."""
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task()
        with torch.profiler.record_function(_MARK):
            task()
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return changes, next(event.start_ns() for event in events if event.name() == _MARK)


def _return_memory() -> None:
    """Freed memory goes back to the system; glibc would keep it, and other processes may need it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _highest(changes: list[tuple[int, int]], since: int) -> int:
    """Most bytes held after `since`, beyond those held then."""
    held = most = 0
    for when, size in sorted(changes, key=lambda change: change[0]):
        if when >= since:
            held += size
            most = max(most, held)
    return most


@contextmanager
def _silent() -> Iterator[None]:
    """Without the banners that the profiler's C++ parts write to standard error, below Python's sys.stderr."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
