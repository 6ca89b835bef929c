"""The pictures of a report, one panel each: values, weights on memory and sensitivity to lr by problem; the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from proxmom.study.record.ranking import lost
from proxmom.study.record.run import Run
from proxmom.study.report import statistics, tuning
from proxmom.study.report.compare import adaptive
from proxmom.study.report.curves import betas_of, curve_of, middle_run
from proxmom.study.report.panels import (
    Picture,
    Style,
    level,
    log_span,
    name_ends,
    panel,
    picture,
    plot_band,
    plot_line,
    span,
    ticks,
)
from proxmom.study.report.results import LEAST, Counts, Losses, Results
from proxmom.study.report.statistics import Array, Interval

MAPS = 12
"""The most maps of weights over steps and units on a page."""
_CURVE_POINTS = 40_000  # over all curves of one kind: keeps the page at a few MB
_UNITS, _SHADES = 64, 10
_NAMES = {"validation": "validation loss", "train": "training loss"}


def convergence(results: Counts, styles: Sequence[Style]) -> list[Picture]:
    """Smallest relative gap so far against gradient evaluations, best run of each method, by problem."""
    limit = _CURVE_POINTS // max(1, len(results.final))
    pictures = []
    for row, problem in enumerate(results.problems):
        runs = [(style, run) for style in styles for run in results.final.get((problem, style.name), ())]
        curves = [(style, curve) for style, run in runs if (curve := results.curves[run.key])["evaluations"].size]
        if not curves:
            continue
        figure, axes = panel("gradient evaluations", "relative gap, smallest so far")
        axes.set(xscale="log", yscale="log")
        log_span(axes, "x", 1, _end(results, problem))
        log_span(axes, "y", results.target / 3, 1.6)
        level(axes, results.target)
        for style, curve in curves:
            gaps = np.minimum.accumulate(np.nan_to_num(curve["gap"], nan=np.inf, posinf=np.inf))
            gaps = np.maximum(gaps, results.target / 3)
            plot_line(axes, style, _thin(curve["evaluations"], limit), _thin(gaps, limit))
        pictures.append(picture(figure, f"gap{row}", problem, "convergence", styles))
    return pictures


def losses(results: Losses, styles: Sequence[Style], name: str) -> list[Picture]:
    """A loss, "validation" or "train", against steps: mean over seeds with its interval, by problem."""
    pictures = []
    for row, problem in enumerate(results.problems):
        curves = [(style, *curve_of(results, (problem, style.name), name)) for style in styles]
        curves = [entry for entry in curves if any(np.isfinite(mean.mean) for mean in entry[2])]
        if not curves:
            continue
        figure, axes = panel("steps", _NAMES[name])
        span(axes, "x", 0, results.limit)
        low = _frame(axes, results.limit, [(steps, means) for _, steps, means in curves])
        for style, steps, means in curves:
            bounds = (np.array([getattr(mean, side) for mean in means]) for side in ("low", "high"))
            plot_band(axes, style, steps, *(np.maximum(bound, low / 2) for bound in bounds))
            plot_line(axes, style, steps, np.array([mean.mean for mean in means]))
        pictures.append(picture(figure, f"{name}{row}", problem, _NAMES[name], styles))
    return pictures


def momentum(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory of the methods that change it, by problem: mean and 80% of the units of all seeds."""
    limit = _CURVE_POINTS // max(1, len(results.final))
    pictures = []
    for row, problem in enumerate(results.problems):
        curves = [(style, *betas_of(results, (problem, style.name))) for style in styles]
        curves = [entry for entry in curves if np.isfinite(entry[2]).any()]
        if not curves:
            continue
        figure, axes = panel("gradient evaluations" if results.exact else "steps", "weight on memory, β")
        axes.set(ylim=(-0.03, 1.03), xscale="log" if results.exact else "linear")
        if results.exact:
            log_span(axes, "x", 1, _end(results, problem))
        else:
            span(axes, "x", 0, results.limit)
        for style, steps, betas in curves:
            if betas.shape[1] == 1 and results.exact:
                plot_line(axes, style, _thin(steps, limit), _thin(betas[:, 0], limit), linewidth=0.8)
                continue
            known = np.isfinite(betas).all(axis=1)
            plot_band(axes, style, steps[known], *np.quantile(betas[known], [0.1, 0.9], axis=1))
            plot_line(axes, style, steps[known], betas[known].mean(axis=1))
        pictures.append(picture(figure, f"beta{row}", problem, "weight on memory", styles))
    return pictures


def units(results: Losses, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory over steps and units of one run of each method that changes it; at most `MAPS` of them."""
    shown = [style for style in styles if style.name in adaptive(results)]
    pairs = [(problem, style) for problem in results.problems for style in shown]
    runs = [(problem, style, middle_run(results, (problem, style.name))) for problem, style in pairs]
    curves = [(problem, style, results.curves[run.key]) for problem, style, run in runs if run is not None]
    several = [entry for entry in curves if entry[2]["beta"].shape[1] > 1 and entry[2]["step"].size > 1]
    return [_map(f"units{row}", results.limit, *entry, styles) for row, entry in enumerate(several[:MAPS])]


def lr_sensitivity(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """What points came to against lr, all that were tried of methods with a searched lr; misses, or lost ones, on top.

    Points that were tried with several seeds stand with their mean, and each run faintly.
    """
    xlabel, ylabel = ("lr, in units of 1/L", "evaluations to target") if results.exact else ("lr", "validation loss")
    pictures = []
    for row, problem in enumerate(results.problems):
        pairs = [(style, results.searched.get((problem, style.name), ())) for style in styles]
        searched = [(style, runs) for style, runs in pairs if len({run.point.get("lr") for run in runs}) > 1]
        every = [results.tried[problem, style.name] for style, _ in searched]
        top = _top(results, [run for runs in every for run in runs])
        if not np.isfinite(top):
            continue
        figure, axes = panel(xlabel, ylabel)
        axes.set(xscale="log")
        tried = [run.point["lr"] for _, runs in searched for run in runs]
        (log_span if results.exact else span)(axes, "x", 0.7 * min(tried), 1.4 * max(tried))
        points = [_by_lr(results, runs, top) for _, runs in searched]
        seeds = [
            _by_lr(results, runs, top) if len(runs) > len(lr) else None
            for runs, (lr, _) in zip(every, points, strict=True)
        ]
        shown = np.concatenate([values for found in (*points, *seeds) if found for values in found[1:]])
        rows = _top_rows(axes, results, top, shown, len(points))
        for height, (style, runs), point, seed in zip(rows, searched, points, seeds, strict=True):
            _plot_points(axes, style, *point, height, line=all(len(run.point) == 1 for run in runs))
            if seed:
                _plot_points(axes, style, *seed, height, line=False, faint=True)
        pictures.append(picture(figure, f"lr{row}", problem, f"{ylabel} by lr", styles))
    return pictures


def profile(results: Results, styles: Sequence[Style], wide: bool = False) -> Picture:
    """Dolan-Moré performance profile: share of problems where a method is within a factor of the best one.

    wide: for the page's width, every line with its name at its end.
    """
    values = results.profiled()
    factors = statistics.steps_of(values)
    last = float(factors[-1])
    end = max(2.0, 1.15 * last) if results.exact else max(1.001, 1.15 * last - 0.15)
    factors = np.append(factors, end)
    shares = statistics.shares_within(values, factors)
    best = "fastest method's evaluations" if results.exact else "smallest loss"
    figure, axes = panel(f"factor of the {best}", "share of problems solved", wide)
    axes.set(xscale="log" if results.exact else "linear", ylim=(-0.03, 1.03))
    (log_span if results.exact else span)(axes, "x", 1, end)
    for style in styles:
        plot_line(axes, style, factors, shares[results.methods.index(style.name)], drawstyle="steps-post")
    if wide:
        lines = [(style, shares[results.methods.index(style.name)]) for style in styles]
        lines.sort(key=lambda line: -float(line[1][:-1] @ np.diff(np.log(factors))))  # of equal ends the earlier on top
        name_ends(axes, [(style, float(line[-1])) for style, line in lines])
    return picture(figure, "profile", "Performance profile", "all problems", styles)


def tuning_budget(results: Results, styles: Sequence[Style], goal: Array) -> list[Picture]:
    """Mean ratio of the best run so far to the fully tuned reference, `goal` (problems,), against points tried."""
    budgets, means = tuning.best_so_far(results, goal)
    searched = {method for _, method in results.tried}
    if not np.isfinite(means).any() or (len(budgets) < 2 and not results.exact):
        return []
    what = "evaluations" if results.exact else "validation loss"
    figure, axes = panel("points tried per problem", f"{what}, ratio to the reference", wide=True)
    axes.set(xscale="log", yscale="log" if results.exact else "linear")
    level(axes, 1)
    ticks(axes, "x", [budget for budget in budgets[:-1] if budgets[-1] > 1.4 * budget] + [budgets[-1]])
    low, high = min(1.0, np.nanmin(means)), max(1.0, np.nanmax(means))
    if results.exact:
        log_span(axes, "y", 0.7 * low, 1.4 * high)
    else:
        span(axes, "y", low / (high / low) ** 0.1, high * max(high / low, 1.001) ** 0.1)
    lines = [(style, means[results.methods.index(style.name)]) for style in styles if style.name in searched]
    axes.set_xlim(0.95 * budgets[0], budgets[-1])
    for style, line in lines:
        drawn = plot_line(axes, style, np.array(budgets, dtype=float), line, marker=style.marker, markersize=3)
        drawn.set_clip_on(False)  # the last marker sits on the right edge
    name_ends(axes, [(style, float(line[-1])) for style, line in lines if np.isfinite(line[-1])])
    return [picture(figure, "tuning", "Best so far against tuning budget", "all problems", styles)]


def _thin(values: Array, limit: int) -> Array:
    picks = np.linspace(0, values.size - 1, min(values.size, max(limit, 20))).round().astype(int)
    return np.asarray(values[picks], dtype=float)


def _end(results: Results, problem: str) -> float:
    """Right end of a panel over evaluations: the longest best run."""
    return 1.1 * max(10, *(run.evaluations for (name, _), run in results.best.items() if name == problem))


def _frame(axes: Axes, steps: int, curves: Sequence[tuple[Array, Sequence[Interval]]]) -> float:
    """Ends of the loss axis: from the smallest mean, which is returned, to where most are after a tenth of a run."""
    values = [np.array([mean.mean for mean in means]) for _, means in curves]
    low = float(min(np.nanmin(value) for value in values))
    early = [
        value[np.searchsorted(at, min(0.1 * steps, at[-1]))] for (at, _), value in zip(curves, values, strict=True)
    ]
    high = float(np.quantile([value for value in early if np.isfinite(value)] or [low], 0.75))
    high = max(high, 1.05 * abs(low), LEAST)
    margin = 0.06 * (high - low)
    low, high = (low / 1.3, high * 1.2) if 0 < low < high / 8 else (low - margin, high + margin)
    span(axes, "y", low, high)
    return low


def _top(results: Results, runs: Sequence[Run]) -> float:
    """The level above which misses and lost runs stand: the budget, or the initial loss; nan without runs."""
    if not isinstance(results, Losses):
        return float(results.limit) if runs else np.nan
    return max((results.initial[run.problem, run.seed] for run in runs), default=np.nan)


def _by_lr(results: Results, runs: Sequence[Run], top: float) -> tuple[Array, Array]:
    """lr ascending, and what each run came to, at most `top`; nan where it was missed or lost."""
    gone = lost if isinstance(results, Losses) else lambda run: run.status != "reached"
    pairs = sorted((run.point["lr"], np.nan if gone(run) else min(results.score(run), top)) for run in runs)
    lr, values = np.array(pairs, dtype=float).T
    return lr, values


def _top_rows(axes: Axes, results: Results, top: float, values: Array, count: int) -> Array:
    """Heights for what was missed or lost, of each method: the upper quarter of the panel, above the level `top`."""
    low = min(max(float(np.nanmin(values, initial=top / 3 if results.exact else top)), LEAST), top)
    log = results.exact or low < top / 8
    there: Callable[[Any], Any] = np.log if log else np.asarray
    back: Callable[[Any], Any] = np.exp if log else np.asarray
    height = max(float(there(top) - there(low)), 1e-3)
    bottom, end, centre = (float(back(there(top) + share * height)) for share in (-1.05, 0.34, 0.2))
    axes.set(yscale="log" if log else "linear")
    (log_span if log else span)(axes, "y", bottom, end)
    level(axes, top)
    name = "miss" if results.exact else "lost"
    end = 0.9 * top if results.exact else top
    ticks(axes, "y", [*(tick for tick in axes.get_yticks() if bottom <= tick <= end), centre], last=name)
    return np.array([back(there(top) + share * height) for share in np.linspace(0.08, 0.32, count)], dtype=float)


def _plot_points(
    axes: Axes, style: Style, lr: Array, values: Array, height: float, line: bool, faint: bool = False
) -> None:
    keywords: dict[str, Any] = {"marker": style.marker, "markersize": 2.4 if faint else 3.2, "markeredgewidth": 0}
    plot_line(axes, style, lr, values, **keywords, linewidth=0.9 if line else 0, alpha=0.4 if faint else None)
    gone = np.isnan(values)
    plot_line(axes, style, lr[gone], np.full(gone.sum(), height), **keywords, linewidth=0, alpha=0.3 if faint else 0.55)


def _map(
    ident: str, steps: int, problem: str, style: Style, curve: dict[str, Array], styles: Sequence[Style]
) -> Picture:
    betas, at = curve["beta"], curve["step"]
    picks = np.linspace(0, betas.shape[1] - 1, min(betas.shape[1], _UNITS)).round().astype(int)
    figure, axes = panel("steps", "unit")
    axes.grid(False)
    span(axes, "x", 0, steps)
    axes.set(ylim=(betas.shape[1] + 0.5, 0.5))
    ticks(axes, "y", sorted({1, *np.linspace(1, betas.shape[1], 5).round().astype(int).tolist()}))
    lines = np.concatenate([[0.5], (picks[1:] + picks[:-1]) / 2 + 1, [betas.shape[1] + 0.5]])
    shades = np.round(_SHADES * np.nan_to_num(betas[:, picks].T)).astype(int)
    for shade in range(1, _SHADES + 1):
        if boxes := list(_boxes(shades == shade, np.append(0.0, at), lines)):
            look = {"facecolor": style.line["color"], "alpha": shade / _SHADES, "linewidth": 0}
            axes.add_patch(PathPatch(Path.make_compound_path(*boxes), **look, gid=f"heat{shade}", zorder=1))
    return picture(figure, ident, f"{style.name}, {problem}", "weight on memory by unit", styles)


def _boxes(marked: NDArray[np.bool_], x: Array, y: Array) -> Iterator[Path]:
    """A box for each run of neighbours among the marked (units, steps), between the lines x and y."""
    for row, line in enumerate(marked):
        for a, b in np.flatnonzero(np.diff(np.concatenate([[0], line, [0]]))).reshape(-1, 2):
            corners = [(x[a], y[row]), (x[b], y[row]), (x[b], y[row + 1]), (x[a], y[row + 1]), (x[a], y[row])]
            yield Path(corners, closed=True)
