"""What code reads beside its arguments: attributes, classes, globals, closures. A recording holds as long as they do.

`Watch` finds them once, by walking objects and the code of their methods, and then says at each step whether all is as
it was. What installed packages hold is taken to stay the same, but for attributes of classes.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import numpy as np

from proxmom.tape.trace import Untraceable

MOST_OBJECTS, MOST_NUMBERS = 1_000, 10_000  # what more there is to watch is not worth a recording
INSTALLED = {*sys.stdlib_module_names, "numpy", "torch", "array_api_compat", "proxmom"}
EFFECTS = {"print", "open", "input", "exec", "eval", "globals", "__import__"}
PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range, slice, np.generic, np.dtype, Enum)
WITHOUT_STATE = (
    np.ufunc,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.GenericAlias,
)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")
_MISSING = object()


class Watch:
    """All that the methods of some objects could read, as it is now.

    Args:
        parts: objects, walked as far as attributes, containers, functions and their globals lead.

    Attributes:
        pairs: two lists, or one and None; where they are equal all is what it was, else `holds` knows.

    Raises:
        Untraceable: for what nobody can compare, what has effects, and more than is worth it.
    """

    def __init__(self, parts: Any) -> None:
        self._seen: dict[int, Any] = {}  # held, so that an id is one object's
        self._places: list[tuple[Callable[[], Any], Any, Callable[[Any], Any]]] = []  # read, what it was, write
        self.pairs: tuple[list[Any], list[Any] | None] = ([], [])
        for part in parts:
            self._walk(part)

    def holds(self) -> bool:
        """Whether everything is what it was."""
        try:
            return all(read() == kept for read, kept, _ in self._places)
        except Exception:  # of an array there is no one answer
            return False

    def restore(self) -> None:
        """Make everything what it was."""
        for _, kept, write in self._places:
            write(kept)

    def _watch(
        self, read: Callable[[], Any], write: Callable[[Any], Any], kept: Any, pair: tuple[Any, Any] | None = None
    ) -> None:
        """What `read` gives; pair: two objects that are equal as long as that is `kept`, where there are."""
        self._places.append((read, kept, write))
        now, then = self.pairs
        if pair is None or then is None:
            self.pairs = ([], None)
        else:
            now.append(pair[0])
            then.append(pair[1])

    def _walk(self, value: Any) -> None:
        if isinstance(value, PLAIN + WITHOUT_STATE) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if len(self._seen) > MOST_OBJECTS:
            raise Untraceable("more objects that it could read than can be watched")
        for kinds, walk in _WALKS:
            if isinstance(value, kinds):
                walk(self, value)
                return
        if hasattr(value, "detach"):
            self._tensor(value)
        else:
            self._instance(value)

    def _each(self, values: Any) -> None:
        for value in values:
            self._walk(value)

    def _list(self, value: list[Any]) -> None:
        kept = list(value)
        self._watch(lambda: value, lambda kept: value.__setitem__(slice(None), kept), kept, (value, kept))
        self._each(value)

    def _mapping(self, value: Any) -> None:
        kept = dict(value)
        self._watch(lambda: value, functools.partial(_refill, value), kept, (value, kept))
        self._each(value.values())

    def _set(self, value: set[Any]) -> None:
        kept = set(value)
        self._watch(lambda: value, functools.partial(_refill, value), kept, (value, kept))
        self._each(value)

    def _array(self, value: Any) -> None:
        if value.dtype.hasobject or value.size > MOST_NUMBERS:
            raise Untraceable("an array that cannot be watched")
        kept = value.copy()
        self._watch(value.tobytes, lambda _: np.copyto(value, kept), value.tobytes())

    def _tensor(self, value: Any) -> None:
        if value.device.type != "cpu" or value.numel() > MOST_NUMBERS:
            raise Untraceable("a tensor that cannot be watched")
        kept = value.detach().clone()
        self._watch(lambda: bool((value.detach() == kept).all()), lambda _: value.detach().copy_(kept), True)

    def _instance(self, value: Any) -> None:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        if not slots and not hasattr(value, "__dict__"):
            raise Untraceable(f"a {type(value).__name__}, which cannot be watched")
        if slots:
            self._names(lambda name: getattr(value, name, _MISSING), slots, functools.partial(_set_slot, value))
        if hasattr(value, "__dict__"):
            self._mapping(value.__dict__)
        self._walk(type(value))

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if base.__module__.split(".")[0] in sys.stdlib_module_names or (
                base is not kind and id(base) in self._seen
            ):
                continue
            self._seen[id(base)] = base
            whole = dict(vars(base))
            kept = {name: value for name, value in whole.items() if not _is_dunder(name) or callable(value)}
            self._watch(
                functools.partial(_attributes, base, kept),
                functools.partial(_set_class, base),
                kept,
                (vars(base), whole),
            )
            own = kept.values()
            self._each(
                own if not _installed(base) else [v for v in own if isinstance(v, list | dict | set | np.ndarray)]
            )

    def _module(self, module: types.ModuleType) -> None:
        """Nothing of itself: what is read of it is seen where it is read."""

    def _function(self, function: types.FunctionType) -> None:
        if _installed(function):
            return
        cells = [cell for cell in function.__closure__ or () if cell is not None]
        read, attributes = _names_in(function.__code__)
        if EFFECTS & {name for name in read if name not in function.__globals__}:
            raise Untraceable(f"{function.__name__}, which may do more than compute")
        self._names(_contents, cells, lambda cell, kept: setattr(cell, "cell_contents", kept))
        self._each([function.__defaults__ or (), function.__kwdefaults__ or {}])
        self._namespace(function.__globals__, read)
        for name in read:
            module = function.__globals__.get(name)
            if isinstance(module, types.ModuleType) and not _installed(module):
                self._namespace(vars(module), attributes & vars(module).keys())

    def _namespace(self, space: dict[str, Any], names: Any) -> None:
        def write(name: str, kept: Any) -> None:
            space.pop(name, None) if kept is _MISSING else space.__setitem__(name, kept)

        self._names(lambda name: space.get(name, _MISSING), sorted(names), write)

    def _names(self, read: Callable[[Any], Any], names: list[Any], write: Callable[[Any, Any], Any]) -> None:
        """Each of some named values."""
        if names:
            kept = [read(name) for name in names]
            self._watch(
                lambda: [read(name) for name in names],
                lambda kept: [write(name, value) for name, value in zip(names, kept, strict=True)],
                kept,
            )
            self._each(value for value in kept if value is not _MISSING)

    def _wrapped(self, value: Any) -> None:
        found = [getattr(value, name, None) for name in ("__func__", "__wrapped__", "__self__", "fget", "func")]
        self._each([part for part in found if part is not None])
        if isinstance(value, functools.partial):
            self._each([value.args, value.keywords])


_WALKS: list[tuple[Any, Callable[[Watch, Any], None]]] = [
    ((tuple, frozenset), Watch._each),
    (list, Watch._list),
    ((dict, types.MappingProxyType), Watch._mapping),
    (set, Watch._set),
    (np.ndarray, Watch._array),
    (types.ModuleType, Watch._module),
    (types.FunctionType, Watch._function),
    (type, Watch._class),
    ((types.BuiltinFunctionType, types.MethodType, staticmethod, classmethod, property), Watch._wrapped),
    ((functools.partial, functools.cached_property, type(functools.lru_cache(abs))), Watch._wrapped),
]


def _refill(container: Any, kept: Any) -> None:
    if not isinstance(container, types.MappingProxyType):
        container.clear()
        container.update(kept)


def _slots(kind: type) -> list[str]:
    names = vars(kind).get("__slots__", ())
    names = [names] if isinstance(names, str) else list(names)
    hidden = (
        f"_{kind.__name__.lstrip('_')}{name}" if name[:2] == "__" and name[-2:] != "__" else name for name in names
    )
    return [name for name in hidden if name not in ("__dict__", "__weakref__")]


def _set_slot(value: Any, name: str, kept: Any) -> None:
    object.__delattr__(value, name) if kept is _MISSING else object.__setattr__(value, name, kept)


def _is_dunder(name: str) -> bool:
    return name[:2] == "__" == name[-2:]


def _attributes(kind: type, kept: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a class; what Python adds by itself does not count."""
    return {name: value for name, value in vars(kind).items() if not _is_dunder(name) or name in kept}


def _set_class(kind: type, kept: dict[str, Any]) -> None:
    now = _attributes(kind, kept)
    for name in now.keys() - kept.keys():
        delattr(kind, name)
    for name, value in kept.items():
        if now.get(name, _MISSING) is not value:
            setattr(kind, name, value)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet written
        return _MISSING


def _installed(value: Any) -> bool:
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    return name.split(".")[0] in INSTALLED


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names_in(code: types.CodeType) -> tuple[set[str], set[str]]:
    """The globals that code names, and the attributes."""
    names: set[str] = set()
    attributes: set[str] = set()
    for part in _codes(code):
        for step in dis.get_instructions(part):
            if step.opname in _GLOBAL:
                names.add(step.argval)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"):
                attributes.add(step.argval)
    return names, attributes
