"""Running one method on one problem, whatever the method: every gradient goes through one counting oracle."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from proxmom.numpy import minimize
from proxmom.rules import Facts, Rule
from proxmom.study.methods.baselines import heavy_ball, nag_restart
from proxmom.study.methods.settings import Values, has_floor, rule_of, step_of
from proxmom.study.methods.torch_steps import run_torch
from proxmom.study.problems.collection import Problem
from proxmom.study.record import faults
from proxmom.study.record.run import Ending

Record = Callable[[int, float, float | None], None]  # evaluations, relative gap, weight of memory

DIVERGED = 1e10  # a relative gap above this ends a run
EVERY = 50  # evaluations that are all recorded; later ones are when their number grew by GROWTH
GROWTH = 1.02

SCIPY: dict[str, dict[str, float]] = {  # tolerances of zero: only the oracle ends a run
    "L-BFGS-B": {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9, "maxiter": 10**9},
    "CG": {"gtol": 0.0, "maxiter": 10**9},
    "BFGS": {"gtol": 0.0, "maxiter": 10**9},
    "Newton-CG": {"xtol": 0.0, "maxiter": 10**9},  # products with the Hessian by differences, which count
    "TNC": {"ftol": 0.0, "gtol": 0.0, "xtol": 0.0, "maxfun": 10**9},
    "SLSQP": {"ftol": 0.0, "maxiter": 10**9},
    "trust-constr": {"gtol": 0.0, "xtol": 0.0, "barrier_tol": 0.0, "maxiter": 10**9},
}
SOLVERS: dict[str, Callable[..., Any]] = {"nag-restart": nag_restart, "heavy-ball": heavy_ball}


class _Enough(Exception):
    """Raised by the oracle to end a method; its state says why."""


class Oracle:
    """f and gradient of a problem: counts, records, and ends the run.

    One call is one evaluation, of f and gradient together, line searches included. It ends the run, by a
    private exception, at the target, at the budget, or when the run diverged: f or gradient not finite, or a
    gap above 1e10.

    Args:
        problem: what is minimised.
        max_evaluations: the budget, >= 1.
        target: relative gap (f - f*) / (f(x0) - f*) to reach, in (0, 1).
        record: called with evaluations, gap and beta for each of the first 50 evaluations, then whenever
            their number grew by 2%, and for the last.

    Raises:
        ValueError: if f at the start is not above the optimum, so that there is no relative gap.
    """

    def __init__(self, problem: Problem, *, max_evaluations: int, target: float, record: Record) -> None:
        self.problem = problem
        self.max_evaluations = max_evaluations
        self.target = target
        self._record = record
        self.evaluations = 0
        self.best_gap = np.inf
        self.status = ""  # "reached", "missed" or "diverged" once the run has ended
        self.message = ""
        self._latest: tuple[int, float, float | None] | None = None
        self._next = 1
        self._range = float(problem.fun(problem.x0)[0]) - problem.optimum  # the scale; not an evaluation of the method
        if not self._range > 0:
            raise ValueError(f"{problem.name}: f(x0) - optimum must be > 0, got {self._range}.")

    def __call__(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """f(x) and its gradient, shape (n,)."""
        if self.status:
            raise _Enough
        value, gradient = self.problem.fun(x)
        self.evaluations += 1
        gap = float((value - self.problem.optimum) / self._range)
        self._write()
        self._latest = (self.evaluations, gap, None)
        self._judge(gap, bool(np.isfinite(value) and np.isfinite(gradient).all()))
        if self.status:
            raise _Enough
        return value, gradient

    def observe(self, beta: float | None) -> None:
        """Notes the weight of memory in the step that led to the latest evaluation."""
        if self._latest is not None and not self.status:
            self._latest = (*self._latest[:2], beta)

    def close(self) -> None:
        """Records the last evaluation, whatever its number."""
        self._write(last=True)

    def _judge(self, gap: float, finite: bool) -> None:
        if finite:
            self.best_gap = min(self.best_gap, gap)
        if not finite or gap > DIVERGED:
            what = f"the gap rose above {DIVERGED:g}" if finite else "f or its gradient is not finite"
            self.status, self.message = "diverged", f"{what} at evaluation {self.evaluations}"
        elif gap <= self.target:
            self.status, self.message = "reached", f"gap {gap:.3g}"
        elif self.evaluations >= self.max_evaluations:
            self.status, self.message = "missed", "the budget is spent"

    def _write(self, last: bool = False) -> None:
        if self._latest is not None and (last or self._latest[0] >= self._next):
            self._record(*self._latest)
            grown = math.ceil(self._latest[0] * GROWTH) if self._latest[0] >= EVERY else 0
            self._next = max(self._latest[0] + 1, grown)
            self._latest = None


class Steps:
    """Running means over the steps of a rule: weight on memory, share of lr that was moved, steps at the cap."""

    def __init__(self, rule: Rule) -> None:
        self._cap = Facts.of(rule).beta_max
        self._adaptive = has_floor(rule)
        self._count, self._beta, self._moved, self._capped = 0, 0.0, 0.0, 0

    def add(self, beta: float, weights: NDArray[np.float64]) -> None:
        """One step with this weight on memory and these weights of the planes."""
        self._count += 1
        self._beta += beta
        self._moved += 1 - float(weights[-1]) if self._adaptive else 1.0
        self._capped += beta >= (1 - 1e-9) * self._cap > 0

    def means(self, lr: float | None) -> dict[str, float]:
        """The fields of an `Ending`; lr in the units of the mean step, None if it is not known."""
        if not self._count:
            return {}
        share = 1 / self._count
        found = {"mean_beta": share * self._beta, "capped": share * self._capped}
        return found if lr is None else {**found, "mean_step": share * self._moved * lr}


def run_method(settings: Values, problem: Problem, point: Values, oracle: Oracle) -> Ending:
    """Runs a method until the oracle ends it, or it ends by itself.

    Args:
        settings: with one of the keys "rule", "solver", "scipy" and "torch", as `config.MethodSpec` gives them; "lr"
            is in units of 1/L, and "optimum" as an argument of a rule means the problem's f*.
        problem: what is minimised.
        point: the searched hyper-parameters; "lr" in units of 1/L.
        oracle: of this problem, not used before.

    Returns:
        how it ended. A method that raises has failed, unless the machine was at fault: then the run is "aborted". The
        message says why.
    """
    if "torch" in settings:
        import torch  # noqa: F401 - now, so that its seconds are not the run's
    started = time.perf_counter()
    status, message = "missed", ""
    means: dict[str, Any] = {}
    try:
        with np.errstate(all="ignore"):
            message = _run(settings, problem, point, oracle, means)
    except _Enough:
        pass
    except Exception as error:
        status, message = faults.status_of(error), faults.described(error)
    oracle.close()
    seconds = time.perf_counter() - started
    if oracle.status:  # even if the method caught the oracle's exception
        status, message = oracle.status, oracle.message
    return Ending(status, oracle.evaluations, oracle.best_gap, seconds, message, **means)


def rehearse(settings: Values, point: Values) -> None:
    """Two evaluations on a small quadratic: raises whatever the method raises there.

    Raises:
        ValueError: for an unknown rule, solver or method, and settings it does not take.
    """
    diagonal = np.array([1.0, 0.5, 0.1])
    start = np.array([1.0, -2.0, 3.0])
    problem = Problem("rehearsal", lambda x: (float(x @ (diagonal * x)) / 2, diagonal * x), start, 1.0, 0.0, 0.0)
    oracle = Oracle(problem, max_evaluations=2, target=1e-12, record=lambda *_: None)
    with np.errstate(all="ignore"), contextlib.suppress(_Enough):
        _run(settings, problem, point, oracle, {})


def _run(settings: Values, problem: Problem, point: Values, oracle: Oracle, means: dict[str, float]) -> str:
    """Runs the method; returns why it ended, if it did so by itself. `means` gets those of a rule's steps."""
    if "rule" in settings:
        return _run_rule(settings, problem, point, oracle, means)
    if "torch" in settings:
        return run_torch(settings, problem, point, oracle)
    if "solver" in settings:
        solver = _choose("solver", settings["solver"], SOLVERS)
        values = {key: value for key, value in {**settings, **point}.items() if key not in ("solver", "folder")}
        values["lr"] /= problem.smoothness
        solver(oracle, problem.x0, **values, max_iter=oracle.max_evaluations)
        return "the solver stopped"
    options = _choose("scipy", settings["scipy"], SCIPY)
    result = scipy.optimize.minimize(oracle, problem.x0, jac=True, method=settings["scipy"], options=options)
    return str(result.message)


def _run_rule(settings: Values, problem: Problem, point: Values, oracle: Oracle, means: dict[str, float]) -> str:
    lr = {**settings, **point}.get("lr")
    rule = rule_of(settings, point, problem.optimum)
    steps = Steps(rule)

    def note(intermediate_result: Any) -> None:
        beta = intermediate_result.beta
        oracle.observe(beta)
        if beta is not None:
            steps.add(beta, intermediate_result.weights)

    try:
        result = minimize(
            oracle,
            problem.x0,
            rule,
            lr=None if lr is None else lr / problem.smoothness,
            **step_of(settings, point),
            max_iter=oracle.max_evaluations,
            gtol=0.0,
            callback=note,
        )
    finally:
        means |= steps.means(lr)
    return str(result.message)


def _choose(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got {name!r}.")
    return known[name]
