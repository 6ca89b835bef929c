"""When `minimize` ends, and what it says then: the criteria of a success, and the messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from proxmom.numpy.arrays import norm
from proxmom.numpy.guard import ROUNDING, Segment

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


@dataclass
class Criteria:
    """Whether a point is a success: by `gmax`, the largest component of the gradient, if that is given, else by `gtol`.

    norms: of the gradient at every point so far; gradient: what it is at the last.
    """

    gtol: float
    gmax: float | None
    norms: list[float] = field(default_factory=list)
    gradient: NDArray[np.float64] | None = None
    flatness: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # ||move|| / ||change of gradient||

    def see(self, size: float, gradient: NDArray[np.float64]) -> None:
        """The gradient, and its norm, at one more point."""
        self.norms.append(size)
        self.gradient = gradient

    @property
    def largest(self) -> float:
        """The largest component of the gradient at the last point."""
        return np.inf if self.gradient is None else float(np.abs(self.gradient).max(initial=0.0))

    def met(self, step: Segment, x0: NDArray[np.float64]) -> bool:
        """Whether the point where this step led is a success; x0: where the run began."""
        move, here = step.length, norm(step.new.x)
        if move > ROUNDING * here:  # a step within the rounding of x shows no curvature
            self.flatness.append(move / step.turn if step.turn > 0 else np.inf)
        if self.gmax is not None:
            return self.largest <= self.gmax
        if self.norms[-1] > self.gtol * self.norms[0]:
            return False
        ahead = max(self.flatness, default=0.0) * step.new.size if step.new.size > 0 else 0.0
        size = max(here, norm(step.new.x - x0))
        return move <= SHORT * size and ahead <= max(SHORT, FORESIGHT * self.gtol) * size

    def message(self, status: int) -> str:
        """How the run ended, with the gradient in both measures."""
        said = ABSOLUTE if status == 0 and self.gmax is not None else MESSAGES[status]
        first, now = self.norms[0], self.norms[-1]
        if not (0 < first < np.inf and np.isfinite(now)):
            return said
        limit = f"gtol {self.gtol:g}" if self.gmax is None else f"gmax {self.gmax:g}"
        share = f"norm {now / first:.1e} of the first"
        return f"{said} Gradient: {share}, largest component {self.largest:.1e} ({limit})."
