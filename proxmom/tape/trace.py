"""Symbols that stand for numbers: whatever is done to them is written down instead of computed.

A cell is a number that is the same for the whole batch, or a `Node`, one number for each unit or each scope.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
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
    "floor": np.floor,
    "remainder": np.remainder,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "log1p": np.log1p,
    "expm1": np.expm1,
}
STAYS_FINITE = ("negative", "abs", "least", "total", "spread", "less", "less_equal", "equal", "logical_not", "isfinite")


class Untraceable(Exception):
    """What was done has no instruction, or depends on a value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # code may catch this, and go another way than it would with numbers
        if (found := refused.get()) is not None:
            found.append(message)


refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)  # of the recording that goes on


class Node:
    """One number for each unit or each scope: an instruction and what it is applied to."""

    __slots__ = ("arguments", "finite", "name", "per", "recorder")

    def __init__(self, recorder: Recorder, name: str, arguments: tuple[Any, ...], per: str, *, finite: bool) -> None:
        self.recorder, self.name, self.arguments, self.per, self.finite = recorder, name, arguments, per, finite


Cell = Any  # a number or a Node


def key_of(constant: Any) -> tuple[float, bool]:
    """What tells constants apart: 0 and -0 too; what is no number is one object, which equals itself."""
    return np.nan if np.isnan(constant) else float(constant), bool(np.signbit(constant))


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
        key = (name, per, *(id(a) if isinstance(a, Node) else key_of(a) for a in arguments))
        if key not in self._known:
            if len(self._known) >= MOST:
                raise Untraceable(f"more than {MOST} instructions")
            finite = finite or (name in STAYS_FINITE and all(not isinstance(a, Node) or a.finite for a in arguments))
            self._known[key] = Node(self, name, arguments, per if self.shared else UNIT, finite=finite)
        return self._known[key]

    def input(self, index: int, *, per: str, finite: bool) -> Node:
        """The node of a column that is given; finite: whether it is never anything else."""
        return self.node("input", index, per=per, finite=finite)


def apply_to(name: str, *arguments: Cell) -> Cell:
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
            apply_to("sqrt", first)
            if others[0] == 0.5
            else first
            if others[0] == 1
            else apply_to("multiply", first, first)
        )
    if name == "negative" and first.name == "negative":
        return first.arguments[0]
    if name == "where" and not isinstance(first, Node):
        return others[0] if first else others[1]
    if len({node.per for node in nodes}) > 1:
        raise Untraceable("numbers of units and of scopes in one operation")
    return nodes[0].recorder.node(name, *arguments, per=nodes[0].per)
