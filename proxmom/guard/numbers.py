"""Arithmetic that is written once for a float, a NumPy array and a tensor; for floats it costs next to nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxmom.planes import namespace

Number = Any  # a float, or an array (N,)
Truth = Any  # a bool, or an array (N,) of them


def where(truth: Truth, one: Number, other: Number) -> Number:
    """`one` where it is true, else `other`."""
    if isinstance(truth, bool | np.bool_):
        return one if truth else other
    return namespace(truth).where(truth, one, other)


def no(truth: Truth) -> Truth:
    """The opposite: `~` of a bool is an integer."""
    return not truth if isinstance(truth, bool | np.bool_) else ~truth


def some(truth: Truth) -> bool:
    """Whether it is true of any problem."""
    return bool(truth) if isinstance(truth, bool | np.bool_) else bool(truth.any())


def least(one: Number, other: Number) -> Number:
    """The smaller; `one` where they cannot be compared, as `min` does."""
    return where(other < one, other, one)


def largest(one: Number, other: Number) -> Number:
    """The larger; `one` where they cannot be compared, as `max` does."""
    return where(other > one, other, one)


def finite(value: Number) -> Truth:
    return math.isfinite(value) if isinstance(value, float | int) else namespace(value).isfinite(value)


def divide(one: Number, other: Number) -> Number:
    """The quotient; infinite where a float is divided by zero."""
    if isinstance(other, float | int):
        return one / other if other else math.inf
    return one / other


def root(value: Number) -> Number:
    """The square root of what is not negative, else zero."""
    if isinstance(value, float | int):
        return math.sqrt(value) if value > 0 else 0.0
    return namespace(value).sqrt(where(value > 0, value, 0.0))
