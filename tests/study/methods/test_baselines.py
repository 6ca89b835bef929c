"""Nesterov's method with restarts, and the heavy ball."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from proxmom.study.methods.baselines import heavy_ball, nag_restart
from proxmom.study.problems.collection import build_problem


def test_nag_without_a_restart_is_the_three_lines_of_the_textbook() -> None:
    scale = np.array([1.0, 0.01])
    visited = []

    def fun(x: Any) -> Any:
        visited.append(x)
        return 0.0, scale * x

    last = nag_restart(fun, np.array([1.0, 1.0]), lr=1.0, max_iter=3)
    x0 = np.array([1.0, 1.0])
    x1 = x0 - scale * x0
    x2 = x1 - scale * x1  # the first momentum coefficient is (1 - 1) / t_1 = 0
    t1 = (1 + 5**0.5) / 2
    t2 = (1 + (1 + 4 * t1**2) ** 0.5) / 2
    y2 = x2 + (t1 - 1) / t2 * (x2 - x1)
    np.testing.assert_allclose(visited, [x0, x1, y2], rtol=1e-14)
    np.testing.assert_allclose(last, y2 - scale * y2, rtol=1e-14)


def test_nag_keeps_its_rate_and_restarts_make_it_linear() -> None:
    problem = build_problem("quadratic", condition=1e3, n=50)
    solution = scipy_minimize(problem.fun, problem.x0, jac=True, options={"gtol": 1e-10}).x
    distance = np.sum((problem.x0 - solution) ** 2)
    values = []

    def fun(x: Any) -> Any:
        value, gradient = problem.fun(x)
        values.append(value - problem.optimum)
        return value, gradient

    nag_restart(fun, problem.x0, lr=1 / problem.smoothness, max_iter=1500)
    gaps = np.array(values)
    k = np.arange(1, len(gaps) + 1)
    reached = int(np.argmax(gaps < 1e-12 * gaps[0]))
    assert (gaps <= 2 * problem.smoothness * distance / k**2).all()
    assert 0 < reached < np.sqrt(1e3) * np.log(1e12)  # the rate for a known condition number, here unknown


def test_heavy_ball_is_the_rule_of_that_name_but_for_its_start() -> None:
    problem = build_problem("quadratic", condition=10, n=5)
    visited = []

    def fun(x: Any) -> Any:
        visited.append(x)
        return problem.fun(x)

    heavy_ball(fun, problem.x0, lr=0.5, beta=0.8, max_iter=30)
    x = np.array(visited)
    gradients = np.array([problem.fun(each)[1] for each in x])
    np.testing.assert_allclose(
        x[2:], x[1:-1] - 0.5 * gradients[1:-1] + 0.8 * (x[1:-1] - x[:-2]), rtol=1e-10, atol=1e-12
    )
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1"):
        heavy_ball(fun, problem.x0, lr=0.5, beta=1, max_iter=3)
