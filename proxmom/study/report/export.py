"""Runs as a flat table for other tools: one row a run, one column a fact."""

from __future__ import annotations

import csv
import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxmom.study.record.run import Run
from proxmom.study.record.store import write_atomically
from proxmom.study.report.rows import FORMULA
from proxmom.study.report.sources import read_source

_FACTS = ("point_index", "status", "evaluations", "best_gap", "mean_beta", "mean_step", "capped", "seconds", "message")


def table(directories: Sequence[str | Path]) -> list[dict[str, Any]]:
    """A row for each finished run of each study, all with the same keys; None where a run has no such value.

    Searched values are columns "point.lr" and so on; `seconds` alone depends on the machine. Training runs also have
    their stage, "search" or "final", and their measures at the end, "validation_loss" and so on.
    Raises ValueError as `write_report` does.
    """
    runs = [(source.name, run) for source in map(read_source, directories) for run in source.runs]
    searched = list(dict.fromkeys(name for _, run in runs for name in run.point))
    measures = list(dict.fromkeys(name for _, run in runs for name in run.final))
    stage = ["stage"] if any(run.trained for _, run in runs) else []
    return [_row(study, run, searched) | _ended(run, stage, measures) for study, run in runs]


def write_csv(directories: Sequence[str | Path], file: Path) -> None:
    """The table as CSV, numbers to 9 digits; what is missing is empty.

    Spreadsheets run a text that begins with =, +, -, @, a tab or a line break as a formula: ours then begins with an
    apostrophe. Beside it, as JSON, where the runs of each study come from.
    """
    rows = table(directories)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, rows[0]))
    writer.writerows([_short(value) for value in row.values()] for row in rows)
    write_atomically(file, text.getvalue())
    write_atomically(file.with_suffix(".json"), {s.name: dict(s.origin) for s in map(read_source, directories)})


def write_parquet(directories: Sequence[str | Path], file: Path) -> None:
    """The table as Parquet.

    Raises ImportError, saying what to install, without pandas or pyarrow.
    """
    try:
        pandas, _ = (importlib.import_module(name) for name in ("pandas", "pyarrow"))
    except ImportError as error:
        raise ImportError(
            f"Parquet needs pandas and pyarrow, CSV neither: pip install pandas pyarrow (no module {error.name!r})."
        ) from error
    pandas.DataFrame(table(directories)).to_parquet(file, index=False)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return _harmless(value)
    return f"{value:.9g}" if isinstance(value, float) else value


def _harmless(text: str) -> str:
    """The text as no spreadsheet takes for a formula, in lines that end as all others do."""
    text = f"'{text}" if text.startswith(FORMULA) else text
    # csv leaves a lone \r unquoted, and readers end the row there.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _row(study: str, run: Run, searched: Sequence[str]) -> dict[str, Any]:
    named = {"study": study, "problem": run.problem, "method": run.method, "variant_of": run.variant_of}
    points = {f"point.{name}": run.point.get(name) for name in searched}
    return {**named, **points, **{fact: getattr(run, fact) for fact in _FACTS}, "seed": run.seed, "key": run.key}


def _ended(run: Run, stage: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
    values = {name: run.final.get(name, math.nan) for name in measures}
    ends = {name.replace(" ", "_"): None if math.isnan(value) else value for name, value in values.items()}
    return {**dict.fromkeys(stage, run.stage), **ends}
