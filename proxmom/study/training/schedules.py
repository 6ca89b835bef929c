"""Learning-rate schedules: the factor on lr, as a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[int, int, int], float]] = {  # of steps after the warm-up, all these, steps of warm-up
    "constant": lambda step, steps, warm: 1.0,
    "linear": lambda step, steps, warm: 1 - step / steps,
    "cosine": lambda step, steps, warm: (1 + math.cos(math.pi * step / steps)) / 2,
    "inverse-sqrt": lambda step, steps, warm: 1 / math.sqrt(1 + step / max(warm, 1)),
}


def factor(schedule: str, warmup: float, step: int, steps: int) -> float:
    """What lr is multiplied by at a step.

    With W = round(warmup * steps), it is (step + 1)/W during the first W steps. After them, with t and T counted
    from there: "constant" 1; "linear" 1 - t/T; "cosine" (1 + cos(π t/T))/2; "inverse-sqrt" 1/√(1 + t/max(W, 1)).

    Args:
        schedule: a name in `SCHEDULES`.
        warmup: share of the steps, in [0, 1).
        step: in [0, steps).
        steps: >= 1.

    Returns:
        a factor in (0, 1].

    Raises:
        ValueError: for an unknown schedule, or a warm-up out of range.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}.")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), a share of the steps, got {warmup}.")
    warm = min(round(warmup * steps), steps - 1)
    if step < warm:
        return (step + 1) / warm
    return SCHEDULES[schedule](step - warm, steps - warm, warm)
