"""What the suite saw: one optimizer's table, and several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxmom.columns import columns, markdown_table
from proxmom.notebook import html_of
from proxmom.testing.row import FIGURE, MUST
from proxmom.testing.table import ROWS

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"
CELLS = {PASS: "ok", FAIL: "FAIL", NOT_APPLICABLE: "-"}


@dataclass(frozen=True)
class Result:
    """One row's outcome.

    name: the row's, in `ROWS`.
    outcome: "pass", "fail" or "not applicable".
    message: one line, which may be empty.
    seconds: what the row took.
    """

    name: str
    outcome: str
    message: str
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether this is a failure of a row that must hold."""
        return self.outcome == FAIL and ROWS[self.name].kind == MUST

    @property
    def cell(self) -> str:
        """One word: the figure of a row that only reports one, else ok, FAIL or -; small letters for a mere wish."""
        if self.outcome == PASS and ROWS[self.name].kind == FIGURE:
            return self.message.split()[0]
        return "fails" if self.outcome == FAIL and not self.counts else CELLS[self.outcome]


@dataclass(frozen=True)
class Report:
    """What `check_optimizer` saw; print it, or ask `.ok`.

    optimizer: the name of its class.
    needs_loss: as given; else whether a step without the loss was refused.
    rows: in the order of asking.
    """

    optimizer: str
    needs_loss: bool
    rows: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether every row that must hold does; a wish may fail."""
        return not any(result.counts for result in self.rows)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of all rows that failed, wishes too."""
        return tuple(result.name for result in self.rows if result.outcome == FAIL)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"ok": self.ok, "needs_loss": self.needs_loss, "rows": [vars(result) for result in self.rows]}

    def _repr_html_(self) -> str:
        return html_of(str(self))

    def __str__(self) -> str:
        lines = [(result.name, result.cell, result.message) for result in self.rows]
        text = "\n".join(columns([("", self.optimizer, ""), *lines]))
        seconds = sum(result.seconds for result in self.rows)
        verdict = "all that must hold holds" if self.ok else f"{sum(r.counts for r in self.rows)} FAILED"
        loss = ", needs the loss" if self.needs_loss else ""
        return f"{text}\n{self.optimizer}{loss}: {verdict} ({len(self.rows)} rows, {seconds:.1f} s)"


def side_by_side(reports: Mapping[str, Report], *, markdown: bool = False) -> str:
    """A table with a line for each row and a column for each optimizer; as text, the failures follow, with messages.

    Args:
        reports: the name of each column, and what it shows; the same rows in each.
        markdown: a Markdown table, with each row's sentence, and without the messages.

    Raises:
        ValueError: if there are no reports, or they have different rows.
    """
    rows = {tuple(result.name for result in report.rows) for report in reports.values()}
    if len(rows) != 1:
        raise ValueError(f"reports must be one or more, all with the same rows, got {len(rows)} kinds of them.")
    lines = [(name, *(report.rows[i].cell for report in reports.values())) for i, name in enumerate(rows.pop())]
    if markdown:
        return "\n".join(markdown_table([("", *reports, ""), *((*line, ROWS[line[0]].explanation) for line in lines)]))
    failures = [
        f"{name}: {result.name}: {result.message}"
        for name, report in reports.items()
        for result in report.rows
        if result.outcome == FAIL
    ]
    return "\n".join([*columns([("", *reports), *lines]), *([""] if failures else []), *failures])
