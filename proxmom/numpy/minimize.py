"""`minimize`: a function, a start and a rule in; SciPy's `OptimizeResult` out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from proxmom.metrics import Euclidean, Metric
from proxmom.numpy.guard import Guard, Point, Trust
from proxmom.numpy.optimizer import Optimizer
from proxmom.rules import AdaptiveMemory, ConjugateMemory, Rule
from proxmom.stepsize import Secant, StepSize

MESSAGES = {
    0: "The gradient's norm fell below gtol times its first value.",
    1: "max_iter steps were taken.",
    2: "The loss, the gradient or the model of planes is not finite; x is the last point where all were. A loss that "
    "only fell until there has no minimum.",
    3: "No step lowers f beyond rounding, and the gradient's norm is above gtol times its first value: this is as far "
    "as these values of f and its gradient lead, or f is not smooth here, or the gradient is not that of f.",
    99: "The callback raised StopIteration.",
}
PROBE = 1e-3  # of ||x0||, or of 1 where x0 = 0: the first step where no lr is given


def minimize(
    fun: Callable[..., tuple[float, ArrayLike]],
    x0: ArrayLike,
    rule: Rule | None = None,
    *,
    lr: float | None = None,
    step_size: StepSize | None = None,
    first: float | None = None,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    decay: str = "decoupled",
    max_iter: int = 1000,
    gtol: float = 1e-8,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    """Minimise a smooth function with a rule; without lr there is nothing to tune.

    Without lr the step size is `Secant()` and the rule `ConjugateMemory()`, if no others are given: conjugate gradients
    at one evaluation a step, in O(n) memory. Every step is then judged, and one that does not lower f enough is undone
    and tried anew, shorter; the first has the length ||x0||/1000 (1/1000 where x0 = 0). Scaling f or x, and adding a
    constant to f, change nothing else. With lr every step stands.

    Args:
        fun: fun(x) -> (f, gradient), the gradient of x's shape.
        x0: starting point, any shape, finite.
        rule: default `ConjugateMemory()`, with lr `AdaptiveMemory()`.
        lr: as for `Optimizer`; None: sets itself.
        step_size: what multiplies lr, e.g. `Alignment()`; default `Secant()`, with lr none.
        first: without lr, the lr of the first step, > 0; default: what makes it ||x0||/1000 long.
        metric, inertia, weight_decay, decay: as for `Optimizer`; weight_decay needs an lr unless decay is "coupled".
        max_iter: largest number of steps, undone ones included, >= 0; each costs one evaluation, and there is one more.
        gtol: >= 0; stop when ||gradient + weight_decay·x|| <= gtol times its first value.
        callback: called after each evaluation but the last, as callback(intermediate_result) with an `OptimizeResult`
            (x, fun, jac, nit, and beta, weights of the step that led to x, None at x0) or, for any other argument
            name, callback(x). StopIteration raised in it ends the run.

    Returns:
        OptimizeResult with x, fun, jac (the user's f and gradient), nit, nfev, njev, success, status, message, skipped,
        undone (how many steps were, without lr; nit does not count them), and history: arrays "fun", "gradient_norm"
        (nfev,), "beta" (nit,), "weights" (nit, K). success means status 0, the gradient at x fell to gtol.

    Raises:
        ValueError, TypeError: for invalid arguments or a gradient of the wrong shape.
    """
    if not gtol >= 0:
        raise ValueError(f"gtol must be >= 0, got {gtol}.")
    if max_iter < 0:
        raise ValueError(f"max_iter must be >= 0, got {max_iter}.")
    if lr is None and weight_decay > 0 and decay != "coupled":
        raise ValueError(f"decay must be 'coupled' without lr, got {decay!r}: f is judged, and must contain the decay.")
    if first is not None and (lr is not None or not 0 < first < np.inf):
        raise ValueError(f"first must be > 0 and finite, and stands for lr, got first={first}, lr={lr}.")
    start = np.asarray(x0, dtype=np.float64)
    free = lr is None
    optimizer = Optimizer(
        start,
        (ConjugateMemory() if free else AdaptiveMemory()) if rule is None else rule,
        lr=lr if lr is not None else 1.0 if first is None else first,
        metric=metric,
        inertia=inertia,
        weight_decay=weight_decay,
        decay=decay,
        step_size=Secant() if step_size is None and free else step_size,
    )
    judge = Guard(optimizer, isinstance(optimizer.metric, Euclidean)) if free else Trust(optimizer)
    run = _Run(fun, optimizer, weight_decay, gtol, judge, _reporter(callback))
    return run.go(max_iter, probe=free and first is None)


def scipy_method(
    rule: Rule | None = None, *, lr: float | None = None, **settings: Any
) -> Callable[..., OptimizeResult]:
    """A `method` for `scipy.optimize.minimize(fun, x0, jac=..., method=scipy_method(rule, lr=...))`.

    SciPy's `options` maxiter and gtol override max_iter and gtol; `tol` is gtol where `options` do not say it. The
    method raises ValueError without a gradient, and for bounds or constraints.

    Args:
        rule, lr: as for `minimize`.
        **settings: further arguments of `minimize`; not callback, which is SciPy's.

    Raises:
        ValueError: for a callback.
    """
    if settings.get("callback") is not None:
        raise ValueError(
            f"callback must be left out of scipy_method, got {settings['callback']!r}: give it to "
            "scipy.optimize.minimize, which passes its own on."
        )

    def method(fun: Callable[..., Any], x0: ArrayLike, args: tuple[Any, ...] = (), **given: Any) -> OptimizeResult:
        jac = given.pop("jac", None)
        if not callable(jac):
            raise ValueError(f"jac must be a function or True, got {jac!r}: these rules need the gradient.")
        for name in ("bounds", "constraints"):
            if given.pop(name, None) not in (None, ()):
                raise ValueError(f"{name} are not supported by proxmom; leave them out.")
        for name in ("hess", "hessp"):
            given.pop(name, None)
        if "tol" in given:
            given.setdefault("gtol", given.pop("tol"))
        if "maxiter" in given:
            given["max_iter"] = given.pop("maxiter")
        return minimize(lambda x: (fun(x, *args), jac(x, *args)), x0, rule, lr=lr, **{**settings, **given})

    return method


def _reporter(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], Any]:
    """SciPy's two signatures, told apart as SciPy does: by the argument's name."""
    if callback is None:
        return lambda result: None
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)


class _Run:
    """One minimisation: evaluate, record, stop or step."""

    def __init__(
        self,
        fun: Callable[..., tuple[float, ArrayLike]],
        optimizer: Optimizer,
        weight_decay: float,
        gtol: float,
        judge: Guard | Trust,
        report: Callable[[OptimizeResult], Any],
    ) -> None:
        self.fun, self.optimizer, self.weight_decay, self.gtol = fun, optimizer, weight_decay, gtol
        self.judge, self.report = judge, report
        self.values: list[float] = []
        self.norms: list[float] = []
        self.betas: list[float] = []
        self.weights: list[Any] = []

    def go(self, max_iter: int, probe: bool) -> OptimizeResult:
        """Steps, as the judge lets them stand, until something says stop; probe: whether the first lr is found here."""
        optimizer, judge = self.optimizer, self.judge
        x = optimizer.x
        f, g, status = self._evaluate(x)
        if status is None and probe:
            optimizer.lr = self._probe(x, f, g)
        kept, tried = True, 0
        while status is None and tried < max_iter:
            status = self._report(x, f, g) if kept else None
            if status is not None:
                break
            here = self._point(x, f, g)
            following = judge.step(g, f)
            if optimizer.diagnostics()["skipped"]:
                status = 2
                break
            f_next, g_next, reached = self._evaluate(following)
            kept, tried = judge.keeps(here, self._point(following, f_next, g_next)), tried + 1
            if kept:
                self._note()
                x, f, g, status = following, f_next, g_next, reached
            if status is None:
                status = judge.verdict
        return self._result(x, f, g, 1 if status is None else status)

    def _probe(self, x: Any, f: float, g: Any) -> float:
        """The lr of the first step: it moves by a thousandth of x."""
        with np.errstate(all="ignore"):
            try:
                model = self.optimizer.preview(g, f)
            except ValueError:  # the square of the gradient overflows: the step will be skipped, and say so
                return 1.0
            lr = PROBE * (float(np.linalg.norm(x)) or 1.0) / np.linalg.norm(model.next_memory / model.diagonal)
        return float(lr) if 0 < lr < np.inf else 1.0

    def _point(self, x: Any, f: float, g: Any) -> Point:
        """What is judged: weight decay is part of f."""
        mu, flat = self.weight_decay, x.ravel()
        if mu == 0:
            return Point(flat, f, g.ravel())
        return Point(flat, f + mu / 2 * float(flat @ flat), g.ravel() + mu * flat)

    def _evaluate(self, x: Any) -> tuple[float, Any, int | None]:
        answer = self.fun(x.copy())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise ValueError(f"fun must return the pair (f, gradient), got {type(answer).__name__}.")
        value, gradient = answer
        f, g = float(value), np.asarray(gradient, dtype=np.float64)
        if g.shape != x.shape:
            raise ValueError(f"fun must return a gradient of x0's shape, {x.shape}, got {g.shape}.")
        with np.errstate(over="ignore", invalid="ignore"):
            norm = float(np.linalg.norm((g + self.weight_decay * x).ravel()))
        self.values.append(f)
        self.norms.append(norm)
        if not (np.isfinite(f) and np.isfinite(norm)):
            return f, g, 2
        return f, g, 0 if norm <= self.gtol * self.norms[0] else None

    def _report(self, x: Any, f: float, g: Any) -> int | None:
        try:
            last = (
                {"beta": self.betas[-1], "weights": self.weights[-1]} if self.betas else {"beta": None, "weights": None}
            )
            self.report(OptimizeResult(x=x.copy(), fun=f, jac=g, nit=len(self.betas), **last))
        except StopIteration:
            return 99
        return None

    def _note(self) -> None:
        last = self.optimizer.diagnostics()
        self.betas.append(last["beta"])
        self.weights.append(last["weights"])

    def _result(self, x: Any, f: float, g: Any, status: int) -> OptimizeResult:
        history = {
            "fun": np.array(self.values),
            "gradient_norm": np.array(self.norms),
            "beta": np.array(self.betas),
            "weights": np.array(self.weights),
        }
        count = len(self.values)
        return OptimizeResult(
            x=x,
            fun=f,
            jac=g,
            nit=len(self.betas),
            nfev=count,
            njev=count,
            success=status == 0,
            status=status,
            message=MESSAGES[status],
            skipped=self.optimizer.diagnostics()["skipped"],
            undone=self.judge.undone,
            history=history,
        )
