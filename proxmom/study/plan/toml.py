"""TOML tables that know their lines, so that every complaint about a study names file, line and key.

`tomllib` forgets where a value stood. A scan of the text finds each key's line again; keys inside an inline
table have the line of that table.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Place = tuple[str | int, ...]  # ("method", 2, "search", "lr"): what to index the document with

_PART = r"(?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)"
_NAME = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_NAME})\s*\]")
_KEY = re.compile(rf"\s*({_NAME})\s*=")
_KINDS = {int: "a whole number", float: "a number", str: "a text", dict: "a table", list: "a list"}


class StudyError(ValueError):
    """A study that cannot be run as it is written; the message names file, line, key and what is allowed."""


@dataclass(frozen=True)
class Table:
    """One table of a TOML file.

    Args:
        file: where it was read.
        values: its keys and values.
        place: where it stands in the document.
        lines: the line of every key and header of the file; empty where the table stands in no file.
        title: what messages call it, such as `[study]`.
    """

    file: Path
    values: Mapping[str, Any]
    place: Place
    lines: Mapping[Place, int]
    title: str

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def where(self) -> str:
        """File and line of this table."""
        return self._where()

    def error(self, message: str, *keys: str) -> StudyError:
        """A `StudyError` at the line of the key, if one is given, or at this table's own line."""
        return StudyError(f"{self._where(*keys)}: {message}")

    def _where(self, *keys: str) -> str:
        place = (*self.place, *keys)
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.file}, line {self.lines.get(place, 1)}" if self.lines else str(self.file)

    def only(self, *valid: str) -> None:
        """Raises `StudyError` for the first key that is not among `valid`."""
        for key in self.values:
            if key not in valid:
                raise self.error(f"unknown key {key!r} in {self.title}; valid keys: {', '.join(valid)}.", key)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `key`, of the given kind; whole numbers are floats too; no default means required."""
        if key not in self.values:
            if default is None:
                raise self.error(f"{self.title} lacks the key {key!r}: it must be {_KINDS[kind]}.")
            return default
        value = self.values[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(f"{key} must be {_KINDS[kind]}, got {value!r}.", key)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(f"{key} must be finite, got {value}.", key)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = str(self.get(key, str, default))
        if not value.strip():
            raise self.error(f"{key} must not be empty.", key)
        return value

    def whole(self, key: str, default: int | None = None, *, least: int, most: int | None = None) -> int:
        """A whole number >= `least`, and <= `most` if that is given."""
        value = int(self.get(key, int, default))
        if value < least or (most is not None and value > most):
            allowed = f">= {least}" + (f" and <= {most}" if most is not None else "")
            raise self.error(f"{key} must be {allowed}, got {value}.", key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        return float(self.get(key, float, default))

    def json_value(self, key: str) -> Any:
        """The value of `key` if JSON can hold it: a text, a finite number, true or false, or a list of these."""
        try:
            json.dumps(self.values[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise self.error(f"{key} must be a text or a finite number, got {self.values[key]}.", key) from error
        return self.values[key]

    def table(self, key: str, title: str) -> Table:
        """The table under `key`; empty if there is none."""
        return Table(self.file, self.get(key, dict, {}), (*self.place, key), self.lines, title)

    def tables(self, key: str, needed: bool = True) -> list[Table]:
        """The tables `[[key]]`; at least one if they are needed."""
        found = self.get(key, list, [])
        if key not in self and not needed:
            return []
        if not found or not all(isinstance(values, dict) for values in found):
            raise self.error(
                f"a study needs at least one [[{key}]] table."
                if needed
                else f"{key} must be [[{key}]] tables, got {found!r}.",
                key,
            )
        return [Table(self.file, values, (key, index), self.lines, f"[[{key}]]") for index, values in enumerate(found)]


def read_toml(file: Path) -> tuple[str, Table]:
    """The text of a TOML file and its table.

    Raises:
        StudyError: if the file cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark first
    except OSError as error:
        raise StudyError(f"cannot read the study file {str(file)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{file} is not a TOML file: it is not UTF-8 text ({error.reason}).") from error
    return text, parse_toml(text, file)


def parse_toml(text: str, file: Path) -> Table:
    """The table of a text that was read from `file`; raises `StudyError` if it is not TOML."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = int(at[1]) if at else max(1, len(text.splitlines()))
        raise StudyError(f"{file}, line {line}: not valid TOML: {error}.") from error
    except RecursionError as error:
        raise StudyError(f"{file} is no study: its values are nested too deep to be read.") from error
    return Table(file, values, (), find_lines(text), "the study file")


def of_length(text: str, document: Table, steps: int) -> str:
    """The text of a training study with other steps in it, and these in its name.

    Raises:
        StudyError: if it is no training study, or steps and name stand on no lines of their own.
    """
    if "steps" not in document.table("study", "[study]"):
        raise document.error("another number of steps is for a training study, which gives steps: leave it out.")
    lines = text.splitlines(keepends=True)
    for key, old, new in (("steps", r"[\d_]+", str(steps)), ("name", r"(['\"])(.*?)\1", rf"\1\2-{steps}\1")):
        number = document.lines.get(("study", key), 1) - 1
        if not re.match(rf"\s*{key}\s*=\s*{old}", lines[number]):
            raise document.error(f"[study] must give {key} on a line of its own for another number of steps.")
        lines[number] = re.sub(old, new, lines[number], count=1)
    changed = "".join(lines)
    head = document.values["study"]
    if _study_of(changed) != {**head, "steps": steps, "name": f"{head.get('name')}-{steps}"}:
        raise document.error(
            'another number of steps needs both written plainly in [study], as steps = 650 and name = "small".'
        )
    return changed


def _study_of(text: str) -> Any:
    """Its [study] table; None if it is not TOML."""
    try:
        return tomllib.loads(text).get("study")
    except tomllib.TOMLDecodeError:
        return None


def find_lines(text: str) -> dict[Place, int]:
    """The line, counted from 1, of each header and key of a valid TOML text."""
    lines: dict[Place, int] = {}
    seen: Counter[Place] = Counter()
    table: Place = ()
    for number, line in _code_lines(text):
        if header := _HEADER.match(line):
            table = _indexed(_parts(header[2]), seen, new=header[1] == "[[")
            lines.setdefault(table, number)
            lines.setdefault(table[:1], number)
        elif key := _KEY.match(line):
            parts = _parts(key[1])
            for end in range(1, len(parts) + 1):
                lines.setdefault((*table, *parts[:end]), number)
    return lines


def _code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines, without those that begin inside a multi-line string."""
    inside = None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is None:
            yield number, line
        for quote in re.findall(r"\"\"\"|'''", line):
            inside = quote if inside is None else (None if inside == quote else inside)


def _indexed(parts: Iterable[str], seen: Counter[Place], *, new: bool) -> Place:
    """The place of a header; a name that stands for several tables is followed by the index of the latest."""
    names = tuple(parts)
    place: Place = ()
    for position, name in enumerate(names):
        place = (*place, name)
        if new and position == len(names) - 1:
            seen[place] += 1
        if seen[place]:
            place = (*place, seen[place] - 1)
    return place


def _parts(name: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, name)]
