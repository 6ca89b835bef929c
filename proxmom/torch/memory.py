"""Where tensors lie, for whoever reads and writes them by their address: what must be looked at, and what overlaps.

Everything here is a fact of the moment. A tensor may be given other data, resized or freed between any two calls.
"""

from __future__ import annotations

import ctypes
import operator
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from proxmom import kernels
from proxmom.planes import Array

DTYPE = operator.attrgetter("dtype")

Integers = NDArray[np.int64]

ASKED = ("data_ptr", "dtype", "dim", "sizes", "strides")
FEW = 32  # of so few, Python has asked sooner


def as_tensor(array: Array) -> Tensor:
    """A NumPy array as a tensor on the same memory, whatever device is the default; a tensor as it is."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))


def addresses(tensors: Sequence[Tensor]) -> Integers:
    """Where each tensor's first element lies; 0 if it has none."""
    return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))


class Kinds:
    """What reading some tensors depends on besides their addresses: numbers of elements, dtypes, strides."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.counts = list(map(Tensor.numel, tensors))
        self.dtypes = list(map(DTYPE, tensors))
        # None where all are contiguous, which is quicker to see
        self.strides = None if all(map(Tensor.is_contiguous, tensors)) else list(map(Tensor.stride, tensors))
        self._unchanged = guard(tensors)

    def hold(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors are of these kinds."""
        if self._unchanged(*tensors):
            return True
        other = Kinds(tensors)
        if (self.counts, self.dtypes, self.strides) != (other.counts, other.dtypes, other.strides):
            return False
        self._unchanged = other._unchanged  # the strides of an axis of length 1 differ, or requires_grad
        return True


def guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Says of other tensors whether all but their addresses is as it is with these now; of most others, at least.

    Types, shapes, strides, dtypes, devices and negation are compared by what torch.compile compares them with, at once
    for all tensors. It is private to torch: where it is not there, no tensors are alike.
    """
    try:
        guards: Any = import_module("torch._C._dynamo.guards")
        sizes, strides = ([list(find(t)) for t in tensors] for find in (Tensor.size, Tensor.stride))
        found = guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        check: Callable[..., bool] = found.check
        return check if check(*tensors) else _never
    except Exception:
        return _never


def _never(*tensors: Tensor) -> bool:
    return False


class Places:
    """Where some tensors lie and how, and later on whether they still do.

    Python takes some hundred nanoseconds to ask a tensor that is not in cache: for thousands of them that is a good
    part of a step. So torch's stable C interface is asked, by handles: its own references to the tensors, through which
    `.data = ...`, `set_`, `resize_` and the like are seen as well. They keep the tensors alive, and
    `torch.utils.swap_tensors` refuses a tensor that has one.

    Args:
        tensors: T of them.
        same: whether `hold` will be asked of these very objects; only of those are there handles.
    """

    def __init__(self, tensors: Sequence[Tensor], same: bool = True) -> None:
        self._at = addresses(tensors)
        self._handles = _handles_of(tensors) if same else None
        if self._handles is None:
            self._kinds = Kinds(tensors)
            return
        weakref.finalize(self, _free, self._handles).atexit = False
        self._dtypes = np.array(list(map(_interface().dtype_of, self._handles.tolist())), dtype=np.int32)
        self._dims = np.array(list(map(Tensor.dim, tensors)), dtype=np.int64)
        lie = [[*tensor.shape, *tensor.stride()] for tensor in tensors]  # of each tensor its sizes, and its strides
        self._sizes = np.array([number for numbers in lie for number in numbers], dtype=np.int64)

    def hold(self, tensors: Sequence[Tensor]) -> bool:
        """Whether each tensor lies where it lay, with the dtype, the shape and the strides that it had."""
        if self._handles is None:
            return self._kinds.hold(tensors) and np.array_equal(addresses(tensors), self._at)
        asked = _interface().asked
        return kernels.lie_as(self._handles, asked, self._at, self._dtypes, self._dims, self._sizes)


class _Interface:
    """The functions of torch's C interface; AttributeError or OSError where it is not there."""

    def __init__(self) -> None:
        self.make: Any = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
        library = ctypes.PyDLL(torch._C.__file__)  # holds the GIL: the last reference to a tensor may be dropped
        found = [
            getattr(library, f"aoti_torch_get_{what}") for what in ("data_ptr", "dtype", "dim", "sizes", "strides")
        ]
        self.asked = np.array([ctypes.cast(each, ctypes.c_void_p).value for each in found], dtype=np.uint64)
        self._dtype, self.drop = library.aoti_torch_get_dtype, library.aoti_torch_delete_tensor_object
        self._dtype.argtypes, self.drop.argtypes = [ctypes.c_void_p, ctypes.c_void_p], [ctypes.c_void_p]
        self.pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        self.pointer_of.restype, self.pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def dtype_of(self, handle: int) -> int:
        """torch's number of a dtype."""
        number = ctypes.c_int32()
        self._dtype(handle, ctypes.byref(number))
        return number.value


@cache
def _interface() -> Any:
    """The C interface, or None: on other systems it may not be found, and nothing else depends on it."""
    try:
        return _Interface()
    except (AttributeError, OSError):
        return None


def _handles_of(tensors: Sequence[Tensor]) -> Integers | None:
    """A handle to each tensor; None where they are few or of other kinds, or there is no kernel to go through them."""
    plain = len(tensors) > FEW and all(type(t) is Tensor and t.device.type in ("cpu", "cuda") for t in tensors)
    if not plain or not kernels.available() or _interface() is None:
        return None
    made = _interface().make(list(tensors))
    return np.array([_interface().pointer_of(capsule, None) for capsule in made], dtype=np.int64)


def _free(handles: Integers) -> None:
    for handle in handles.tolist():
        _interface().drop(handle)


class _Identity(TorchFunctionMode):
    """Within it no two tensors are equal but a tensor and itself: lists compare at once, and no value is read."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> bool:
        return False


def identical(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether two sequences, of tensors or of dictionaries of tensors, hold the very same objects."""
    with _Identity():
        return left == right


def require_storage(tensor: Tensor, name: str) -> None:
    """RuntimeError unless memory for all elements of a strided tensor is there: somebody may have freed its storage."""
    if not tensor.numel() or tensor.device.type == "meta":
        return
    there = tensor.untyped_storage().nbytes()
    needed = tensor.storage_offset() * tensor.element_size() + _extent(tensor)
    if there < needed:
        raise RuntimeError(
            f"{name} needs a storage of {needed} bytes, got {there}: it was freed or resized. "
            "Step while it is there, or assign new data."
        )


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill their memory without gaps, in some order, and lie at addresses fit for it."""
    if tensor.is_neg() or tensor.data_ptr() % max(tensor.element_size(), 1):
        return False
    return tensor.is_contiguous() or order_of(tensor) is not None


def order_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The permutation of axes under which a dense tensor is contiguous; None where it is so already, or not dense."""
    if tensor.is_contiguous():
        return None
    order = tuple(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return order if tensor.permute(order).is_contiguous() else None


def repeats(tensor: Tensor) -> bool:
    """Whether two elements of a tensor may share memory, as in an expanded one."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


class Spans:
    """The memory of some tensors, as spans from the first to behind the last element; empty tensors have none."""

    def __init__(self, tensors: Sequence[Tensor], at: Integers | None = None) -> None:
        sizes = [_extent(t) for t in tensors]
        self._first = addresses(tensors) if at is None else at
        self._behind = self._first + np.array(sizes, dtype=np.int64)
        self._order = np.argsort(self._first, kind="stable")
        self._order = self._order[(self._behind > self._first)[self._order]]
        self._starts, self._ends = self._first[self._order], self._behind[self._order]
        self._reach = np.maximum.accumulate(self._ends) if len(self._ends) else self._ends

    def overlapping(self) -> list[int]:
        """Which tensors share memory with another one, as far as spans can tell."""
        before = self._starts[1:] < self._reach[:-1]  # begins before all the earlier ones have ended
        found = np.zeros(len(self._starts), dtype=bool)
        found[1:] |= before
        found[:-1] |= self._ends[:-1] > self._starts[1:]
        return sorted(self._order[found].tolist())

    def meet(self, first: Integers, behind: Integers) -> Integers:
        """Which of the spans [first, behind) share memory with one of these."""
        if not len(self._starts):
            return np.zeros(0, dtype=np.int64)
        at = np.searchsorted(self._starts, behind) - 1  # the last that begins before the end
        return np.flatnonzero((at >= 0) & (self._reach[at] > first) & (behind > first))


def _extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first element to behind its last one."""
    if not tensor.numel():
        return 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def share_elements(tensors: Sequence[Tensor]) -> bool:
    """Whether any two tensors share an element, by looking at each one's address; for views that interleave."""
    each = [_element_addresses(tensor) for tensor in tensors]
    return len(np.unique(np.concatenate(each))) < sum(map(len, each))


def _element_addresses(tensor: Tensor) -> Integers:
    found = np.array([tensor.data_ptr()], dtype=np.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = (found[:, None] + stride * tensor.element_size() * np.arange(size)).reshape(-1)
    return found
