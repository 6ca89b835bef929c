"""Rows on state: saving, loading, copying, and what checkpoint loaders do to a fresh optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from proxmom.testing.compare import require_finite_state, same, state_entries
from proxmom.testing.row import Failure, require, row
from proxmom.testing.subject import NotApplicable, Params, Subject, first_line, set_lr, values, zero_gradients

AGE = 1001  # a count that bfloat16 cannot hold


@row("save and load, float64", "Saved, loaded into a new optimizer, continued: the steps of the old one, bit by bit.")
def save_and_load_float64(s: Subject) -> None:
    _continues(s, torch.float64)


@row("save and load, float32", "The same in float32.")
def save_and_load_float32(s: Subject) -> None:
    _continues(s, torch.float32)


@row("save and load, bfloat16", "The same in bfloat16, where load_state_dict of torch casts state unless told not to.")
def save_and_load_bfloat16(s: Subject) -> None:
    _continues(s, torch.bfloat16)


def _continues(s: Subject, dtype: torch.dtype) -> None:
    params, optimizer = s.start(dtype)
    s.drive(optimizer, params, range(4))
    copies, resumed = _resume(s, params, torch.load(_saved(optimizer), weights_only=False))
    same(s.drive(resumed, copies, range(4, 10)), s.drive(optimizer, params, range(4, 10)), "the resumed run differs")


def _saved(optimizer: torch.optim.Optimizer) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return file


def _resume(s: Subject, params: Params, state: dict[str, Any]) -> tuple[Params, torch.optim.Optimizer]:
    """Copies of the parameters, and a new optimizer on them, loaded."""
    copies = [nn.Parameter(p) for p in values(params)]
    optimizer = s.make(copies)
    optimizer.load_state_dict(state)
    return copies, optimizer


@row("weights_only load", "torch.load(weights_only=True) reads the saved state.")
def weights_only_load(s: Subject) -> None:
    params, optimizer = s.start()
    s.drive(optimizer, params, range(2))
    try:
        state = torch.load(_saved(optimizer), weights_only=True)
    except pickle.UnpicklingError as error:
        found = [type(value).__name__ for _, value in state_entries(optimizer)]
        raise Failure(f"refused: {first_line(error)} (state holds {', '.join(sorted(set(found)))})") from error
    _resume(s, params, state)


@row("state dtypes survive loading", "With bfloat16 parameters counters above 256 and float32 averages stay.")
def state_dtypes_survive_loading(s: Subject) -> None:
    params, optimizer = s.start(torch.bfloat16)
    s.drive(optimizer, params, range(2))
    scalars = [value for _, value in state_entries(optimizer) if isinstance(value, Tensor) and value.dim() == 0]
    for value in scalars:
        value.fill_(AGE)
    copies, other = _resume(s, params, copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(params, copies, strict=True):
        for name, value in optimizer.state[p].items():
            if isinstance(value, Tensor):
                _unchanged(name, value, other.state[q].get(name))


def _unchanged(name: str, saved: Tensor, loaded: Any) -> None:
    require(isinstance(loaded, Tensor), f"state {name!r} is gone after loading")
    require(saved.dtype == loaded.dtype, f"state {name!r} was {saved.dtype}, is {loaded.dtype} after loading")
    require(torch.equal(saved, loaded), f"state {name!r} has other values after loading")
    if saved.dim() == 0:
        require(float(loaded) == AGE, f"state {name!r}, {loaded.dtype}, cannot hold {AGE}: it became {float(loaded):g}")


@row("no state outside state_dict", "One with a past of its own, loaded from another, takes the other's steps.")
def no_state_outside_state_dict(s: Subject) -> None:
    (params, optimizer), (others, other) = s.start(), s.start()
    s.drive(optimizer, params, range(4))
    s.drive(other, others, range(20, 29))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    reached = s.drive(other, others, range(4, 8))
    same(reached, s.drive(optimizer, params, range(4, 8)), "its own past shows after loading another's state", 1e-6)


@row("copy and pickle", "copy.deepcopy and pickle of optimizer and parameters step on identically.")
def copy_and_pickle(s: Subject) -> None:
    for name, clone in (("a deep copy", copy.deepcopy), ("a pickled copy", _pickled)):
        params, optimizer = s.start()
        s.drive(optimizer, params, range(3))
        others, other = clone((params, optimizer))
        same(s.drive(other, others, range(3, 6)), s.drive(optimizer, params, range(3, 6)), f"{name} steps otherwise")


def _pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@row(
    "checkpoint loaders",
    "step() with zero gradients, lr = 0 and no loss, as such loaders do, creates state only.",
)
def checkpoint_loaders(s: Subject) -> None:
    usual_params, usual = s.start()
    s.drive(usual, usual_params, range(1))
    expected = [set(usual.state.get(p, {})) for p in usual_params]
    params, optimizer = s.start()
    before = values(params)
    set_lr(optimizer, 0.0)
    zero_gradients(params)
    optimizer.step()
    same(params, before, "weights moved")
    require_finite_state(optimizer, "after a step with lr = 0")
    if not any(expected):
        raise NotApplicable("it keeps no state")
    missing = set().union(*(names - set(optimizer.state.get(p, {})) for names, p in zip(expected, params, strict=True)))
    require(not missing, f"no state {', '.join(map(repr, sorted(missing)))} after the step")
