"""Plays a tape (`proxmom.tape`) on a device: one Triton kernel, written out from the tape, in float64.

Units that are scopes of their own are shared out among programs. Where units share scopes there is one program, which
goes through units and scopes in turn: what one turn leaves for another lies in scratch memory, behind a barrier.
"""

from __future__ import annotations

import hashlib
import linecache
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from proxmom.tape import Tape
from proxmom.tape.record import ACROSS, Instruction
from proxmom.tape.trace import SCOPE, UNIT
from proxmom.torch.passes import triton_kernels

BLOCK = 32  # units at once: as many as a warp has threads, so that each number is one thread's
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}

# Truth values are 0 and 1 in float64, as in kernels/tape.h.
FORMULAS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "power": "_power({0}, {1})",
    "maximum": "tl.where({0} > {1}, {0}, tl.where({0} != {0}, {0}, {1}))",
    "minimum": "tl.where({0} < {1}, {0}, tl.where({0} != {0}, {0}, {1}))",
    "less": "({0} < {1}).to(tl.float64)",
    "less_equal": "({0} <= {1}).to(tl.float64)",
    "equal": "({0} == {1}).to(tl.float64)",
    "logical_and": "tl.where({0} != 0, ({1} != 0).to(tl.float64), {0} * 0)",
    "logical_or": "tl.where({0} != 0, {0} * 0 + 1, ({1} != 0).to(tl.float64))",
    "logical_not": "({0} == 0).to(tl.float64)",
    "negative": "-{0}",
    "abs": "tl.abs({0})",
    "sqrt": "tl.sqrt({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "isfinite": "({0} - {0} == 0).to(tl.float64)",
    "where": "tl.where({0} != 0, {1}, {2})",
    "single": "{0}.to(tl.float32).to(tl.float64)",
    "floor": "tl.floor({0})",
    "remainder": "_remainder({0}, {1})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "tanh": "_tanh({0})",
    "log1p": "_log1p({0})",
    "expm1": "_expm1({0})",
}

HELPERS = ("power", "remainder", "tanh", "log1p", "expm1")


def settle(sound: Tensor, rows: Tensor, new_rows: Tensor, last: Any, new: Any, skipped: int) -> None:
    """One launch of `triton_kernels.settle`; last and new are weights and beta."""
    pairs = ((rows, new_rows), *zip(last, new, strict=True))
    arguments = [value for old, value in pairs for value in (old, value, old.numel())]
    programs = -(-max(old.numel() for old, _ in pairs) // 128)
    triton_kernels.settle[(programs,)](sound, *arguments, COLUMNS=rows.shape[1], SKIPPED=skipped, BLOCK=128, **OPTIONS)


class TritonPlayer:
    """A tape, made ready to be played over tensors of a device.

    Args:
        tape: see `proxmom.tape`; units, scopes: how many there are, U and S; scope_of: (U,) of integers in [0, S), on
            the device, or None where each unit is its own scope.
    """

    def __init__(self, tape: Tape, units: int, scopes: int, scope_of: Any, device: torch.device) -> None:
        self._tape, self._units, self._scopes = tape, units, scopes
        self._scope_of = None if scope_of is None else torch.from_numpy(np.asarray(scope_of)).to(device)
        self._kernel: Any
        self._kernel, scratch = _compiled(tape, shared=self._scope_of is not None) if tape.returned else (None, 0)
        self._constants = torch.tensor(tape.constants or (0.0,), dtype=torch.float64, device=device)
        self._scratch = self._constants.new_empty(max(1, scratch * (units + scopes)))
        self._programs = 1 if self._scope_of is not None else -(-units // BLOCK)
        self._size = sum(self._count(per) * math.prod(shape) for _, per, shape in tape.returned.values())

    def play(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the recorded function returns for these tensors, (U, *shape) or (S, *shape), in float64."""
        given = {name: arrays[name].contiguous() for name in self._tape.given}
        block = torch.empty(self._size, dtype=torch.float64, device=self._constants.device)
        if self._programs and self._size:
            self._kernel[(self._programs,)](
                *given.values(), self._scope_of, self._constants, self._scratch, block, self._units, self._scopes,
                BLOCK=BLOCK, **OPTIONS,
            )  # fmt: skip
        found, first = {}, 0
        for name, (_, per, shape) in self._tape.returned.items():
            count = self._count(per) * math.prod(shape)
            found[name] = block[first : first + count].view(self._count(per), *shape)
            first += count
        return found

    def _count(self, per: str) -> int:
        return self._scopes if per == SCOPE else self._units


@lru_cache(maxsize=64)
def _compiled_source(source: str) -> Any:
    """The kernel of a source, which Triton wants to find in a file."""
    name = f"<tape {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    scope |= {f"_{name}": getattr(triton_kernels, name) for name in HELPERS}
    exec(compile(source, name, "exec"), scope)  # of instructions and numbers alone, see `written`
    arguments = scope["play"].__code__.co_varnames[: scope["play"].__code__.co_argcount]
    free = [argument for argument in arguments if argument != "BLOCK"]
    return triton.jit(scope["play"], do_not_specialize=["units", "scopes"], do_not_specialize_on_alignment=free)


def _compiled(tape: Tape, *, shared: bool) -> tuple[Any, int]:
    """The kernel of a tape, and how many columns of scratch memory it needs."""
    source, scratch = written(tape, shared=shared)
    return _compiled_source(source), scratch


@dataclass(frozen=True)
class _Value:
    """What an instruction makes: sources are places of values, or -1 - k for constant k; stored: columns of results."""

    step: Instruction
    sources: tuple[int, ...]
    stored: list[int]


def _values(tape: Tape) -> list[_Value]:
    """The instructions without registers: each value once."""
    held = {k: -1 - k for k in range(len(tape.constants))}
    found: list[_Value] = []
    for step in tape.instructions:
        sources = tuple(held[register] for register in step.sources)
        if step.name != "store":
            held[step.target] = len(found)
            found.append(_Value(step, sources, []))
        elif sources[0] >= 0:
            found[sources[0]].stored.append(step.column)
    return found


def _turns(values: Sequence[_Value]) -> list[int]:
    """When each value is made where units share scopes: units' in even turns, scopes' in odd ones."""
    turns: list[int] = []
    for value in values:
        before = [turns[source] for source in value.sources if source >= 0]
        least = 0 if value.step.per == UNIT else 1
        turns.append(max([least, *(turn + (value.step.name in ACROSS) for turn in before)]))
    return turns


def written(tape: Tape, *, shared: bool) -> tuple[str, int]:
    """The source of a tape's kernel, and how many columns of scratch memory it needs."""
    values = _values(tape)
    turns = _turns(values) if shared else [0] * len(values)
    crossing: dict[int, int] = {}  # the column of scratch memory of what is needed in a later turn
    for at, value in enumerate(values):
        for source in value.sources:
            if source >= 0 and turns[source] < turns[at]:
                crossing.setdefault(source, len(crossing))
    lines = [f"c{k} = tl.load(constants + {k})" for k in range(len(tape.constants))]
    for turn in range(max(turns, default=0) + 1):
        body = _body(tape, values, [at for at, when in enumerate(turns) if when == turn], turns, crossing)
        body += _constant_results(tape, shared=shared, per=SCOPE if turn % 2 else UNIT) if turn < 2 else []
        if not shared:
            lines += ["at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)", "there = at < units", *body]
        elif body:
            count = "scopes" if turn % 2 else "units"
            lines += [f"for start in range(0, {count}, BLOCK):"]
            lines += [f"    {line}" for line in ("at = start + tl.arange(0, BLOCK)", f"there = at < {count}", *body)]
            lines += ["tl.debug_barrier()"]
    arguments = [*tape.given, "scope_of", "constants", "scratch", "out", "units", "scopes", "BLOCK: tl.constexpr"]
    text = [f"def play({', '.join(arguments)}):", *(f"    {line}" for line in lines)]
    return "\n".join(text) + "\n", len(crossing)


def _body(
    tape: Tape, values: Sequence[_Value], chosen: Sequence[int], turns: Sequence[int], crossing: Mapping[int, int]
) -> list[str]:
    """One turn: what earlier ones left, what is made now, and what is left for later ones and for the caller."""
    lines = []
    earlier = {s for at in chosen if values[at].step.name not in ACROSS for s in values[at].sources if s >= 0}
    for source in sorted(source for source in earlier if turns[source] < turns[chosen[0]]):
        lines.append(f"v{source} = tl.load({_scratch(crossing[source])} + at, mask=there, other=0.0)")
    for at in chosen:
        lines += _made(tape, values[at], at, crossing)
        lines += [_stored(tape, column, f"v{at}") for column in values[at].stored]
        if at in crossing:
            lines.append(f"tl.store({_scratch(crossing[at])} + at, v{at}, mask=there)")
    return lines


def _made(tape: Tape, value: _Value, at: int, crossing: Mapping[int, int]) -> list[str]:
    """The lines that make a value."""
    step, names = value.step, [f"v{s}" if s >= 0 else f"c{-1 - s}" for s in value.sources]
    if step.name == "load":
        name, first, count = _column(tape.given, step.column)
        return [f"v{at} = tl.load({name} + at * {count} + {first}, mask=there, other=0.0).to(tl.float64)"]
    if step.name == "spread":
        where = "tl.load(scope_of + at, mask=there, other=0)"
        return [f"v{at} = tl.load({_scratch(crossing[value.sources[0]])} + {where}, mask=there, other=0.0)"]
    if step.name not in ACROSS:
        return [f"v{at} = {FORMULAS[step.name].format(*names)}"]
    each = names[0] if value.sources[0] < 0 else f"tl.load({_scratch(crossing[value.sources[0]])} + unit)"
    none = "0.0" if step.name == "total" else 'float("inf")'
    more = f"v{at} + one" if step.name == "total" else f"tl.where(v{at} < one, v{at}, one)"
    return [
        f"v{at} = tl.full([BLOCK], {none}, tl.float64)",
        "for unit in range(0, units):",
        f"    one = tl.where(tl.load(scope_of + unit) == at, {each}, {none})",
        f"    v{at} = {more}",
    ]


def _constant_results(tape: Tape, *, shared: bool, per: str) -> list[str]:
    """What is returned and the same for all."""
    return [
        _stored(tape, step.column, f"c{step.sources[0]} + tl.zeros([BLOCK], tl.float64)")
        for step in tape.instructions
        if step.name == "store" and step.sources[0] < len(tape.constants) and (step.per == per or not shared)
    ]


def _scratch(column: int) -> str:
    return f"scratch + {column} * (units + scopes)"


def _stored(tape: Tape, column: int, value: str) -> str:
    """The line that stores a column of what is returned; results lie one behind the other."""
    units = scopes = 0
    for first, per, shape in tape.returned.values():
        count = math.prod(shape)
        if first <= column < first + count:
            place = f"out + {units} * units + {scopes} * scopes + at * {count} + {column - first}"
            return f"tl.store({place}, {value}, mask=there)"
        units, scopes = (units, scopes + count) if per == SCOPE else (units + count, scopes)
    raise AssertionError(column)


def _column(given: Mapping[str, tuple[int, str, tuple[int, ...]]], column: int) -> tuple[str, int, int]:
    """Of a column of what is given: the array, its place there, and how many columns that has."""
    for name, (first, _, shape) in given.items():
        if first <= column < first + math.prod(shape):
            return name, column - first, math.prod(shape)
    raise AssertionError(column)
