"""How a run begins, whatever holds the arrays: the length of the first step, the scale of f, and who is told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from scipy.optimize import OptimizeResult

MAX_ITER = 1000
PROBE = 1e-3  # of ||x0||, or of 1 where x0 = 0: the first step where no lr is given
BOLD = 0.1  # the same, where the metric learns curvature: too long a first step teaches it as well
ROOM = 900  # f is scaled to less than two to this power


def reporter(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], Any] | None:
    """SciPy's two signatures, told apart as SciPy does: by the argument's name."""
    if callback is None:
        return None
    try:
        names = set(inspect.signature(callback).parameters)
    except ValueError:  # some of those written in C do not say
        names = set()
    if names == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)
