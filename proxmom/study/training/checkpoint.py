"""Checkpoints of a run: one file, complete or not there.

A checkpoint saves time and is no result. One that cannot be written is a warning, and the earlier one stays; one that
cannot be read, or is another version's, is a warning, and the run starts afresh.
"""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proxmom.study.record.faults import described
from proxmom.study.record.store import CHECKPOINT

FORMAT = 1  # changes with the layout of a checkpoint


def save(directory: Path, state: Mapping[str, Any]) -> bool:
    """Replaces the checkpoint of the run in this directory; False, after a warning, if it cannot be written."""
    file = directory / CHECKPOINT
    temporary = file.with_name(f"{CHECKPOINT}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save({**state, "format": FORMAT}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except Exception as error:  # a full disk: OSError, or RuntimeError from torch; some state cannot be pickled
        _remove(temporary)
        earlier = "the earlier one stays" if file.is_file() else "there is none yet"
        _warn(f"the checkpoint {file} cannot be written ({described(error)}); {earlier}, and the run goes on.")
        return False
    return True


def load(directory: Path) -> dict[str, Any] | None:
    """The checkpoint, its tensors on the CPU; None if there is none or, after a warning, none that can be read.

    Raises OSError where the disk fails: then nobody knows what is there, and nothing may be thrown away.
    """
    file = directory / CHECKPOINT
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, pickle.UnpicklingError) as error:
        # In a file that is cut off torch 2.6 seeks to places that cannot be: "invalid argument" is no failing disk.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        refuse(directory, f"it cannot be read ({type(error).__name__})")
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format", "none") if isinstance(state, dict) else type(state).__name__
        refuse(directory, f"its format must be {FORMAT}, got {found}")
        return None
    return state


def refuse(directory: Path, reason: str) -> None:
    """Says why the checkpoint is of no use, and removes it."""
    file = directory / CHECKPOINT
    _warn(f"the checkpoint {file} is damaged, or of another version: {reason}. The run starts afresh.")
    _remove(file)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        _warn(f"{file} cannot be removed ({described(error)}).")


def _warn(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr)
