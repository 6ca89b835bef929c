"""The methods that are compared, each on a `Watch` that counts every evaluation and knows the best point."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from proxmom.metrics import QuasiNewton
from proxmom.torch import minimize

CONVERGED, TOLD, STUCK, BUDGET, NAN, ROSE = "converged", "told", "stuck", "budget", "NaN", "rose"
LAST = 10  # evaluations that show where a run was at its end
POLISH = 100  # evaluations of L-BFGS that look whether a run that ended early was at its end


class Enough(Exception):
    """The budget is spent."""


class Watch:
    """A loss whose calls are counted, written down with their seconds, and no more than `budget`.

    Attributes:
        values, seconds: of every call so far. best: the least finite value. point: the parameters there.
    """

    def __init__(self, loss: Callable[[], Tensor], params: list[Tensor], budget: int) -> None:
        self.loss, self.params, self.budget = loss, params, budget
        self.values: list[float] = []
        self.seconds: list[float] = []
        self.best, self.point = math.inf, self._now()
        self._began = time.perf_counter()

    def _now(self) -> list[Tensor]:
        return [part.detach().clone() for part in self.params]

    def __call__(self) -> Tensor:
        """The loss, as torch knows it."""
        if len(self.values) >= self.budget:
            raise Enough
        loss = self.loss()
        value = loss.item()
        self.values.append(value)
        self.seconds.append(time.perf_counter() - self._began)
        if value < self.best:
            self.best, self.point = value, self._now()
        return loss

    def closure(self) -> Tensor:
        """The loss, with gradients in `.grad`, as torch's optimizers want it."""
        loss = self()
        for part, slope in zip(self.params, torch.autograd.grad(loss, self.params), strict=True):
            part.grad = slope
        return loss.detach()

    @torch.no_grad()
    def place(self, point: list[Tensor]) -> None:
        """The parameters become these."""
        for part, value in zip(self.params, point, strict=True):
            part.copy_(value)


def again(watch: Watch, attempt: Callable[[], Any]) -> None:
    """Repeats an attempt from the best point, its memory lost, as long as it lowers the loss."""
    before = math.inf
    while watch.best < before or before == math.inf:
        before = watch.best
        attempt()
        if not watch.best < math.inf:
            return
        watch.place(watch.point)


def ours(watch: Watch, metric: QuasiNewton | None = None) -> str:
    """`proxmom.torch.minimize` as it is, with 100 pairs, or with this metric."""
    found = minimize(watch, watch.params, metric=metric, max_iter=watch.budget - 1)
    return CONVERGED if found.success else BUDGET if found.status == 1 else TOLD


def lbfgs(watch: Watch, search: str | None, pairs: int = 100) -> str:
    """torch's L-BFGS, lr 1 and 100 pairs as it is, but without its tolerances, which would end it early."""
    options: dict[str, Any] = {"history_size": pairs, "line_search_fn": search, "max_iter": 10**9, "max_eval": 10**9}
    options |= {"tolerance_grad": 0.0, "tolerance_change": 0.0}
    again(watch, lambda: torch.optim.LBFGS(watch.params, **options).step(watch.closure))
    return STUCK


def conjugate_gradients(watch: Watch) -> str:
    """SciPy's nonlinear CG (Polak-Ribière, strong Wolfe) on the parameters as one float64 vector."""
    sizes = [part.numel() for part in watch.params]

    def vector(parts: list[Tensor]) -> Any:
        return torch.cat([part.detach().reshape(-1).double() for part in parts]).numpy()

    def fun(x: Any) -> tuple[float, Any]:
        parts = torch.split(torch.from_numpy(np.array(x)), sizes)
        watch.place([part.reshape(old.shape) for part, old in zip(parts, watch.params, strict=True)])
        loss = watch()
        return loss.item(), vector(list(torch.autograd.grad(loss, watch.params)))

    def attempt() -> None:
        limits = {"gtol": 0.0, "maxiter": 10**9}
        scipy.optimize.minimize(fun, vector(watch.params), jac=True, method="CG", options=limits)

    again(watch, attempt)
    return TOLD  # SciPy says that precision was lost


def adam(watch: Watch, lr: float) -> str:
    """Adam, lr falling to 0 like a cosine over the budget."""
    optimizer = torch.optim.Adam(watch.params, lr=lr)
    for step in count():
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / watch.budget)) / 2
        optimizer.step(watch.closure)
    raise AssertionError


WOLFE, PLAIN = "L-BFGS, strong Wolfe", "L-BFGS, no line search"
FEWER, MANY = "L-BFGS, Wolfe, 20 pairs", "L-BFGS, Wolfe, 300 pairs"
LESS, OURS, MOST = "minimize, 20 pairs", "minimize, 100 pairs", "minimize, 300 pairs"
# as `minimize` was when starts 0 to 9 were first run
LESS_ONCE, ONCE, MOST_ONCE = "newest γ, 20 pairs", "newest γ, 100 pairs", "newest γ, 300 pairs"
AGAIN = "L-BFGS, again"  # the better mode, when what it is to reach is known; in no table
CG, ADAM = "nonlinear CG", "Adam"
METHODS: dict[str, Callable[..., str]] = {
    WOLFE: partial(lbfgs, search="strong_wolfe"),
    PLAIN: partial(lbfgs, search=None),
    FEWER: partial(lbfgs, search="strong_wolfe", pairs=20),
    MANY: partial(lbfgs, search="strong_wolfe", pairs=300),
    LESS: partial(ours, metric=QuasiNewton(20)),
    OURS: ours,
    MOST: partial(ours, metric=QuasiNewton(300)),
    LESS_ONCE: partial(ours, metric=QuasiNewton(20, follows=False)),
    ONCE: partial(ours, metric=QuasiNewton(100, follows=False)),
    MOST_ONCE: partial(ours, metric=QuasiNewton(300, follows=False)),
    CG: conjugate_gradients,
    ADAM: adam,
}
OWN = (LESS, OURS, MOST, LESS_ONCE, ONCE, MOST_ONCE)
LRS = tuple(float(lr) for lr in np.geomspace(3e-4, 1, 8))  # Adam's search


def run(watch: Watch, method: Callable[[Watch], str]) -> str:
    """Runs a method until it ends itself or the budget does; how it ended."""
    ended = BUDGET
    with contextlib.suppress(Enough), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in how they end
        ended = method(watch)
    last = [value for value in watch.values[-LAST:] if math.isfinite(value)]
    if not last:
        return NAN
    return ROSE if min(last) > watch.values[0] else ended


def left(watch: Watch) -> float:
    """By how much L-BFGS with its line search lowers the loss from the best point, within `POLISH` evaluations."""
    watch.place(watch.point)
    polish = Watch(watch.loss, watch.params, POLISH)
    run(polish, METHODS[WOLFE])
    return watch.best - polish.best
