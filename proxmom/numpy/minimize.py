"""`minimize`: a function, a start and a rule in; SciPy's `OptimizeResult` out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from proxmom.guard.criteria import SHORT, Criteria, check
from proxmom.guard.judge import ROUNDING
from proxmom.guard.result import Result
from proxmom.guard.start import BOLD, MAX_ITER, PROBE, ROOM, reporter
from proxmom.metrics import Euclidean, Metric, QuasiNewton, kind_of
from proxmom.numpy.arrays import exponent, norm, number, real, shaped
from proxmom.numpy.forecast import Forecast
from proxmom.numpy.guard import Curved, Guard, Point, Segment, Unguarded
from proxmom.numpy.optimizer import Optimizer
from proxmom.rules import AdaptiveMemory, ConjugateMemory, GradientDescent, Rule
from proxmom.secant import Secant
from proxmom.stepsize import StepSize

MEMORIES = ("full", "low")


def minimize(
    fun: Callable[..., tuple[float, ArrayLike]],
    x0: ArrayLike,
    rule: Rule | None = None,
    *,
    lr: float | None = None,
    step_size: StepSize | Secant | None = None,
    first: float | None = None,
    memory: str | None = None,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    decay: str = "decoupled",
    max_iter: int = MAX_ITER,
    gtol: float = 1e-8,
    gmax: float | None = None,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    """Minimise a smooth function with a rule; without lr there is nothing to tune.

    Without lr the metric is `QuasiNewton()`: unit steps, much like L-BFGS's, one evaluation each, no line search.
    memory="low" takes conjugate gradients instead, `ConjugateMemory()` with `Secant()`, in a handful of vectors. Every
    step is then judged, and one that does not lower f enough is undone and repeated, shorter; the first has the length
    ||x0||/10 (with "low" ||x0||/1000; where x0 = 0 as if ||x0|| = 1). Scaling f or x, and adding a constant to f,
    change nothing else: f and its gradient are scaled by a power of two, so that no square over- or underflows, where
    the metric is Euclidean or `QuasiNewton` and the rule does not look at the loss. f is never above f(x0) at the end.
    With lr every step is kept; the first goes along the gradient at full length, because memory starts as the first
    gradient.

    Args:
        fun: fun(x) -> (f, gradient), real, the gradient of x's shape. It may overwrite x, and it may reuse its arrays
            at the next call: everything is copied.
        x0: starting point, any shape, real and finite.
        rule: default `GradientDescent()` with memory "full", `ConjugateMemory()` with "low", and
            `AdaptiveMemory()` with lr.
        lr: as for `Optimizer`; None: chosen automatically.
        step_size: what multiplies lr, e.g. `Alignment()`; default `Secant()` with memory "low", else none.
        first: without lr, the lr of the first step, > 0; default: what makes it as long as said above.
        memory: without lr, "full" (the metric is `QuasiNewton()` unless another low-rank one is given: 2·pairs + 8
            vectors) or "low" (6 vectors); default "full" where neither rule nor metric nor step_size is given, or the
            metric is of low rank, else "low".
        metric, inertia, weight_decay, decay: as for `Optimizer`; weight_decay needs an lr unless decay is "coupled".
        max_iter: largest number of steps, undone ones included, >= 0; each costs one evaluation, and there is one more.
        gtol: >= 0; stop when ||gradient + weight_decay·x|| <= gtol times its first value, and the last step was at most
            1e-6·max(||x||, ||x - x0||) long, and one along the gradient at the least curvature of the last ten steps
            would be at most max(1e-6, 100 gtol) times that maximum: a first gradient may be so huge that gtol says
            little, and a step short by chance.
        gmax: >= 0; instead of all that, stop when no component of the gradient + weight_decay·x is larger: SciPy's
            criterion, which scaling f changes.
        callback: called after each evaluation but the last, as callback(intermediate_result) with an `OptimizeResult`
            (x, fun, jac, nit, and beta, weights of the step that led to x, None at x0) or, for any other argument
            name, callback(x). StopIteration raised in it ends the run.

    Returns:
        OptimizeResult with x, fun, jac (the user's f and gradient), nit, nfev, njev, success, status, message, skipped,
        undone (how many steps were, without lr; nit does not count them), and history: arrays "fun", "gradient_norm"
        (nfev,), "beta" (nit,), "weights" (nit, K). success means status 0, as said at gtol and gmax. x is the last
        point kept; without lr, where the run did not succeed, the one with the smallest gradient of those since f last
        changed by more than its rounding.

    Raises:
        ValueError: for invalid arguments, an f that is not one number, or a gradient of the wrong shape.
        TypeError: for an x0, f or gradient that is not real numbers, or is masked.
    """
    check(gtol, gmax, max_iter)
    if lr is None and weight_decay > 0 and decay != "coupled":
        raise ValueError(f"decay must be 'coupled' without lr, got {decay!r}: f is judged, and must contain the decay.")
    if first is not None and (lr is not None or not 0 < first < np.inf):
        raise ValueError(f"first must be > 0 and finite, and stands for lr, got first={first}, lr={lr}.")
    if memory is not None and lr is not None:
        raise ValueError(
            f"memory must be left out with lr, got memory={memory!r}, lr={lr}: it chooses what finds an lr."
        )
    free = lr is None
    full = free and _full(memory, rule, metric, step_size)
    if free and not full and step_size is None:
        step_size = Secant()
    if full and metric is None:
        metric = QuasiNewton()
    usual = AdaptiveMemory() if not free else GradientDescent() if full else ConjugateMemory()
    optimizer = Optimizer(
        real("x0", x0),
        usual if rule is None else rule,
        lr=lr if lr is not None else 1.0 if first is None else first,
        metric=metric,
        inertia=inertia,
        weight_decay=weight_decay,
        decay=decay,
        step_size=None if isinstance(step_size, Secant) else step_size,
    )
    if optimizer.observed:
        raise ValueError(
            f"rule and step size must look at f and its gradient alone, got {', '.join(optimizer.observed)}, which "
            "minimize does not know: call step(..., observed=...) of an Optimizer yourself."
        )
    steps = Forecast(optimizer, step_size) if isinstance(step_size, Secant) else optimizer
    judge: Guard | Unguarded = Unguarded(steps)
    if full:
        judge = Curved(optimizer)
    elif free:
        judge = Guard(steps, isinstance(optimizer.metric, Euclidean))
    run = _Run(fun, optimizer, Criteria(gtol, gmax), judge, reporter(callback))
    return run.go(max_iter, probe=(BOLD if full else PROBE) if free and first is None else None)


def _full(memory: str | None, rule: Rule | None, metric: Metric | None, step_size: Any) -> bool:
    """Whether a run without lr uses a metric that learns curvature."""
    learns = metric is not None and kind_of(metric) == "low rank"
    if memory is None:
        return learns or (rule is None and metric is None and step_size is None)
    if memory not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(map(repr, MEMORIES))}, got {memory!r}.")
    if memory == "full" and step_size is not None:
        raise ValueError(f"step_size must be None with memory='full', got {step_size!r}: there the lr is 1.")
    if metric is not None and (memory == "full") != learns:
        raise ValueError(
            f"memory must be {'full' if learns else 'low'!r} with this metric, got {memory!r}: {metric!r}."
        )
    return memory == "full"


class _Run:
    """One minimisation: evaluate, record, stop or step."""

    def __init__(
        self,
        fun: Callable[..., tuple[float, ArrayLike]],
        optimizer: Optimizer,
        criteria: Criteria,
        judge: Guard | Unguarded,
        report: Callable[[OptimizeResult], Any] | None,
    ) -> None:
        self.fun, self.optimizer, self.criteria = fun, optimizer, criteria
        self.judge, self.report = judge, report
        self.weight_decay, self.x0 = optimizer.weight_decay, optimizer.x.ravel()
        self.power = 0  # of two, by which f and its gradient are scaled
        self.values: list[float] = []
        self.betas: list[float] = []
        self.weights: list[Any] = []

    def go(self, max_iter: int, probe: float | None) -> OptimizeResult:
        """Steps, as the judge lets them stand, until something says stop.

        probe: the length of the first step, in units of ||x0||; None: lr is given.
        """
        optimizer, judge = self.optimizer, self.judge
        told = self._evaluate(optimizer.x)
        if isinstance(judge, Guard) and judge.euclidean and not optimizer.needs_loss:
            self._scale(told[1])
        here = self._point(told)
        status = self._status(Segment(here, here))
        if status is None and probe is not None:
            optimizer.lr = self._probe(here, probe)
        kept, tried = True, 0
        while status is None and tried < max_iter:
            status = self._report(here) if kept else None
            if status is not None:
                break
            following = judge.step(*self._offered(here))
            if optimizer.diagnostics()["skipped"]:
                status = 2
                break
            there = self._point(self._evaluate(following))
            way = Segment(here, there)
            kept, tried = judge.keeps(way), tried + 1
            if kept:
                self._note()
                status, here = self._status(way), there
                blind = status == 0 and way.length <= ROUNDING * there.here
                if (
                    blind
                    and self.criteria.gmax is None
                    and isinstance(judge, Guard)
                    and here.size > 0
                    and judge.euclidean
                ):
                    tried += 1
                    status = 0 if self._turns(judge, here) else None
            status = judge.verdict if status is None else status
        if status in (None, 3):
            here = judge.best(here)
        return self._result(here, 1 if status is None else status)

    def _scale(self, f: float) -> None:
        """Chooses the power of two that makes the first gradient about 1 long; lr and weight decay go with it."""
        self.power = min(-exponent(self.criteria.sizes[0]), ROOM - exponent(abs(f)))
        with np.errstate(over="ignore", under="ignore"):
            lr = np.ldexp(self.optimizer.lr, -self.power)
            weight_decay = np.ldexp(self.weight_decay, self.power)
        numbers = np.finfo(np.float64)
        self.optimizer.lr = float(np.clip(lr, numbers.tiny, numbers.max))
        self.optimizer.weight_decay = float(min(weight_decay, numbers.max))

    def _scaled(self, point: Point) -> tuple[Any, float]:
        """The caller's gradient and f as the optimizer sees them."""
        _, f, g = point.told
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(g, self.power), float(np.ldexp(f, self.power))

    def _offered(self, point: Point) -> tuple[Any, float]:
        """As `_scaled`, without computing again what the point has: without weight decay its own gradient is that."""
        if self.optimizer.weight_decay:
            return self._scaled(point)
        return point.g.reshape(point.told[2].shape), point.f

    def _point(self, told: tuple[Any, float, Any]) -> Point:
        """What is judged: weight decay is part of f."""
        flat = told[0].ravel()
        plain = Point(flat, told[1], told[2].ravel(), told)
        g, f = self._scaled(plain)
        mu = self.optimizer.weight_decay
        if mu == 0:
            return Point(flat, f, g.ravel(), told)
        with np.errstate(over="ignore", invalid="ignore"):
            return Point(flat, f + mu / 2 * float(flat @ flat), g.ravel() + mu * flat, told)

    def _probe(self, here: Point, share: float) -> float:
        """The lr of the first step: it moves by this share of x."""
        reach = self.optimizer.reach(*self._scaled(here))
        if reach is None:  # the square of the gradient overflows: the step will be skipped, and say so
            return 1.0
        with np.errstate(all="ignore"):
            lr = np.float64(share * (norm(here.x) or 1.0)) / reach
        return float(lr) if 0 < lr < np.inf else 1.0

    def _evaluate(self, x: Any) -> tuple[Any, float, Any]:
        """x, f and gradient: copies, which the caller does not hold."""
        answer = self.fun(x.copy())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise ValueError(f"fun must return the pair (f, gradient), got {type(answer).__name__}.")
        f, g = (
            number("f, as fun returns it,", answer[0]),
            shaped("the gradient, as fun returns it,", answer[1], x.shape),
        )
        self.values.append(f)
        with np.errstate(over="ignore", invalid="ignore"):
            whole = g + self.weight_decay * x if self.weight_decay else g
            self.criteria.sizes.append(norm(whole))
            self.gradient = whole
        return x, f, g

    def _status(self, step: Segment) -> int | None:
        """Whether the run ends at the point just evaluated, where this step led."""
        if not (step.new.finite and np.isfinite(self.criteria.sizes[-1])):
            return 2
        with np.errstate(over="ignore", invalid="ignore"):
            away, largest = (lambda: norm(step.new.x - self.x0)), (lambda: self.largest)
            return 0 if self.criteria.met(step, step.new.here, away, largest) else None

    @property
    def largest(self) -> float:
        """The largest component of the gradient at the last point."""
        return float(np.abs(self.gradient).max(initial=0.0))

    def _turns(self, judge: Guard, here: Point) -> bool:
        """Whether f falls no further along the gradient than the last step of a success may be long; if it does, the
        next step is as long as that.

        Asked where the last step was within the rounding of x, and showed nothing.
        """
        size = here.size
        length = SHORT * max(norm(here.x), norm(here.x - self.x0))
        judge.undone += 1
        there = self._point(self._evaluate((here.x - length * (here.g / size)).reshape(here.told[0].shape)))
        if not (there.finite and (there.g / size) @ (here.g / size) > 0):
            return True
        judge.start_anew(length / size)
        return False

    def _report(self, point: Point) -> int | None:
        if self.report is None:
            return None
        x, f, g = point.told
        last: dict[str, Any] = {"beta": None, "weights": None}
        if self.betas:
            last = {"beta": self.betas[-1], "weights": self.weights[-1].copy()}
        try:
            self.report(OptimizeResult(x=x.copy(), fun=f, jac=g.copy(), nit=len(self.betas), **last))
        except StopIteration:
            return 99
        return None

    def _note(self) -> None:
        last = self.optimizer.diagnostics()
        self.betas.append(last["beta"])
        self.weights.append(last["weights"])

    def _result(self, point: Point, status: int) -> OptimizeResult:
        x, f, g = point.told
        history = {
            "fun": np.array(self.values),
            "gradient_norm": np.array(self.criteria.sizes),
            "beta": np.array(self.betas),
            "weights": np.array(self.weights),
        }
        count = len(self.values)
        return Result(
            x=x,
            fun=f,
            jac=g,
            nit=len(self.betas),
            nfev=count,
            njev=count,
            success=status == 0,
            status=status,
            message=self.criteria.message(status, self.largest),
            skipped=self.optimizer.diagnostics()["skipped"],
            undone=self.judge.undone,
            history=history,
        )
