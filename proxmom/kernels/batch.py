"""The tensors of a call, as the kernels know them: by address, length and type. Needs no library."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of x and gradient -> of memories and second moment. The order is known to passes.cpp.
TYPES = {"float32": "float32", "float64": "float64", "bfloat16": "float32", "float16": "float32"}
CODES = {name: code for code, name in enumerate(TYPES)}
MOST_FURTHER = 14  # memories, see vectors.h
AVERAGE, COMBINATION = -1, -2  # what a further memory becomes, known to vectors.h


@dataclass(frozen=True, eq=False)
class Batch:
    """The tensors of a call, T of them, contiguous; whoever makes a Batch keeps them alive and in place.

    Memories and second moment have the type `TYPES[dtype]`. The tensors of a batch do not overlap.

    Args:
        dtype: of x and gradient, one of `TYPES`.
        size: (T,) numbers of elements, >= 0.
        unit: (T,) the unit of each tensor, in [0, U): the tensors of a unit share scalars and sums.
        x, gradient, memory: (T,) addresses, each a multiple of the element's size; any value where size is 0.
        second_moment: (T,) addresses, for the Adam metric; else None.
        further: (K, T) addresses of K further memories, K <= 14; or None for none.

    Arrays of 8-byte integers are kept without a copy: what is written to them later counts.

    Raises:
        ValueError: for another dtype, arrays of different lengths, or too many memories.
        TypeError: for arrays that are not of integers.
    """

    dtype: str
    size: NDArray[Any]
    unit: NDArray[Any]
    x: NDArray[Any]
    gradient: NDArray[Any]
    memory: NDArray[Any]
    second_moment: NDArray[Any] | None = None
    further: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}.")
        count = len(self.size)
        for name in ("size", "unit", "x", "gradient", "memory", "second_moment"):
            column = getattr(self, name)
            if column is None and name == "second_moment":
                continue
            column = _integers(column)
            if column.shape != (count,):
                raise ValueError(f"{name} must have the shape of size, ({count},), got {column.shape}.")
            object.__setattr__(self, name, column)
        if self.further is not None:
            object.__setattr__(self, "further", _further(self.further, count))

    @cached_property
    def vectors(self) -> int:
        """B: gradient, memory and further memories."""
        return 2 if self.further is None else 2 + len(self.further)


@dataclass(frozen=True, eq=False)
class Turns:
    """What each of K further memories becomes, from what the B = K + 2 vectors were before.

    Args:
        becomes: (K,) the number of another vector that stands before it (0 the gradient, 1 memory, 2 the first further
            one), of which it becomes what that was; or `AVERAGE`: m + coefficient·(g - m); or `COMBINATION`.
        coefficient: (K,) of averages, and anything for others.
        combinations: (U, K, B) coefficients of combinations, and anything for others; None where there is none.
    """

    becomes: NDArray[Any]
    coefficient: Any
    combinations: Any = None

    def arrays(self, count: int, units: int) -> tuple[Any, Any, Any]:
        """The three as the library reads them.

        Args:
            count: K >= 0; units: U >= 0.

        Raises:
            ValueError: for other shapes than those of `count` memories and `units` units, or a vector out of range.
        """
        becomes = np.ascontiguousarray(self.becomes, dtype=np.int64)
        coefficient = np.ascontiguousarray(self.coefficient, dtype=np.float64)
        if becomes.shape != (count,) or coefficient.shape != (count,):
            raise ValueError(
                f"becomes and coefficient must have the shape ({count},), one entry for each further memory, got "
                f"{becomes.shape} and {coefficient.shape}."
            )
        if any(not COMBINATION <= of <= k + 1 for k, of in enumerate(becomes.tolist())):
            raise ValueError(
                f"becomes must be AVERAGE ({AVERAGE}), COMBINATION ({COMBINATION}) or the number of a vector that "
                f"stands before, got {becomes.tolist()}."
            )
        if not (becomes == COMBINATION).any():
            return becomes, coefficient, None
        combinations = np.ascontiguousarray(self.combinations, dtype=np.float64)
        if combinations.shape != (units, count, count + 2):
            raise ValueError(
                f"combinations must have the shape ({units}, {count}, {count + 2}), got {combinations.shape}."
            )
        return becomes, coefficient, combinations


def _further(rows: Any, count: int) -> NDArray[Any] | None:
    rows = _integers(rows)
    if rows.ndim != 2 or rows.shape[1] != count or len(rows) > MOST_FURTHER:
        raise ValueError(
            f"further must have the shape (K, {count}) with K <= {MOST_FURTHER}, got {rows.shape}. With more memories "
            "use the backend's own operations."
        )
    return rows if len(rows) else None


def _integers(column: Any) -> NDArray[Any]:
    """The same array where it is one of 8-byte integers in order, else a copy."""
    array: NDArray[Any] = np.asarray(column)
    if array.dtype in (np.int64, np.uint64) and array.flags.c_contiguous:
        return array
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"sizes, units and addresses must be integers, got {array.dtype}.")
    return np.ascontiguousarray(array, dtype=np.uint64 if array.dtype.kind == "u" else np.int64)
