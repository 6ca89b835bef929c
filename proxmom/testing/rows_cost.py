"""Rows on what a step costs: waiting for the device, and memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from proxmom.testing.row import FIGURE, Failure, row
from proxmom.testing.subject import NotApplicable, Params, Subject, first_line, give_gradients

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}  # the host must wait
COPIES = {"tolist", "numpy", "cpu", "__array__"}  # these never reach the dispatcher on the CPU
DEVICE = "cuda"
MARK = "measured step"
SHAPES = ((4096, 64), (4096, 64))


@row("host synchronisations", "Values that the host reads from tensors in one step: each would wait for a GPU.", FIGURE)
def host_synchronisations(s: Subject) -> str:
    params, optimizer = s.start()
    s.drive(optimizer, params, range(2))
    loss = give_gradients(params, 2)
    reads: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(_Functions(reads))
        stack.enter_context(_Operators(reads))
        s.step(optimizer, loss)
    names = ", ".join(f"{reads.count(name)} {name}" for name in sorted(set(reads)))
    return f"{len(reads)} in a step of {len(params)} tensors" + (f": {names}" if names else "")


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators whose result the host reads."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Notes the methods that copy to the host."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in COPIES:
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


@row("host synchronisations, cuda", "On a CUDA device a step never waits for the device.")
def host_synchronisations_cuda(s: Subject) -> None:
    if not torch.cuda.is_available():
        raise NotApplicable("no CUDA device")
    params = [nn.Parameter(p.detach().to(DEVICE)) for p in s.params(torch.float32)]
    optimizer = s.make(params)
    s.drive(optimizer, params, range(3))
    loss = give_gradients(params, 3)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        s.step(optimizer, loss)
    except RuntimeError as error:
        raise Failure(f"a step waits for the device: {first_line(error)}") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


@row(
    "memory of a step",
    "The peak of what a step allocates for a while through torch, over the parameters' bytes.",
    FIGURE,
)
def memory_of_a_step(s: Subject) -> str:
    gc.collect()  # what others left behind is not freed during the step
    quiet = patch.dict(os.environ, {"KINETO_LOG_LEVEL": "6"})  # else the profiler writes to stderr
    with quiet, torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        params = s.params(torch.float32, SHAPES)
        optimizer = s.make(params)
        for _ in range(2):
            s.step(optimizer, _pull_to_zero(params))
        loss = _pull_to_zero(params)
        with torch.profiler.record_function(MARK):
            s.step(optimizer, loss)
    assert seen.profiler is not None
    peak = _peak(seen.profiler.kineto_results.events())
    return f"{peak / sum(p.numel() * p.element_size() for p in params):.2f} of the parameters' bytes"


def _pull_to_zero(params: Params) -> Tensor:
    """The gradients of ½|x|², without drawing numbers; returns the loss."""
    for p in params:
        p.grad = p.detach().clone()
    return torch.stack([0.5 * p.detach().square().sum() for p in params]).sum()


def _peak(events: Iterable[Any]) -> int:
    """Bytes in use at most since the mark, less those in use at the mark."""
    used = base = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == MARK:
            base = peak = used
        elif event.name() == "[memory]":
            used += event.nbytes()
            peak = max(peak, used)
    return peak - base
