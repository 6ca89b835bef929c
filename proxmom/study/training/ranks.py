"""The processes of a data-parallel run; one alone where torch.distributed is not initialised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

_apart = False


@contextmanager
def apart() -> Iterator[None]:
    """Inside, this process is alone, whatever others do."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def size() -> int:
    """How many processes train together."""
    if _apart:
        return 1
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes files."""
    return size() == 1 or distributed.get_rank() == 0


def share(batch: int) -> slice:
    """This process's part of a batch; ValueError if the parts would differ in size, for then means of means err."""
    if batch % size():
        raise ValueError(f"batch must be a multiple of the number of processes, {size()}, got {batch}.")
    part = batch // size()
    number = distributed.get_rank() if size() > 1 else 0
    return slice(number * part, (number + 1) * part)


def mean(value: Tensor) -> Tensor:
    """The mean over all processes, without waiting for it on the host."""
    if size() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / size()


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first process, in all of them."""
    if size() == 1:
        return make()
    box = [make() if first() else None]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def averaging(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself or, where others train with this process, wrapped so that gradients are averaged."""
    return module if size() == 1 else torch.nn.parallel.DistributedDataParallel(module)
