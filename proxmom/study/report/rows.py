"""Runs from the rows that `export` wrote of them: what is kept of a study when its results directory is not."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxmom.study.plan.toml import Table
from proxmom.study.record.run import Run

ROWS, ORIGIN = "runs.csv", "runs.json"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # as OWASP lists them
_WHOLE, _TEXTS = ("point_index", "evaluations", "seed"), ("problem", "method", "variant_of", "status", "message", "key")
_NUMBERS, _NUMBERS_IF_ANY = ("best_gap", "seconds"), ("mean_beta", "mean_step", "capped")


def read_rows(folder: Path, study: Table) -> tuple[Run, ...]:
    """The runs in the file `runs.csv` of a folder, without curves; study: the study file.

    Of configurations it has what the study file says of a method.
    Raises ValueError if the file is damaged.
    """
    methods = {str(table.values.get("name")): table.values for table in study.tables("method")}
    steps = {key: value for key, value in study.values["study"].items() if key == "steps"}
    file = folder / ROWS
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        columns = list(rows[0]) if rows else []
        measures = columns[columns.index("stage") + 1 :] if steps else []
        return tuple(_run(row, methods, steps, measures) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{file} has no rows of runs ({type(error).__name__}: {error}). Export them again.") from error


def read_origin(folder: Path, study: str) -> dict[str, str]:
    """Where the rows of a folder come from, as `Source.origin`; empty if that was not kept."""
    file = folder / ORIGIN
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))[study]
        return {str(name): str(fact) for name, fact in facts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} must hold the origin of {study!r} ({type(error).__name__}: {error}).") from error


def _run(row: Mapping[str, str], methods: Mapping[str, Any], steps: Mapping[str, int], measures: Sequence[str]) -> Run:
    values: dict[str, Any] = {name: _text(row[name]) for name in _TEXTS}
    values |= {name: int(row[name]) for name in _WHOLE} | {name: float(row[name]) for name in _NUMBERS}
    values |= {name: float(row[name]) for name in _NUMBERS_IF_ANY if row[name]}
    point = {name.removeprefix("point."): float(v) for name, v in row.items() if name.startswith("point.") and v}
    return Run(
        **values,
        point=point,
        final={name.replace("_", " "): float(row[name]) for name in measures if row[name]},
        stage=row["stage"] if steps else "",
        provenance={},
        configuration={"problem": {}, "method": methods.get(values["method"], {}), "point": point, **steps},
    )


def _text(text: str) -> str:
    """As it was before `export` made it harmless."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
