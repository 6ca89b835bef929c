"""Rules, metrics and other classes by name.

`AdaptiveMemory`, `MoMo(lower_bound=0.1)`, `my_rules.py:MyRule`, `package.module:MyRule(beta=0.5)`: literals only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from proxmom.metrics import METRICS
from proxmom.rules import RULES
from proxmom.secant import Secant
from proxmom.stepsize import Alignment


def find_rule(text: str, *, folders: Sequence[Path] = (), **arguments: Any) -> Any:
    """An instance of the rule that `text` names.

    Args:
        text: a name from `proxmom rules`, or an import path "file.py:Class" or "package.module:Class", each with
            arguments in parentheses if wanted, literals only.
        folders: where a relative file is looked for, before the current directory.
        **arguments: further arguments of the rule.

    Raises:
        ValueError: for a name, an import path or arguments that do not exist.
    """
    return _build("rule", text, RULES, folders, arguments)


def find_metric(text: str, *, folders: Sequence[Path] = (), **arguments: Any) -> Any:
    """An instance of the metric that `text` names: "Euclidean", "Adam", "Adam(beta2=0.99)", or an import path.

    Args:
        text, folders: as for `find_rule`.
        **arguments: further arguments of the metric.

    Raises:
        ValueError: as `find_rule`.
    """
    return _build("metric", text, METRICS, folders, arguments)


def find_step_size(text: str, *, folders: Sequence[Path] = (), **arguments: Any) -> Any:
    """An instance of the step size that `text` names: "Secant", "Alignment(rate=0.1)", or an import path.

    Args:
        text, folders: as for `find_rule`.
        **arguments: further arguments of the step size.

    Raises:
        ValueError: as `find_rule`.
    """
    return _build("step size", text, {kind.__name__: kind for kind in (Alignment, Secant)}, folders, arguments)


def find_factory(kind: str, text: str, known: Mapping[str, Any], *, folders: Sequence[Path] = ()) -> partial[Any]:
    """What `text` names, with its arguments filled in but not called yet: they must be given by name.

    Args:
        kind: the word for it in messages, e.g. "optimizer".
        text: a name in `known`, or an import path, as for `find_rule`.
        known: what has a name.
        folders: as for `find_rule`.

    Raises:
        ValueError: for a name or an import path that does not exist, or arguments without a name.
    """
    thing, positional, named = _find(kind, text, known, folders)
    if positional:
        raise ValueError(f"{kind} must have its arguments by name, as in Name(lr=0.1), got {text!r}.")
    return partial(thing, **named)


def _build(kind: str, text: str, known: Mapping[str, Any], folders: Sequence[Path], arguments: dict[str, Any]) -> Any:
    thing, positional, named = _find(kind, text, known, folders)
    try:
        return thing(*positional, **named, **arguments)
    except TypeError as error:
        raise ValueError(f"{kind} {text!r} cannot be made: {error}. It takes {_signature(thing)}.") from error


def _signature(thing: Any) -> str:
    """The arguments of a class without their types: "(lower_bound, beta=0.9)"."""
    try:
        known = inspect.signature(thing)
    except (TypeError, ValueError):  # some classes written in C have none
        return "other arguments"
    plain = [value.replace(annotation=value.empty) for value in known.parameters.values()]
    return str(known.replace(parameters=plain, return_annotation=known.empty))


def _find(
    kind: str, text: str, known: Mapping[str, Any], folders: Sequence[Path]
) -> tuple[Any, list[Any], dict[str, Any]]:
    """The class, and the arguments in the text."""
    path, positional, named = _parse(kind, text)
    if path.endswith(".py"):
        raise ValueError(f"{kind} must name the class in the file too, as in {path}:My{kind.title()}, got {path!r}.")
    thing = _import(kind, path, folders) if ":" in path else known.get(path)
    if thing is None:
        raise ValueError(
            f"{kind} must be one of {', '.join(known)}, or an import path like my_{kind}s.py:My{kind.title()}, "
            f"got {path!r}."
        )
    return thing, positional, named


def _parse(kind: str, text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """ "MoMo(0.1, beta=0.5)" -> ("MoMo", [0.1], {"beta": 0.5})."""
    path, bracket, inside = text.strip().partition("(")
    try:
        call: Any = ast.parse(f"f({inside}" if bracket else "f()", mode="eval").body
        named = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        if None in named:
            raise ValueError("** is no literal")
        return path.strip(), [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{kind} must look like Name or Name(argument=1.0), with literals only, got {text!r}."
        ) from error


def _import(kind: str, path: str, folders: Sequence[Path]) -> Any:
    place, _, name = path.rpartition(":")
    module = _load_file(kind, place, folders) if place.endswith(".py") else _load_module(kind, place)
    if not hasattr(module, name):
        raise ValueError(
            f"{kind} {path!r}: {place} has no {name!r}. It has {', '.join(_classes(module)) or 'no classes'}."
        )
    return getattr(module, name)


def _classes(module: ModuleType) -> list[str]:
    return [n for n, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]


def _load_module(kind: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise ValueError(
            f"{kind}: cannot import {place!r}: {error}. For a file write its path, ending in .py."
        ) from error


def _load_file(kind: str, place: str, folders: Sequence[Path]) -> ModuleType:
    tried = [(folder / place).resolve() for folder in (*folders, Path())]
    found = next((file for file in tried if file.is_file()), None)
    if found is None:
        raise ValueError(f"{kind}: no file {place!r}; looked for {', '.join(map(str, tried))}.")
    key = hashlib.sha256(str(found).encode() + found.read_bytes()).hexdigest()[:12]  # a changed file is a new module
    name = f"proxmom_user_{found.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, found)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{kind}: {found} cannot be run: {type(error).__name__}: {error}.") from error
    return module
