"""`minimize`: a full-batch problem in, SciPy's `OptimizeResult` out; no learning rate, no line search."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from scipy.optimize import OptimizeResult
from torch import Tensor, nn

from proxmom.guard.criteria import Criteria, check
from proxmom.guard.numbers import some
from proxmom.guard.start import MAX_ITER, reporter
from proxmom.metrics import QuasiNewton
from proxmom.torch.full_batch.descent import Descent
from proxmom.torch.full_batch.objective import objective
from proxmom.torch.full_batch.result import news, result
from proxmom.torch.full_batch.resume import Checkpoint, heard
from proxmom.torch.full_batch.show import Bar

PRECISE, SINGLE = 1e-8, 1e-5  # gtol where none is given, in float64 and with float32
PAIRS = 100  # where no metric is given


def minimize(
    fun: Callable[..., Tensor],
    params: Tensor | nn.Module | Iterable[Tensor],
    *,
    metric: QuasiNewton | None = None,
    batch_dims: int = 0,
    max_iter: int = MAX_ITER,
    gtol: float | None = None,
    gmax: float | None = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
) -> OptimizeResult:
    """Minimise a smooth function of tensors; there is no learning rate, and no line search.

    Unit steps in the metric `QuasiNewton`, one gradient each. Each is judged, and one that does not lower f enough is
    undone and repeated, shorter. With as many pairs it takes the points of `proxmom.numpy.minimize` with memory
    "full"; that one keeps 20 by default, this one 100, as torch's own L-BFGS does. The gradient must be exact: fun sees
    the whole data set at every call. How much rounding moves f is measured where a step fails by so little that it may
    be that, by one evaluation at the neighbouring numbers; where f says no more, the slopes at both ends of a step do.
    The host waits for the device once an evaluation.

    Parameters end at the best point found, also where fun raises, or the run is interrupted by Control-C or SIGTERM;
    the exception goes on. (A tensor stays as it is, so there the point is lost, unless there is a checkpoint.)

    Args:
        fun: fun() -> f, one number, computed of the parameters; or fun(x) -> f, where params is a tensor. It may use
            autograd itself. No `.grad` is touched.
        params: a module, or tensors of any shapes, float32 and float64, on one device: changed in place; frozen ones
            are left alone, tied ones count once. Or one tensor, the start, which stays as it is.
        metric: how many pairs of vectors are kept, default `QuasiNewton(100)`; memory is that of 2·pairs + 8 times the
            parameters. On hard problems fewer need more evaluations (`experiments/full_batch`).
        batch_dims: 1 for N problems at once: params is a tensor (N, ...), and fun(x) -> (N,), each number of its own
            x[i] alone. Every problem has its own step, judging and end.
        max_iter: largest number of steps, undone ones included, >= 0, of each problem; there is one evaluation more.
        gtol: >= 0, as of `proxmom.numpy.minimize`; default 1e-8, and 1e-5 where a parameter is float32.
        gmax: >= 0; instead, stop when no component of the gradient is larger.
        callback: called after each step, and at the start, as callback(intermediate_result) with an `OptimizeResult`
            (x, fun, nit) or, for any other argument name, callback(x). StopIteration raised in it ends the run.
        progress: whether to show a bar on stderr.
        checkpoint: a file, to save the run in; if it exists, the run goes on from there with the same points, whatever
            the parameters are now. A larger max_iter continues a run that was at its end. It is replaced only by a
            whole one, so the run may be killed at any time.
        save_every: seconds between saves, >= 0.

    Returns:
        OptimizeResult with x (a tensor like params, or a list of tensors), fun, jac (as x), nit, nfev, njev, success,
        status, message, undone, and history: arrays "fun", "gradient_norm" (nfev,). With batch_dims=1 fun, nit, nfev,
        njev, success, status and undone are arrays (N,), there is no history, message counts how the runs ended, and
        `calls` says how often fun was called. success means status 0.

    Raises:
        ValueError, TypeError: for invalid arguments, parameters or answers of fun.
        MemoryError: where the pairs do not fit.
    """
    problem = objective(fun, params, batch_dims)
    gtol = (PRECISE if problem.precise else SINGLE) if gtol is None else gtol
    check(gtol, gmax, max_iter)
    metric = QuasiNewton(PAIRS) if metric is None else metric
    if not isinstance(metric, QuasiNewton):
        raise TypeError(f"metric must be a QuasiNewton, got {metric!r}; other metrics need an lr: see ProxOptimizer.")
    descent = Descent(problem, metric, Criteria(gtol, gmax), max_iter)
    with heard(), Bar(progress, max_iter) as bar:
        return _Run(descent, Checkpoint(checkpoint, save_every, descent, metric), reporter(callback), bar).go()


class _Run:
    """Evaluates, reports, saves; what happens to the parameters whatever ends it."""

    def __init__(self, descent: Descent, checkpoint: Checkpoint, report: Any, bar: Bar) -> None:
        self._descent, self._checkpoint, self._report, self._bar = descent, checkpoint, report, bar
        self._values: list[float] = []
        self._whole = False  # whether what is known is that of one evaluation

    def go(self) -> OptimizeResult:
        descent = self._descent
        try:
            if not self._checkpoint.load(self._values):
                descent.start()
                self._note()
            elif self._checkpoint.pending:
                self._whole = True
                self._learn()
            status = None
            while some(descent.going):
                if (status := self._told()) is not None:
                    break
                descent.propose()
                self._whole = True
                self._checkpoint.save(self._values)
                self._learn()
            answer = result(descent, self._values, status)
            self._checkpoint.save(self._values, now=True, pending=False)
        except BaseException:
            if self._whole:
                self._checkpoint.save(self._values, now=True)
            descent.objective.place(descent.best_x)
            raise
        descent.objective.place(answer.pop("rows"))
        return answer

    def _learn(self) -> None:
        descent = self._descent
        found = descent.objective(descent.there)
        self._whole = False
        descent.learn(*found)
        self._note()

    def _note(self) -> None:
        if self._descent.count is None:
            self._values.append(self._descent.last.told)
        self._bar.show(self._descent)

    def _told(self) -> int | None:
        """99 where the callback ends the run."""
        if self._report is None or not self._descent.stepped:
            return None
        try:
            self._report(news(self._descent))
        except StopIteration:
            return 99
        return None
