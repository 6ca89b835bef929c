"""Figures as text: for a terminal, or as Markdown for the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from proxmom.bench.metrics import page as metric_page
from proxmom.bench.words import amount, beside, ms, number
from proxmom.columns import columns, markdown_table

FORMAT, WIDTH = 1, 100
LEGEND = (
    "ms: median over rounds. x fused, x foreach: ratio of medians to torch's own step, and its 95% interval. "
    "x triad: time over what a = b + s c needs for the bytes of the fused step. "
    "GB/s: from the contender's own count of accesses. "
    "Extra memory: most that a step holds beyond parameters, gradients and state, in sizes of the parameters."
)
HEADER = ["", "ms", "x fused", "x foreach", "x triad", "GB/s", "extra memory"]
Rows = list[list[str]]


def load(file: Path) -> dict[str, Any]:
    """Figures that `proxmom bench --json` wrote to `file`.

    Raises:
        ValueError: if they are not, or the file cannot be read.
    """
    try:
        figures = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"cannot read the figures {str(file)!r}: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} must be a file that proxmom bench --json wrote, got no JSON: {error}.") from error
    found = figures.get("format") if isinstance(figures, dict) else None
    if found != FORMAT:
        raise ValueError(f"{file} must be a file that proxmom bench --json wrote, of format {FORMAT}, got {found}.")
    return dict(figures)


def render(figures: dict[str, Any], *, markdown: bool = False) -> str:
    """All tables, then what they mean and where they come from.

    Args:
        figures: from `measure` or `load`, complete or not.
        markdown: tables and notes in Markdown; else in columns, for a terminal.
    """

    def table(rows: Rows) -> str:
        return "\n".join((markdown_table if markdown else columns)(rows, numbers=True))

    blocks = [f"{_heading(cell)}\n{chr(10) * markdown}{table(_cell_rows(cell))}" for cell in figures["torch"]]
    metrics = figures.get("metrics", [])
    blocks += [f"{metric_page.heading(cell)}\n{chr(10) * markdown}{table(metric_page.rows(cell))}" for cell in metrics]
    if figures["numpy"]:
        blocks.append(table(_solver_rows(figures["numpy"])))
    legends = [LEGEND] * bool(figures["torch"]) + [metric_page.LEGEND] * bool(metrics)
    notes = [*legends, *figures["notes"], _origin(figures["provenance"])]
    return "\n\n".join([*blocks, *(notes if markdown else (fill(note, WIDTH) for note in notes))])


def _heading(cell: dict[str, Any]) -> str:
    """What was measured together, and what memory could do meanwhile."""
    rounds = max((len(row.get("seconds", ())) for row in cell["contenders"]), default=0)
    return (
        f"{cell['set']} ({cell['tensors']} tensor{'s' * (cell['tensors'] > 1)}, "
        f"{amount(cell['parameters'])} parameters), "
        f"{cell['family']} family ({cell['title']}); {cell['device']}, threads {cell['threads']}, rounds {rounds}, "
        f"triad {_rate(cell['triad']) / 1e9:.3g} GB/s"
    )


def _cell_rows(cell: dict[str, Any]) -> Rows:
    by_label = {row["label"]: row for row in cell["contenders"]}
    fused = by_label[cell["fused"]]
    limit = fused["accesses"] * cell["bytes"] / _rate(cell["triad"])
    return [HEADER, *(_row(row, fused, by_label[cell["foreach"]], limit, cell["bytes"]) for row in cell["contenders"])]


def _row(row: dict[str, Any], fused: dict[str, Any], foreach: dict[str, Any], limit: float, size: int) -> list[str]:
    if row["reason"] is not None:
        return [row["label"], f"not available: {row['reason']}"]
    time = median(row["seconds"])
    rate = row["accesses"] * size / time
    figures = (time / limit, rate / 1e9, row["extra_bytes"] / size)
    return [row["label"], ms(time), _beside(row, fused), _beside(row, foreach), *map(number, figures)]


def _beside(row: dict[str, Any], peer: dict[str, Any]) -> str:
    if row is peer or peer["reason"] is not None:
        return "1" if row is peer else ""
    return beside(row["seconds"], peer["seconds"])


def _solver_rows(times: dict[str, list[float] | None]) -> Rows:
    texts = {n: ms(median(t)) if t else "not available: needs the verify extra" for n, t in times.items()}
    return [["solver and NumPy", "ms"], *([name, text] for name, text in texts.items())]


def _rate(triad: dict[str, Any]) -> float:
    """Bytes per second."""
    return float(triad["bytes"] / median(triad["seconds"]))


def _origin(where: dict[str, Any]) -> str:
    """One line of provenance."""
    commit = f" ({where['commit']}{', modified' if where['dirty'] else ''})" if where["commit"] else ""
    versions = [f"{name} {where[name]}" for name in ("python", "numpy", "torch", "triton") if where[name]]
    kernels = f"kernels: {where['kernels']}"
    machine = f"{where['processor']}, {where['cores']} cores"
    return ", ".join([f"proxmom {where['proxmom']}{commit}", *versions, kernels, machine, where["date"]]) + "."
