"""[[method]] tables of a study file: read, completed, and rehearsed before anything is run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxmom.lookup import find_rule
from proxmom.study import methods
from proxmom.study.points import SCALES, Dimension
from proxmom.study.specs import MethodSpec, why_not_frozen
from proxmom.study.tables import Table

_KINDS: dict[str, dict[str, Any]] = {  # the keys each kind of method takes, with their defaults
    "rule": {
        "lr": None,
        "inertia": 0.0,
        "weight_decay": 0.0,
        "decay": "decoupled",
        "metric": "Euclidean",
        "arguments": {},
        "search": {},
        "points": 0,
        "defaults": {},
        "freeze": [],
    },
    "solver": {"lr": None, "search": {}, "points": 0, "defaults": {}},
    "scipy": {},
}

_LR = {"low": 0.3, "high": 1e4, "scale": "log"}  # in units of 1/L: wide enough for any average of gradients


def read_methods(table: Table) -> list[MethodSpec]:
    """The method of a [[method]] table and, if asked for, its row of defaults; both rehearsed."""
    kind = _kind(table)
    search = _search(table)
    configuration = {kind: table.text(kind), **_fixed(table, kind, [dimension.name for dimension in search])}
    home = _home(configuration.get("rule", ""), table.file)
    if sources := [file for key in ("rule", "metric") if (file := _source(configuration.get(key, ""), home))]:
        code = b"".join(file.read_bytes() for file in sources)
        configuration["source"] = hashlib.sha256(code).hexdigest()[:16]
    budget = table.whole("points", least=1) if "points" in table else None
    frozen = _frozen(table, configuration)
    method = MethodSpec(table.text("name"), configuration, search, str(home), frozen=frozen, budget=budget)
    found = [method, *_defaults(table, method)]
    for each in found:
        _rehearse(each, table, kind)
    return found


def read_rule(text: str) -> list[MethodSpec]:
    """A rule that no study file names, as a method: lr searched, and f* as its lower bound if it takes one."""
    values: dict[str, Any] = {"name": text, "rule": text, "search": {"lr": _LR}}
    with contextlib.suppress(ValueError):
        find_rule(text, lower_bound=0.0)
        values["arguments"] = {"lower_bound": methods.OPTIMUM}
    return read_methods(Table(Path("--rule"), values, (), {}, "--rule"))


def _kind(table: Table) -> str:
    table.only("name", *dict.fromkeys(key for keys in _KINDS.values() for key in keys), *_KINDS)
    kinds = [kind for kind in _KINDS if kind in table]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none of them"
        raise table.error(f"a [[method]] needs exactly one of {', '.join(_KINDS)}, got {got}.", *kinds[1:])
    [kind] = kinds
    replace(table, title=f"a [[method]] with {kind}").only("name", kind, *_KINDS[kind])
    return kind


def _defaults(table: Table, method: MethodSpec) -> list[MethodSpec]:
    """The row "defaults only", with the values under the key defaults."""
    given = table.table("defaults", "defaults")
    if "defaults" not in table:
        return []
    if not method.search:
        raise table.error(f"method {method.name!r} searches nothing: its defaults are what it is.", "defaults")
    values = {key: given.plain(key) for key in given.values}
    if "lr" not in values and "lr" not in method.configuration:
        raise table.error("defaults must give lr, in units of 1/L, as it is searched.", "defaults")
    return [method.with_defaults(values)]


def _frozen(table: Table, configuration: Mapping[str, Any]) -> tuple[str, ...]:
    names = table.get("freeze", list, [])
    for what in names:
        if reason := why_not_frozen(what, configuration):
            raise table.error(reason, "freeze")
    return tuple(names)


def _search(table: Table) -> tuple[Dimension, ...]:
    ranges = table.table("search", "search")
    return tuple(_dimension(ranges.table(name, f"search.{name}")) for name in ranges.values)


def _dimension(table: Table) -> Dimension:
    table.only("low", "high", "scale")
    low, high, scale = table.number("low"), table.number("high"), table.text("scale")
    if scale not in SCALES:
        raise table.error(f"scale must be one of {', '.join(SCALES)}, got {scale!r}.", "scale")
    if not low < high:
        raise table.error(f"{table.title} must have low < high, got {low:g} and {high:g}.", "low")
    if scale == "log" and not low > 0:
        raise table.error(f"{table.title} with scale 'log' must have low > 0, got {low:g}.", "low")
    if scale == "log1m" and not high < 1:
        raise table.error(f"{table.title} with scale 'log1m' must have high < 1, got {high:g}.", "high")
    return Dimension(str(table.place[-1]), low, high, scale)


def _fixed(table: Table, kind: str, searched: Sequence[str]) -> dict[str, Any]:
    """The fixed settings of a method, defaults filled in, without what is searched."""
    arguments = table.table("arguments", "arguments")
    for key in searched:
        if key in table or key in arguments:
            raise table.error(f"{key} is both fixed and searched; keep one.", "search")
    plain = {key: arguments.plain(key) for key in arguments.values}
    fixed: dict[str, Any] = {"arguments": plain} if kind == "rule" else {}
    for key, default in _KINDS[kind].items():
        if key == "lr" and key not in (*table.values, *searched):
            raise table.error(f"method {table.text('name')!r} has no lr: set lr or search.lr, in units of 1/L.")
        if key in ("arguments", "search", "points", "defaults", "freeze", *searched):
            continue
        fixed[key] = table.text(key, default) if isinstance(default, str) else table.number(key, default)
    return fixed


def _place(text: str) -> str:
    """The file or module of an import path, `my_rules.py` of `my_rules.py:MyRule(beta=0.5)`; else empty."""
    return text.partition("(")[0].rpartition(":")[0].strip()


def _home(rule: str, study: Path) -> Path:
    """The folder that a rule's relative file is found in: the study's, or the current one."""
    folder = study.resolve().parent
    elsewhere = not (folder / _place(rule)).is_file() and (Path.cwd() / _place(rule)).is_file()
    return Path.cwd() if elsewhere else folder


def _source(text: str, home: Path) -> Path | None:
    """The source file of a user's own rule or metric, so that changed code is another run."""
    place = _place(text)
    if place.endswith(".py"):
        return home / place if (home / place).is_file() else None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(place) if place else None
        return Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return None


def _rehearse(method: MethodSpec, table: Table, kind: str) -> None:
    """Refuses what cannot run: two evaluations on a small quadratic, at both ends of the search."""
    for end in ("low", "high"):
        point = {dimension.name: float(getattr(dimension, end)) for dimension in method.search}
        try:
            methods.rehearse(method.settings, point)
        except ArithmeticError:
            continue  # numerical trouble at one end of a range belongs to the runs
        except Exception as error:
            cause = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            blamed, key = _blame(table, "defaults" if method.variant_of else "search", kind, cause)
            raise blamed.error(f"method {method.name!r} cannot run: {cause}", key) from error


def _blame(table: Table, values: str, kind: str, cause: str) -> tuple[Table, str]:
    """Where the key stands that a message of the library speaks of; the method's first key if it names none."""
    for part in (table.table(values, ""), table.table("arguments", ""), table):
        for key in part.values:
            if re.search(rf"\b{re.escape(key)} must\b|'{re.escape(key)}'", cause):
                return part, key
    return table, kind
