"""Tables of numbers with a named target: CSV files with a header, and NPZ files of NumPy."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TABLES = (".csv", ".npz")
Vector = NDArray[np.float64]


def read_table(path: Path, target: str) -> tuple[Vector, Vector]:
    """Features (samples, p) and target (samples,) of a file; nothing in it is run.

    CSV: a header with the columns' names, then rows of numbers; the target is a column, all others are features.
    NPZ: two arrays, the target (samples,) and the features (samples, p).

    Raises:
        ValueError: for a file that cannot be read so, a target that it does not have, and entries that are not finite.
    """
    features, values = _of_arrays(path, target) if path.suffix == ".npz" else _of_rows(path, target)
    if features.ndim != 2 or values.shape != features.shape[:1] or not features.size:
        raise ValueError(
            f"{path}: features must be (samples, p) and the target (samples,), got {features.shape} and {values.shape}."
        )
    for name, array in (("features", features), ("target", values)):
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{path}: {name} must be finite, got NaN or infinity in sample {row + 1}.")
    return features, values


def _of_rows(path: Path, target: str) -> tuple[Vector, Vector]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = (row for row in csv.reader(file) if row)
    except (ValueError, UnicodeError, csv.Error) as error:
        raise ValueError(
            f"{path} must be a CSV file, a header and rows of numbers, and cannot be read: {error}."
        ) from error
    names = [name.strip() for name in header]
    column = _named(path, target, names, "column")
    numbers = [_numbers(path, names, line, row) for line, row in enumerate(rows, start=2)]
    table = np.array(numbers).reshape(len(rows), len(names))
    return np.delete(table, column, axis=1), table[:, column]


def _numbers(path: Path, names: list[str], line: int, row: list[str]) -> list[float]:
    if len(row) != len(names):
        raise ValueError(f"{path}: row {line} must have {len(names)} entries like the header, got {len(row)}.")
    return [_number(path, line, name, text) for name, text in zip(names, row, strict=True)]


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"{path}: row {line}, column {name!r} must be a number, got {text!r}. Write classes as 0, 1, 2, ..."
        ) from error


def _of_arrays(path: Path, target: str) -> tuple[Vector, Vector]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an NPZ file of arrays of numbers: it cannot be read ({error}).") from error
    names = list(arrays)
    _named(path, target, names, "array")
    others = [name for name in names if name != target]
    if len(others) != 1:
        raise ValueError(
            f"{path} must have one array of features beside {target!r}, got {', '.join(others) or 'none'}."
        )
    return arrays[others[0]], arrays[target]


def _named(path: Path, target: str, names: list[str], what: str) -> int:
    if target not in names:
        got = f"got {target!r}" if target else "got none"
        raise ValueError(
            f"{path.name}: the target must be one {what} of {', '.join(names)}, {got}. Name it as in "
            f'data = "{path.name}:{names[-1] if names else "y"}".'
        )
    return names.index(target)
