"""A study file, checked in full before anything is computed or written.

A study is problems x methods x points. What a run depends on is written down in plain dictionaries, its
configuration, from which its key is made; names are for people and are not part of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from proxmom.study.entries import read_methods, read_rule
from proxmom.study.points import Dimension
from proxmom.study.problems import PROBLEMS
from proxmom.study.specs import MethodSpec, ProblemSpec
from proxmom.study.tables import StudyError, Table, read_toml

__all__ = ["Dimension", "MethodSpec", "ProblemSpec", "Study", "StudyError", "load_study"]

_STUDY = ("name", "claim", "seed", "points", "max_evaluations", "target", "reference")


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


def load_study(path: str | Path, rules: Sequence[str] = ()) -> Study:
    """Reads and checks a study file; `rules`, names or import paths, are further methods of it.

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
    problems = [(table, problem) for table in document.tables("problem") for problem in _problems(table)]
    methods = [(table, method) for table in document.tables("method") for method in read_methods(table)]
    methods += [(document, method) for rule in rules for method in read_rule(rule)]
    study = Study(
        text=text,
        name=_folder_name(head),
        claim=head.text("claim"),
        seed=head.whole("seed", 0, least=0),
        points=head.whole("points", least=1),
        max_evaluations=head.whole("max_evaluations", least=1),
        target=_open_unit(head, "target"),
        reference=head.text("reference"),
        problems=tuple(problem for _, problem in problems),
        methods=tuple(method for _, method in methods),
    )
    _unique((table, problem.name) for table, problem in problems)
    _unique((table, name) for table, method in methods for name in _rows(method))
    names = [name for method in study.methods for name in _rows(method)]
    if study.reference not in names:
        raise head.error(
            f"reference must name a method of this study, got {study.reference!r}; methods: {', '.join(names)}.",
            "reference",
        )
    return study


def _rows(method: MethodSpec) -> list[str]:
    """The names under which a method stands in tables: its own, and those of its controls."""
    return [method.name, *(control.name for control in method.controls)]


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


def _unique(named: Iterable[tuple[Table, str | None]]) -> None:
    seen: set[str] = set()
    for table, name in named:
        if name in seen:
            raise table.error(f"the name {name!r} stands for two of the {table.title} tables.", "name")
        seen |= {name} if name else set()


def _problems(table: Table) -> list[ProblemSpec]:
    """The problems of a [[problem]] table: one for each combination, where arguments are lists."""
    kind = table.text("kind")
    if kind not in PROBLEMS:
        raise table.error(f"unknown kind of problem {kind!r}; valid kinds: {', '.join(PROBLEMS)}.", "kind")
    signature = inspect.signature(PROBLEMS[kind]).parameters
    takes = {key: argument.default for key, argument in signature.items() if key != "data_dir"}
    table.only("kind", "name", *takes)
    choices = {key: _choices(table, key) if key in table else [default] for key, default in takes.items()}
    for key, [first, *_] in choices.items():
        if first is inspect.Parameter.empty:
            raise table.error(f"a {kind} problem needs the key {key!r}.")
    filled = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    name = table.text("name") if "name" in table else None
    if name and len(filled) > 1:
        raise table.error(f"{name!r} cannot name {len(filled)} problems; leave name or the lists out.", "name")
    return [ProblemSpec(kind, name, arguments, table.where) for arguments in filled]


def _choices(table: Table, key: str) -> list[Any]:
    value = table.plain(key)
    if value == []:
        raise table.error(f"{key} must be a value or a list of some, got [].", key)
    return value if isinstance(value, list) else [value]
