"""`record`: runs a function once on symbols, and puts what it did in line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxmom.step.records import Scope
from proxmom.tape.arrays import Functions, Traced
from proxmom.tape.trace import FOLDS, SCOPE, UNIT, Cell, Node, Recorder, Untraceable, key_of, refused

# The order is known to kernels/tape.h.
ACROSS = ("total", "least", "spread")  # units -> scopes, units -> scopes, scopes -> units
INSTRUCTIONS = ("load", "store", *ACROSS, *FOLDS)


@dataclass(frozen=True)
class Given:
    """An array that a recorded function is given: (U, *shape) or (S, *shape).

    per: `UNIT` or `SCOPE`; finite: columns whose numbers always are, so that 0 times them is 0.
    """

    per: str = UNIT
    shape: tuple[int, ...] = ()
    finite: tuple[int, ...] = ()


@dataclass(frozen=True)
class Instruction:
    """One operation on columns of numbers, one for each unit or scope.

    name: one of `INSTRUCTIONS`; per: `UNIT` or `SCOPE`, of what the result, or what is stored, has one number each;
    target: the register written; sources: the registers read. "load" reads a column of what is given, "store" writes
    one of what is returned; `column` says which.
    """

    name: str
    per: str
    target: int = 0
    sources: tuple[int, ...] = ()
    column: int = 0


@dataclass(frozen=True)
class Tape:
    """A recorded function.

    given, returned: name -> (where its columns begin among all, per, shape); constants: what the first registers hold;
    registers: how many there are; instructions: in order.
    """

    given: Mapping[str, tuple[int, str, tuple[int, ...]]]
    returned: Mapping[str, tuple[int, str, tuple[int, ...]]]
    constants: tuple[float, ...]
    registers: int
    instructions: tuple[Instruction, ...]

    @property
    def stays_in_rows(self) -> bool:
        """Whether no number of one unit depends on another unit's."""
        return not any(step.name in ACROSS for step in self.instructions)


class TracedScope(Scope):
    """A `Scope` of symbols; how many units and scopes there are is not known."""

    def __init__(self, recorder: Recorder, sizes: Any) -> None:
        super().__init__(sizes=sizes)
        self._recorder, self.shared = recorder, recorder.shared
        self._across = {name: np.frompyfunc(lambda cell, name=name: self._moved(name, cell), 1, 1) for name in ACROSS}

    def _moved(self, name: str, cell: Cell) -> Cell:
        to, origin = (UNIT, SCOPE) if name == "spread" else (SCOPE, UNIT)
        if not isinstance(cell, Node):
            return self._recorder.node(name, cell, per=to) if name == "total" else cell
        if cell.per != origin:
            raise Untraceable(f"{name} of what there is one for each {cell.per}")
        return self._recorder.node(name, cell, per=to)

    def _apply(self, name: str, array: Any) -> Traced:
        array = Functions.asarray(array)
        return Traced(self._across[name](array.cells), array.dtype) if self._recorder.shared else array

    def total(self, per_tensor: Any) -> Traced:
        return self._apply("total", per_tensor)

    def least(self, per_tensor: Any) -> Traced:
        return self._apply("least", per_tensor)

    def spread(self, per_scope: Any) -> Traced:
        return self._apply("spread", per_scope)


def record(
    function: Callable[..., Mapping[str, Any]],
    given: Mapping[str, Given],
    *,
    shared: bool,
    per_scope: Collection[str] = (),
    dtype: Any = np.float64,
) -> Tape:
    """The tape of function(scope, **arrays) -> arrays, each with an axis of units or scopes first.

    Args:
        function: computes by the array API, does the same each time, and branches on no value.
        given: the arrays it is given; "sizes", if there, is what the scope counts units by.
        shared: whether several units may share a scope.
        per_scope: the results that there is one of for each scope; of others for each unit.
        dtype: what the numbers will be computed in.

    Raises:
        Untraceable: for any other function.
    """
    caught: list[str] = []
    before = refused.set(caught)
    try:
        first, second = (_run(function, given, shared, per_scope, dtype) for _ in range(2))
    except Untraceable:
        raise
    except Exception as error:  # a mistake is said where the function runs as it is
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    finally:
        refused.reset(before)
    if caught:  # and went on without it
        raise Untraceable(caught[0])
    if first != second:
        raise Untraceable("a result that is not the same each time")
    return first


def _run(
    function: Callable[..., Mapping[str, Any]],
    given: Mapping[str, Given],
    shared: bool,
    per_scope: Collection[str],
    dtype: Any,
) -> Tape:
    recorder, arrays, places, column = Recorder(shared=shared), {}, {}, 0
    for name, kind in given.items():
        count = int(np.prod(kind.shape, dtype=np.int64))
        cells = [recorder.input(column + i, per=kind.per, finite=i in kind.finite) for i in range(count)]
        block = np.empty(count, dtype=object)
        block[:] = cells
        arrays[name] = Traced(block.reshape((1, *kind.shape)), np.dtype(dtype))
        places[name] = (column, kind.per, kind.shape)
        column += count
    scope = TracedScope(recorder, arrays.pop("sizes", None))
    pers = dict.fromkeys(per_scope, SCOPE if shared else UNIT)
    return _in_line(places, function(scope, **arrays), pers)


def _in_line(
    given: Mapping[str, tuple[int, str, tuple[int, ...]]], results: Mapping[str, Traced], pers: Mapping[str, str]
) -> Tape:
    """What leads to the results, each instruction after those it needs, registers used again once they are free."""
    returned: dict[str, tuple[int, str, tuple[int, ...]]] = {}
    stores: list[tuple[Cell, str]] = []
    for name, array in results.items():
        per = pers.get(name, UNIT)
        if array.cells.shape[0] != 1 or any(isinstance(cell, Node) and cell.per != per for cell in array.cells.flat):
            raise Untraceable(f"{name}, of which there is not one for each {per}")
        returned[name] = (len(stores), per, array.cells.shape[1:])
        stores += [(cell, per) for cell in array.cells.flat]
    order = _ordered([cell for cell, _ in stores])
    known = [a for node in order for a in node.arguments if _is_constant(node, a)]
    known += [cell for cell, _ in stores if not isinstance(cell, Node)]
    constants = dict.fromkeys(map(key_of, known))
    return _allocate(given, returned, stores, order, {key: at for at, key in enumerate(constants)})


def _is_constant(node: Node, argument: Cell) -> bool:
    return node.name != "input" and not isinstance(argument, Node)


def _ordered(results: Sequence[Cell]) -> list[Node]:
    """All nodes that results are made of, arguments first."""
    order: dict[int, Node] = {}
    for result in results:
        stack = [result] if isinstance(result, Node) else []
        while stack:
            node = stack[-1]
            missing = [a for a in node.arguments if isinstance(a, Node) and id(a) not in order]
            if missing:
                stack.extend(reversed(missing))
            else:
                order.setdefault(id(node), node)
                stack.pop()
    return list(order.values())


def _allocate(
    given: Mapping[str, tuple[int, str, tuple[int, ...]]],
    returned: Mapping[str, tuple[int, str, tuple[int, ...]]],
    stores: Sequence[tuple[Cell, str]],
    order: Sequence[Node],
    constants: Mapping[tuple[float, bool], int],
) -> Tape:
    columns: dict[int, list[int]] = {}
    for column, (cell, _) in enumerate(stores):
        if isinstance(cell, Node):
            columns.setdefault(id(cell), []).append(column)
    last = {id(a): at for at, node in enumerate(order) for a in node.arguments if isinstance(a, Node)}
    register: dict[int, int] = {}
    free: list[int] = []
    count, steps = len(constants), []
    for at, node in enumerate(order):
        sources = tuple(
            register[id(a)] if isinstance(a, Node) else constants[key_of(a)]
            for a in node.arguments
            if isinstance(a, Node) or node.name != "input"
        )
        done = dict.fromkeys(id(a) for a in node.arguments if isinstance(a, Node) and last[id(a)] == at)
        if free:
            target = free.pop()
        else:
            target, count = count, count + 1
        register[id(node)] = target
        if node.name == "input":
            steps.append(Instruction("load", node.per, target, column=node.arguments[0]))
        else:
            steps.append(Instruction(node.name, node.per, target, sources))
        steps += [Instruction("store", node.per, 0, (target,), column) for column in columns.get(id(node), ())]
        free += [register[key] for key in done]
        if id(node) not in last:
            free.append(target)
    for column, (cell, per) in enumerate(stores):
        if not isinstance(cell, Node):
            steps.append(Instruction("store", per, 0, (constants[key_of(cell)],), column))
    return Tape(given, returned, tuple(value for value, _ in constants), count, tuple(steps))
