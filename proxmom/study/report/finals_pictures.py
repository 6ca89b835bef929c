"""Pictures of training studies: losses, weights on memory over steps and units, sensitivity to lr; one panel each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from proxmom.study.record.ranking import lost
from proxmom.study.record.store import Run
from proxmom.study.report import finals, finals_compare, finals_curves, finals_tuning, pictures
from proxmom.study.report.finals import Trained
from proxmom.study.report.panels import Picture, Style, level, panel, picture, plot_band, plot_line, span, ticks
from proxmom.study.report.summary import Array, Interval

MAPS = 12
"""At most so many maps of weights over steps and units."""
_UNITS, _SHADES = 64, 10
_NAMES = {"validation": "validation loss", "train": "training loss"}


def losses(trained: Trained, styles: Sequence[Style], name: str) -> list[Picture]:
    """A loss, "validation" or "train", against steps: mean over seeds with its interval, by problem."""
    found = []
    for row, problem in enumerate(trained.problems):
        curves = [(style, *finals_curves.curve_of(trained, (problem, style.name), name)) for style in styles]
        curves = [(style, steps, means) for style, steps, means in curves if _known(means).size]
        if not curves:
            continue
        figure, axes = panel("steps", _NAMES[name])
        span(axes, "x", 0, trained.steps)
        low, _ = _frame(axes, trained.steps, [(steps, means) for _, steps, means in curves])
        for style, steps, means in curves:
            bounds = (np.array([getattr(mean, side) for mean in means]) for side in ("low", "high"))
            plot_band(axes, style, steps, *(np.maximum(bound, low / 2) for bound in bounds))
            plot_line(axes, style, steps, np.array([mean.mean for mean in means]))
        found.append(picture(figure, f"{name}{row}", problem, _NAMES[name], styles))
    return found


def momentum(trained: Trained, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory against steps, of methods that change it: mean and 80% of the units of all seeds, by problem."""
    adaptive = finals_compare.adaptive(trained)
    found = []
    for row, problem in enumerate(trained.problems):
        curves = [(style, *finals_curves.betas_of(trained, (problem, style.name))) for style in styles]
        curves = [entry for entry in curves if entry[0].name in adaptive and np.isfinite(entry[2]).any()]
        if not curves:
            continue
        figure, axes = panel("steps", "weight on memory, β")
        axes.set(ylim=(-0.03, 1.03))
        span(axes, "x", 0, trained.steps)
        for style, steps, betas in curves:
            kept = np.isfinite(betas).all(axis=1)
            low, high = np.quantile(betas[kept], [0.1, 0.9], axis=1)
            plot_band(axes, style, steps[kept], low, high)
            plot_line(axes, style, steps[kept], betas[kept].mean(axis=1))
        found.append(picture(figure, f"beta{row}", problem, "weight on memory", styles))
    return found


def units(trained: Trained, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory over steps and units of one run of each method that changes it; at most `MAPS` of them."""
    adaptive = [style for style in styles if style.name in finals_compare.adaptive(trained)]
    pairs = [(problem, style) for problem in trained.problems for style in adaptive]
    runs = [(problem, style, finals_curves.middle_run(trained, (problem, style.name))) for problem, style in pairs]
    curves = [(problem, style, trained.curves[run.key]) for problem, style, run in runs if run is not None]
    several = [entry for entry in curves if entry[2]["beta"].shape[1] > 1 and entry[2]["step"].size > 1]
    return [_map(f"units{row}", trained.steps, *entry, styles) for row, entry in enumerate(several[:MAPS])]


def lr_sensitivity(trained: Trained, styles: Sequence[Style]) -> list[Picture]:
    """Validation loss at the end against lr, all search runs of methods with a searched lr; lost runs at the top."""
    found = []
    for row, problem in enumerate(trained.problems):
        pairs = [(style, trained.search.runs.get((problem, style.name), ())) for style in styles]
        searched = [(style, runs) for style, runs in pairs if len({run.point.get("lr") for run in runs}) > 1]
        every = np.array([trained.loss(run) for _, runs in searched for run in runs])
        start = max((trained.initial[run.problem, run.seed] for _, runs in searched for run in runs), default=np.nan)
        if not np.isfinite(start):
            continue
        figure, axes = panel("lr", "validation loss")
        axes.set(xscale="log")
        tried = np.array([run.point["lr"] for _, runs in searched for run in runs])
        span(axes, "x", 0.7 * tried.min(), 1.4 * tried.max())
        rows = _lost_rows(axes, float(every.min()), start, len(searched))
        for height, (style, runs) in zip(rows, searched, strict=True):
            _plot_points(axes, style, *_by_lr(trained, runs, start), height, line=all(len(r.point) == 1 for r in runs))
        found.append(picture(figure, f"lr{row}", problem, "validation loss by lr", styles))
    return found


def profile(trained: Trained, styles: Sequence[Style]) -> Picture:
    """Share of problems where a method's loss is within a factor of the smallest."""
    return pictures.profile_of(
        finals_compare.profiled(trained), trained.methods, styles, "factor of the smallest loss", close=True
    )


def tuning_budget(trained: Trained, styles: Sequence[Style], goal: Array) -> list[Picture]:
    """Mean ratio of the best validation loss so far to `goal` (problems,), against points tried; [] without search."""
    budgets, means = finals_tuning.best_so_far(trained, goal)
    searched = {method for _, method in trained.search.runs}
    shown = [style for style in styles if style.name in searched]
    if len(budgets) < 2 or not np.isfinite(means).any():
        return []
    label = "validation loss, ratio to the reference"
    return [pictures.tuning_of(budgets, means, trained.methods, shown, label, close=True)]


def _known(means: Sequence[Interval]) -> Array:
    values = np.array([mean.mean for mean in means], dtype=float)
    return np.asarray(values[np.isfinite(values)])


def _frame(axes: Axes, steps: int, curves: Sequence[tuple[Array, Sequence[Interval]]]) -> tuple[float, float]:
    """Ends of the loss axis: from the smallest mean to where most methods are after a tenth of the steps."""
    values = [np.array([mean.mean for mean in means]) for _, means in curves]
    low = float(min(np.nanmin(value) for value in values))
    early = [
        value[np.searchsorted(at, min(0.1 * steps, at[-1]))] for (at, _), value in zip(curves, values, strict=True)
    ]
    high = float(np.quantile([value for value in early if np.isfinite(value)] or [low], 0.75))
    high = max(high, 1.05 * abs(low), finals.LEAST)
    margin = 0.06 * (high - low)
    if 0 < low < high / 8:
        low, high = low / 1.3, high * 1.2
    else:
        low, high = low - margin, high + margin
    span(axes, "y", low, high)
    return low, high


def _by_lr(trained: Trained, runs: Sequence[Run], start: float) -> tuple[Array, Array]:
    """lr ascending, and the loss of each run, at most `start`; nan where it was lost."""
    pairs = sorted((run.point["lr"], np.nan if lost(run) else min(trained.loss(run), start)) for run in runs)
    lr, values = np.array(pairs, dtype=float).T
    return lr, values


def _lost_rows(axes: Axes, low: float, start: float, count: int) -> Array:
    """Heights for the lost runs of each method: the upper quarter of the panel, above the level of the initial loss."""
    low = min(max(low, finals.LEAST), start)
    there, back = (np.log, np.exp) if low < start / 8 else (np.asarray, np.asarray)
    height = max(float(there(start) - there(low)), 1e-3)
    bottom, top, centre = (float(back(there(start) + share * height)) for share in (-1.05, 0.34, 0.2))
    span(axes, "y", bottom, top)
    level(axes, start)
    ticks(axes, "y", [*(tick for tick in axes.get_yticks() if bottom <= tick <= start), centre], last="lost")
    return np.array([back(there(start) + share * height) for share in np.linspace(0.08, 0.32, count)], dtype=float)


def _plot_points(axes: Axes, style: Style, lr: Array, values: Array, height: float, line: bool) -> None:
    keywords: dict[str, Any] = {"marker": style.marker, "markersize": 3.2, "markeredgewidth": 0}
    plot_line(axes, style, lr, values, **keywords, linewidth=0.9 if line else 0)
    gone = np.isnan(values)
    plot_line(axes, style, lr[gone], np.full(gone.sum(), height), **keywords, linewidth=0, alpha=0.55)


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
    lines = np.append(0.0, at)
    edges = np.append(0.5, (picks[1:] + picks[:-1]) / 2 + 1)
    edges = np.append(edges, betas.shape[1] + 0.5)
    _shade(axes, style, np.round(_SHADES * np.nan_to_num(betas[:, picks].T)).astype(int), lines, edges)
    return picture(figure, ident, f"{style.name}, {problem}", "weight on memory by unit", styles)


def _shade(axes: Axes, style: Style, shades: NDArray[np.int_], x: Array, y: Array) -> None:
    """Boxes of shades (units, steps) between the lines x and y; one path for each shade, equal neighbours joined."""
    for shade in range(1, _SHADES + 1):
        boxes = []
        for row, line in enumerate(shades):
            steps = np.flatnonzero(np.diff(np.concatenate([[0], line == shade, [0]])))
            boxes += [_box(x[a], x[b], y[row], y[row + 1]) for a, b in steps.reshape(-1, 2)]
        if boxes:
            path = Path.make_compound_path(*boxes)
            colour = style.line["color"]
            axes.add_patch(
                PathPatch(path, facecolor=colour, alpha=shade / _SHADES, linewidth=0, gid=f"heat{shade}", zorder=1)
            )


def _box(left: float, right: float, top: float, bottom: float) -> Path:
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)
