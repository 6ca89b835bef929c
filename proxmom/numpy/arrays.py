"""What a caller hands over becomes plain float64 arrays, or is refused; and a norm that does not overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAFE = (1e-280, 1e300)  # a sum of squares in here has lost nothing that matters


def real(name: str, value: Any, *, copy: bool = True) -> NDArray[np.float64]:
    """`value` in float64, of its shape; TypeError for masked arrays and for what is not real numbers.

    Args:
        name: for messages; value: anything.
        copy: whether the result must not share memory with `value`.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got a masked array: what the mask hides would count. "
            "Pass its .filled(...) or its .data."
        )
    array = np.asarray(value)
    if array.dtype.kind in "buif":
        return np.array(array, dtype=np.float64) if copy else np.asarray(array, dtype=np.float64)
    if array.dtype.kind == "O" and not any(entry is None for entry in array.flat):
        try:
            return np.array(array, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            pass
    got = type(value).__name__ if array.dtype.kind in "OSU" else array.dtype.name
    remedy = " Split complex numbers into real and imaginary part." if array.dtype.kind == "c" else ""
    raise TypeError(f"{name} must be real numbers, got {got}.{remedy}")


def number(name: str, value: Any) -> float:
    """One real number of any shape, as (), (1,) or (1, 1); TypeError as `real`, ValueError for another count."""
    array = real(name, value)
    if array.size != 1:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}.")
    return float(array.flat[0])


def shaped(name: str, value: Any, shape: tuple[int, ...], *, copy: bool = True) -> NDArray[np.float64]:
    """`real` of the given shape; one number may have any shape of size 1."""
    array = real(name, value, copy=copy)
    if array.shape != shape:
        if array.size != 1 or int(np.prod(shape)) != 1:
            raise ValueError(f"{name} must have the shape of x0, {shape}, got {array.shape}.")
        array = array.reshape(shape)
    return array


def exponent(size: float) -> int:
    """e with 2^(e-1) <= size < 2^e; 0 for 0 and for what is not finite."""
    return int(np.frexp(size)[1]) if np.isfinite(size) else 0


def norm(v: NDArray[np.float64]) -> float:
    """||v||; scaled by a power of two while squares are added up, where one would over- or underflow."""
    flat = v.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(flat @ flat)
    if SAFE[0] < square < SAFE[1]:
        return math.sqrt(square)
    power = exponent(float(np.abs(v).max(initial=0.0)))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.ldexp(np.linalg.norm(np.ldexp(v.ravel(), -power)), power))
