"""The named vectors as rows (..., B, n) of one array: how they start, and what they become after a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.memories import Average, Combination, Displacement, Position, Previous
from proxmom.step import MEMORY, Method

Vector = NDArray[np.float64]


def seed(method: Method, rows: Vector) -> None:
    """Before the first step: memories that start as the first gradient become it."""
    rows[..., 1:, :][..., method.seeded, :] = rows[..., :1, :]


def place(method: Method, rows: Vector, x: Vector, start: Vector | None) -> None:
    """What says where x (..., n) is, and how far from where it started: needed if the rule has a `Displacement`."""
    for row, kind in enumerate(method.memories.values(), start=MEMORY + 1):
        if isinstance(kind, Position):
            rows[..., row, :] = x
        elif isinstance(kind, Displacement):
            assert start is not None
            rows[..., row, :] = x - start


def following(method: Method, rows: Vector, memory: Vector, combinations: Mapping[str, Any]) -> Vector:
    """The rows after a step, as `proxmom.memories` says, from what they were before it; those may be overwritten.

    Those of `place` are as they were.
    """
    new = rows.copy() if method.memories else rows
    new[..., MEMORY, :] = memory
    for row, (name, kind) in enumerate(method.memories.items(), start=MEMORY + 1):
        if isinstance(kind, Average):
            new[..., row, :] += kind.coefficient * (rows[..., 0, :] - rows[..., row, :])
        elif isinstance(kind, Previous):
            new[..., row, :] = rows[..., method.names.index(kind.of), :]
        elif isinstance(kind, Combination):
            new[..., row, :] = (combinations[name][..., None, :] @ rows)[..., 0, :]
    return new
