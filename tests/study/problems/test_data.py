"""Data sets: embedded, from files, and broken ones."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

pytest.importorskip("sklearn")

from sklearn.datasets import dump_svmlight_file

from proxmom.study.problems import data as datasets
from proxmom.study.problems import optimum
from proxmom.study.problems.collection import build_problem


def test_embedded_data_are_scaled() -> None:
    for name in ("breast_cancer", "diabetes"):
        features = datasets.load_data(name).features
        assert np.allclose(features.mean(axis=0), 0, atol=1e-12)
        assert np.allclose(features.std(axis=0), 1)
    digits = datasets.load_data("digits").features
    assert digits.min() == 0
    assert digits.max() == 1


def test_standardise_makes_a_constant_column_zero() -> None:
    values = np.column_stack([np.full(49, 0.1), np.arange(49.0)])
    assert values[:, 0].mean() != 0.1  # the trap: a spread made of rounding
    assert np.array_equal(datasets.standardise(values)[:, 0], np.zeros(49))


# LIBSVM files
@pytest.mark.parametrize("name", ["made.txt", "made.txt.gz"])
def test_libsvm_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rng = np.random.default_rng(11)
    features = rng.standard_normal((60, 4)) * (rng.random((60, 4)) < 0.6) * [1.0, 5.0, 0.1, 100.0]
    target = rng.integers(0, 2, 60)
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wb") as file:
        dump_svmlight_file(features, target, file, zero_based=False)
    loaded = datasets.load_data(str(tmp_path / name))
    assert sparse.issparse(loaded.features)
    assert np.allclose(loaded.features.toarray(), features / np.abs(features).max(axis=0))
    assert np.array_equal(loaded.target, target)
    absolute = build_problem("logistic", data=str(tmp_path / name))
    relative = build_problem("logistic", data=name, data_dir=tmp_path)
    monkeypatch.setenv("PROXMOM_DATA", str(tmp_path))
    by_variable = build_problem("logistic", data=name)
    assert absolute.optimum == relative.optimum == by_variable.optimum
    assert absolute.name == "logistic, made.txt, l2 0.001"
    assert sparse.issparse(absolute.fun.matrix)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "least_squares", "huber"])
def test_every_kind_takes_a_file(kind: Any, libsvm: Any) -> None:
    rng = np.random.default_rng(12)
    lines = (f"{rng.integers(0, 2)} 1:{rng.normal()} 3:{rng.normal()} 4:{rng.normal()}" for _ in range(50))
    problem = build_problem(kind, data=libsvm("\n".join(lines)))
    other = minimize(problem.fun, problem.x0, jac=True, method="BFGS", options={"gtol": 1e-10})
    assert other.fun == pytest.approx(problem.optimum, abs=1e-11)


def test_more_features_than_a_dense_factor_takes(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    features = sparse.csr_array(rng.random((300, 3000)) * (rng.random((300, 3000)) < 0.01))
    target = np.random.default_rng(14).integers(0, 2, 300)
    dump_svmlight_file(features, target, str(tmp_path / "wide.txt"))
    problem = build_problem("logistic", data="wide.txt", data_dir=tmp_path)
    assert problem.x0.size > optimum.DENSE_LIMIT
    assert problem.certificate <= 1e-10 * (problem.fun(problem.x0)[0] - problem.optimum)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "least_squares", "huber"])
def test_a_real_file(kind: Any) -> None:
    if not datasets.directory(None):
        pytest.skip("PROXMOM_DATA is not set: the directory with a9a.gz")
    if not (datasets.directory(None) / "a9a.gz").is_file():
        pytest.skip("PROXMOM_DATA has no a9a.gz")
    problem = build_problem(kind, data="a9a.gz", l2=1e-4)
    assert sparse.issparse(problem.fun.matrix)
    assert problem.certificate <= 1e-10 * (problem.fun(problem.x0)[0] - problem.optimum)
    assert "a9a" in problem.name


BAD_FILES = {
    "words": ("id name\n1 a\n", r"made\.txt cannot be read as a LIBSVM file .*should read like '\+1 3:0\.5"),
    "commas": ("1,2,3\n4,5,6\n", r"cannot be read as a LIBSVM file"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00", r"cannot be read as a LIBSVM file"),
    "falling indices": ("1 2:1 1:3\n", r"cannot be read as a LIBSVM file .*rising indices"),
    "huge index": ("1 99999999999999:1\n", r"cannot be read as a LIBSVM file"),
    "empty": ("", r"made\.txt is not a LIBSVM file with features .*should read like"),
    "labels only": ("1\n0\n", r"is not a LIBSVM file with features"),
    "nan": ("1 1:2\n0 1:nan\n", r"made\.txt: values must be finite, got nan in sample 2"),
    "inf": ("1 1:2\n\n0 1:1\n1 1:1 2:inf\n", r"values must be finite, got inf in sample 3"),
    "nan label": ("1 1:2\nnan 1:3\n", r"labels must be finite, got nan in sample 2"),
    "one class": ("1 1:2\n1 1:3\n", r"two labels, made\.txt has 1 \(1\)"),
    "three classes": ("1 1:2\n2 1:3\n3 1:1\n", r"two labels, made\.txt has 3 \(1, 2, 3\)"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_files(text: Any, message: str, libsvm: Any) -> None:
    with pytest.raises(ValueError, match=message):
        build_problem("logistic", data=libsvm(text))


@pytest.mark.parametrize(
    "text", [b"1 1:2\n", gzip.compress(b"1 1:2\n0 2:1\n" * 50, mtime=0)[:-12]], ids=["plain", "cut"]
)
def test_a_broken_gz_file(text: Any, libsvm: Any) -> None:
    with pytest.raises(ValueError, match=r"made\.gz cannot be read as a LIBSVM file"):
        build_problem("logistic", data=libsvm(text, "made.gz"))


def test_a_constant_target(libsvm: Any) -> None:
    with pytest.raises(ValueError, match="the target must vary, got 2 equal values"):
        build_problem("huber", data=libsvm("3 1:1\n3 1:2\n"))
