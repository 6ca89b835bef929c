"""What `minimize` returns, and what it tells on the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from proxmom.guard.criteria import MESSAGES, message
from proxmom.guard.judge import GOES_ON, ROUNDING
from proxmom.guard.numbers import largest, where
from proxmom.guard.result import Result
from proxmom.torch.full_batch.descent import Descent
from proxmom.torch.full_batch.rows import Rows, choose, highest
from proxmom.torch.full_batch.steps import Spot


def news(descent: Descent) -> OptimizeResult:
    """For a callback: the last point kept."""
    return OptimizeResult(x=descent.objective.told(descent.x), fun=_copy(descent.here.told), nit=_copy(descent.kept))


def result(descent: Descent, values: list[float], ended: int | None) -> OptimizeResult:
    """How the run ended, and where; rows: that point. ended: the status of those that had to stop."""
    status = where(descent.status == GOES_ON, 1 if ended is None else ended, descent.status)
    best = (status == 1) | (status == 3)
    x, g = choose(best, descent.best_x, descent.x), choose(best, descent.best_g, descent.g)
    spot = descent.best.where(best, descent.here)
    count = descent.tried + 1
    more: dict[str, Any]
    if descent.count is None:
        history = {"fun": np.array(values), "gradient_norm": np.array(descent.criteria.sizes)}
        more = {"history": history, "message": _message(descent, status, spot, g)}
    else:
        more = {"calls": descent.calls, "message": _summary(status)}
    return Result(
        x=descent.objective.told(x),
        fun=_copy(spot.told),
        jac=descent.objective.told(descent.scale.rows(g, back=True)),
        nit=_copy(descent.kept),
        nfev=_copy(count),
        njev=_copy(count),
        success=_copy(status == 0),
        status=_copy(status),
        undone=_copy(descent.undone),
        rows=x,
        **more,
    )


def _message(descent: Descent, status: int, spot: Spot, g: Rows) -> str:
    criteria = descent.criteria
    size, component = (float(descent.scale.down(value)) for value in (spot.size, float(highest(g)[0])))
    told = float(largest(descent.grain * abs(spot.f), descent.shake))
    known = spot.f and (descent.grain > ROUNDING or told > descent.grain * abs(spot.f))
    rounding = told / abs(spot.f) if known else None
    return message(status, criteria.gtol, criteria.gmax, criteria.sizes[0], size, component, rounding)


def _summary(status: Any) -> str:
    """How many problems ended how."""
    counts = Counter(status.tolist())
    return " ".join(f"{count} of {len(status)}: {MESSAGES[code]}" for code, count in sorted(counts.items()))


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
