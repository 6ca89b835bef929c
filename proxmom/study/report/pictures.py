"""Pictures of deterministic studies: gradient evaluations, relative gaps, weights on memory; one panel each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from proxmom.study.report import summary, tuning
from proxmom.study.report.panels import (
    Picture,
    Style,
    level,
    log_span,
    panel,
    picture,
    plot_line,
    round_values,
    span,
    ticks,
)
from proxmom.study.report.summary import Array, Results

_CURVE_POINTS = 40_000  # over all curves of one kind: keeps the page around 1 MB


def convergence(results: Results, styles: Sequence[Style], target: float) -> list[Picture]:
    """Smallest relative gap so far against gradient evaluations, best run of each method, by problem."""
    limit = _CURVE_POINTS // max(1, len(results.best))
    pictures = []
    for row, problem in enumerate(results.problems):
        curves = _best_curves(results, styles, problem)
        if not curves:
            continue
        figure, axes = panel("gradient evaluations", "relative gap, smallest so far")
        axes.set(xscale="log", yscale="log")
        log_span(axes, "x", 1, _end(results, problem))
        log_span(axes, "y", target / 3, 1.6)
        level(axes, target)
        for style, curve in curves:
            gaps = np.minimum.accumulate(np.nan_to_num(curve["gap"], nan=np.inf, posinf=np.inf))
            plot_line(axes, style, _thin(curve["evaluations"], limit), _thin(np.maximum(gaps, target / 3), limit))
        pictures.append(picture(figure, f"gap{row}", problem, "convergence", styles))
    return pictures


def momentum(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory against gradient evaluations, best run of each method that changes it."""
    limit = _CURVE_POINTS // max(1, len(results.best))
    pictures = []
    for row, problem in enumerate(results.problems):
        curves = [(s, c) for s, c in _best_curves(results, styles, problem) if _varies(c["beta"])]
        if not curves:
            continue
        figure, axes = panel("gradient evaluations", "weight on memory, β")
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        log_span(axes, "x", 1, _end(results, problem))
        for style, curve in curves:
            plot_line(axes, style, _thin(curve["evaluations"], limit), _thin(curve["beta"], limit), linewidth=0.8)
        pictures.append(picture(figure, f"beta{row}", problem, "weight on memory", styles))
    return pictures


def lr_sensitivity(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """Evaluations to the target against lr, all runs of methods with a searched lr; misses at the top."""
    pictures = []
    for row, problem in enumerate(results.problems):
        searched = [(s, *tuning.counts_by_lr(results.runs.get((problem, s.name), ()))) for s in styles]
        searched = [entry for entry in searched if entry[1].size]
        if not searched:
            continue
        figure, axes = panel("lr, in units of 1/L", "evaluations to target")
        axes.set(xscale="log", yscale="log")
        tried = np.concatenate([lr for _, lr, _ in searched])
        log_span(axes, "x", 0.7 * tried.min(), 1.4 * tried.max())
        rows = _miss_rows(axes, results.budget, [counts for _, _, counts in searched])
        for miss, (style, lr, counts) in zip(rows, searched, strict=True):
            one_dimension = all(len(run.point) == 1 for run in results.runs[problem, style.name])
            _plot_counts(axes, style, lr, counts, miss, line=one_dimension)
        pictures.append(picture(figure, f"lr{row}", problem, "evaluations to target by lr", styles))
    return pictures


def profile(results: Results, styles: Sequence[Style]) -> Picture:
    """Dolan-Moré performance profile: share of problems solved within a factor of the fastest method."""
    return profile_of(results.counts, results.methods, styles, "factor of the fastest method's evaluations")


def profile_of(
    values: Array, methods: Sequence[str], styles: Sequence[Style], xlabel: str, close: bool = False
) -> Picture:
    """The profile of values (problems, methods) of which less is better; inf for what was not solved.

    close: values may differ by little, and the axis shows that.
    """
    factors = summary.steps_of(values)
    end = max(1.001, 1.15 * float(factors[-1]) - 0.15) if close else max(2.0, float(factors[-1]) * 1.15)
    factors = np.append(factors, end)
    shares = summary.shares_within(values, factors)
    figure, axes = panel(xlabel, "share of problems solved")
    axes.set(xscale="linear" if close else "log", ylim=(-0.03, 1.03))
    (span if close else log_span)(axes, "x", 1, end)
    for style in styles:
        plot_line(axes, style, factors, shares[methods.index(style.name)], drawstyle="steps-post")
    return picture(figure, "profile", "Performance profile", "all problems", styles)


def tuning_budget(results: Results, styles: Sequence[Style], goal: Array) -> Picture:
    """Mean ratio of the best run so far to the fully tuned reference, `goal` (problems,), against points tried."""
    budgets, means = tuning.best_so_far_against(results, goal)
    return tuning_of(budgets, means, results.methods, styles, "evaluations, ratio to the reference")


def tuning_of(
    budgets: Sequence[int],
    means: Array,
    methods: Sequence[str],
    styles: Sequence[Style],
    ylabel: str,
    close: bool = False,
) -> Picture:
    """Mean ratios (methods, budgets) against the points tried; close: they may differ by little."""
    figure, axes = panel("points tried per problem", ylabel)
    axes.set(xscale="log", yscale="linear" if close else "log")
    level(axes, 1)
    ticks(axes, "x", [budget for budget in budgets[:-1] if budgets[-1] > 1.4 * budget] + [budgets[-1]])
    low, high = min(1.0, np.nanmin(means)), max(1.0, np.nanmax(means))
    if close:
        span(axes, "y", low / (high / low) ** 0.1, high * max(high / low, 1.001) ** 0.1)
    else:
        log_span(axes, "y", 0.7 * low, 1.4 * high)
    for style in styles:
        line = means[methods.index(style.name)]
        plot_line(axes, style, np.array(budgets, dtype=float), line, marker=style.marker, markersize=3)
    return picture(figure, "tuning", "Best so far against tuning budget", "all problems", styles)


def _best_curves(results: Results, styles: Sequence[Style], problem: str) -> list[tuple[Style, dict[str, Array]]]:
    pairs = [(style, results.best.get((problem, style.name))) for style in styles]
    curves = [(style, run.curve()) for style, run in pairs if run is not None]
    return [(style, curve) for style, curve in curves if curve["evaluations"].size]


def _varies(beta: Array) -> bool:
    known = beta[np.isfinite(beta)]
    return bool(known.size > 1 and np.ptp(known) > 1e-9)


def _thin(values: Array, limit: int) -> Array:
    picks = np.linspace(0, values.size - 1, min(values.size, max(limit, 20))).round().astype(int)
    return np.asarray(values[picks], dtype=float)


def _plot_counts(axes: Axes, style: Style, lr: Array, counts: Array, miss: float, line: bool) -> None:
    missed = np.isinf(counts)
    reached = np.where(missed, np.nan, counts)
    keywords: dict[str, Any] = {"marker": style.marker, "markersize": 3.2, "markeredgewidth": 0}
    plot_line(axes, style, lr, reached, **keywords, linewidth=0.9 if line else 0)
    plot_line(axes, style, lr[missed], np.full(missed.sum(), miss), **keywords, linewidth=0, alpha=0.55)


def _miss_rows(axes: Axes, budget: int, counts: Sequence[Array]) -> Array:
    """Heights for the misses of each method: the upper quarter of the panel, above a level line."""
    reached = np.concatenate([values[np.isfinite(values)] for values in counts])
    low = 0.7 * reached.min(initial=budget / 3)
    share = np.linspace(0, 1, len(counts) + 1)[:-1]
    rows = budget * (budget / low) ** (0.08 + 0.24 * share)
    level(axes, budget)
    axes.set_ylim(low, budget * (budget / low) ** 0.34)
    ticks(axes, "y", [*round_values(low, 0.9 * budget), float(np.sqrt(rows[0] * rows[-1]))], last="miss")
    return np.asarray(rows)


def _end(results: Results, problem: str) -> float:
    """Right end of a panel over evaluations: the longest best run."""
    spent = [run.evaluations for (name, _), run in results.best.items() if name == problem]
    return 1.1 * max(10, *spent)
