"""Data for the problems: sets embedded in scikit-learn, a synthetic regression, and files by path.

A LIBSVM file is named by its path, a table by its path and its target: "houses.csv:price", "houses.npz:price".
"""

import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from proxmom.study.problems.tables import TABLES, read_table

Vector = NDArray[np.float64]
Matrix = Any  # a dense array or a scipy.sparse array, both float64; SciPy has no types of its own

ENVIRONMENT_VARIABLE = "PROXMOM_DATA"
LINE_FORMAT = "each line should read like '+1 3:0.5 7:1.25': a label, then index:value pairs with rising indices"


@dataclass(frozen=True, eq=False)
class Data:
    """Features (n, p), dense or sparse and already scaled, and one target (n,) per row; `name` for tables."""

    name: str
    features: Matrix
    target: Vector


def standardise(values: Vector) -> Vector:
    """Columns of (n,) or (n, p) shifted to mean 0 and scaled to variance 1; a constant column becomes 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    constant = spread <= 1e-12 * np.abs(values).max(axis=0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def scale_rows(features: Matrix, factors: Vector) -> Matrix:
    """Row i of features (n, p), dense or sparse, times factors_i."""
    return sparse.diags_array(factors) @ features if sparse.issparse(features) else factors[:, None] * features


def breast_cancer() -> Data:
    """569 x 30, two classes; standardised."""
    features, target = _embedded("load_breast_cancer")
    return Data("breast_cancer", standardise(features), target)


def digits() -> Data:
    """1797 x 64, ten classes; pixels divided by 16, so in [0, 1]."""
    features, target = _embedded("load_digits")
    return Data("digits", features / 16.0, target)


def diabetes() -> Data:
    """442 x 10, real target; features and target standardised."""
    features, target = _embedded("load_diabetes")
    return Data("diabetes", standardise(features), standardise(target))


def digits_pair(first: int, second: int) -> Data:
    """The digits of two classes, about 360 x 64; pixels divided by 16."""
    loaded = digits()
    chosen = np.isin(loaded.target, (first, second))
    return Data(f"digits {first} and {second}", loaded.features[chosen], loaded.target[chosen])


EMBEDDED: dict[str, Callable[[], Data]] = {
    "breast_cancer": breast_cancer,
    "digits": digits,
    "diabetes": diabetes,
}
EMBEDDED |= {f"digits {a}-{b}": partial(digits_pair, a, b) for a, b in combinations(range(10), 2)}
DATA_NAMES = (*EMBEDDED, "synthetic")
_NAMES_TO_SHOW = "one of breast_cancer, digits, digits 0-1 (any pair, the smaller first), diabetes, synthetic,"


def synthetic(n: int = 50, samples: int = 500, seed: int = 0) -> Data:
    """Linear model with outliers: Gaussian features (samples, n), noise of Student's t with 3 degrees.

    Features and target are standardised.
    """
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((samples, n))
    target = features @ rng.standard_normal(n) / np.sqrt(n) + 0.3 * rng.standard_t(3, samples)
    name = f"synthetic {samples} x {n}" + (f", seed {seed}" if seed else "")
    return Data(name, standardise(features), standardise(target))


def load_data(data: str, data_dir: Path | None = None) -> Data:
    """An embedded set by name, or a file by path: absolute, or relative to `data_dir`.

    The features of a LIBSVM file stay sparse and each is divided by its largest absolute value; those of a table are
    standardised. The target is as read.
    Raises ValueError for an unknown name, a missing file, a file that is not what it is called, non-finite entries.
    """
    if data in EMBEDDED:
        return EMBEDDED[data]()
    name, target = parts_of(data)
    if name.endswith(TABLES):
        features, values = read_table(find_file(name, data_dir, _NAMES_TO_SHOW, "a CSV or NPZ file"), target)
        return Data(f"{Path(name).stem}:{target}", standardise(features), values)
    return _load_libsvm(
        find_file(
            data, data_dir, _NAMES_TO_SHOW, "a LIBSVM file (plain, .gz or .bz2), or a table as in houses.csv:price,"
        )
    )


def parts_of(data: str) -> tuple[str, str]:
    """The file and the target that data = "houses.csv:price" names; the target is empty where there is none."""
    found = re.fullmatch(r"(.+\.(?:csv|npz)):(.*)", data)
    return (found[1], found[2]) if found else (data, "")


def directory_of(data: str, data_dir: Path | None, folder: str) -> Path | None:
    """Where the file of a study's data is looked for: beside the study, unless the data directory has it."""
    given, (file, _) = directory(data_dir), parts_of(data)
    here = bool(folder) and data not in DATA_NAMES and (Path(folder) / file).is_file()
    return Path(folder) if here and not (given is not None and (given / file).is_file()) else data_dir


def directory(data_dir: Path | None) -> Path | None:
    """Where relative paths start: `data_dir`, else the environment variable PROXMOM_DATA, else nowhere."""
    if data_dir is not None:
        return Path(data_dir)
    variable = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(variable) if variable else None


def find_file(data: str, data_dir: Path | None, names: str, what: str) -> Path:
    """The file that `data` names by its path: absolute, or relative to the data directory.

    names: data that need no file; what: the file's kind; both for messages.

    Raises:
        ValueError: if there is none.
    """
    start = directory(data_dir)
    path = Path(data) if start is None else start / data
    if path.is_file() and (start is not None or path.is_absolute()):
        return path
    reason = f"there is no file {path}"
    if start is None and not path.is_absolute():
        reason = "the path is relative, and no data directory was given"
    raise ValueError(
        f"data must be {names} or the path of {what}, got {data!r}: {reason}. Put the file into a directory, and "
        f"name that directory with --data or the environment variable {ENVIRONMENT_VARIABLE}."
    )


def _embedded(loader: str) -> tuple[Vector, Vector]:
    features, target = getattr(_sklearn_datasets(), loader)(return_X_y=True)
    return np.asarray(features, dtype=np.float64), np.asarray(target, dtype=np.float64)


def _sklearn_datasets() -> Any:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError("studies read data through scikit-learn: pip install 'proxmom[study]'") from error
    return sklearn.datasets


def _load_libsvm(path: Path) -> Data:
    try:
        read, target = _sklearn_datasets().load_svmlight_file(str(path), dtype=np.float64)
    except (ValueError, OverflowError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a LIBSVM file ({error}): {LINE_FORMAT}.") from error
    features = sparse.csr_array(read)
    if features.nnz == 0:
        raise ValueError(f"{path} is not a LIBSVM file with features (found no index:value pair): {LINE_FORMAT}.")
    _require_finite(path, features, target)
    largest = abs(features).max(axis=0).toarray().ravel()
    features.data /= np.where(largest > 0, largest, 1.0)[features.indices]
    return Data(path.name.removesuffix(".gz").removesuffix(".bz2"), features, target)


def _require_finite(path: Path, features: Matrix, target: Vector) -> None:
    bad_target = np.flatnonzero(~np.isfinite(target))
    if bad_target.size:
        row = int(bad_target[0])
        raise ValueError(f"{path}: labels must be finite, got {target[row]} in sample {row + 1}.")
    bad_entry = np.flatnonzero(~np.isfinite(features.data))
    if bad_entry.size:
        entry = int(bad_entry[0])
        row = int(np.searchsorted(features.indptr, entry, side="right"))
        raise ValueError(f"{path}: values must be finite, got {features.data[entry]} in sample {row}.")
