"""Files of results may have been cut, edited or made by another program: what each value in them must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from proxmom.study.record.faults import described

DEEPEST = 64  # levels; ours have five, and Python's functions give up a little below a thousand

TEXT, WHOLE, NUMBER, NUMBER_OR_NULL = "a text", "a whole number", "a number", "a number or null"
TABLE, NUMBERS, NUMBERS_OR_NULL = "an object", "an object of numbers", "an object of numbers or null"
FACTS = "an object of texts, numbers, true, false and null"

_OF_TYPE = {str: TEXT, int: WHOLE, float: NUMBER, float | None: NUMBER_OR_NULL, Mapping[str, float]: NUMBERS_OR_NULL}
_DESCRIPTION = {
    "key": TEXT,
    "configuration": TABLE,
    "problem": TEXT,
    "method": TEXT,
    "variant_of": TEXT,
    "point_index": WHOLE,
    "seed": WHOLE,
    "stage": TEXT,
    "provenance": FACTS,
}
_DESCRIPTION_ALWAYS = tuple(key for key in _DESCRIPTION if key not in ("variant_of", "stage"))
_CONFIGURATION = {"problem": TABLE, "method": TABLE, "point": NUMBERS}

BROKEN = (OSError, ValueError, KeyError, TypeError, RecursionError)
"""What reading a damaged file can raise."""


def shallow(value: Any) -> Any:
    """The value itself; ValueError if objects and lists are nested deeper than any of ours."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"it must be nested at most {DEEPEST} deep, and is nested deeper")
        level = [inner for outer in level for inner in _inside(outer)]
        depth += 1
    return value


def fields_of(value: Any, kind: type, **others: str) -> dict[str, Any]:
    """The fields of a dataclass, those with a default if they are there; TypeError or KeyError if that is none.

    others: what fields are that in a file are not what their type says.
    """
    types = get_type_hints(kind)
    kinds = {field.name: others.get(field.name) or _OF_TYPE[types[field.name]] for field in fields(kind)}
    return _fields(value, kinds, [f.name for f in fields(kind) if f.default is f.default_factory is MISSING])


def description(value: Any) -> dict[str, Any]:
    """What `run.json` holds; TypeError or KeyError if that describes no run."""
    found = _fields(value, _DESCRIPTION, _DESCRIPTION_ALWAYS)
    inner = _fields(found["configuration"], _CONFIGURATION, tuple(_CONFIGURATION))
    _fields(inner["method"], {"lr": NUMBER}, ())
    return found


def entries(value: Any) -> list[Any]:
    """What `plan.json` holds; TypeError if that is no list."""
    if not isinstance(value, list):
        raise TypeError(f"it must be a list of runs, got {_short(value)}")
    return value


def number(value: Any) -> float | None:
    """A number of a record, or None; TypeError for anything else."""
    return None if value is None else _refuse_unlike("a value", value, NUMBER_OR_NULL)


def unreadable(file: Path, error: Exception) -> ValueError:
    reason = described(error)
    return ValueError(f"{file} is truncated or unreadable ({reason}). Delete {file.parent} and run the study again.")


def _fields(value: Any, kinds: Mapping[str, str], always: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"it must be {TABLE}, got {_short(value)}")
    for key in always:
        if key not in value:
            raise KeyError(f"it lacks {key}")
    for key, kind in kinds.items():
        if key in value:
            _refuse_unlike(key, value[key], kind)
    return value


def _refuse_unlike(name: str, value: Any, kind: str) -> Any:
    if not _fits(value, kind):
        raise TypeError(f"{name} must be {kind}, got {_short(value)}")
    return value


def _fits(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind == WHOLE:
        return type(value) is int
    if kind in (NUMBER, NUMBER_OR_NULL):
        return type(value) in (int, float) or (value is None and kind == NUMBER_OR_NULL)
    if not isinstance(value, dict):
        return False
    if kind == FACTS:
        return all(entry is None or isinstance(entry, str | int | float) for entry in value.values())
    inner = {NUMBERS: NUMBER, NUMBERS_OR_NULL: NUMBER_OR_NULL}.get(kind)
    return inner is None or all(_fits(entry, inner) for entry in value.values())


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _short(value: Any) -> str:
    """The value in a message: whole if it is short, else its kind."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    return text if 0 < len(text) <= 40 else type(value).__name__
