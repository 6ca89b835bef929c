"""When `minimize` ends, and what it says then: the criteria of a success, and the messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxmom.guard.numbers import Number, Truth, divide, largest, some, where

MESSAGES = {
    0: "The gradient's norm fell below gtol times its first value, and the last step was short.",
    1: "max_iter steps were taken (through SciPy: maxiter or maxfun was reached).",
    2: "The loss, the gradient or the model of planes is not finite; x is the last point where all were. If the loss "
    "was still falling there, it may have no minimum.",
    3: "No step lowers f by more than its rounding error, yet the gradient is not as small as asked for, or no step "
    "was short. Either f and its gradient are not more precise than this, or f is not smooth here, or the gradient is "
    "not that of f.",
    99: "The callback raised StopIteration.",
}
ABSOLUTE = "No component of the gradient is larger than gmax."
SHORT = 1e-6  # of the larger of ||x|| and ||x - x0||: at most so long is the last step of a success
FORESIGHT = 100  # gtol, of the same: so far may the minimum be, if that is more than SHORT
RECENT = 10  # steps whose curvature says how far the minimum may still be


def check(gtol: float, gmax: float | None, max_iter: int) -> None:
    """ValueError for limits that are none."""
    if not gtol >= 0:
        raise ValueError(f"gtol must be >= 0, got {gtol}.")
    if gmax is not None and not gmax >= 0:
        raise ValueError(f"gmax must be >= 0, got {gmax}.")
    if max_iter < 0:
        raise ValueError(f"max_iter must be >= 0, got {max_iter}.")


class Criteria:
    """Whether a point is a success: by `gmax`, the largest component of the gradient, if that is given, else by `gtol`.

    Attributes:
        sizes: of the gradient at every point so far, each a float or (N,).
        flatness: ||move|| / ||change of gradient|| of the last steps, the newest first.
    """

    def __init__(self, gtol: float, gmax: float | None) -> None:
        self.gtol, self.gmax = gtol, gmax
        self.sizes: list[Number] = []
        self.flatness: list[Number] = []

    def met(self, step: Any, here: Number, away: Any, component: Any) -> Truth:
        """Whether the point where a step led is a success.

        Args:
            step: as `Judge` takes it. here: ||x||. away: gives ||x - x0|| when it is asked. component: gives the
                largest of the gradient.
        """
        self._see(step)
        if self.gmax is not None:
            return component() <= self.gmax
        small = self.sizes[-1] <= self.gtol * self.sizes[0]
        if not some(small):
            return small
        ahead: Number = 0.0
        for flat in self.flatness:
            ahead = largest(ahead, flat)
        ahead = where(step.new.size > 0, ahead * step.new.size, 0.0)
        size = largest(here, away())
        return small & (step.length <= SHORT * size) & (ahead <= max(SHORT, FORESIGHT * self.gtol) * size)

    def _see(self, step: Any) -> None:
        shows = step.shows  # a step within the rounding of x shows no curvature
        if not some(shows):
            return
        flat = where(step.turn > 0, divide(step.length, step.turn), np.inf)
        if isinstance(shows, bool | np.bool_):
            self.flatness = [flat, *self.flatness[: RECENT - 1]]
            return
        old = self.flatness or [np.zeros(len(flat))] * RECENT
        self.flatness = [where(shows, new, kept) for new, kept in zip([flat, *old[:-1]], old, strict=True)]

    def message(self, status: int, component: float) -> str:
        """How the run of one problem ended."""
        return message(status, self.gtol, self.gmax, self.sizes[0], self.sizes[-1], component)


def message(
    status: int,
    gtol: float,
    gmax: float | None,
    first: float,
    now: float,
    component: float,
    rounding: float | None = None,
) -> str:
    """How a run ended, with the gradient in both measures: its norm, first and now, and its largest component.

    rounding: by how much of itself rounding moves f, where that was found out.
    """
    said = ABSOLUTE if status == 0 and gmax is not None else MESSAGES[status]
    if not (0 < first < np.inf and math.isfinite(now)):
        return said
    limit = f"gtol {gtol:g}" if gmax is None else f"gmax {gmax:g}"
    share = f"norm {now / first:.1e} of the first"
    noise = (
        "" if rounding is None or status != 3 else f" Rounding moves f by {rounding:.1e} of its value here, or more."
    )
    return f"{said} Gradient: {share}, largest component {component:.1e} ({limit}).{noise}"
