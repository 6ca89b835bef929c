"""What the search of training studies says: sensitivity to lr, the best so far, best points at an edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record.store import Run
from proxmom.study.report import summary, tuning
from proxmom.study.report.finals import LEAST, Trained
from proxmom.study.report.summary import Array, Interval
from proxmom.study.report.tuning import Edge

_TOLERANCE, _SHARE = 1.2, 0.01  # as good as the best: a loss at most 20% above, and at most 1% of the way back


def excess(trained: Trained) -> Callable[[Run], float]:
    """How much of the way from the problem's initial loss to the best validation loss a search run left: 0 to 1.

    The best is that of all methods' search runs; a loss above the initial one counts as 1.
    """
    best = dict(zip(trained.problems, _least(trained.points_losses), strict=True))

    def value(run: Run) -> float:
        left, whole = (loss - best[run.problem] for loss in (trained.loss(run), trained.initial[run.problem, run.seed]))
        return float(np.clip(left / whole, 0.0, 1.0)) if whole > 0 else 1.0

    return value


def lr_sensitivity(trained: Trained, seed: int = 0) -> dict[str, Interval]:
    """Mean `excess` of the search runs whose lr is within a factor of ten of the best's, log-uniform as points are.

    With its bootstrap interval over problems; with one problem, over points. Methods that nowhere have four such runs
    are left out.
    """
    value = excess(trained)
    found = {}
    for method in trained.methods:
        pairs = [(problem, method) for problem in trained.problems if (problem, method) in trained.search.runs]
        points = [tuning.excess_near_best(trained.search, pair, value) for pair in pairs]
        known = [values for values in points if not np.isnan(values).all()]
        if known:
            alone = len(trained.problems) == 1
            found[method] = summary.bootstrap_mean(known[0] if alone else np.array([v.mean() for v in known]), seed)
    return found


def best_so_far(trained: Trained, goal: Array) -> tuple[tuple[int, ...], Array]:
    """Budgets, and the geometric mean ratio of the best validation loss so far to `goal`, shape (methods, budgets).

    goal: (problems,), say `points_losses` of the reference. Both are empty if nothing was searched.
    """
    if not trained.search.runs:
        return (), np.empty((len(trained.methods), 0))
    return tuning.best_so_far_against(trained.search, goal, trained.best_losses)


def edges(trained: Trained) -> list[Edge]:
    """Best points that sit on the edge of what was tried.

    Plateaus among them, where a decade inwards costs at most 20% of the loss and 1% of what was gained, are marked.
    """

    def as_good(runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
        least = trained.loss(best)
        gained = trained.initial[best.problem, best.seed] - least
        bound = min(_TOLERANCE * least, least + _SHARE * gained) if gained > 0 else least
        return np.array([trained.loss(run) for run in runs]) <= max(bound, LEAST)

    return tuning.edges(trained.search, as_good)


def _least(values: Array) -> Array:
    least = np.where(np.isnan(values), np.inf, values).min(axis=1)
    return np.where(np.isinf(least), np.nan, least)
