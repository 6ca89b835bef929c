"""The training clock: it stands still while a run is evaluated or saved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of training on a device; it runs from the start."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._before, self._started = seconds, time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[float]:
        """Stands still inside, and gives its seconds; what the device still has to do is waited for and counted."""
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        self._before += time.perf_counter() - self._started
        try:
            yield self._before
        finally:
            self._started = time.perf_counter()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Does not count a little work of the host in between; on a GPU, which goes on meanwhile, it counts."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._cuda is None:
                self._started += time.perf_counter() - started
