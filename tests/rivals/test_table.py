"""Every rival solves what it should, and is a row of the comparison."""

from __future__ import annotations

import argparse
from functools import partial

import pytest

from proxmom.study.problems.collection import build_problem
from tests.rivals.support import Watched, compare, rivals

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
    assert rows[2].evaluations == compare.count(problem, rivals.cg_descent)
    assert rows[3].evaluations == compare.count(problem, lambda f, x: rivals.hdm(f, x, 1 / problem.smoothness))
    lines = compare.summary(rows)
    assert lines[0] == "in-sample, 1 instances"
    assert float(lines[2].split()[1]) == 1
    every = {"only": None, "set": None, "every": 1}
    wanted = compare.jobs(argparse.Namespace(**every))[0][3]
    assert wanted >= {*rivals.SCIPY, *rivals.RIVALS, *rivals.GIVEN_L, *rivals.BEST_OF, compare.OWN}


def test_a_tuned_rival_is_its_best_run(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = build_problem("quadratic", None, condition=10.0)
    monkeypatch.setattr(rivals, "BEST_OF", {"tuned": [partial(rivals.hdm, scale=s) for s in (1e-9, 1.0, 10.0)]})
    alone = [compare.count(problem, lambda f, x, m=m: m(f, x, 1 / problem.smoothness)) for m in rivals.BEST_OF["tuned"]]
    assert alone[0] is None
    [row] = compare.rival_rows("in-sample", problem, {"tuned"})
    assert row.evaluations == min(alone[1:])
    assert not compare.rival_rows("held-out", problem, {"tuned"})
