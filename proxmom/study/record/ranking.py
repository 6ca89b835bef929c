"""Which of several runs is the best."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from proxmom.study.record.run import Run

Starts = Mapping[tuple[str, int], float]  # validation loss before the first step, by problem and training seed


def best_run(runs: Iterable[Run]) -> Run:
    """Fewest evaluations to the target, then smallest gap; of training runs the smallest validation loss at the end.

    Where points were tried with several seeds it is the mean of the best point, see `points`; one that lacks seeds,
    for the machine aborted its runs, is compared only where all do. Of equal ones the earlier point.
    """
    tried = points(runs)
    most = max(len(point.seeds) for point in tried)
    return min((point for point in tried if len(point.seeds) == most), key=_rank)


def points(runs: Iterable[Run], starts: Starts | None = None) -> tuple[Run, ...]:
    """Runs of one method on one problem, those of each point of a search with several seeds as one, which has `seeds`.

    Its validation loss and its means over steps are means over the seeds. There a run that was lost counts as its
    initial loss, as does a loss above that; the point is lost only if all its runs are. Other runs stay as they are.

    starts: of `initial_losses`; default: those of these runs.
    """
    every = list(runs)
    starts = initial_losses(every) if starts is None else starts
    groups: dict[object, list[Run]] = defaultdict(list)
    times: Counter[object] = Counter()  # a seed that is there twice, as from two devices, is no further seed
    for number, run in enumerate(every):
        point = tuple(sorted(run.point.items()))
        times[point, run.seed] += 1
        one = run.stage == "search" and not run.seeds
        groups[(point, times[point, run.seed]) if one else number].append(run)
    return tuple(group[0] if len(group) == 1 else _mean(group, starts) for group in groups.values())


def initial_losses(runs: Iterable[Run]) -> dict[tuple[str, int], float]:
    """Validation loss before the first step, by problem and training seed.

    Where no run of that seed recorded it: the mean over the problem's other seeds, or nan.
    """
    every = list(runs)
    known = {(run.problem, run.seed): run.final["initial loss"] for run in every if "initial loss" in run.final}
    values: dict[str, list[float]] = defaultdict(list)
    for (problem, _), value in known.items():
        values[problem].append(value)
    wanted = {(run.problem, run.seed) for run in every}
    return {key: known.get(key, float(np.mean(values[key[0]] or [np.nan]))) for key in wanted}


def evaluations(run: Run) -> float:
    """Evaluations until the target was reached; inf where it was not."""
    return float(run.evaluations) if run.status == "reached" else np.inf


def lost(run: Run) -> bool:
    """Whether a training run has no loss of its own at the end: it diverged, failed, or that loss is not finite."""
    return run.status != "finished" or not np.isfinite(run.final.get("validation loss", np.nan))


def _mean(runs: Sequence[Run], starts: Starts) -> Run:
    """One point's runs with several seeds as one."""
    losses = [_at_most_initial(run, starts[run.problem, run.seed]) for run in runs]
    return replace(
        next((run for run in runs if not lost(run)), runs[0]),
        seeds=tuple(run.seed for run in runs),
        final={"validation loss": float(np.mean(losses))},
        mean_beta=_known_mean(run.mean_beta for run in runs),
        mean_step=_known_mean(run.mean_step for run in runs),
        capped=_known_mean(run.capped for run in runs),
    )


def _at_most_initial(run: Run, start: float) -> float:
    return start if lost(run) else float(np.fmin(run.final["validation loss"], start))


def _known_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _rank(run: Run) -> tuple[float, float, int]:
    if run.trained:
        return (1.0, 0.0, run.point_index) if lost(run) else (0.0, run.final["validation loss"], run.point_index)
    return evaluations(run), float(np.nan_to_num(run.best_gap, nan=np.inf)), run.point_index
