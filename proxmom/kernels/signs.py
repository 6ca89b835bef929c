"""The passes in C++ for a hard step in the maximum norm, whose directions are signs; see `signs.h`.

With g = sign·gradient + coupled·x, d the memory and t = a·g + b·d, a slope (a, b) pulls Σ sign(t)·g and Σ sign(t)·d.
Tensors are those of a `Batch` without second moments; what is said there and of `available()` holds here too.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.kernels import Batch, Floats, Values, _address, _library, _per_unit, _raise_for
from proxmom.kernels.batch import CODES

MEASURED = ("<g,v>", "<d,v>", "<g,x>", "<d,x>", "pull of g on g", "pull of g on d")


@dataclass(frozen=True)
class Given:
    """What all passes take besides tensors.

    Args:
        units: U >= 0.
        faint: > 0; memory of an element that moved less far than others is this times the direction.
        sign: in {1, -1}; -1 maximises.
        coupled: (U,) coupled weight decay, or None for none.
        threads: the most to use, >= 1; results do not depend on it.
    """

    units: int
    faint: float
    sign: float = 1.0
    coupled: Values | None = None
    threads: int = 1

    def arguments(self, batch: Batch) -> tuple[tuple[Any, ...], Any]:
        """Those that every pass begins with, and the array that must live as long as they are used."""
        coupled = None if self.coupled is None else _per_unit("coupled", self.coupled, self.units)
        columns = [batch.size, batch.unit, batch.x, batch.gradient, batch.memory]
        numbers = (self.units, float(self.sign), _address(coupled), float(self.faint), int(self.threads))
        return (CODES[batch.dtype], len(batch.size), *map(_address, columns), *numbers), coupled


def recall(batch: Batch, given: Given, *, with_x: bool = False) -> Floats:
    """Sums of each unit, (U, 6), with the columns `MEASURED`; v = clip(d/faint, -1, 1) is the direction recalled.

    Raises:
        ValueError: for a unit or size out of range.
        RuntimeError: where the kernels are not available.
        MemoryError: where there is no room for partial sums.
    """
    sums = np.zeros((given.units, len(MEASURED)))
    _call("recall", batch, given, int(with_x), sums)
    return sums


def glance(batch: Batch, given: Given, slopes: Any, *, stride: Any, bins: int) -> tuple[Floats, Floats]:
    """By what the pull changes on the way between two slopes, as far as a sample tells.

    Args:
        batch, given: the tensors, and what all passes take.
        slopes: (U, 2, 2), from the first to the second.
        stride: (U,) of how many spans of 512 elements one is looked at.
        bins: equal parts of the way, >= 1.

    Returns:
        The changes of the elements in the sample, (U, bins, 2), and (U, 3): how many elements it has, Σ w and Σ w², w
        by how much a·g + b·d changes where it changes sign.
    """
    table, seen = np.zeros((given.units, bins, 2)), np.zeros((given.units, 3))
    stride = np.ascontiguousarray(stride, dtype=np.int64)
    _call("glance", batch, given, stride, _slopes(slopes, given.units, 2, 2), int(bins), table, seen)
    return table, seen


def pull(batch: Batch, given: Given, slopes: Any, wanted: Any) -> Floats:
    """What slopes (U, 2) pull, (U, 2), in the units that are wanted, (U,) of bool; else 0."""
    sums = np.zeros((given.units, 2))
    wanted = np.ascontiguousarray(wanted, dtype=np.uint8)
    _call("pull", batch, given, wanted, _slopes(slopes, given.units, 2), sums)
    return sums


class Window:
    """What slopes between two given ones pull, from the elements that change sign there alone."""

    def __init__(self, rest: Floats, aside: int) -> None:
        self._rest, self._aside = rest, ctypes.c_void_p(aside)
        self._end = weakref.finalize(self, _functions().proxmom_forget, self._aside)

    def pull(self, slopes: Any, threads: int) -> Floats:
        """Of slopes (U, 2), between the two, the pull, (U, 2)."""
        sums = np.zeros_like(self._rest)
        slopes = _slopes(slopes, len(sums), 2)
        _raise_for(
            _functions().proxmom_pull_aside(self._aside, _address(slopes), int(threads), _address(sums)), len(sums)
        )
        return self._rest + sums

    def close(self) -> None:
        """Give the memory back now; the window is of no use any more."""
        self._end()


def focus(batch: Batch, given: Given, slopes: Any) -> Window | None:
    """The window between two slopes of each unit, (U, 2, 2); None where more than an eighth of a piece changes sign."""
    rest, aside = np.zeros((given.units, 2)), ctypes.c_void_p()
    _call("focus", batch, given, _slopes(slopes, given.units, 2, 2), rest, ctypes.addressof(aside))
    return None if aside.value is None else Window(rest, aside.value)


def mix(
    batch: Batch, given: Given, direction: Any, *, scale: Values, shrink: Values, parts: Any, backwards: bool = True
) -> None:
    """Write memory and x, in place.

    With (cg, cd) the unit's direction and step = Σ share·sign(a·g + b·d) over the parts:

        d' = step·max(|cg·g + cd·d|, faint) where |step| >= 1, else faint·step,  x' = shrink·x - scale·step

    Args:
        batch, given: the tensors, and what all passes take.
        direction: (U, 2), coefficients of gradient and memory in what becomes memory.
        scale, shrink: (U,) of the step and of x.
        parts: (U, Q, 3), slopes and shares.
        backwards: whether to begin at the end, where the pass before has ended; `focus` ends at the beginning.
    """
    units = given.units
    parts = _slopes(parts, units, np.shape(parts)[1], 3)
    scale, shrink = _per_unit("scale", scale, units), _per_unit("shrink", shrink, units)
    _call("mix", batch, given, _slopes(direction, units, 2), scale, shrink, parts, parts.shape[1], int(backwards))


def _call(name: str, batch: Batch, given: Given, *more: Any) -> None:
    arguments, alive = given.arguments(batch)
    rest = (_address(value) if isinstance(value, np.ndarray) else value for value in more)
    _raise_for(getattr(_functions(), f"proxmom_{name}")(*arguments, *rest), given.units)
    del alive  # the array behind the address lived until here


def _functions() -> Any:
    return _typed(_library())


@cache
def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the signatures of these passes too."""
    number, index, double, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    batch: Any = (number, index, *[pointer] * 5, index, double, pointer, double, number)
    rest = {
        "recall": (number, pointer),
        "glance": (pointer, pointer, number, pointer, pointer),
        "pull": (pointer, pointer, pointer),
        "focus": (pointer, pointer, pointer),
        "mix": (pointer, pointer, pointer, pointer, number, number),
    }
    for name, more in rest.items():
        getattr(library, f"proxmom_{name}").argtypes = (*batch, *more)
    library.proxmom_pull_aside.argtypes = (pointer, pointer, number, pointer)
    library.proxmom_forget.argtypes, library.proxmom_forget.restype = (pointer,), None
    return library


def _slopes(values: Any, *shape: int) -> NDArray[np.float64]:
    array: NDArray[np.float64] = np.ascontiguousarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"slopes must have the shape {shape}, got {array.shape}.")
    return array
