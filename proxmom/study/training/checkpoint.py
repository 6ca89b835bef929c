"""Checkpoints of a run: one file, complete or not there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proxmom.study.store import CHECKPOINT


def save(directory: Path, state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint of the run in this directory."""
    file = directory / CHECKPOINT
    temporary = file.with_name(f"{CHECKPOINT}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def load(directory: Path) -> dict[str, Any] | None:
    """The checkpoint, its tensors on the CPU; None if there is none that can be read."""
    try:
        state = torch.load(directory / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None
