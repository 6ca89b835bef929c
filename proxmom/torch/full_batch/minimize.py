"""`minimize`: a full-batch problem in, SciPy's `OptimizeResult` out; no learning rate, no line search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult
from torch import Tensor, nn

from proxmom.guard.criteria import Criteria, check, message
from proxmom.guard.judge import GOES_ON
from proxmom.guard.numbers import some, where
from proxmom.guard.start import MAX_ITER, reporter
from proxmom.metrics import QuasiNewton
from proxmom.torch.full_batch.descent import Descent
from proxmom.torch.full_batch.objective import Objective, objective
from proxmom.torch.full_batch.rows import choose

GTOL = {"double": 1e-8, "single": 1e-5}


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
) -> OptimizeResult:
    """Minimise."""
    problem = objective(fun, params, batch_dims)
    single = problem.coarsest > 1e-10
    gtol = (GTOL["single"] if single else GTOL["double"]) if gtol is None else gtol
    check(gtol, gmax, max_iter)
    descent = Descent(problem, metric or QuasiNewton(), Criteria(gtol, gmax), max_iter)
    values = []
    descent.start()
    values.append(descent.here.told)
    while some(descent.going):
        f, g = problem(descent.propose())
        descent.learn(f, g)
    return _result(descent)


def _result(d):
    status = where(d.status == GOES_ON, 1, d.status)
    best = (status == 1) | (status == 3)
    x = choose(best, d.best_x, d.x)
    spot = d.best.where(best, d.here)
    d.objective.place(x)
    return OptimizeResult(x=d.objective.told(x), fun=spot.told, nit=d.kept, nfev=d.tried + 1, status=status, success=status == 0, undone=d.undone,
       message=message(status, d.criteria.gtol, d.criteria.gmax, d.criteria.sizes[0], d.criteria.sizes[-1], 0.0) if d.count is None else "")
