"""Runs that end early: a file from which a killed run goes on, and a signal that is heard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxmom.torch.full_batch.descent import Descent
from proxmom.torch.full_batch.steps import Scale, Spot

VERSION = 1


class Checkpoint:
    """Where a run saves what it knows, every so many seconds; a file is replaced only by a whole one.

    Args:
        path: of the file, or None: nothing is saved.
        seconds: between saves, >= 0.
        descent: the run. metric: its metric.
    """

    def __init__(self, path: str | os.PathLike[str] | None, seconds: float, descent: Descent, metric: Any) -> None:
        if not seconds >= 0:
            raise ValueError(f"save_every must be >= 0 seconds, got {seconds}.")
        self._path = None if path is None else Path(path)
        self._seconds, self._descent = seconds, descent
        tensors = descent.objective.tensors
        self._problem = {
            "version": VERSION,
            "shapes": [list(tensor.shape) for tensor in tensors],
            "dtypes": [str(tensor.dtype) for tensor in tensors],
            "problems": descent.count,
            "metric": repr(metric),
        }
        self._last = time.monotonic()
        self.pending = False  # whether what was loaded has proposed a point that is still to be evaluated

    def load(self, values: list[float]) -> bool:
        """Whether there was a file, from which the run goes on; ValueError where it is of another problem."""
        if self._path is None or not self._path.exists():
            return False
        device = self._descent.objective.device
        found = torch.load(self._path, map_location=device, weights_only=True)
        told = found.get("problem") if isinstance(found, dict) else None
        if told != self._problem:
            raise ValueError(self._refusal(told if isinstance(told, dict) else {}))
        self._descent.restore(_unpacked(found["state"]))
        values[:] = found["values"]
        self.pending = found["pending"]
        return True

    def _refusal(self, told: dict[str, Any]) -> str:
        """What differs from what a file was told of its problem, and what to do."""
        differ = [name for name, value in self._problem.items() if told.get(name) != value]
        first = differ[0] if differ else "contents"
        shown = f"{first} {str(told.get(first))[:80]} there, {str(self._problem.get(first))[:80]} here"
        remedy = f"Pass metric={told['metric']} to go on" if differ == ["metric"] and "metric" in told else "Remove it"
        return (
            f"checkpoint must be of the same problem and metric, got one of another in {self._path}: {shown}. "
            f"{remedy}, or name another file."
        )

    def save(self, values: list[float], *, now: bool = False, pending: bool = True) -> None:
        """Saves, if it is time; pending: between `propose` and `learn`, else before `propose`."""
        if self._path is None or not (now or time.monotonic() - self._last >= self._seconds):
            return
        whole = {"problem": self._problem, "state": _packed(self._descent.state()), "values": list(values)}
        whole["pending"] = pending
        beside = self._path.with_name(self._path.name + ".part")
        with open(beside, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        self._last = time.monotonic()


def _packed(value: Any) -> Any:
    """As plain data, which `torch.load` reads without running code."""
    if isinstance(value, Spot):
        return {"spot": [_packed(part) for part in (value.f, value.told, value.size, value.here)]}
    if isinstance(value, Scale):
        return {"scale": _packed(value.power)}
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"dict": {name: _packed(part) for name, part in value.items()}}
    if isinstance(value, tuple | list):
        return [_packed(part) for part in value]
    return _whole(value.detach()) if isinstance(value, Tensor) else value


def _whole(tensor: Tensor) -> Tensor:
    """Itself, or a copy of a part of something larger, which would be saved with all of that."""
    fills = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if fills else tensor.clone()


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {name: _unpacked(part) for name, part in content.items()}
    if kind == "scale":
        return Scale(_unpacked(content))
    return Spot(*map(_unpacked, content)) if kind == "spot" else content.cpu().numpy()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """SIGTERM ends what is within as Control-C does, by an exception, where nobody else listens to it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
