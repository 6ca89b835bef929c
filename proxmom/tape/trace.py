"""Symbols that stand for arrays: whatever is done to them is written down instead of computed.

A `Traced` array has a cell for each entry but those of the batch, whose axis has length one: a cell is a number that
is the same for the whole batch, or a `Node`, one number for each unit or each scope. So indexing, stacking and matrix
products are NumPy's own on arrays of cells, and arithmetic makes nodes of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np

UNIT, SCOPE = "unit", "scope"  # of what a node has one number each
MOST = 5_000  # nodes of a recording; a model of five planes and more is better left to arrays

# What a number of each kind becomes where all arguments are known; the names are those of the instructions.
FOLDS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "negative": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "isfinite": np.isfinite,
    "where": lambda condition, yes, no: np.multiply(np.where(condition, yes, no), 1.0),
    "single": lambda value: np.float64(np.float32(value)),
}
STAYS_FINITE = ("negative", "abs", "least", "total", "spread", "less", "less_equal", "equal", "logical_not", "isfinite")


class Untraceable(Exception):
    """What was done has no instruction, or depends on a value."""


class Node:
    """One number for each unit or each scope: an instruction and what it is applied to."""

    __slots__ = ("arguments", "finite", "name", "per", "recorder")

    def __init__(self, recorder: Recorder, name: str, arguments: tuple[Any, ...], per: str, *, finite: bool) -> None:
        self.recorder, self.name, self.arguments, self.per, self.finite = recorder, name, arguments, per, finite


Cell = Any  # a number or a Node


class Recorder:
    """Makes the nodes of one recording, each once.

    Args:
        shared: whether units share scopes; else there is one unit in each, and the two are the same.
    """

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self._known: dict[tuple[Any, ...], Node] = {}

    def node(self, name: str, *arguments: Cell, per: str, finite: bool = False) -> Node:
        """The node of an instruction, the same for the same arguments."""
        key = (name, per, *(id(a) if isinstance(a, Node) else (float(a), np.signbit(a)) for a in arguments))
        if key not in self._known:
            if len(self._known) >= MOST:
                raise Untraceable(f"more than {MOST} instructions")
            finite = finite or (name in STAYS_FINITE and all(not isinstance(a, Node) or a.finite for a in arguments))
            self._known[key] = Node(self, name, arguments, per if self.shared else UNIT, finite=finite)
        return self._known[key]

    def input(self, index: int, *, per: str, finite: bool) -> Node:
        """The node of a column that is given; finite: whether it is never anything else."""
        return self.node("input", index, per=per, finite=finite)


def _cell(name: str, *arguments: Cell) -> Cell:
    """What an instruction makes of cells; what changes nothing is left out."""
    nodes = [a for a in arguments if isinstance(a, Node)]
    if not nodes:
        with np.errstate(all="ignore"):
            return FOLDS[name](*(np.float64(a) for a in arguments))
    first, *others = arguments
    if name == "add" and any(not isinstance(a, Node) and a == 0 for a in arguments):
        return nodes[0]
    if name == "subtract" and not isinstance(others[0], Node) and others[0] == 0:
        return first
    if name in ("multiply", "divide") and not isinstance(arguments[-1], Node) and arguments[-1] == 1:
        return first
    if name == "multiply" and not isinstance(first, Node) and first == 1:
        return others[0]
    if name == "multiply" and any(not isinstance(a, Node) and a == 0 for a in arguments) and nodes[0].finite:
        return np.float64(0)
    if name == "power" and not isinstance(others[0], Node) and others[0] in (0.5, 1, 2):
        return (
            _cell("sqrt", first) if others[0] == 0.5 else first if others[0] == 1 else _cell("multiply", first, first)
        )
    if name == "negative" and first.name == "negative":
        return first.arguments[0]
    if name == "where" and not isinstance(first, Node):
        return others[0] if first else others[1]
    if len({node.per for node in nodes}) > 1:
        raise Untraceable("numbers of units and of scopes in one operation")
    return nodes[0].recorder.node(name, *arguments, per=nodes[0].per)


def _elementwise(name: str, count: int) -> Callable[..., Traced]:
    apply = np.frompyfunc(lambda *cells: _cell(name, *cells), count, 1)

    def operation(*arguments: Any) -> Traced:
        return Traced(apply(*map(_cells, arguments)), _dtype(arguments))

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
    return next((a.dtype for a in arguments if isinstance(a, Traced)), np.dtype(np.float64))


class Traced:
    """An array of cells that the array API's functions and operators can be applied to; see the head of this file.

    dtype: in which the numbers will be computed; truth values are 0 and 1 of it.
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
        return tuple(self.cells.shape)

    @property
    def ndim(self) -> int:
        return int(self.cells.ndim)

    @property
    def size(self) -> int:
        return int(self.cells.size)

    @property
    def T(self) -> Traced:
        return Traced(self.cells.T, self.dtype)

    def __getitem__(self, index: Any) -> Traced:
        return Traced(self.cells[_known(index)], self.dtype)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.cells[_known(index)] = _cells(value)

    def _never(self, *_: Any) -> Any:
        raise Untraceable("a decision, or Python's own number, made of a value")

    def __iter__(self) -> Iterator[Traced]:
        if self.shape[0] == 1:  # perhaps the batch, of which nobody knows how many there are
            self._never()
        return (self[i] for i in range(self.shape[0]))

    __bool__ = __float__ = __int__ = __index__ = __len__ = __array__ = __complex__ = __contains__ = _never
    item = tolist = astype = copy = _never

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

    __radd__, __rmul__, __rand__, __ror__ = __add__, __mul__, __and__, __or__
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


def _folded(pair: Callable[..., Traced]) -> Callable[..., Traced]:
    """A reduction over one axis, or all but the batch's, in order."""

    def reduction(array: Traced, axis: int | None = None, keepdims: bool = False) -> Traced:
        if axis is None:
            array, axis = Functions.reshape(array, (1, -1)), 1
        parts = [array[(slice(None),) * (axis % array.ndim) + (i,)] for i in range(array.shape[axis])]
        if not parts:
            raise Untraceable("a reduction over nothing")
        found = reduce(pair, parts)
        return Functions.expand_dims(found, axis=axis) if keepdims else found

    return reduction


def _place_of(best: Callable[[Any, Any], Traced]) -> Callable[..., Traced]:
    """Where along an axis the best stands, the first of several."""

    def reduction(array: Traced, axis: int = -1) -> Traced:
        parts = [array[(slice(None),) * (axis % array.ndim) + (i,)] for i in range(array.shape[axis])]
        leader, place = parts[0], Traced(np.zeros(parts[0].shape).astype(object), array.dtype)
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
    where = staticmethod(_elementwise("where", 3))
    _single = staticmethod(_elementwise("single", 1))

    sum = staticmethod(_folded(add))
    max, min = staticmethod(_folded(maximum)), staticmethod(_folded(minimum))
    all, any = staticmethod(_folded(logical_and)), staticmethod(_folded(logical_or))
    argmax = staticmethod(_place_of(lambda one, other: one > other))
    argmin = staticmethod(_place_of(lambda one, other: one < other))
    finfo = staticmethod(np.finfo)

    @staticmethod
    def square(x: Traced) -> Traced:
        return x * x

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
    def mean(x: Traced, axis: int = -1, keepdims: bool = False) -> Traced:
        return Functions.sum(x, axis=axis, keepdims=keepdims) / x.shape[axis]

    @staticmethod
    def astype(x: Traced, dtype: Any, copy: bool = True) -> Traced:
        if np.dtype(dtype) == np.bool_:
            return x != 0
        narrower = np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize < x.dtype.itemsize
        if np.dtype(dtype).kind not in "f":
            raise Untraceable(f"a change to {dtype}")
        return Functions._single(x) if narrower else x

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
    "amax": "max",
    "amin": "min",
    "transpose": "permute_dims",
}
