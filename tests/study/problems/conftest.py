"""The problems that all tests of the collection look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")


from proxmom.study.problems.collection import build_problem

QUICK = {
    "quadratic 1e2": ("quadratic", {"condition": 1e2}),
    "quadratic 1e4": ("quadratic", {"condition": 1e4}),
    "logistic": ("logistic", {"data": "breast_cancer", "l2": 1e-3}),
    "softmax": ("softmax", {"data": "digits", "l2": 1e-3}),
    "least squares": ("least_squares", {"data": "diabetes"}),
    "huber": ("huber", {"data": "diabetes", "delta": 0.1}),
    "smoothed hinge": ("smoothed_hinge", {"data": "breast_cancer", "l2": 1e-3}),
    "smoothed L1": ("smoothed_l1", {"data": "diabetes"}),
    "log-sum-exp": ("log_sum_exp", {}),
}
CLASSICS = {
    "Rosenbrock": ("rosenbrock", {}),
    "robust regression": ("robust_regression", {}),
    "factorisation": ("factorisation", {"rows": 8, "columns": 6}),
    "Beale": ("literature", {"function": "Beale"}),
}
MORE = {
    "quadratic, linear": ("quadratic", {"condition": 1e4, "spectrum": "linear"}),
    "quadratic, clusters": ("quadratic", {"condition": 1e4, "spectrum": "clusters"}),
    "logistic, digits": ("logistic", {"data": "digits 3-8"}),
    "smoothed hinge, digits": ("smoothed_hinge", {"data": "digits 3-8", "width": 0.1}),
    "smoothed L1, synthetic": ("smoothed_l1", {"data": "synthetic", "n": 20, "samples": 90, "seed": 2, "width": 1e-3}),
    "log-sum-exp, wide": ("log_sum_exp", {"n": 5, "samples": 20, "width": 2.0, "seed": 1}),
    "least squares, l2": ("least_squares", {"l2": 0.1}),
    "least squares, synthetic": ("least_squares", {"data": "synthetic", "n": 5, "samples": 40, "seed": 1}),
    "least squares, zero columns": ("least_squares", {"data": "digits"}),
    "least squares, interpolating": ("least_squares", {"data": "synthetic", "n": 30, "samples": 20}),
    "huber, synthetic": ("huber", {"data": "synthetic", "n": 50, "samples": 200}),
    "huber, l2": ("huber", {"data": "synthetic", "l2": 1e-3}),
    "huber, small delta": ("huber", {"delta": 1e-3}),
    "huber, large delta": ("huber", {"delta": 10.0}),
    "softmax, two classes": ("softmax", {"data": "breast_cancer"}),
    "logistic, small l2": ("logistic", {"l2": 1e-8}),
}


@pytest.fixture(params=[*QUICK.values(), *MORE.values(), *CLASSICS.values()], ids=[*QUICK, *MORE, *CLASSICS])
def any_problem(request: pytest.FixtureRequest) -> Any:
    kind, arguments = request.param
    return build_problem(kind, **arguments)


@pytest.fixture(params=[*QUICK.values(), *MORE.values()], ids=[*QUICK.keys(), *MORE.keys()])
def problem(request: pytest.FixtureRequest) -> Any:
    """A convex one."""
    kind, arguments = request.param
    return build_problem(kind, **arguments)


@pytest.fixture
def libsvm(tmp_path: Path) -> Any:
    """Writes text as a file and returns its path."""

    def write(text: Any, name: str = "made.txt") -> Any:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def near(problem: Any, seed: int) -> Any:
    """A point at a moderate distance from x0, where the losses are curved."""
    return problem.x0 + 0.3 * np.random.default_rng(seed).standard_normal(problem.x0.size)


@pytest.fixture
def no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXMOM_DATA", raising=False)
