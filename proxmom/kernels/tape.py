"""Plays a tape (`proxmom.tape`) in one call; the instructions stand in `tape.h`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.kernels import Floats, _library, _raise_for, address_of
from proxmom.tape import Tape
from proxmom.tape.record import INSTRUCTIONS
from proxmom.tape.trace import SCOPE

_NUMBER = np.dtype(np.float64).itemsize


class Player:
    """A tape, made ready to be played over arrays of NumPy's.

    Args:
        tape: recorded in float64.
        units, scopes: how many there are, U and S.
        scope_of: (U,) of integers in [0, S), the scope of each unit; None where each unit has its own.
    """

    def __init__(self, tape: Tape, units: int, scopes: int, scope_of: NDArray[Any] | None) -> None:
        self._tape, self._units, self._scopes = tape, units, scopes
        self._scope_of = None if scope_of is None else np.ascontiguousarray(scope_of, dtype=np.int64)
        rows = [
            (INSTRUCTIONS.index(step.name), step.per == SCOPE, step.target, *(*step.sources, 0, 0, 0)[:3], step.column)
            for step in tape.instructions
        ]
        self._code = np.ascontiguousarray(rows, dtype=np.int32)
        self._constants = np.array(tape.constants, dtype=np.float64)
        self._given = np.zeros((sum(math.prod(shape) for _, _, shape in tape.given.values()), 2), dtype=np.int64)
        self._arrays: dict[str, Floats] = {}
        self._places, self._returned = self._laid_out()
        fixed = (len(rows), self._code, len(self._constants), self._constants, tape.registers, units, scopes)
        columns = (self._scope_of, self._given, self._returned)
        self._arguments = [
            address_of(value) if isinstance(value, np.ndarray) else value for value in (*fixed, *columns)
        ]

    def play(self, arrays: Mapping[str, Any]) -> dict[str, Floats]:
        """What the recorded function returns for these arrays, (U, *shape) or (S, *shape) of float64 each.

        Raises:
            ValueError: for arrays of another shape, or scopes out of range.
            RuntimeError: where the kernels are not available.
        """
        if not self._places:
            return {}
        for name in self._tape.given:
            if arrays[name] is not self._arrays.get(name):  # where the same lies is known
                self._arrays[name] = self._looked_at(name, arrays[name])
        block = np.empty(self._size)
        self._returned[:, 0] = self._offsets + address_of(block)
        status = _typed(_library()).proxmom_play(*self._arguments)
        _raise_for(status, self._scopes)
        return {name: block[first:last].reshape(shape) for name, (first, last, shape) in self._places.items()}

    def _laid_out(self) -> tuple[dict[str, tuple[int, int, tuple[int, ...]]], NDArray[Any]]:
        """Where in one block each array that is returned stands, and the columns: (address, stride), still without."""
        places, columns, first = {}, [], 0
        for name, (_, per, shape) in self._tape.returned.items():
            count, rows = math.prod(shape), self._count(per)
            places[name] = (first, first + rows * count, (rows, *shape))
            columns += [(_NUMBER * (first + i), count) for i in range(count)]
            first += rows * count
        table = np.array(columns, dtype=np.int64).reshape(-1, 2)
        self._size, self._offsets = first, table[:, 0].copy()
        return places, table

    def _count(self, per: str) -> int:
        return self._scopes if per == SCOPE else self._units

    def _looked_at(self, name: str, array: Any) -> Floats:
        """An array that is given, once its columns are written down: addresses, and how far apart numbers are."""
        first, per, shape = self._tape.given[name]
        whole: Floats = np.asarray(array, dtype=np.float64)
        if whole.shape != (self._count(per), *shape):
            raise ValueError(f"{name} must have the shape {(self._count(per), *shape)}, got {whole.shape}.")
        if shape and not whole.flags.c_contiguous:
            whole = np.ascontiguousarray(whole)
        count = math.prod(shape)
        self._given[first : first + count, 0] = address_of(whole) + _NUMBER * np.arange(count)
        self._given[first : first + count, 1] = whole.strides[0] // _NUMBER
        return whole


@cache
def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the signature of this function too."""
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.proxmom_play.argtypes = (number, pointer, number, pointer, number, number, number, *[pointer] * 3)
    return library
