"""[[method]] tables of a study file: read, completed, and rehearsed before anything is run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proxmom.lookup import find_rule
from proxmom.study.methods.method import rehearse
from proxmom.study.methods.settings import OPTIMUM
from proxmom.study.plan.points import SCALES, Dimension, Point
from proxmom.study.plan.specs import MethodSpec, why_not_frozen
from proxmom.study.plan.toml import Table

Kinds = Mapping[str, Mapping[str, Any]]  # the keys each kind of method takes, with their defaults

_TUNED: dict[str, Any] = {"search": {}, "points": 0, "defaults": {}}
_RULE: dict[str, Any] = {
    "lr": None,
    "inertia": 0.0,
    "weight_decay": 0.0,
    "decay": "decoupled",
    "metric": "Euclidean",
    "step_size": None,
    "arguments": {},
    **_TUNED,
    "freeze": [],
}
_OWN_SCHEDULE: dict[str, Any] = {"schedule": None, "warmup": None}
_IMPORTED = ("rule", "metric", "step_size", "torch")  # by import path, if wanted: their code is part of a run
_NO_SETTINGS = ("arguments", "freeze", "step_size", *_TUNED, *_OWN_SCHEDULE)


@dataclass(frozen=True)
class Dialect:
    """What a kind of study allows its methods to say.

    elsewhere: keys of the other kind of study, with the reason why this one refuses them. unit: of lr, for messages.
    rehearse: tries a method's settings at a point, for two steps. lr: the range searched for a rule of --rule.
    """

    kinds: Kinds
    elsewhere: Mapping[str, str]
    unit: str
    rehearse: Callable[[Mapping[str, Any], Point], None]
    lr: Mapping[str, Any]


def _rehearse_training(settings: Mapping[str, Any], point: Point) -> None:
    from proxmom.study import training  # torch comes only with studies that need it

    training.rehearse(settings, point)


_TRAINS = "belongs to training studies, which give steps in [study]"
_COUNTS = "counts evaluations of one function: in a training study give a rule, or an optimizer as torch"
DETERMINISTIC = Dialect(
    kinds={
        "rule": _RULE,
        "solver": {"lr": None, **_TUNED},
        "scipy": {},
        "torch": {"lr": None, "arguments": {}, **_TUNED},
    },
    elsewhere={"scope": f"scope {_TRAINS}; here it is the model."}
    | {key: f"{key} {_TRAINS}; here lr is constant." for key in _OWN_SCHEDULE},
    unit=", in units of 1/L",
    rehearse=rehearse,
    lr={"low": 0.3, "high": 1e4, "scale": "log"},  # in units of 1/L: wide enough for any average of gradients
)
TRAINING = Dialect(
    kinds={
        "rule": {**_RULE, "scope": "model", **_OWN_SCHEDULE},
        "torch": {"lr": None, "arguments": {}, **_TUNED, "freeze": [], **_OWN_SCHEDULE},
    },
    elsewhere={"solver": f"a solver {_COUNTS}.", "scipy": f"scipy {_COUNTS}."},
    unit="",
    rehearse=_rehearse_training,
    lr={"low": 1e-4, "high": 10.0, "scale": "log"},
)


def read_methods(table: Table, dialect: Dialect) -> list[MethodSpec]:
    """The method of a [[method]] table and, if asked for, its row of defaults; both rehearsed."""
    kind = _kind(table, dialect)
    table = _with_lr(table) if kind == "torch" else table
    search = _search(table)
    configuration = {kind: table.text(kind), **_fixed(table, kind, [d.name for d in search], dialect)}
    home = home_of(configuration[kind], table.file)
    sources = [_source(configuration[key], home) for key in _IMPORTED if key in configuration]
    if sources := [file for file in sources if file and not _installed(file, kind)]:
        configuration["source"] = _digest(sources)
    budget = table.whole("points", least=1) if "points" in table else None
    frozen = _frozen(table, configuration)
    method = MethodSpec(table.text("name"), configuration, search, str(home), frozen=frozen, budget=budget)
    found = [method, *_defaults(table, method, dialect)]
    for each in found:
        _rehearse(each, table, kind, dialect)
    return found


def read_rule(text: str, dialect: Dialect, lower_bound: float | str = OPTIMUM) -> list[MethodSpec]:
    """A rule that no study file names, as a method: lr searched, and this lower bound if it takes one."""
    values: dict[str, Any] = {"name": text, "rule": text, "search": {"lr": dialect.lr}}
    with contextlib.suppress(ValueError):
        find_rule(text, lower_bound=0.0)
        values["arguments"] = {"lower_bound": lower_bound}
    return read_methods(Table(Path("--rule"), values, (), {}, "--rule"), dialect)


def read_schedule(table: Table) -> dict[str, Any]:
    """The keys schedule and warmup of a training study or a method, those that are given."""
    found: dict[str, Any] = {}
    if "schedule" in table:
        from proxmom.study.training import SCHEDULES

        found["schedule"] = table.text("schedule")
        if found["schedule"] not in SCHEDULES:
            valid = ", ".join(SCHEDULES)
            raise table.error(f"schedule must be one of {valid}, got {found['schedule']!r}.", "schedule")
    if "warmup" in table:
        found["warmup"] = table.number("warmup")
        if not 0 <= found["warmup"] < 1:
            share = f"warmup must be a share of the steps, >= 0 and < 1, got {found['warmup']:g}"
            raise table.error(f"{share}.", "warmup")
    return found


def _kind(table: Table, dialect: Dialect) -> str:
    for key, reason in dialect.elsewhere.items():
        if key in table:
            raise table.error(reason, key)
    table.only("name", *dict.fromkeys(key for keys in dialect.kinds.values() for key in keys), *dialect.kinds)
    kinds = [kind for kind in dialect.kinds if kind in table]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none of them"
        raise table.error(f"a [[method]] needs exactly one of {', '.join(dialect.kinds)}, got {got}.", *kinds[1:])
    [kind] = kinds
    replace(table, title=f"a [[method]] with {kind}").only("name", kind, *dialect.kinds[kind])
    return kind


def _with_lr(table: Table) -> Table:
    """The table with an lr among the arguments moved out of them, for an optimizer takes it as an argument."""
    arguments = dict(table.table("arguments", "arguments").values)
    if "lr" not in arguments:
        return table
    if "lr" in table:
        raise table.error("lr is given twice; keep one.", "arguments")
    return replace(table, values={**table.values, "lr": arguments.pop("lr"), "arguments": arguments})


def _defaults(table: Table, method: MethodSpec, dialect: Dialect) -> list[MethodSpec]:
    """The row "defaults only", with the values under the key defaults."""
    given = table.table("defaults", "defaults")
    if "defaults" not in table:
        return []
    if not method.search:
        raise table.error(f"method {method.name!r} searches nothing: its defaults are what it is.", "defaults")
    values = {key: given.json_value(key) for key in given.values}
    if "lr" not in values and "lr" not in method.configuration:
        raise table.error(f"defaults must give lr{dialect.unit}, as it is searched.", "defaults")
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


def _fixed(table: Table, kind: str, searched: Sequence[str], dialect: Dialect) -> dict[str, Any]:
    """The fixed settings of a method, defaults filled in, without what is searched."""
    arguments = table.table("arguments", "arguments")
    for key in searched:
        if key in table or key in arguments:
            raise table.error(f"{key} is both fixed and searched; keep one.", "search")
    keys = dialect.kinds[kind]
    given = {key: arguments.json_value(key) for key in arguments.values}
    fixed: dict[str, Any] = {"arguments": given} if "arguments" in keys else {}
    free = dialect is DETERMINISTIC and "step_size" in table  # such a method may find its own first step
    for key, default in keys.items():
        if key == "lr" and key not in (*table.values, *searched):
            if free:
                continue
            raise table.error(f"method {table.text('name')!r} has no lr: set lr or search.lr{dialect.unit}.")
        if key not in (*_NO_SETTINGS, *searched):
            fixed[key] = table.text(key, default) if isinstance(default, str) else table.number(key, default)
    own = {"step_size": table.text("step_size")} if "step_size" in table else {}
    return fixed | own | read_schedule(table)


def _place(text: str) -> str:
    """The file or module of an import path, `my_rules.py` of `my_rules.py:MyRule(beta=0.5)`; else empty."""
    return text.partition("(")[0].rpartition(":")[0].strip()


def home_of(text: str, study: Path) -> Path:
    """The folder that the relative file of a rule or optimizer is found in: the study's, or the current one."""
    folder = study.resolve().parent
    elsewhere = not (folder / _place(text)).is_file() and (Path.cwd() / _place(text)).is_file()
    return Path.cwd() if elsewhere else folder


def source_of(text: str, home: Path) -> str:
    """The digest of the file that an import path leads to; empty where it has none."""
    file = _source(text, home)
    return _digest([file]) if file else ""


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _source(text: str, home: Path) -> Path | None:
    """The source file of a user's rule, metric or optimizer: changed code is another run."""
    place = _place(text)
    if place.endswith(".py"):
        return home / place if (home / place).is_file() else None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(place) if place else None
        return Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return None


def _installed(file: Path, kind: str) -> bool:
    """Whether it belongs to an installed optimizer, whose package has a version."""
    return kind == "torch" and "site-packages" in file.parts


def _rehearse(method: MethodSpec, table: Table, kind: str, dialect: Dialect) -> None:
    """Refuses what cannot run: two evaluations or steps on a tiny problem, at both ends of the search."""
    for end in ("low", "high"):
        point = {dimension.name: float(getattr(dimension, end)) for dimension in method.search}
        try:
            dialect.rehearse(method.settings, point)
        except ArithmeticError:
            continue  # numerical trouble at one end of a range belongs to the runs
        except Exception as error:
            cause = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            blamed, key = _blame(table, "defaults" if method.variant_of else "search", kind, cause, point)
            raise blamed.error(f"method {method.name!r} cannot run: {cause}", key) from error


def _blame(table: Table, values: str, kind: str, cause: str, point: Point) -> tuple[Table, str]:
    """The key that a message of the library names, or whose value it names; else the method's first key."""
    parts = (table.table(values, ""), table.table("arguments", ""), table)
    for part in parts:
        for key in part.values:
            if re.search(rf"\b{re.escape(key)} must\b|'{re.escape(key)}'", cause):
                return part, key
    for part in parts:
        for key, value in {**part.values, **(point if part is parts[0] else {})}.items():
            if type(value) in (int, float) and re.search(rf"(?<![\w.-]){re.escape(str(float(value)))}(?![\w.])", cause):
                return part, key
    return table, kind
