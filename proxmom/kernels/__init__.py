"""The two passes over memory in C++, for tensors given by address: `measure` sums inner products, `move` writes.

Optional: where `available()` is false nothing here may be called, and the backends use their own operations. The
library is built when the package is installed and a C++ compiler is found, or by `python -m proxmom.kernels`; the
environment variable PROXMOM_KERNELS=0 switches it off. Formulas and numerics stand in `passes.cpp`, and in `vectors.h`
for tensors with further memories.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxmom.kernels.batch import CODES, MOST_FURTHER, TYPES, Batch, Turns
from proxmom.kernels.build import LIBRARY, recorded, switched_off

__all__ = [
    "MOST_FURTHER",
    "SUMS",
    "TYPES",
    "Batch",
    "Turns",
    "available",
    "lie_as",
    "measure",
    "move",
    "supports",
    "why_not",
]

SUMS = ("<g,Mg>", "<g,Md>", "<d,Md>", "<g,PMg>", "<g,PMd>", "<d,PMd>", "<g,x>", "<d,x>")

Values = Any  # (U,) real numbers, best a contiguous float64 array: anything else is copied on each call
Floats = NDArray[np.float64]


def available() -> bool:
    """Whether the library is there, is what it should be (see `build.recorded`), loads, and is not switched off."""
    return not why_not()


def why_not() -> str:
    """Why the kernels are not available, in a sentence; empty where they are."""
    if switched_off():
        return "the kernels are switched off by the environment variable PROXMOM_KERNELS."
    loaded = _load(os.path.dirname(__file__))
    return loaded if isinstance(loaded, str) else ""


def supports(dtype: str) -> bool:
    """Whether tensors of the type `dtype` (its name without "torch." or "numpy.") can be passed. Needs no library."""
    return dtype in TYPES


def measure(
    batch: Batch,
    units: int,
    *,
    sign: float = 1.0,
    coupled: Values | None = None,
    adam: tuple[Values, Values, float] | None = None,
    inertia: float = 0.0,
    with_x: bool = False,
    threads: int = 1,
) -> Floats:
    """Inner products of each unit; nothing is written to the tensors.

    With g = sign·gradient + coupled·x, d the memory, v' = beta2·v + (1 - beta2)·g·g, P = a·sqrt(v') + b (1 without
    `adam`), r = 1/(1 + inertia·P), M = r/P and PM = r, the columns are those of `SUMS`; those with PM are 0 without
    inertia, those with x are 0 without `with_x`. NaN and infinity arrive in the sums, those of P too. With further
    memories the vectors are u = (g, d, further memories), B of them, and the columns in the same order <u_i, M u_j> for
    all i <= j, row by row, <u_i, PM u_j> likewise, and <u_i, x>.

    Args:
        batch: the tensors.
        units: U >= 0.
        sign: in {1, -1}; -1 maximises.
        coupled: (U,) coupled weight decay, or None for none; x is read only where it is not 0, or `with_x`.
        adam: a (U,), b (U,) and beta2 in [0, 1), for the Adam metric; None for the Euclidean one.
        inertia: >= 0.
        with_x: whether to sum the products with x.
        threads: the most to use, >= 1; fewer are used where there is little to do. The result does not depend on it.

    Returns:
        (U, B(B+1) + B), 8 columns without further memories; zeros for a unit without elements.

    Raises:
        ValueError: for arrays of another shape, a unit or size out of range, Adam without second moments.
        RuntimeError: where the kernels are not available.
        MemoryError: where there is no room for partial sums.
    """
    library = _library()
    vectors = batch.vectors
    sums = np.zeros((units, vectors * (vectors + 2)))
    settings, alive = _settings(batch, units, sign, coupled, adam, inertia)
    status = library.proxmom_measure(*settings, bool(with_x), int(threads), _address(sums))
    _raise_for(status, units)
    del alive  # the arrays behind the addresses lived until here
    return sums


def move(
    batch: Batch,
    direction: Any,
    *,
    scale: Values,
    shrink: Values,
    turns: Turns | None = None,
    sign: float = 1.0,
    coupled: Values | None = None,
    adam: tuple[Values, Values, float] | None = None,
    inertia: float = 0.0,
    threads: int = 1,
) -> None:
    """Write the new memories, second moment and x, in place.

    With (cg, cd, ...) the unit's direction, u = (g, d, further memories) and P of the new second moment v':

        d' = (cg·g + cd·d + ... + inertia·P·d) / (1 + inertia·P),  x' = shrink·x - scale·d'/P

    and the further memories become what `turns` says, all from what the vectors were before.

    Args:
        batch: the tensors; x, memories and (with `adam`) second_moment are written.
        direction: (U, B), coefficients of gradient, memory and further memories in the new slope.
        scale, shrink: (U,) of the move and of x.
        turns: what the further memories become, if the batch has some.
        sign, coupled, adam, inertia, threads: as for `measure`.

    Raises:
        ValueError, RuntimeError, MemoryError: as `measure`.
    """
    library = _library()
    direction = np.ascontiguousarray(direction, dtype=np.float64)
    units = len(direction)
    if direction.shape != (units, batch.vectors):
        raise ValueError(f"direction must have the shape (U, {batch.vectors}), got {direction.shape}.")
    settings, alive = _settings(batch, units, sign, coupled, adam, inertia)
    scale, shrink = _per_unit("scale", scale, units), _per_unit("shrink", shrink, units)
    told: tuple[Any, ...] = (None, None, None)
    if batch.further is not None:
        if turns is None:
            raise ValueError("turns must say what the further memories of the batch become, got None.")
        told = turns.arrays(len(batch.further), units)
    to = map(_address, (direction, scale, shrink, *told))
    status = library.proxmom_move(*settings, *to, int(threads))
    _raise_for(status, units)
    del alive, told


def lie_as(
    handles: NDArray[np.int64],
    functions: NDArray[np.uint64],
    at: NDArray[np.int64],
    dtypes: NDArray[np.int32],
    dims: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> bool:
    """Whether what each handle, (T,), stands for lies as is said; torch's tensors have such handles.

    Args:
        functions: addresses of the C functions, `int find(void *handle, void *answer)`, that say of a handle its
            address, its dtype, its number of axes, where its sizes stand, and where its strides do, (5,).
        at, dtypes, dims: what they should say, (T,).
        sizes: of each tensor its sizes and then its strides, 2·sum(dims) numbers.

    Raises:
        RuntimeError: where the kernels are not available.
    """
    columns: list[NDArray[Any]] = [handles, functions, at, dtypes, dims, sizes]
    return bool(_library().proxmom_lie_as(len(handles), *map(address_of, columns)))


def _settings(
    batch: Batch,
    units: int,
    sign: float,
    coupled: Values | None,
    adam: tuple[Values, Values, float] | None,
    inertia: float,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arguments that both passes begin with, and the arrays that must live as long as their addresses are used."""
    if adam is not None and batch.second_moment is None:
        raise ValueError("batch.second_moment must be addresses with adam=..., got None.")
    decay = None if coupled is None else _per_unit("coupled", coupled, units)
    a, b, beta2 = (None, None, 0.0) if adam is None else adam
    a = None if a is None else _per_unit("a", a, units)
    b = None if b is None else _per_unit("b", b, units)
    columns = [batch.size, batch.unit, batch.x, batch.gradient, batch.memory, batch.second_moment]
    numbers = (units, float(sign), _address(decay), _address(a), _address(b), float(beta2), float(inertia))
    further = (0, None) if batch.further is None else (len(batch.further), _address(batch.further))
    return (CODES[batch.dtype], len(batch.size), *map(_address, columns), *numbers, *further), (decay, a, b)


def _per_unit(name: str, values: Values, units: int) -> Floats:
    array: Floats = np.ascontiguousarray(values, dtype=np.float64)
    if array.shape != (units,):
        raise ValueError(f"{name} must have one entry for each unit, shape ({units},), got {array.shape}.")
    return array


def address_of(array: NDArray[Any]) -> int:
    """Where an array's numbers lie."""
    address: int = array.__array_interface__["data"][0]
    return address


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else address_of(array)


def _raise_for(status: int, units: int) -> None:
    if status == 1:
        raise MemoryError("no memory for the partial sums of the kernels.")
    if status == 2:
        raise ValueError(f"batch.unit must be in [0, {units}) and batch.size >= 0; nothing was computed.")
    if status:
        raise RuntimeError(f"the kernels answered with status {status}: build them again, python -m proxmom.kernels.")


def _library() -> Any:
    loaded = _load(os.path.dirname(__file__))
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


@cache
def _load(folder: str) -> ctypes.CDLL | str:
    """The library with its signatures, or why there is none.

    A library that is not what its record says, or was made of or for something else, is refused before it is mapped,
    with a warning: without it steps are right, and slower.
    """
    path, remedy = Path(folder, LIBRARY), "build it: python -m proxmom.kernels"
    if not path.exists():
        return f"there is no library {path}; {remedy}."
    try:
        record = recorded(path.parent)
        library = ctypes.CDLL(str(path))
        library.proxmom_fingerprint.restype = ctypes.c_char_p
        built = library.proxmom_fingerprint().decode()
        if built == record["fingerprint"]:
            return _typed(library)
        reason = f"{path} has the fingerprint {built}, and its record {record['fingerprint']}; {remedy}."
    except ValueError as error:
        reason = f"{path} {error}; {remedy}."
    except (OSError, AttributeError) as error:
        reason = f"{path} does not load ({error}); {remedy}."
    warnings.warn(f"proxmom computes without its kernels: {reason}", stacklevel=2)
    return reason


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    number, index, double, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    columns, per_unit = (number, index, *[pointer] * 6), (index, double, *[pointer] * 3, double, double)
    settings: Sequence[Any] = (*columns, *per_unit, index, pointer)
    library.proxmom_measure.argtypes = (*settings, number, number, pointer)
    library.proxmom_move.argtypes = (*settings, *[pointer] * 6, number)
    library.proxmom_measure.restype = library.proxmom_move.restype = number
    library.proxmom_lie_as.argtypes, library.proxmom_lie_as.restype = (index, *[pointer] * 6), number
    return library
