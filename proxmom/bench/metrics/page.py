"""The tables of metrics."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from proxmom.bench.words import amount, beside, ms, number

LEGEND = (
    "State: what the optimizer keeps from step to step, extra memory: most that a step holds beyond parameters, "
    "gradients and state, both in sizes of the parameters. ms: of one step, the mean over a whole cycle where a metric "
    "is refreshed every few steps, then the median over rounds. Longest: the longest step of a cycle, where there is "
    "one, again the median. x: ratio of medians to the first row's step, and its 95% interval. In torch the scope is "
    "tensor, with QuasiNewton model."
)
HEADER = ["", "state", "extra memory", "ms", "longest ms", "x", "path"]


def heading(cell: dict[str, Any]) -> str:
    """What was measured together."""
    rounds = max((len(row.get("seconds", ())) for row in cell["rows"]), default=0)
    size = f"{cell['tensors']} tensor{'s' * (cell['tensors'] > 1)}, {amount(cell['parameters'])} parameters"
    threads = "NumPy's own" if cell["threads"] is None else cell["threads"]
    return (
        f"{cell['set']} ({size}), metrics in {cell['library']}, rule AdaptiveMemory; "
        f"{cell['device']}, threads {threads}, rounds {rounds}"
    )


def rows(cell: dict[str, Any]) -> list[list[str]]:
    """A header and a row for each contender."""
    unit = next(row for row in cell["rows"] if row["label"] == cell["unit"])
    return [HEADER, *(_row(row, unit, cell["bytes"]) for row in cell["rows"])]


def _row(row: dict[str, Any], unit: dict[str, Any], size: int) -> list[str]:
    if row["reason"] is not None:
        return [row["label"], f"not available: {row['reason']}"]
    turns = row["seconds"]
    longest = ms(median(map(max, turns))) if len(turns[0]) > 1 else ""
    memory = [number(row[key] / size) for key in ("state_bytes", "extra_bytes")]
    return [row["label"], *memory, ms(median(_means(row))), longest, _ratio(row, unit), row["path"]]


def _ratio(row: dict[str, Any], unit: dict[str, Any]) -> str:
    if row is unit or unit["reason"] is not None:
        return "1" if row is unit else ""
    return beside(_means(row), _means(unit))


def _means(row: dict[str, Any]) -> list[float]:
    """Seconds of a step, for each round."""
    return [mean(turn) for turn in row["seconds"]]
