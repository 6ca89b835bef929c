"""A study file, checked in full before anything is computed or written.

A study is problems x methods x points, and in a training study x seeds; `steps` makes it one. What a run depends on
is written down in plain dictionaries, its configuration, from which its key is made; names are for people and are not
part of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from proxmom.study.methods.settings import OPTIMUM
from proxmom.study.plan.decisions import Decision, read_decisions
from proxmom.study.plan.entries import (
    DETERMINISTIC,
    TRAINING,
    home_of,
    read_methods,
    read_rule,
    read_schedule,
    source_of,
)
from proxmom.study.plan.points import Dimension
from proxmom.study.plan.specs import MOST_SEEDS, Evaluations, MethodSpec, ProblemSpec, Training
from proxmom.study.plan.toml import StudyError, Table, of_length, parse_toml, read_toml
from proxmom.study.problems.collection import PROBLEMS
from proxmom.study.problems.own import check_own, is_own

__all__ = ["Dimension", "Evaluations", "MethodSpec", "ProblemSpec", "Study", "StudyError", "Training", "load_study"]

DEVICES = ("cpu", "cuda")
OF_THE_RUN = ("seed", "data_dir", "device", "folder")  # what no table says of a training task
_STUDY = ("name", "claim", "seed", "points", "reference")
_EVALUATIONS = ("max_evaluations", "target")
_TRAINING = ("steps", "seeds", "search_seeds", "schedule", "warmup", "device", "targets")


@dataclass(frozen=True)
class Study:
    """A checked study; `text` is the file as it was read, `runs` says what each run is, `decisions` what is claimed."""

    text: str
    name: str
    claim: str
    seed: int
    points: int
    reference: str
    runs: Evaluations | Training
    problems: tuple[ProblemSpec, ...]
    methods: tuple[MethodSpec, ...]
    decisions: tuple[Decision, ...] = ()

    @property
    def training(self) -> Training | None:
        """What each run is in a training study; None in a deterministic one."""
        return self.runs if isinstance(self.runs, Training) else None


def load_study(path: str | Path, rules: Sequence[str] = (), steps: int | None = None) -> Study:
    """Reads and checks a study file; `rules`, names or import paths, are further methods of it.

    steps: >= 1, instead of those of a training study; they stand in its name too, so that its results are apart.

    Raises:
        StudyError: naming file, line, key and what is allowed, for anything that could not be run.
    """
    file = Path(path)
    text, document = read_toml(file)
    if steps is not None:
        text = of_length(text, document, steps)
        document = parse_toml(text, file)
    document.only("study", "problem", "method", "decide")
    if "study" not in document:
        raise document.error("a study needs a [study] table.")
    head = document.table("study", "[study]")
    runs = _training(head) if "steps" in head else _evaluations(head)
    dialect = TRAINING if isinstance(runs, Training) else DETERMINISTIC
    problems = [(table, problem) for table in document.tables("problem") for problem in _problems(table, runs)]
    methods = [(table, method) for table in document.tables("method") for method in read_methods(table, dialect)]
    bound: str | float = OPTIMUM
    if isinstance(runs, Training) and (unknown := _without_optimum(problem.kind for _, problem in problems)):
        _refuse_optimum(methods, unknown)
        bound = 0.0  # losses of training tasks are never negative
    methods += [(document, method) for rule in rules for method in read_rule(rule, dialect, bound)]
    names = [name for _, method in methods for name in _rows(method)]
    study = Study(
        text=text,
        name=_folder_name(head),
        claim=head.text("claim"),
        seed=head.whole("seed", 0, least=0),
        points=head.whole("points", least=1),
        reference=head.text("reference"),
        runs=runs,
        problems=tuple(problem for _, problem in problems),
        methods=tuple(method for _, method in methods),
        decisions=read_decisions(document, isinstance(runs, Training), names),
    )
    _unique((table, problem.name) for table, problem in problems)
    _unique((table, name) for table, method in methods for name in _rows(method))
    if study.reference not in names:
        raise head.error(
            f"reference must name a method of this study, got {study.reference!r}; methods: {', '.join(names)}.",
            "reference",
        )
    return study


def _evaluations(head: Table) -> Evaluations:
    for key in _TRAINING:
        if key in head:
            raise head.error(f"{key} belongs to training studies, which give steps instead of a target.", key)
    head.only(*_STUDY, *_EVALUATIONS)
    if not any(key in head for key in _EVALUATIONS):
        raise head.error(f"[study] needs {' and '.join(_EVALUATIONS)}, or, to train, steps and seeds.")
    return Evaluations(head.whole("max_evaluations", least=1), _open_unit(head, "target"))


def _training(head: Table) -> Training:
    for key in _EVALUATIONS:
        if key in head:
            raise head.error(f"{key} does not go with steps: a training study ends after its steps; keep one.", key)
    head.only(*_STUDY, *_TRAINING)
    device = head.text("device", DEVICES[0])
    if device not in DEVICES:
        raise head.error(f"device must be one of {', '.join(DEVICES)}, got {device!r}.", "device")
    schedule = {"schedule": "constant", "warmup": 0.0, **read_schedule(head)}
    targets = head.get("targets", list, [])
    if not all(type(target) in (int, float) and 0 < target < float("inf") for target in targets):
        raise head.error(f"targets must be validation losses > 0, got {targets}.", "targets")
    seeds, search_seeds = head.whole("seeds", least=1), head.whole("search_seeds", 1, least=1, most=MOST_SEEDS)
    if search_seeds > 1 and seeds > MOST_SEEDS:
        taken = f"beside search_seeds > 1, which takes training seeds from {MOST_SEEDS + 1} on"
        raise head.error(f"seeds must be <= {MOST_SEEDS} {taken}, got {seeds}.", "seeds")
    return Training(
        steps=head.whole("steps", least=1),
        seeds=seeds,
        search_seeds=search_seeds,
        device=device,
        targets=tuple(map(float, targets)),
        **schedule,
    )


def _without_optimum(kinds: Iterable[str]) -> str:
    """The first kind of training task whose optimum is not known; empty if there is none."""
    from proxmom.study.training.convex import KINDS

    return next((kind for kind in kinds if kind not in KINDS), "")


def _refuse_optimum(methods: Iterable[tuple[Table, MethodSpec]], kind: str) -> None:
    for table, method in methods:
        if OPTIMUM in method.configuration.get("arguments", {}).values():
            reason = f"{OPTIMUM!r} needs problems whose optimum is known, which that of {kind!r} is not: give a number."
            raise table.error(reason, "arguments")


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


def _problems(table: Table, runs: Evaluations | Training) -> list[ProblemSpec]:
    """The problems of a [[problem]] table: one for each combination, where arguments are lists."""
    builders, hidden = _builders(runs)
    kind = table.text("kind")
    if is_own(kind):
        return _own_problems(table, kind, runs)
    if kind not in builders:
        hint = "; leave steps out for a deterministic study of it" if kind in PROBLEMS else ""
        own = "my_problem.py:lasso" if isinstance(runs, Evaluations) else "my_network.py:Net"
        valid = f"{', '.join(builders)}, or an import path like {own}"
        raise table.error(f"unknown kind of problem {kind!r}; valid kinds: {valid}{hint}.", "kind")
    signature = inspect.signature(builders[kind]).parameters
    takes = {key: argument.default for key, argument in signature.items() if key not in hidden}
    table.only("kind", "name", *takes)
    choices = {key: _choices(table, key) if key in table else [default] for key, default in takes.items()}
    for key, [first, *_] in choices.items():
        if first is inspect.Parameter.empty:
            raise table.error(f"a {kind} problem needs the key {key!r}.")
    if isinstance(runs, Training) and runs.device != "cpu" and not _without_optimum([kind]):
        raise table.error(f"a {kind} problem is trained on the CPU: device must be 'cpu', got {runs.device!r}.")
    name, filled = _filled(table, choices)
    folder = str(table.file.resolve().parent)
    return [ProblemSpec(kind, name, arguments, table.where, folder) for arguments in filled]


def _own_problems(table: Table, kind: str, runs: Evaluations | Training) -> list[ProblemSpec]:
    """The same of a user's own kind, whose function or class says which keys there may be."""
    trains = isinstance(runs, Training)
    for key in OF_THE_RUN if trains else ():
        if key in table:
            raise table.error(f"{key} is given by the run to a network of your own: leave it out here.", key)
    name, filled = _filled(table, {key: _choices(table, key) for key in table.values if key not in ("kind", "name")})
    home = home_of(kind, table.file)
    try:
        for arguments in filled:
            check_own(kind, home, arguments, trains)
    except ValueError as error:
        raise table.error(str(error), "kind") from error
    return [ProblemSpec(kind, name, each, table.where, str(home), source_of(kind, home)) for each in filled]


def _filled(table: Table, choices: Mapping[str, Sequence[Any]]) -> tuple[str | None, list[dict[str, Any]]]:
    """The name, if one is given, and the arguments of each combination."""
    filled = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    name = table.text("name") if "name" in table else None
    if name and len(filled) > 1:
        raise table.error(f"{name!r} cannot name {len(filled)} problems; leave name or the lists out.", "name")
    return name, filled


def _builders(runs: Evaluations | Training) -> tuple[Mapping[str, Callable[..., Any]], tuple[str, ...]]:
    """The builders of problems by kind, and those of their arguments that no study holds."""
    if isinstance(runs, Evaluations):
        return PROBLEMS, ("data_dir",)
    from proxmom.study.training import TASKS  # torch comes only with studies that need it

    return TASKS, OF_THE_RUN


def _choices(table: Table, key: str) -> list[Any]:
    value = table.json_value(key)
    if value == []:
        raise table.error(f"{key} must be a value or a list of some, got [].", key)
    return value if isinstance(value, list) else [value]
