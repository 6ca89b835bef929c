"""Which of several runs is the best."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from proxmom.study.record.run import Run


def best_run(runs: Iterable[Run]) -> Run:
    """Fewest evaluations to the target, then smallest gap; of training runs the smallest validation loss at the end.

    Of equal ones the earlier point.
    """
    return min(runs, key=_rank)


def evaluations(run: Run) -> float:
    """Evaluations until the target was reached; inf where it was not."""
    return float(run.evaluations) if run.status == "reached" else np.inf


def lost(run: Run) -> bool:
    """Whether a training run has no loss of its own at the end: it diverged, failed, or that loss is not finite."""
    return run.status != "finished" or not np.isfinite(run.final.get("validation loss", np.nan))


def _rank(run: Run) -> tuple[float, float, int]:
    if run.trained:
        return (1.0, 0.0, run.point_index) if lost(run) else (0.0, run.final["validation loss"], run.point_index)
    return evaluations(run), float(np.nan_to_num(run.best_gap, nan=np.inf)), run.point_index
