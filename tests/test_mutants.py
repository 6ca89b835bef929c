"""`python -m tests.mutants`: which changes there are, that each makes another program, and the reasons listed."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.mutants import changes


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a < b -> a <= b", "a < b -> a >= b"}),
        ("a == b != c", {"a == b != c -> a != b != c", "a == b != c -> a == b == c"}),
        ("a + b * c", {"a + b * c -> a - b * c", "b * c -> b / c"}),
        ("x += 1", {"x += 1 -> x -= 1", "x += 1 -> pass", "1 -> 2", "1 -> 0"}),
        ("x: int | None = 0.5", {"0.5 -> 1.0"}),
        ("not a or True", {"not a or True -> not a and True", "not a -> a", "True -> False"}),
        ("xp.where(a, b, c)", {"xp.where(a, b, c) -> pass", "xp.where(a, b, c) -> xp.where(a, c, b)"}),
        ("y = min(a, b) if c else d", {"min -> max", "min(a, b) if c else d -> d if c else min(a, b)"}),
        ("def f(x: int = 1) -> bool:\n    '''Says 2.'''\n    return x", {"1 -> 2", "1 -> 0", "x -> None"}),
        ("if a:\n    raise ValueError(f'{a + 1}' + b)", {"a -> not a"}),
        ("self.x = y", {"self.x = y -> pass"}),
    ],
)
def test_the_changes_of_a_line(source: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(source)
    found = [mutant.change for mutant in changes.mutants(tmp_path / "file.py", tmp_path)]
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.fixture(scope="module")
def every() -> list[changes.Mutant]:
    return changes.everything()


def changed(source: bytes, line: int) -> list[str]:
    """The statement of a module that a line is in: a whole module takes ten times as long to write down."""
    return [ast.dump(one) for one in ast.parse(source).body if one.lineno <= line <= (one.end_lineno or one.lineno)]


def test_every_change_makes_another_program_and_has_a_name_of_its_own(every: list[changes.Mutant]) -> None:
    assert len(every) > 500
    assert len({mutant.key for mutant in every}) == len(every)
    for mutant in every[::25]:
        source = (changes.PACKAGE / mutant.file).read_bytes()
        assert changed(source, mutant.line) != changed(mutant.planted(source), mutant.line) != []


def test_every_reason_is_that_of_a_change(every: list[changes.Mutant]) -> None:
    listed = tomllib.loads((Path(changes.__file__).with_name("same.toml")).read_text(encoding="utf-8"))["same"]
    there = {(mutant.file, mutant.code, mutant.change) for mutant in every}
    for one in listed:
        assert (one["file"], one["code"], one["change"]) in there, one
        assert one["why"].endswith(".")
