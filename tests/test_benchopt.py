"""The solver for benchopt does what benchopt asks of it; with the library where it is installed, else a stand-in."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

FILE = Path(__file__).parents[1] / "integrations" / "benchopt" / "proxmom_rule.py"


class StandIn:
    """What the solver uses of benchopt.BaseSolver: parameters become attributes, skip comes before set_objective."""

    parameters: dict[str, list[Any]] = {}  # noqa: RUF012

    @classmethod
    def get_instance(cls, **chosen: Any) -> Any:
        solver = cls()
        for name, values in cls.parameters.items():
            setattr(solver, name, chosen.get(name, values[0]))
        return solver


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class `Solver` of the file."""
    if importlib.util.find_spec("benchopt") is None:
        benchopt, criteria = types.ModuleType("benchopt"), types.ModuleType("benchopt.stopping_criterion")
        monkeypatch.setattr(benchopt, "BaseSolver", StandIn, raising=False)
        monkeypatch.setattr(criteria, "SufficientProgressCriterion", lambda **settings: settings, raising=False)
        monkeypatch.setitem(sys.modules, "benchopt", benchopt)
        monkeypatch.setitem(sys.modules, "benchopt.stopping_criterion", criteria)
    spec = importlib.util.spec_from_file_location("solver_of_benchopt", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Solver


def objective(fit_intercept: bool, random: np.random.Generator) -> dict[str, Any]:
    """What an objective of L2-regularised logistic regression hands over."""
    x = random.normal(size=(80, 6))
    y = np.sign(x @ random.normal(size=6) + 0.5 + random.normal(size=80))
    return {"X": x, "y": y, "lmbd": 0.5, "fit_intercept": fit_intercept}


def optimum(X: Any, y: Any, lmbd: float, fit_intercept: bool) -> float:
    """The smallest value, by SciPy on a formula of its own."""
    rows = np.column_stack([X, np.ones(len(y))]) if fit_intercept else np.asarray(X)
    ridge = np.full(rows.shape[1], lmbd)
    ridge[X.shape[1] :] = 0

    def fun(w: Any) -> Any:
        gradient = -rows.T @ (y * expit(-y * (rows @ w))) + ridge * w
        return value(w, X, y, lmbd, fit_intercept), gradient

    return float(minimize(fun, np.zeros(rows.shape[1]), jac=True, options={"gtol": 1e-9}).fun)


def value(w: Any, X: Any, y: Any, lmbd: float, fit_intercept: bool) -> float:
    weights, intercept = (w[:-1], w[-1]) if fit_intercept else (w, 0.0)
    return float(np.logaddexp(0, -y * (X @ weights + intercept)).sum() + lmbd / 2 * weights @ weights)


def countdown(steps: int) -> Any:
    """benchopt's callback: true as long as the solver shall go on."""
    left = iter([True] * steps + [False])
    return lambda: next(left)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("rule", ["AdaptiveMemory", "HeavyBall", "MoMo(lower_bound=0.0)"])
def test_it_finds_the_optimum(kind: Any, rule: str, fit_intercept: bool, random: np.random.Generator) -> None:
    given = objective(fit_intercept, random)
    solver = kind.get_instance(rule=rule, lr=10.0)
    assert solver.skip(**given) == (False, None)
    solver.set_objective(**given)
    solver.run(countdown(2000))
    result = solver.get_result()
    assert list(result) == ["beta"]
    assert value(result["beta"], **given) - optimum(**given) < 1e-8


def test_sparse_data_give_the_same_steps(kind: Any, random: np.random.Generator) -> None:
    given = objective(True, random)
    results = []
    for x in (given["X"], sparse.csr_array(given["X"])):
        solver = kind.get_instance()
        solver.set_objective(**{**given, "X": x})
        solver.run(countdown(20))
        results.append(solver.get_result()["beta"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-9)


def test_the_start_is_evaluated_before_any_step(kind: Any, random: np.random.Generator) -> None:
    solver = kind.get_instance()
    solver.set_objective(**objective(False, random))
    solver.run(countdown(0))
    assert not solver.get_result()["beta"].any()


def test_other_labels_are_skipped(kind: Any) -> None:
    skip, reason = kind.get_instance().skip(X=np.eye(2), y=np.array([0, 1]), lmbd=1.0)
    assert skip
    assert "labels" in reason


def test_evaluations_are_close_and_grow(kind: Any) -> None:
    stops = [0]
    while stops[-1] < 1000:
        stops.append(kind.get_next(stops[-1]))
    assert stops[:7] == [0, 1, 2, 3, 4, 5, 6]
    assert all(later > earlier for earlier, later in itertools.pairwise(stops))
    assert len(stops) < 50
