"""A row of the table: a name, a sentence, and a function that raises where the promise is not kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxmom.testing.subject import Subject

Check = Callable[[Subject], str | None]
MUST, WISH, FIGURE = "must", "wish", "figure"


class Failure(AssertionError):
    """The optimizer does not keep what the row promises; the message is one line."""


@dataclass(frozen=True)
class Row:
    """One question.

    name: its key in `ROWS`, unique.
    explanation: one sentence, what must hold or what the figure says.
    kind: "must"; "wish", good to have, does not count in `Report.ok`; or "figure", a number that is only reported.
    check: returns a remark or None; raises `Failure`, or `NotApplicable`.
    """

    name: str
    explanation: str
    check: Check
    kind: str = MUST


def row(name: str, explanation: str, kind: str = MUST) -> Callable[[Check], Row]:
    """The decorated function becomes a row; `table.py` gathers them."""
    return lambda check: Row(name, explanation, check, kind)


def require(condition: Any, message: str) -> None:
    """Fail with `message` unless the condition holds."""
    if not condition:
        raise Failure(message)
