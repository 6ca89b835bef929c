"""Every rival solves what it should, and is a row of the comparison."""

from __future__ import annotations

import argparse
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proxmom.study.problems.collection import build_problem
from tests.rivals.support import Watched, compare, overhead, rivals, summaries, variants

Row = summaries.Row

ALL = {**rivals.SCIPY, **rivals.RIVALS, **rivals.GIVEN_L, **{k: v[0] for k, v in rivals.BEST_OF.items()}}
PROBLEMS = {
    "quadratic": ("quadratic", {"condition": 30.0}),
    "logistic": ("logistic", {"data": "breast_cancer", "l2": 0.01}),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("which", PROBLEMS)
def test_a_rival_reaches_a_relative_gap_of_1e_8(which: str, name: str) -> None:
    kind, arguments = PROBLEMS[which]
    problem = build_problem(kind, None, **arguments)
    level = problem.optimum + 1e-8 * (problem.fun(problem.x0)[0] - problem.optimum)
    lr = [1 / problem.smoothness] if name in {**rivals.GIVEN_L, **rivals.BEST_OF} else []
    assert Watched(problem.fun, lambda f, g: f <= level, 500).run(ALL[name], problem.x0, *lr)


def test_rivals_are_rows_of_the_same_table() -> None:
    options = argparse.Namespace(only=["CG_DESCENT", "HDM-Best"], set="in-sample", every=20)
    jobs = compare.jobs(options)
    assert len(jobs) == 2
    rows = compare.measure(jobs[1])
    problem = build_problem(jobs[1][1], None, **jobs[1][2])
    assert problem.smoothness != pytest.approx(1, rel=0.1)
    assert [(row.method, row.first) for row in rows] == [
        ("L-BFGS", None),
        ("nonlinear CG", None),
        ("CG_DESCENT", None),
        ("HDM-Best", 1.0),
    ]
    assert rows[2].evaluations == compare.count(problem, rivals.cg_descent)[0]
    assert rows[3].evaluations == compare.count(problem, lambda f, x: rivals.hdm(f, x, 1 / problem.smoothness))[0]
    lines = summaries.summary(rows)
    assert lines[0] == "in-sample, gap, 1 instances"
    assert float(lines[2].split()[1]) == 1
    every = {"only": None, "set": None, "every": 1}
    wanted = compare.jobs(argparse.Namespace(**every))[0][3]
    assert wanted >= {*rivals.SCIPY, *rivals.RIVALS, *rivals.GIVEN_L, *rivals.BEST_OF, *variants.DEFAULTS}


def test_a_tuned_rival_is_its_best_run(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build_problem("quadratic", None, condition=10.0)
    monkeypatch.setattr(rivals, "BEST_OF", {"tuned": [partial(rivals.hdm, scale=s) for s in (1e-9, 1.0, 10.0)]})
    [first, *alone] = [
        compare.count(problem, lambda f, x, m=m: m(f, x, 1 / problem.smoothness))[0] for m in rivals.BEST_OF["tuned"]
    ]
    assert first is None
    [row] = compare.tuned_rows("in-sample", problem, {"tuned"})
    assert row.evaluations == min(alone)
    assert not compare.tuned_rows("held-out", problem, {"tuned"})


def test_each_measure_is_met_where_it_first_is() -> None:
    """f = x²/2 from 1: the gap falls below 1e-6 at |x| <= 1e-3, the gradient at |x| <= 1e-6."""
    problem = SimpleNamespace(name="one", fun=lambda x: (0.5 * float(x @ x), x), x0=np.ones(1), optimum=0.0)
    visited: list[float] = []

    def run(fun: Any, x0: Any) -> None:
        for x in (1.0, 1e-2, 1e-4, 1.0, 1e-7, 0.0):
            visited.append(x)
            fun(x * x0)

    assert compare.count(problem, run, ("gradient", "gap")) == (5, 3)
    assert visited[-1] == 1e-7, "the run ends where both are met"
    assert compare.count(problem, lambda fun, x0: fun(1e-4 * x0), ("gradient", "gap")) == (None, 1)


def test_an_instance_on_which_lbfgs_missed_has_no_ratio_and_is_named() -> None:
    counts = {"a": (10, 20, 5), "b": (None, 7, None), "c": (30, None, 30)}  # L-BFGS, CG, minimize
    names = ("L-BFGS", "nonlinear CG", "minimize(fun, x0)")
    rows = [
        Row("non-convex", instance, name, None, "gap", n)
        for instance, found in counts.items()
        for name, n in zip(names, found, strict=True)
    ]
    assert summaries.ratios(rows, ("non-convex", "gap"), names[2], names[0]) == {"a": [0.5], "c": [1.0]}
    assert summaries.missing(rows)[1:] == ["non-convex, gap, b: nonlinear CG 7"]
    own = summaries.summary(rows)[4].removeprefix(names[2]).split()
    assert own == ["0.71", f"{(0.25 * 30000 / 7) ** 0.5:.2f}", "1.00", "0", "1", "3"]
    [claim] = [line for line in summaries.claims(rows) if "over L-BFGS " in line]
    assert claim.split()[-1] == "0", "missed only together with L-BFGS"


def test_time_outside_fun_is_counted_and_no_other() -> None:
    def slow(fun: Any, x0: Any) -> None:
        while True:
            fun(x0)
            end = time.thread_time() + 1e-3
            while time.thread_time() < end:
                pass

    assert 1e-3 <= overhead.outside(slow, 10) < 2e-3
    with pytest.raises(RuntimeError, match="must last 50 evaluations, got 1"):
        overhead.outside(lambda fun, x0: fun(x0), 10)
    runs = {key: [2e-3 if key[0] == "minimize" else 1e-3] for key in overhead.methods()}
    assert [line.split()[-3] for line in overhead.lines(10, runs)] == ["1.00", "2.00", "1.00", "2.00", "1.00", "1.00"]
