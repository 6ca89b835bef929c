"""Arrays of symbols: whatever is done to them is written down instead of computed.

A `Traced` array has a cell (`trace`) for each entry but those of the batch, whose axis has length one. So indexing,
stacking and matrix products are NumPy's own on arrays of cells, and arithmetic makes nodes of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np

from proxmom.tape.trace import Node, Untraceable, apply_to


def _elementwise(name: str, count: int) -> Callable[..., Traced]:
    apply = np.frompyfunc(lambda *cells: apply_to(name, *cells), count, 1)
    for_flags = apply if name != "add" else np.frompyfunc(lambda *cells: apply_to("logical_or", *cells), count, 1)

    def operation(*arguments: Any) -> Traced:
        flags = all(_is_flag(a) for a in (arguments[1:] if name == "where" else arguments))
        if flags and name in ("subtract", "negative"):
            raise Untraceable(f"{name} of truth values")
        dtype = np.dtype(np.bool_) if name in TRUTHS or (flags and name in KEEP_TRUTHS) else _dtype(arguments)
        return Traced((for_flags if flags else apply)(*map(_cells, arguments)), dtype)

    return operation


def _cells(value: Any) -> Any:
    """The cells of an array, traced or known."""
    if isinstance(value, Traced):
        return value.cells
    cells = np.asarray(value)
    if cells.dtype.kind not in "biuf":
        raise Untraceable(f"{type(value).__name__} among the arguments")
    return cells.astype(object)


def _dtype(arguments: Sequence[Any]) -> Any:
    known = (a.dtype for a in arguments if isinstance(a, Traced) and not _is_flag(a))
    return next(known, np.dtype(np.float64))


def _is_flag(value: Any) -> bool:
    """Whether something is made of truth values, of which NumPy has a sum of its own."""
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


class Several(int):
    """How many units or scopes there are: one here, any number where a tape is played; nobody may compare it."""

    def _never(self, _: Any) -> Any:
        raise Untraceable("how many units there are")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Several) or self._never(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __lt__ = __le__ = __gt__ = __ge__ = _never
    __hash__ = int.__hash__


class Traced:
    """An array of cells that the array API's functions and operators can be applied to; see the head of this file.

    dtype: in which the numbers will be computed, or bool; truth values are 0 and 1.
    """

    __slots__ = ("cells", "dtype")
    device = "traced"

    def __init__(self, cells: Any, dtype: Any) -> None:
        self.cells = cells if isinstance(cells, np.ndarray) else np.array(cells, dtype=object)
        self.dtype = dtype

    @staticmethod
    def __array_namespace__(api_version: str | None = None) -> type[Functions]:
        return Functions

    def __array_ufunc__(self, ufunc: Any, method: str, *arguments: Any, **options: Any) -> Any:
        return _by_name(ufunc.__name__ if method == "__call__" and not options else f"{ufunc}.{method}")(*arguments)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _by_name(function.__name__)(*arguments, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        whole = self.cells.shape
        return (Several(1), *whole[1:]) if whole[:1] == (1,) else tuple(whole)  # perhaps the batch

    @property
    def ndim(self) -> int:
        return int(self.cells.ndim)

    @property
    def size(self) -> int:
        return Several(self.cells.size) if self._may_be_batch else int(self.cells.size)

    @property
    def _may_be_batch(self) -> bool:
        """Whether the first axis may be the batch's, of which nobody knows how many there are."""
        return bool(self.cells.shape[:1] == (1,))

    @property
    def T(self) -> Traced:
        return Traced(self.cells.T, self.dtype)

    def __getitem__(self, index: Any) -> Traced:
        return Traced(self.cells[_known(index)], self.dtype)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, Traced) and _is_flag(index) and index.shape == self.shape:
            value = Functions.where(index, value, self)
            index = ...
        self.cells[_known(index)] = _cells(value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(Functions, name, None) if name in METHODS else None
        if found is None and not name.startswith("__"):
            raise Untraceable(f"{name}, which nothing is recorded of")
        if found is None:
            raise AttributeError(name)
        return partial(found, self)

    def _into(self, other: Traced) -> Traced:
        """In place, as arrays do it: views see it too."""
        self.cells[...] = other.cells
        return self

    def __iadd__(self, other: Any) -> Traced:
        return self._into(self + other)

    def __isub__(self, other: Any) -> Traced:
        return self._into(self - other)

    def __imul__(self, other: Any) -> Traced:
        return self._into(self * other)

    def __itruediv__(self, other: Any) -> Traced:
        return self._into(self / other)

    def __ipow__(self, other: Any) -> Traced:
        return self._into(self**other)

    def _never(self, *_: Any) -> Any:
        raise Untraceable("a branch on a value, or a Python number made of one")

    def __iter__(self) -> Iterator[Traced]:
        if self._may_be_batch:
            self._never()
        return (self[i] for i in range(self.cells.shape[0]))

    __bool__ = __float__ = __int__ = __index__ = __len__ = __array__ = __complex__ = __contains__ = _never
    item = tolist = _never

    def astype(self, dtype: Any, **_: Any) -> Traced:
        return Functions.astype(self, dtype)

    def copy(self) -> Traced:
        return Traced(self.cells.copy(), self.dtype)

    def __add__(self, other: Any) -> Traced:
        return Functions.add(self, other)

    def __sub__(self, other: Any) -> Traced:
        return Functions.subtract(self, other)

    def __rsub__(self, other: Any) -> Traced:
        return Functions.subtract(other, self)

    def __mul__(self, other: Any) -> Traced:
        if getattr(other, "__array_ufunc__", 0) is None:  # a Vector multiplies itself
            return NotImplemented
        return Functions.multiply(self, other)

    def __truediv__(self, other: Any) -> Traced:
        return Functions.divide(self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return Functions.divide(other, self)

    def __pow__(self, other: Any) -> Traced:
        return Functions.pow(self, other)

    def __rpow__(self, other: Any) -> Traced:
        return Functions.pow(other, self)

    def __mod__(self, other: Any) -> Traced:
        return Functions.remainder(self, other)

    def __rmod__(self, other: Any) -> Traced:
        return Functions.remainder(other, self)

    def __floordiv__(self, other: Any) -> Traced:
        return Functions.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Traced:
        return Functions.floor_divide(other, self)

    def __xor__(self, other: Any) -> Traced:
        return Functions.logical_xor(self, other)

    def __matmul__(self, other: Any) -> Traced:
        return _product(self, other)

    def __rmatmul__(self, other: Any) -> Traced:
        return _product(other, self)

    def __neg__(self) -> Traced:
        return Functions.negative(self)

    def __abs__(self) -> Traced:
        return Functions.abs(self)

    def __invert__(self) -> Traced:
        return Functions.logical_not(self)

    def __and__(self, other: Any) -> Traced:
        return Functions.logical_and(self, other)

    def __or__(self, other: Any) -> Traced:
        return Functions.logical_or(self, other)

    def __lt__(self, other: Any) -> Traced:
        return Functions.less(self, other)

    def __le__(self, other: Any) -> Traced:
        return Functions.less_equal(self, other)

    def __gt__(self, other: Any) -> Traced:
        return Functions.less(other, self)

    def __ge__(self, other: Any) -> Traced:
        return Functions.less_equal(other, self)

    def __eq__(self, other: object) -> Traced:  # type: ignore[override]
        return Functions.equal(self, other)

    def __ne__(self, other: object) -> Traced:  # type: ignore[override]
        return Functions.logical_not(Functions.equal(self, other))

    __radd__, __rmul__, __rand__, __ror__, __rxor__ = __add__, __mul__, __and__, __or__, __xor__
    __hash__ = None  # type: ignore[assignment]


def _known(index: Any) -> Any:
    """An index without symbols."""
    if isinstance(index, tuple):
        return tuple(map(_known, index))
    if not isinstance(index, Traced):
        return index
    if any(isinstance(cell, Node) for cell in index.cells.flat):
        raise Untraceable("an index made of a value")
    return index.cells.astype(np.int64)


def _product(left: Any, right: Any) -> Traced:
    """The matrix product over the last two axes."""
    a, b = Traced(_cells(left), _dtype((left, right))), Traced(_cells(right), _dtype((left, right)))
    if a.ndim < 2 or b.ndim < 2:
        raise Untraceable("a matrix product with a vector")
    return Functions.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def _by_name(name: str) -> Any:
    """A function of NumPy's by its name."""
    found = getattr(Functions, RENAMED.get(name, name), None)
    if found is None:
        raise Untraceable(f"{name}, which no instruction is for")
    return found


def _parts(array: Any, axis: int | None) -> list[Traced]:
    """Those of an array along an axis; truth values count as 0 and 1."""
    array = Functions.asarray(array)
    if axis is None or (axis % array.ndim == 0 and array._may_be_batch):
        raise Untraceable("a reduction over units")
    parts = [array[(slice(None),) * (axis % array.ndim) + (i,)] for i in range(array.cells.shape[axis])]
    if not parts:
        raise Untraceable("a reduction over nothing")
    return parts


def _folded(pair: Callable[..., Traced]) -> Callable[..., Traced]:
    """A reduction over one axis, in order."""

    def reduction(array: Traced, axis: int | None = None, keepdims: bool = False) -> Traced:
        parts = _parts(array, axis)
        if _is_flag(array) and pair in (Functions.add, Functions.multiply):
            parts = [Traced(part.cells, np.dtype(np.float64)) for part in parts]
        assert axis is not None
        found = reduce(pair, parts)
        return Functions.expand_dims(found, axis=axis) if keepdims else found

    return reduction


def _place_of(best: Callable[[Any, Any], Traced]) -> Callable[..., Traced]:
    """Where along an axis the best stands, the first of several."""

    def reduction(array: Traced, axis: int = -1) -> Traced:
        parts = _parts(array, axis)
        leader, place = parts[0], Traced(np.zeros(parts[0].cells.shape).astype(object), array.dtype)
        for i, part in enumerate(parts[1:], 1):
            ahead = best(part, leader)
            leader, place = Functions.where(ahead, part, leader), Functions.where(ahead, float(i), place)
        return place

    return reduction


class Functions:
    """The array API, as far as steps use it."""

    inf, pi, float32, float64 = np.inf, np.pi, np.dtype(np.float32), np.dtype(np.float64)
    bool_ = np.dtype(np.bool_)
    newaxis = None

    add, subtract, multiply = (staticmethod(_elementwise(name, 2)) for name in ("add", "subtract", "multiply"))
    divide, pow, maximum = (staticmethod(_elementwise(name, 2)) for name in ("divide", "power", "maximum"))
    minimum, less, less_equal = (staticmethod(_elementwise(name, 2)) for name in ("minimum", "less", "less_equal"))
    equal, logical_and = (staticmethod(_elementwise(name, 2)) for name in ("equal", "logical_and"))
    logical_or, logical_not = (
        staticmethod(_elementwise("logical_or", 2)),
        staticmethod(_elementwise("logical_not", 1)),
    )
    negative, abs, sqrt = (staticmethod(_elementwise(name, 1)) for name in ("negative", "abs", "sqrt"))
    exp, log, isfinite = (staticmethod(_elementwise(name, 1)) for name in ("exp", "log", "isfinite"))
    sin, cos, tanh = (staticmethod(_elementwise(name, 1)) for name in ("sin", "cos", "tanh"))
    log1p, expm1, floor = (staticmethod(_elementwise(name, 1)) for name in ("log1p", "expm1", "floor"))
    remainder = staticmethod(_elementwise("remainder", 2))
    where = staticmethod(_elementwise("where", 3))
    _single = staticmethod(_elementwise("single", 1))

    sum, prod = staticmethod(_folded(add)), staticmethod(_folded(multiply))
    max, min = staticmethod(_folded(maximum)), staticmethod(_folded(minimum))
    all, any = staticmethod(_folded(logical_and)), staticmethod(_folded(logical_or))
    argmax = staticmethod(_place_of(lambda one, other: one > other))
    argmin = staticmethod(_place_of(lambda one, other: one < other))
    finfo = staticmethod(np.finfo)

    @staticmethod
    def square(x: Traced) -> Traced:
        return x * x

    @staticmethod
    def sign(x: Any) -> Traced:
        return Functions.where(Functions.equal(x, x), 1.0 * Functions.less(0, x) - 1.0 * Functions.less(x, 0), x)

    @staticmethod
    def isnan(x: Any) -> Traced:
        return Functions.logical_not(Functions.equal(x, x))

    @staticmethod
    def ceil(x: Any) -> Traced:
        return -Functions.floor(-x)

    @staticmethod
    def trunc(x: Any) -> Traced:
        return Functions.where(x < 0, -Functions.floor(-x), Functions.floor(x))

    @staticmethod
    def reciprocal(x: Any) -> Traced:
        return Functions.divide(1, x)

    @staticmethod
    def floor_divide(x: Any, y: Any) -> Traced:
        """By the remainder, so that rounding makes no difference of one."""
        quotient = Functions.divide(Functions.subtract(x, Functions.remainder(x, y)), y)
        whole = Functions.floor(quotient)
        whole = Functions.where(quotient - whole > 0.5, whole + 1, whole)
        return Functions.where(Functions.equal(y, 0), Functions.divide(x, y), whole)

    @staticmethod
    def not_equal(x: Any, y: Any) -> Traced:
        return Functions.logical_not(Functions.equal(x, y))

    @staticmethod
    def logical_xor(x: Any, y: Any) -> Traced:
        return Functions.not_equal(Functions.not_equal(x, 0), Functions.not_equal(y, 0))

    @staticmethod
    def cumsum(x: Any, axis: int | None = None) -> Traced:
        parts = _parts(x, axis)
        parts = [1.0 * parts[0], *parts[1:]]
        return Functions.stack([reduce(Functions.add, parts[: i + 1]) for i in range(len(parts))], axis=axis or 0)

    @staticmethod
    def greater(x: Any, y: Any) -> Traced:
        return Functions.less(y, x)

    @staticmethod
    def greater_equal(x: Any, y: Any) -> Traced:
        return Functions.less_equal(y, x)

    @staticmethod
    def clip(x: Traced, min: Any = None, max: Any = None) -> Traced:
        x = x if min is None else Functions.maximum(x, min)
        return x if max is None else Functions.minimum(x, max)

    @staticmethod
    def mean(x: Traced, axis: int | None = None, keepdims: bool = False) -> Traced:
        return Functions.sum(x, axis=axis, keepdims=keepdims) / len(_parts(x, axis))

    @staticmethod
    def astype(x: Traced, dtype: Any, copy: bool = True) -> Traced:
        if np.dtype(dtype) == np.bool_:
            return x != 0
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise Untraceable(f"a change to {dtype}")
        narrower = not _is_flag(x) and np.dtype(dtype).itemsize < x.dtype.itemsize
        return Traced((Functions._single(x) if narrower else x).cells.copy(), np.dtype(dtype))

    @staticmethod
    def asarray(array: Any, dtype: Any = None, device: Any = None) -> Traced:
        return array if isinstance(array, Traced) else Traced(_cells(array), np.dtype(dtype or np.float64))

    @staticmethod
    def arange(*bounds: Any, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.arange(*bounds, dtype=np.float64))

    @staticmethod
    def eye(count: int, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.eye(count), dtype)

    @staticmethod
    def zeros(shape: Any, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.zeros(shape), dtype)

    @staticmethod
    def ones(shape: Any, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.ones(shape), dtype)

    @staticmethod
    def full(shape: Any, value: Any, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.full(shape, value), dtype)

    @staticmethod
    def zeros_like(x: Traced, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.zeros(x.shape, x.dtype)

    @staticmethod
    def ones_like(x: Traced, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.ones(x.shape, x.dtype)

    @staticmethod
    def full_like(x: Traced, value: Any, dtype: Any = None, device: Any = None) -> Traced:
        return Functions.asarray(np.full(x.shape, value), x.dtype)

    @staticmethod
    def stack(arrays: Sequence[Any], axis: int = 0) -> Traced:
        return Traced(np.stack(np.broadcast_arrays(*map(_cells, arrays)), axis=axis), _dtype(arrays))

    @staticmethod
    def concat(arrays: Sequence[Any], axis: int = 0) -> Traced:
        return Traced(np.concatenate(list(map(_cells, arrays)), axis=axis), _dtype(arrays))

    @staticmethod
    def reshape(x: Traced, shape: Any) -> Traced:
        return Traced(x.cells.reshape(shape), x.dtype)

    @staticmethod
    def broadcast_to(x: Traced, shape: Any) -> Traced:
        return Traced(np.broadcast_to(x.cells, shape), x.dtype)

    @staticmethod
    def expand_dims(x: Traced, axis: int = 0) -> Traced:
        return Traced(np.expand_dims(x.cells, axis), x.dtype)

    @staticmethod
    def squeeze(x: Traced, axis: int) -> Traced:
        return Traced(np.squeeze(x.cells, axis), x.dtype)

    @staticmethod
    def permute_dims(x: Traced, axes: Any) -> Traced:
        return Traced(np.transpose(x.cells, axes), x.dtype)

    @staticmethod
    def matrix_transpose(x: Traced) -> Traced:
        return Traced(np.swapaxes(x.cells, -1, -2), x.dtype)

    @staticmethod
    def flip(x: Traced, axis: int | None = None) -> Traced:
        return Traced(np.flip(x.cells, axis), x.dtype)

    @staticmethod
    def take(x: Traced, indices: Any, axis: int = 0) -> Traced:
        return Traced(np.take(x.cells, _known(Functions.asarray(indices)), axis=axis), x.dtype)


TRUTHS = ("less", "less_equal", "equal", "logical_and", "logical_or", "logical_not", "isfinite")
KEEP_TRUTHS = ("add", "multiply", "maximum", "minimum", "where")
METHODS = ("sum", "prod", "mean", "max", "min", "all", "any", "argmax", "argmin", "clip", "reshape", "squeeze")
RENAMED = {  # NumPy's names of what the array API calls otherwise
    "absolute": "abs",
    "fabs": "abs",
    "power": "pow",
    "float_power": "pow",
    "true_divide": "divide",
    "invert": "logical_not",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "concatenate": "concat",
    "mod": "remainder",
    "bitwise_xor": "logical_xor",
    "amax": "max",
    "amin": "min",
    "transpose": "permute_dims",
}
