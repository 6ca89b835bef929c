"""Steps to a loss: a training study that was run at several lengths, each with its own schedule and search.

Under a schedule, a loss before the end of a run says nothing. So the number of steps to a target is read between two
lengths, where the final loss is nearly a straight line in the logarithm of the number of steps.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from scipy.special import stdtr

from proxmom.columns import columns
from proxmom.study.plan.specs import Training
from proxmom.study.report.results import LEAST, Losses
from proxmom.study.report.sources import Source, merge, read_source, unfinished
from proxmom.study.report.statistics import FEWEST, Array, Interval, exponential, t_mean
from proxmom.study.report.terminal import WIDTH
from proxmom.study.report.text import loss_text, number_text, ratio_text

_MAY_DIFFER = ("name", "claim", "steps", "seeds", "reference", "targets", "device")  # from length to length
CERTAINTY = 0.01
"""A one-sided test is taken to show something if its p is below this."""


@dataclass(frozen=True)
class Pace:
    """How many steps a method needs until its validation loss is at the target.

    losses: the mean loss at each length; for relative gaps the geometric mean. reached: the shortest length after which
    the mean loss is below the target, by a one-sided test at `CERTAINTY`; None if there is none. logs: logarithms of
    the number of steps, by seed; nan where the target does not lie between the mean losses of two neighbouring lengths.
    ratio: of the number of steps to the reference's, paired by seed. p: of Student's one-sided test of the hypothesis
    that the steps are no fewer than the reference's.
    """

    method: str
    losses: tuple[Interval, ...]
    reached: int | None
    logs: Array
    ratio: Interval
    p: float

    @property
    def steps(self) -> Interval:
        """The number of steps, geometric mean over seeds."""
        return exponential(t_mean(self.logs))


@dataclass(frozen=True)
class SpeedRun:
    """All methods on one problem. lengths: in steps, ascending. origin: where the target comes from."""

    problem: str
    lengths: tuple[int, ...]
    target: float
    origin: str
    paces: tuple[Pace, ...]


def speed_runs(ladder: Mapping[int, Losses], reference: str, target: float | None = None) -> list[SpeedRun]:
    """For each problem, in how many steps each method reaches the target.

    Args:
        ladder: results by number of steps, of two lengths or more, with the same problems and methods.
        reference: the method that others are compared with.
        target: a validation loss. Default: that of the reference's best point in its search at the middle length (of
            the two middle ones the longer), as the mean over the search seeds.

    Raises:
        ValueError: for a single length, problems or methods that differ, a target that cannot be a loss, a reference
            without final runs, and, if no target is given, a reference that searched nothing.
    """
    if target is not None and not 0 < target < np.inf:
        raise ValueError(f"target must be a loss > 0, got {target}.")
    lengths = tuple(sorted(ladder))
    if len(lengths) < 2:
        raise ValueError(f"a speed run needs runs of two lengths or more, got {len(lengths)}: run --steps with others.")
    first = ladder[lengths[0]]
    for length in lengths[1:]:
        for what in ("problems", "methods"):
            if set(getattr(ladder[length], what)) != set(getattr(first, what)):
                raise ValueError(f"all lengths must have the same {what}, got others at {length} than at {lengths[0]}.")
    return [_speed_run(ladder, lengths, problem, reference, target) for problem in first.problems]


def crossing(steps: Array, losses: Array, target: float) -> Array:
    """Logarithms of the number of steps after which each seed's loss is at the target, shape (seeds,), to first order.

    Their mean over seeds is where the mean loss meets the target, on a straight line in the logarithm of the steps
    between the first two lengths that enclose the target. A seed differs from it by that seed's loss there, less the
    target, divided by the slope of the mean. The answer is nan for a seed that lacks a length, and for all seeds if the
    mean loss never gets to the target, or is there at the shortest length already.

    Args:
        steps: (lengths,), ascending.
        losses: (lengths, seeds), nan where a run is missing.
        target: on the scale of the losses.
    """
    known = ~np.isnan(losses).any(axis=0)
    found = np.full(losses.shape[1], np.nan)
    means, logs = losses[:, known].mean(axis=1) if known.any() else np.full(len(steps), np.nan), np.log(steps)
    there = np.flatnonzero(means <= target)
    if there.size and there[0] > 0:  # else the shortest length is enough, or none is
        at = there[0] - 1
        drop, share = means[at] - means[at + 1], (means[at] - target) / (means[at] - means[at + 1])
        width = logs[at + 1] - logs[at]
        off = (1 - share) * losses[at, known] + share * losses[at + 1, known] - target
        found[known] = logs[at] + share * width + off * width / drop
    return found


def chance_of_none(values: Array) -> float:
    """p of Student's one-sided test of the hypothesis that the mean is >= 0; nan for fewer than `FEWEST` values."""
    known = values[~np.isnan(values)]
    if known.size < FEWEST:
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):  # values that are all the same are certain
        return float(stdtr(known.size - 1, known.mean() / (known.std(ddof=1) / np.sqrt(known.size))))


def speed_table(
    directories: Sequence[str | Path],
    reference: str | None = None,
    target: float | None = None,
    picture: str | Path | None = None,
) -> str:
    """The speed runs of results directories as text: a block for each problem, then what the columns mean.

    Args:
        directories: results of one study at several lengths, as `proxmom run --steps` makes them.
        reference, target: as for `speed_runs`; the default reference is the study's.
        picture: a file to write, such as speed.png: the losses on the first problem against the number of steps.

    Raises:
        ValueError: where `write_report` and `speed_runs` raise it, and for a study that counts evaluations, a length
            that is given twice, and studies that differ in more than their length.
    """
    sources = [read_source(directory) for directory in directories]
    ladder, chosen = _ladder(sources), reference or sources[0].reference
    runs = speed_runs(ladder, chosen, target)
    if picture is not None:
        draw(runs[0], picture)
    blocks = [line for run in runs for line in [*_heading(run), "", *columns(_rows(run), numbers=True), ""]]
    told = fill(_told(chosen, len(ladder[runs[0].lengths[0]].seeds)), WIDTH)
    lacking = [line for source in sources for line in unfinished(source)]
    return "\n".join([*blocks, told, *(["", *lacking] if lacking else [])])


def draw(run: SpeedRun, file: str | Path) -> None:
    """Writes a picture: the mean losses, with their intervals, against the number of steps, and the target."""
    from proxmom.study.report.figures import finished
    from proxmom.study.report.panels import Style, level, panel, plot_band, plot_line, ticks
    from proxmom.study.report.panels import picture as drawn

    figure, axes = panel("steps", "validation loss")
    axes.set_xscale("log")
    x, styles = np.array(run.lengths, dtype=float), [Style(i, pace.method) for i, pace in enumerate(run.paces)]
    for style, pace in zip(styles, run.paces, strict=True):
        low, mean, high = (np.array([getattr(loss, end) for loss in pace.losses]) for end in ("low", "mean", "high"))
        plot_band(axes, style, x, low, high)
        plot_line(axes, style, x, mean)
    level(axes, run.target)
    ticks(axes, "x", run.lengths)
    finished(drawn(figure, "speed", run.problem, "loss against steps", styles), styles).savefig(file, dpi=150)


def _speed_run(
    ladder: Mapping[int, Losses], lengths: tuple[int, ...], problem: str, reference: str, target: float | None
) -> SpeedRun:
    first = ladder[lengths[0]]
    gap = first.by_ratio[first.problems.index(problem)]
    scale, mean = (_log, lambda seeds: exponential(t_mean(seeds))) if gap else (np.asarray, t_mean)
    tables = {method: scale(_losses(ladder, lengths, problem, method)) for method in first.ran}
    if reference not in tables:
        raise ValueError(f"reference must be a method with final runs ({', '.join(tables)}), got {reference!r}.")
    origin = "as asked for"
    if target is None:
        middle = lengths[len(lengths) // 2]
        target, origin = _searched(ladder[middle], problem, reference), f"of {reference!r} in its search at {middle}"
    steps, goal = np.array(lengths, dtype=float), float(scale(np.asarray(target)))
    logs = {method: crossing(steps, table, goal) for method, table in tables.items()}
    paces = []
    for method, table in tables.items():
        below = [chance_of_none(losses - goal) for losses in table]
        reached = next((length for length, p in zip(lengths, below, strict=True) if p < CERTAINTY), None)
        ahead = logs[method] - logs[reference]
        ratio, p = exponential(t_mean(ahead)), np.nan if method == reference else chance_of_none(ahead)
        paces.append(Pace(method, tuple(map(mean, table)), reached, logs[method], ratio, p))
    return SpeedRun(problem, lengths, target, origin, tuple(paces))


def _log(losses: Array) -> Array:
    """Logarithms of relative gaps, which span decades."""
    return np.asarray(np.log(np.maximum(losses, LEAST)))


def _losses(ladder: Mapping[int, Losses], lengths: Sequence[int], problem: str, method: str) -> Array:
    """Validation losses of the final runs, (lengths, seeds)."""
    seeds = sorted({seed for results in ladder.values() for seed in results.seeds})
    table = np.full((len(lengths), len(seeds)), np.nan)
    for row, length in enumerate(lengths):
        for run in ladder[length].final.get((problem, method), ()):
            table[row, seeds.index(run.seed)] = ladder[length].loss(run)
    return table


def _searched(results: Losses, problem: str, method: str) -> float:
    if (problem, method) not in results.best:
        raise ValueError(f"{method!r} searched nothing at {results.limit} steps, so it sets no target: give one.")
    return results.score(results.best[problem, method])


def _ladder(sources: Sequence[Source]) -> dict[int, Losses]:
    found: dict[int, Losses] = {}
    shared: dict[Any, str] = {}
    for source in sources:
        results = merge([source])
        if not isinstance(results, Losses) or not isinstance(source.asked, Training):
            raise ValueError("a speed run needs training studies: one that counts evaluations has its own target.")
        if results.limit in found:
            raise ValueError(f"each length once, got {results.limit} steps twice: leave {source.folder!r} out.")
        found[results.limit] = results
        shared.setdefault(_besides_length(source), source.folder)
    if len(shared) > 1:
        names = " and ".join(map(repr, shared.values()))
        raise ValueError(
            f"{names} must share schedule, warmup and search_seeds, points, problems, methods with what they search, "
            "and the version of the code that decides numbers, and differ in their steps alone: run one file with "
            "--steps."
        )
    return found


def _besides_length(source: Source) -> str:
    """Everything in a study that decides its losses, except the numbers of steps and of final seeds."""
    document = tomllib.loads(source.text)
    head = {key: value for key, value in document["study"].items() if key not in _MAY_DIFFER}
    tables = [sorted(json.dumps(table, sort_keys=True) for table in document.get(k, [])) for k in ("problem", "method")]
    return json.dumps([head, tables, source.origin.get("numerics", "1")], sort_keys=True)


def _heading(run: SpeedRun) -> list[str]:
    text = f"{run.problem}: steps to a validation loss of {loss_text(run.target)}, {run.origin}"
    return fill(f"{text}." if run.origin == "as asked for" else f"{text} steps.", WIDTH).splitlines()


def _rows(run: SpeedRun) -> list[list[str]]:
    head = ["method", *(f"at {length}" for length in run.lengths), "reached", "steps", "ratio", "p"]
    return [head, *([pace.method, *_cells(run, pace)] for pace in run.paces)]


def _cells(run: SpeedRun, pace: Pace) -> list[str]:
    first, last = pace.losses[0].mean, pace.losses[-1].mean
    outside = f"< {run.lengths[0]}" if first <= run.target else f"> {run.lengths[-1]}" if last > run.target else ""
    steps = outside if np.isnan(pace.steps.mean) else _steps_text(pace.steps)
    compared = not np.isnan(pace.p)
    return [
        *(loss_text(loss.mean) for loss in pace.losses),
        str(pace.reached or "no"),
        steps,
        ratio_text(pace.ratio) if compared else "",
        ("< 1e-6" if pace.p < 1e-6 else number_text(pace.p)) if compared else "",
    ]


def _steps_text(steps: Interval) -> str:
    ends = f" [{steps.low:.0f}, {steps.high:.0f}]" if steps.low < steps.high else ""
    return f"{steps.mean:.0f}{ends}"


def _told(reference: str, seeds: int) -> str:
    """What the columns mean."""
    return (
        f"at: mean validation loss over {seeds} seeds of the best point, which is searched again at each length; a run "
        "that diverged counts with the loss at its start. reached: the shortest of these lengths after which the mean "
        "loss is below the target, by Student's one-sided test at 1%. steps: read between the two lengths whose mean "
        "losses enclose the target, as if the loss were a straight line in the logarithm of the steps; geometric mean "
        f"over seeds with its 95% interval. ratio: of the steps to those of {reference!r}, paired by seed. p: of the "
        "one-sided test that a method needs no fewer steps than the reference; missing if the target is not enclosed, "
        f"or for fewer than {FEWEST} seeds."
    )
