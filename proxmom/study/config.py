"""A study file, checked in full before anything is computed or written.

A study is problems x methods x points. What a run depends on is written down in plain dictionaries, its
configuration, from which its key is made; names are for people and are not part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxmom.study import methods
from proxmom.study.points import SCALES, Dimension, Point, sample
from proxmom.study.problems import PROBLEMS
from proxmom.study.tables import StudyError, Table, read_toml

__all__ = ["Dimension", "MethodSpec", "ProblemSpec", "Study", "StudyError", "load_study"]

_STUDY = ("name", "claim", "seed", "points", "max_evaluations", "target", "reference")
_KINDS: dict[str, dict[str, Any]] = {  # the keys each kind of method takes, with their defaults
    "rule": {
        "lr": None,
        "inertia": 0.0,
        "weight_decay": 0.0,
        "decay": "decoupled",
        "metric": "Euclidean",
        "arguments": {},
        "search": {},
    },
    "solver": {"lr": None, "search": {}},
    "scipy": {},
}


@dataclass(frozen=True)
class ProblemSpec:
    """A builder of problems.py and all its arguments; `name` only if the study gives one.

    where: file and line, for messages.
    """

    kind: str
    name: str | None
    arguments: Mapping[str, Any]
    where: str

    @property
    def configuration(self) -> dict[str, Any]:
        """What the key of a run holds of the problem."""
        return {"kind": self.kind, **self.arguments}


@dataclass(frozen=True)
class MethodSpec:
    """A method under its display name; its configuration holds what a result depends on, but for the point.

    folder: where relative paths of a user's rule start.
    """

    name: str
    configuration: Mapping[str, Any]
    search: tuple[Dimension, ...]
    folder: str

    @property
    def settings(self) -> dict[str, Any]:
        """What `methods.run_method` takes: the configuration, and where to find the rule."""
        return {**self.configuration, "folder": self.folder}

    def points(self, count: int, seed: int) -> list[Point]:
        """The first `count` points of this method's sequence; one empty point if nothing is searched."""
        return sample(self.search, count, seed) if self.search else [{}]


@dataclass(frozen=True)
class Study:
    """A checked study; `text` is the file as it was read."""

    text: str
    name: str
    claim: str
    seed: int
    points: int
    max_evaluations: int
    target: float
    reference: str
    problems: tuple[ProblemSpec, ...]
    methods: tuple[MethodSpec, ...]


def load_study(path: str | Path) -> Study:
    """Reads and checks a study file.

    Raises:
        StudyError: naming file, line, key and what is allowed, for anything that could not be run.
    """
    file = Path(path)
    text, document = read_toml(file)
    document.only("study", "problem", "method")
    if "study" not in document:
        raise document.error("a study needs a [study] table.")
    head = document.table("study", "[study]")
    head.only(*_STUDY)
    study = Study(
        text=text,
        name=_folder_name(head),
        claim=head.text("claim"),
        seed=head.whole("seed", 0, least=0),
        points=head.whole("points", least=1),
        max_evaluations=head.whole("max_evaluations", least=1),
        target=_open_unit(head, "target"),
        reference=head.text("reference"),
        problems=tuple(_problem(table) for table in document.tables("problem")),
        methods=tuple(_method(table) for table in document.tables("method")),
    )
    _unique(document.tables("problem"), [problem.name for problem in study.problems])
    _unique(document.tables("method"), names := [method.name for method in study.methods])
    if study.reference not in names:
        raise head.error(
            f"reference must name a method of this study, got {study.reference!r}; methods: {', '.join(names)}.",
            "reference",
        )
    return study


def _folder_name(head: Table) -> str:
    name = head.text("name")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise head.error(
            f"name must be letters, digits, '.', '_' and '-', for it names a folder; got {name!r}.", "name"
        )
    return name


def _open_unit(head: Table, key: str) -> float:
    value = head.number(key)
    if not 0 < value < 1:
        raise head.error(f"{key} must be > 0 and < 1, got {value}.", key)
    return value


def _unique(tables: Iterable[Table], names: Iterable[str | None]) -> None:
    seen: set[str] = set()
    for table, name in zip(tables, names, strict=True):
        if name in seen:
            raise table.error(f"the name {name!r} stands for two of the {table.title} tables.", "name")
        seen |= {name} if name else set()


def _problem(table: Table) -> ProblemSpec:
    kind = table.text("kind")
    if kind not in PROBLEMS:
        raise table.error(f"unknown kind of problem {kind!r}; valid kinds: {', '.join(PROBLEMS)}.", "kind")
    signature = inspect.signature(PROBLEMS[kind]).parameters
    takes = {key: argument.default for key, argument in signature.items() if key != "data_dir"}
    table.only("kind", "name", *takes)
    filled = {key: table.plain(key) if key in table else default for key, default in takes.items()}
    for key, value in filled.items():
        if value is inspect.Parameter.empty:
            raise table.error(f"a {kind} problem needs the key {key!r}.")
    return ProblemSpec(kind, table.text("name") if "name" in table else None, filled, table.where)


def _method(table: Table) -> MethodSpec:
    table.only("name", *dict.fromkeys(key for keys in _KINDS.values() for key in keys), *_KINDS)
    kinds = [kind for kind in _KINDS if kind in table]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none of them"
        raise table.error(f"a [[method]] needs exactly one of {', '.join(_KINDS)}, got {got}.", *kinds[1:])
    [kind] = kinds
    replace(table, title=f"a [[method]] with {kind}").only("name", kind, *_KINDS[kind])
    search = _search(table)
    configuration = {kind: table.text(kind), **_fixed(table, kind, [dimension.name for dimension in search])}
    home = _home(configuration.get("rule", ""), table.file)
    if sources := [file for key in ("rule", "metric") if (file := _source(configuration.get(key, ""), home))]:
        code = b"".join(file.read_bytes() for file in sources)
        configuration["source"] = hashlib.sha256(code).hexdigest()[:16]
    method = MethodSpec(table.text("name"), configuration, search, str(home))
    _rehearse(method, table, kind)
    return method


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
        if key in ("arguments", "search", *searched):
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
            blamed, key = _blame(table, kind, cause)
            raise blamed.error(f"method {method.name!r} cannot run: {cause}", key) from error


def _blame(table: Table, kind: str, cause: str) -> tuple[Table, str]:
    """Where the key stands that a message of the library speaks of; the method's first key if it names none."""
    for part in (table.table("search", ""), table.table("arguments", ""), table):
        for key in part.values:
            if re.search(rf"\b{re.escape(key)} must\b|'{re.escape(key)}'", cause):
                return part, key
    return table, kind
