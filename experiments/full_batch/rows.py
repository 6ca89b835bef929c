"""What is kept of a run: runs.csv, one row each, and curves.csv, the loss along it; both grow run by run."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
RELATIVE, ABSOLUTE = 1e-6, 1e-12  # losses this near count as equal


class Row(NamedTuple):
    """One run.

    Attributes:
        seed: of the start; `SEARCH` where Adam's lr was searched for. lr: Adam's, else None.
        first, loss: at the start, and the least within the budget. evaluations, seconds: within the budget.
        settled: evaluations until the loss is as good as equal to `loss`. settled_seconds: the same in seconds.
        reached, reached_seconds: until it is as good as that of the better mode of L-BFGS; None for never. Our own
            runs are followed for two budgets here, for the others that are no L-BFGS one.
        typical: evaluations until it is as good as the median, over the starts run together, of the mode of L-BFGS that
            has the lower one; within the budget, None for never and where it was not asked for.
        ended: see `methods`. left: by how much L-BFGS lowers the loss from there; None where the budget ended it.
    """

    problem: str
    method: str
    lr: float | None
    seed: int
    first: float
    loss: float
    evaluations: int
    seconds: float
    settled: int | None
    settled_seconds: float | None
    reached: int | None
    reached_seconds: float | None
    ended: str
    left: float | None
    typical: int | None = None


class Point(NamedTuple):
    """The least loss after so many evaluations of a run."""

    problem: str
    method: str
    seed: int
    evaluations: int
    loss: float


WHOLE, TEXT = ("seed", "evaluations", "settled", "reached", "typical"), ("problem", "method", "ended")
SEARCH = 100  # seed of the start on which Adam's lr is searched for


def slack(loss: float) -> float:
    """The largest loss that counts as equal to this one."""
    return loss + RELATIVE * abs(loss) + ABSOLUTE


def _parsed(name: str, value: str) -> str | int | float | None:
    if name in TEXT:
        return value
    return None if value == "" else int(value) if name in WHOLE else float(value)


def _records(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def read(folder: Path) -> list[Row]:
    """The rows of runs.csv; none where there is no such file."""
    return [Row(**{k: _parsed(k, v) for k, v in record.items()}) for record in _records(folder / "runs.csv")]  # type: ignore[arg-type]


def read_curves(folder: Path) -> list[Point]:
    """The points of curves.csv, those of a run that was cut off and repeated once."""
    found = [Point(**{k: _parsed(k, v) for k, v in record.items()}) for record in _records(folder / "curves.csv")]  # type: ignore[arg-type]
    return list({point[:-1]: point for point in found}.values())


def append(path: Path, rows: Sequence[Row] | Sequence[Point]) -> None:
    """Rows at the end of a file, under a header where it is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(rows[0]._fields)
        writer.writerows([f"{v:.8g}" if isinstance(v, float) else v for v in row] for row in rows)
