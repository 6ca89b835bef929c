"""Runs as a flat table for other tools: one row a run, one column a fact."""

from __future__ import annotations

import csv
import importlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    write_atomically(file, _csv(table(directories)))
    write_atomically(file.with_suffix(".json"), {s.name: dict(s.origin) for s in map(read_source, directories)})


def curves(directories: Sequence[str | Path]) -> list[dict[str, Any]]:
    """A row for each record of each run, all with the same keys; None where a run has no such value.

    Besides what names the run: "evaluations" and "gap" where evaluations are counted, "step", "seconds", "train" and
    "validation" of training; "beta", the mean over units. Rows that `write_csv` wrote hold no curves, so of studies
    read from them there is nothing.
    Raises ValueError as `write_report` does, and if nothing was recorded.
    """
    runs = [(source.name, run) for source in map(read_source, directories) for run in source.runs]
    rows = [row for study, run in runs for row in _curve_rows(study, run)]
    if not rows:
        folders = ", ".join(map(str, directories))
        raise ValueError(f"directories must hold runs with curves, got none in {folders}: rows of runs have none.")
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def check_curves(file: Path) -> None:
    """Whether curves can be written to this file; ValueError or ImportError otherwise."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"curves go to a file ending in .csv or .parquet, got {file.name!r}.")
    if file.suffix.lower() == ".parquet":
        _pandas()


def write_curves(directories: Sequence[str | Path], file: Path) -> None:
    """What `curves` says, as CSV with numbers to 9 digits, or as Parquet, by the ending of `file`."""
    check_curves(file)
    rows = curves(directories)
    if file.suffix.lower() == ".parquet":
        _pandas().DataFrame(rows).to_parquet(file, index=False)
    else:
        write_atomically(file, _csv(rows))


def write_parquet(directories: Sequence[str | Path], file: Path) -> None:
    """The table as Parquet.

    Raises ImportError, saying what to install, without pandas or pyarrow.
    """
    _pandas().DataFrame(table(directories)).to_parquet(file, index=False)


def _pandas() -> Any:
    try:
        pandas = importlib.import_module("pandas")
        importlib.import_module("pyarrow")
        return pandas
    except ImportError as error:
        raise ImportError(
            f"Parquet needs pandas and pyarrow, CSV neither: pip install pandas pyarrow (no module {error.name!r})."
        ) from error


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, rows[0]))
    writer.writerows([_short(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _curve_rows(study: str, run: Run) -> Iterator[dict[str, Any]]:
    named = {"study": study, "problem": run.problem, "method": run.method, "variant_of": run.variant_of}
    named |= {"stage": run.stage} if run.trained else {}
    columns = run.curve()
    if run.trained:
        betas = columns["beta"]
        columns["beta"] = betas.mean(axis=1) if betas.size else np.full(len(betas), np.nan)
    for values in zip(*columns.values(), strict=True):
        known = {k: None if math.isnan(v) else float(v) for k, v in zip(columns, values, strict=True)}
        yield {**named, "seed": run.seed, "key": run.key, **known}


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
