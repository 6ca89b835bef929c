"""One method on one problem: the counting oracle, and every kind of method."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from proxmom.study.methods.method import SCIPY, Oracle, run_method
from proxmom.study.problems.collection import Problem

torch = pytest.importorskip("torch")


class Counted:
    """A problem whose calls are counted outside the oracle."""

    def __init__(self, curvature: Any = 1.0, offset: Any = 0.0) -> None:
        self.calls = 0
        self.scale = np.linspace(0.05, 1, 20) * curvature
        self.problem = Problem("counted", self, np.ones(20), 1.0, offset, 0.0)
        self.offset = offset

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        return float(x @ (self.scale * x)) / 2 + self.offset, self.scale * x

    def oracle(self, **settings: Any) -> Any:
        self.records = []
        settings = {"max_evaluations": 100, "target": 1e-6, **settings}
        oracle = Oracle(self.problem, record=lambda *record: self.records.append(record), **settings)
        self.calls = 0
        return oracle


RULE_SETTINGS = {"inertia": 0.0, "weight_decay": 0.0, "decay": "decoupled", "metric": "Euclidean", "folder": "."}
ALL = {
    "gradient descent": {"rule": "GradientDescent", "arguments": {}, "lr": 1.0, **RULE_SETTINGS},
    "Polyak": {"rule": "Polyak", "arguments": {"lower_bound": "optimum"}, "lr": 10.0, **RULE_SETTINGS},
    "NAG": {"solver": "nag-restart", "lr": 1.0},
    "L-BFGS": {"scipy": "L-BFGS-B"},
    **{name: {"scipy": name} for name in SCIPY if name != "L-BFGS-B"},
    **{
        f"torch's {text}": {"torch": f"torch.optim:{text}", "lr": lr, "arguments": {}, "folder": "."}
        for text, lr in (("Adam(betas=(0.5, 0.9))", 0.1), ("SGD", 1.0), ("LBFGS", 1.0))
    },
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("budget", [1, 5, 500])
def test_every_call_counts_and_the_run_ends_at_the_target_or_the_budget(method: Any, budget: Any) -> None:
    counted = Counted()
    outcome = run_method(ALL[method], counted.problem, {}, counted.oracle(max_evaluations=budget))
    assert outcome.status == ("reached" if budget == 500 else "missed")
    assert outcome.evaluations == counted.calls == counted.records[-1][0]
    assert counted.calls <= budget
    assert (outcome.best_gap <= 1e-6) == (outcome.status == "reached")
    assert all(gap > 1e-6 for _, gap, _ in counted.records[:-1])  # it was the first to reach it


def test_torchs_sgd_is_gradient_descent_in_units_of_the_smoothness() -> None:
    seen = []
    for settings in ({"torch": "torch.optim:SGD", "arguments": {}, "folder": "."}, ALL["gradient descent"]):
        counted = Counted()
        counted.problem = replace(counted.problem, smoothness=4.0)
        run_method({**settings, "lr": 3.0}, counted.problem, {}, counted.oracle(max_evaluations=20))
        seen.append([gap for _, gap, _ in counted.records])
    np.testing.assert_allclose(*seen, rtol=1e-12)


def test_what_is_searched_of_a_torch_optimizer_reaches_it() -> None:
    settings = {"torch": "torch.optim:SGD", "lr": 0.3, "arguments": {"momentum": 0.1}, "folder": "."}
    found = [run_method(settings, Counted().problem, point, Counted().oracle()).best_gap for point in ({}, {"lr": 1.0})]
    other = {**settings, "arguments": {"momentum": 0.9}}
    found += [run_method(other, Counted().problem, {}, Counted().oracle()).best_gap]
    assert len(set(found)) == 3


class Lazy(torch.optim.SGD):
    """An optimizer that never calls its closure."""

    def step(self, closure: Any = None) -> Any:
        return None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SGD", "torch must be an import path, torch.optim:Adam"),
        ("torch.optim:SDG", "torch.optim has no 'SDG'"),
        ("torch.nn:Linear(in_features=1)", "cannot be made"),
        (f"{__name__}:Lazy", "must call the closure that its step is given: it did not"),
        (f"{__name__}:list_of", "must make a torch.optim.Optimizer, got list"),
    ],
)
def test_what_is_no_torch_optimizer(text: str, message: str) -> None:
    settings = {"torch": text, "lr": 1.0, "arguments": {}, "folder": "."}
    outcome = run_method(settings, Counted().problem, {}, Counted().oracle())
    assert outcome.status == "failed"
    assert message in outcome.message


def list_of(parameters: Any, lr: float) -> list[Any]:
    return list(parameters)


@pytest.mark.parametrize("method", ["L-BFGS-B", "CG"])
def test_line_searches_count_as_scipy_counts_them(method: Any) -> None:
    counted = Counted()
    oracle = counted.oracle(max_evaluations=7, target=1e-15)
    seen = []

    def fun(x: Any) -> Any:
        seen.append(x.copy())
        return counted(x)

    scipy_minimize(fun, counted.problem.x0, jac=True, method=method, options={"gtol": 0.0, "maxiter": 100})
    expected = [float(x @ (counted.scale * x)) / 2 for x in seen[:7]]
    run_method({"scipy": method}, counted.problem, {}, oracle)
    start = expected[0]
    np.testing.assert_allclose([gap for _, gap, _ in counted.records], np.array(expected) / start, rtol=1e-12)


def test_a_method_that_stops_by_itself_missed_with_its_message() -> None:
    counted = Counted(offset=5.0)
    counted.problem = replace(counted.problem, optimum=4.0)  # out of reach
    outcome = run_method({"scipy": "L-BFGS-B"}, counted.problem, {}, counted.oracle(max_evaluations=10_000))
    assert outcome.status == "missed"
    assert outcome.evaluations == counted.calls < 10_000
    assert outcome.message
    assert outcome.message != "the budget is spent"


@pytest.mark.parametrize("bad", ["value", "gradient"])
def test_a_function_that_is_not_finite_diverged(bad: Any) -> None:
    def fun(x: Any) -> Any:
        broken = np.nan if abs(x[0]) < 0.9 else 1.0
        return float(x @ x) * (broken if bad == "value" else 1), 2 * x * (broken if bad == "gradient" else 1)

    problem = Problem("hole", fun, np.ones(2), 2.0, 0.0, 0.0)
    oracle = Oracle(problem, max_evaluations=50, target=1e-6, record=lambda *_: None)
    outcome = run_method({**ALL["gradient descent"], "lr": 0.02}, problem, {}, oracle)
    assert outcome.status == "diverged"
    assert "not finite" in outcome.message
    assert outcome.best_gap < 1


def test_a_method_cannot_go_on_after_its_budget() -> None:
    counted = Counted()
    oracle = counted.oracle(max_evaluations=3)
    for _ in range(10):
        with contextlib.suppress(Exception):
            oracle(np.ones(20))
    oracle.close()
    assert oracle.evaluations == counted.calls == 3
    assert [number for number, _, _ in counted.records] == [1, 2, 3]


def test_learning_rates_are_in_units_of_one_over_l() -> None:
    steep, plain = Counted(curvature=100.0), Counted()
    steep.problem = Problem("steep", steep, np.ones(20), 100.0, 0.0, 0.0)
    counts = [run_method(ALL["gradient descent"], c.problem, {}, c.oracle()).evaluations for c in (steep, plain)]
    assert counts[0] == counts[1] < 100


def test_optimum_as_an_argument_is_the_optimum_of_the_problem() -> None:
    counts = [
        run_method(ALL["Polyak"], c.problem, {}, c.oracle(max_evaluations=500)).evaluations
        for c in (Counted(), Counted(offset=-7.0))
    ]
    assert abs(counts[0] - counts[1]) <= 1


def test_what_is_recorded() -> None:
    counted = Counted()
    run_method(ALL["gradient descent"], counted.problem, {}, counted.oracle(max_evaluations=1000, target=1e-30))
    numbers = np.array([number for number, _, _ in counted.records])
    assert list(numbers[:50]) == list(range(1, 51))
    assert counted.records[-1][0] == counted.calls
    late = numbers[(numbers >= 200) & (numbers < numbers[-1])]
    assert ((late[1:] / late[:-1] >= 1.02) & (late[1:] / late[:-1] < 1.03)).all()


def test_an_interrupt_is_no_failure() -> None:
    def fun(x: Any) -> Any:
        if x[0] != 1:
            raise KeyboardInterrupt
        return float(x @ x), 2 * x

    problem = Problem("interrupted", fun, np.ones(2), 2.0, 0.0, 0.0)
    oracle = Oracle(problem, max_evaluations=50, target=1e-6, record=lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        run_method(ALL["gradient descent"], problem, {}, oracle)
