"""The model layer: planes as an algebra over named vectors.

A rule never sees an array of the parameters' size. It sees vectors by name (gradient, memory, ...), and everything it
can build from them is a list of coefficients; a plane is such a vector, its slope, together with a height. Convex
combinations of planes are planes, so a bound on the weight of memory is a mixture and not a special case of the solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace

Array = Any  # a NumPy array, a torch tensor, or any other array of the array API
Scalar = Any  # a Python number, or an array with one entry per scope

_namespaces: dict[type, Any] = {}


def namespace(array: Array) -> Any:
    """The array-API functions for this kind of array; looked up once per type, because a step asks often."""
    kind = type(array)
    if kind not in _namespaces:
        own = getattr(array, "__array_namespace__", None)  # NumPy's own functions are faster than their wrappers
        _namespaces[kind] = array_namespace(array) if own is None else own()
    return _namespaces[kind]


def _column(scalar: Scalar) -> Scalar:
    """A scalar per scope, (...) -> (..., 1), so that it multiplies coefficients; Python numbers stay as they are."""
    return scalar[..., None] if hasattr(scalar, "shape") else scalar


@dataclass(frozen=True, eq=False)
class Vector:
    """A vector given by its coefficients over the named vectors, shape (..., B).

    Vectors add, subtract and scale; a scale may be a number or an array (...) with one entry per scope.
    """

    coefficients: Array
    is_zero: bool = False  # zero by construction, whatever the named vectors are
    __array_ufunc__: ClassVar[None] = None  # so that array * vector is a vector, and no array of vectors

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.coefficients + other.coefficients, self.is_zero and other.is_zero)

    def __sub__(self, other: Vector) -> Vector:
        return self + (-other)

    def __mul__(self, scale: Scalar) -> Vector:
        return Vector(_column(scale) * self.coefficients, self.is_zero)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Scalar) -> Vector:
        return self.__mul__(1 / divisor)

    def __neg__(self) -> Vector:
        return self * -1


@dataclass(frozen=True, eq=False)
class Plane:
    """The affine function z -> f(x) + height + <slope, z> of the move z away from the current iterate x.

    Args:
        slope: a `Vector`, coefficients (..., B).
        height: the plane's value at x minus f(x), a number or an array (...).
    """

    slope: Vector
    height: Scalar

    @property
    def is_floor(self) -> bool:
        """Whether the plane is a constant: a lower bound on f."""
        return self.slope.is_zero


def mix(first: Plane, second: Plane, weight: Scalar) -> Plane:
    """The plane (1 - weight)·first + weight·second.

    Args:
        first, second: planes over the same named vectors.
        weight: in [0, 1]; a number, or an array (...) with one entry per scope.
    """
    return Plane(
        first.slope * (1 - weight) + second.slope * weight,
        (1 - weight) * first.height + weight * second.height,
    )
