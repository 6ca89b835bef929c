"""[[decide]] tables of a study file: what its claim says, part by part, as numbers that runs can be held against.

No run depends on them, so they belong to no key, and may be added to a study that has been run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from math import inf
from typing import Any

from proxmom.study.plan.toml import StudyError, Table

COUNTING = ("evaluations", "misses", "lr-sensitivity")
TRAINED = ("loss", "loss difference", "lr-sensitivity", "lost seeds")
PAIRED = ("evaluations", "loss", "loss difference")
"""Measures that compare two methods problem by problem, and so need `over`."""
BOUNDS = ("at_most", "at_least", "below", "above", "within")
WAYS = ("interval", "mean", "overlap")
KEYS = ("part", "measure", "method", "over", "problems", *BOUNDS, "by", "share", "level")
LEVEL = (0.95, 1.05)
HOLDS, FAILS, OPEN = "holds", "fails", "not enough runs"
"""What becomes of a part of a claim."""
_STRICT = ("below", "above")


@dataclass(frozen=True)
class Bound:
    """The values that a part of a claim allows: from `low` to `high`, without these ends themselves if `strict`."""

    low: float
    high: float
    strict: bool
    text: str

    def contains(self, low: float, high: float) -> bool:
        """Whether every value from `low` to `high` is allowed."""
        return (self.low < low and high < self.high) if self.strict else (self.low <= low and high <= self.high)

    def excludes(self, low: float, high: float) -> bool:
        """Whether no value from `low` to `high` is allowed."""
        return (high <= self.low or self.high <= low) if self.strict else (high < self.low or self.high < low)

    @property
    def ends(self) -> tuple[float, ...]:
        """The ends that are finite."""
        return tuple(end for end in (self.low, self.high) if abs(end) < inf)


@dataclass(frozen=True)
class Decision:
    """A part of a claim.

    over: the method that `method` is compared with; "" for none. problems: patterns of the names of those it is about,
    all if empty. by: what of the 95% interval must lie in the bound: "interval", all of it; "overlap", some of it;
    "mean", the estimate alone. share: of the problems, each judged by itself, on which it must hold; None: it is
    judged once over all of them. level: ratios that count as equal, where a problem is judged by itself; None: none do.
    where: file and line, for messages.
    """

    part: str
    measure: str
    method: str
    over: str
    problems: tuple[str, ...]
    bound: Bound
    by: str
    share: float | None = None
    level: tuple[float, float] | None = None
    where: str = ""


def read_decisions(document: Table, trains: bool, names: Collection[str] | None = None) -> tuple[Decision, ...]:
    """The decisions of a study file, one for each pair where `method` or `over` is a list; none if it has none.

    trains: whether it is a training study. names: of its methods and their variants; None: not checked here.

    Raises:
        StudyError: naming file, line, key and what is allowed.
    """
    tables = document.tables("decide", needed=False)
    return tuple(decision for table in tables for decision in _decisions(table, trains, names))


def about(decision: Decision, problem: str) -> bool:
    """Whether a problem of this name is one that the decision is about."""
    return not decision.problems or any(_fits(pattern, problem) for pattern in decision.problems)


def check_problems(decisions: Sequence[Decision], names: Sequence[str]) -> None:
    """Raises `StudyError` if a pattern of a decision's problems fits none of these names."""
    for decision in decisions:
        for pattern in decision.problems:
            if not any(_fits(pattern, name) for name in names):
                known = "; ".join(names)
                raise StudyError(f"{decision.where}: problems must fit a problem, got {pattern!r}; names: {known}.")


def _fits(pattern: str, name: str) -> bool:
    return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name))


def _decisions(table: Table, trains: bool, names: Collection[str] | None) -> list[Decision]:
    table.only(*KEYS)
    measure = _measure(table, trains)
    methods = _texts(table, "method")
    if measure in PAIRED and "over" not in table:
        raise table.error(f"{measure} is compared with that of another method: name it as over.")
    others = _texts(table, "over") if "over" in table else ("",)
    for key, given in (("method", methods), ("over", others)):
        _refuse_unknown(table, key, given, names)
    if same := next((method for method in methods if method in others), ""):
        raise table.error(f"over must be another method than method, got {same!r} for both.", "over")
    problems = _texts(table, "problems") if "problems" in table else ()
    bound, by, share = _bound(table), _by(table, measure), _share(table, measure)
    level = _level(table, measure, bound, by, share)
    part = table.text("part").strip() if "part" in table else ""
    return [
        Decision(part, measure, method, over, problems, bound, by, share, level, table.where)
        for method, over in product(methods, others)
    ]


def _measure(table: Table, trains: bool) -> str:
    valid, elsewhere = (TRAINED, COUNTING) if trains else (COUNTING, TRAINED)
    measure = table.text("measure")
    if measure not in valid:
        kind = "a training study" if trains else "a study that counts evaluations"
        hint = f": that is a measure of the other kind of study, and this is {kind}" if measure in elsewhere else ""
        raise table.error(f"measure must be one of {', '.join(valid)}, got {measure!r}{hint}.", "measure")
    return measure


def _texts(table: Table, key: str) -> tuple[str, ...]:
    """A text, or a list of some."""
    value = table.values.get(key)
    if not isinstance(value, list):
        return (table.text(key),)
    if not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise table.error(f"{key} must be a text or a list of some, got {value!r}.", key)
    return tuple(value)


def _refuse_unknown(table: Table, key: str, given: Sequence[str], names: Collection[str] | None) -> None:
    for name in given:
        if name and names is not None and name not in names:
            near = get_close_matches(name, names, n=3)
            meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise table.error(
                f"{key} must name a method of this study, got {name!r}{meant} Methods: {', '.join(names)}.", key
            )


def _bound(table: Table) -> Bound:
    given = [key for key in BOUNDS if key in table]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise table.error(f"a [[decide]] needs exactly one of {', '.join(BOUNDS)}, got {got}.", *given[1:])
    [key] = given
    if key == "within":
        low, high = _pair(table, key)
        return Bound(low, high, False, f"{low:g} to {high:g}" if low < high else f"equal to {low:g}")
    value = table.number(key)
    low, high = (-inf, value) if key in ("at_most", "below") else (value, inf)
    return Bound(low, high, key in _STRICT, f"{key.replace('_', ' ')} {value:g}")


def _pair(table: Table, key: str) -> tuple[float, float]:
    value: Any = table.get(key, list)
    if len(value) != 2 or not all(type(end) in (int, float) and abs(end) < inf for end in value):
        raise table.error(f"{key} must be two finite numbers, [low, high], got {value}.", key)
    if not value[0] <= value[1]:
        raise table.error(f"{key} must have low <= high, got {value}.", key)
    return float(value[0]), float(value[1])


def _by(table: Table, measure: str) -> str:
    by = table.text("by", WAYS[0])
    if by not in WAYS:
        raise table.error(f"by must be one of {', '.join(WAYS)}, got {by!r}.", "by")
    return by


def _share(table: Table, measure: str) -> float | None:
    if "share" not in table:
        return None
    if measure not in PAIRED:
        raise table.error(f"share goes with {', '.join(PAIRED)}, got measure {measure!r}: leave it out.", "share")
    share = table.number("share")
    if not 0 < share <= 1:
        raise table.error(f"share must be a part of the problems, > 0 and <= 1, got {share:g}.", "share")
    return share


def _level(table: Table, measure: str, bound: Bound, by: str, share: float | None) -> tuple[float, float] | None:
    equal = 0.0 if measure == "loss difference" else 1.0
    fits = share is not None and by == "interval" and bound.strict and bound.ends == (equal,)
    if "level" not in table:
        return LEVEL if fits else None
    if not fits:
        needs = f"share, by = 'interval', and below or above {equal:g}"
        raise table.error(f"level goes with {needs}: leave it out.", "level")
    low, high = _pair(table, "level")
    if not 0 < low <= 1 <= high:
        raise table.error(f"level must be two ratios, 0 < low <= 1 <= high, got {table.values['level']}.", "level")
    return low, high
