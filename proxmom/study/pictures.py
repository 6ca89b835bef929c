"""Pictures of a study as inline SVG: one panel each, so that a page can lay them out for any width.

Text and axes take the page's text colour, and every method has one colour variable, dash and marker in all
pictures, so light and dark are the page's business. The variables are those of `palette_css`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from proxmom.study import summary, tuning
from proxmom.study.summary import Array, Results

_INK = "#010203"  # stands for currentColor until the SVG is written
# Found by search: largest smallest distance of two colours, over normal and three kinds of impaired vision, among
# colours of enough contrast to the page.
_LIGHT = ("#0c60f0", "#f05400", "#3ca884", "#6c3ca8", "#90480c", "#a884f0", "#186c6c")
_DARK = ("#60b4f0", "#e44824", "#9cfc84", "#9060f0", "#f09c30", "#f0e4fc", "#3aa898")
_DASHES: tuple[object, ...] = ("-", (0, (5, 1.6)), (0, (6, 1.6, 1.4, 1.6)), (0, (1.6, 1.3)))
_MARKERS = "osD^vPX<>"
_CURVE_POINTS = 40_000  # over all curves of one kind: keeps the page around 1 MB
_RC: dict[Any, Any] = {"svg.fonttype": "none", "axes.linewidth": 0.7, "font.size": 8.5}


@dataclass(frozen=True)
class Style:
    """How one method looks in every picture."""

    index: int
    name: str

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a line."""
        return {"color": _LIGHT[self.index % len(_LIGHT)], "linestyle": _DASHES[self.index % len(_DASHES)]}

    @property
    def marker(self) -> str:
        """The marker where single runs are shown."""
        return _MARKERS[self.index % len(_MARKERS)]


@dataclass(frozen=True)
class Picture:
    """An inline SVG with the heading it stands under; safe to put into a page as it is."""

    heading: str
    svg: str


def palette_css(dark: bool) -> str:
    """The colour variables of the methods as CSS declarations."""
    return " ".join(f"--m{i}: {colour};" for i, colour in enumerate(_DARK if dark else _LIGHT))


def swatch(style: Style) -> str:
    """A small sample of a method's line and marker."""
    figure = Figure(figsize=(0.5, 0.17))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, 1), ylim=(-1, 1))
    axes.set_axis_off()
    axes.plot([0.05, 0.95], [0, 0], linewidth=1.6, **style.line)
    axes.plot([0.5], [0], linestyle="", color=style.line["color"], marker=style.marker, markersize=4)
    return _inline(figure, f"swatch{style.index}", f"sample of the line of {style.name}", [])


def convergence(results: Results, styles: Sequence[Style], target: float) -> list[Picture]:
    """Smallest relative gap so far against gradient evaluations, best run of each method, by problem."""
    limit = _CURVE_POINTS // max(1, len(results.best))
    pictures = []
    for row, problem in enumerate(results.problems):
        figure, axes = _panel("gradient evaluations", "relative gap, smallest so far")
        axes.set(xscale="log", yscale="log")
        _span(axes, "x", 1, _end(results, problem))
        _span(axes, "y", target / 3, 1.6)
        axes.axhline(target, color=_INK, linewidth=0.7, alpha=0.6)
        for style, curve in _best_curves(results, styles, problem):
            gaps = np.minimum.accumulate(np.nan_to_num(curve["gap"], nan=np.inf, posinf=np.inf))
            _plot(axes, style, _thin(curve["evaluations"], limit), _thin(np.maximum(gaps, target / 3), limit))
        pictures.append(_picture(figure, f"gap{row}", problem, "convergence", styles))
    return pictures


def momentum(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """Weight on memory against gradient evaluations, best run of each method that changes it."""
    limit = _CURVE_POINTS // max(1, len(results.best))
    pictures = []
    for row, problem in enumerate(results.problems):
        curves = [(s, c) for s, c in _best_curves(results, styles, problem) if _varies(c["beta"])]
        if not curves:
            continue
        figure, axes = _panel("gradient evaluations", "weight on memory, β")
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        _span(axes, "x", 1, _end(results, problem))
        for style, curve in curves:
            _plot(axes, style, _thin(curve["evaluations"], limit), _thin(curve["beta"], limit), linewidth=0.8)
        pictures.append(_picture(figure, f"beta{row}", problem, "weight on memory", styles))
    return pictures


def lr_sensitivity(results: Results, styles: Sequence[Style]) -> list[Picture]:
    """Evaluations to the target against lr, all runs of methods with a searched lr; misses at the top."""
    pictures = []
    for row, problem in enumerate(results.problems):
        searched = [(s, *tuning.counts_by_lr(results.runs.get((problem, s.name), ()))) for s in styles]
        searched = [entry for entry in searched if entry[1].size]
        if not searched:
            continue
        figure, axes = _panel("lr, in units of 1/L", "evaluations to target")
        axes.set(xscale="log", yscale="log")
        tried = np.concatenate([lr for _, lr, _ in searched])
        _span(axes, "x", 0.7 * tried.min(), 1.4 * tried.max())
        rows = _miss_rows(axes, results.budget, [counts for _, _, counts in searched])
        for miss, (style, lr, counts) in zip(rows, searched, strict=True):
            one_dimension = all(len(run.point) == 1 for run in results.runs[problem, style.name])
            _plot_counts(axes, style, lr, counts, miss, line=one_dimension)
        pictures.append(_picture(figure, f"lr{row}", problem, "evaluations to target by lr", styles))
    return pictures


def profile(results: Results, styles: Sequence[Style]) -> Picture:
    """Dolan-Moré performance profile: share of problems solved within a factor of the fastest method."""
    factors = summary.profile_factors(results)
    end = max(2.0, float(factors[-1]) * 1.15)
    factors = np.append(factors, end)
    shares = summary.performance_profile(results, factors)
    figure, axes = _panel("factor of the fastest method's evaluations", "share of problems solved")
    axes.set(xscale="log", ylim=(-0.03, 1.03))
    _span(axes, "x", 1, end)
    for style in styles:
        _plot(axes, style, factors, shares[results.methods.index(style.name)], drawstyle="steps-post")
    return _picture(figure, "profile", "Performance profile", "all problems", styles)


def tuning_budget(results: Results, styles: Sequence[Style], goal: Array) -> Picture:
    """Mean ratio of the best run so far to the fully tuned reference, `goal` (problems,), against points tried."""
    budgets, means = tuning.best_so_far_against(results, goal)
    figure, axes = _panel("points tried per problem", "evaluations, ratio to the reference")
    axes.set(xscale="log", yscale="log")
    axes.axhline(1, color=_INK, linewidth=0.7, alpha=0.6)
    _ticks(axes, "x", [budget for budget in budgets[:-1] if budgets[-1] > 1.4 * budget] + [budgets[-1]])
    _span(axes, "y", 0.7 * min(1.0, np.nanmin(means)), 1.4 * max(1.0, np.nanmax(means)))
    for style in styles:
        line = means[results.methods.index(style.name)]
        _plot(axes, style, np.array(budgets, dtype=float), line, marker=style.marker, markersize=3)
    return _picture(figure, "tuning", "Best so far against tuning budget", "all problems", styles)


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


def _panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.7, 2.8))
    with mpl.rc_context(_RC):
        axes = figure.add_axes((0.155, 0.155, 0.825, 0.82))
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.tick_params(which="both", colors=_INK, labelsize=8)
    axes.grid(True, which="major", color=_INK, alpha=0.13, linewidth=0.6)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set(color=_INK, visible=side in ("left", "bottom"))
    return figure, axes


def _plot(axes: Axes, style: Style, x: Array, y: Array, **keywords: Any) -> Line2D:
    (line,) = axes.plot(x, y, **{"linewidth": 1.5, **style.line, **keywords}, gid=f"method{style.index}")
    return line


def _plot_counts(axes: Axes, style: Style, lr: Array, counts: Array, miss: float, line: bool) -> None:
    missed = np.isinf(counts)
    reached = np.where(missed, np.nan, counts)
    keywords: dict[str, Any] = {"marker": style.marker, "markersize": 3.2, "markeredgewidth": 0}
    _plot(axes, style, lr, reached, **keywords, linewidth=0.9 if line else 0)
    _plot(axes, style, lr[missed], np.full(missed.sum(), miss), **keywords, linewidth=0, alpha=0.55)


def _miss_rows(axes: Axes, budget: int, counts: Sequence[Array]) -> Array:
    """Heights for the misses of each method: the upper quarter of the panel, above a level line."""
    reached = np.concatenate([values[np.isfinite(values)] for values in counts])
    low = 0.7 * reached.min(initial=budget / 3)
    share = np.linspace(0, 1, len(counts) + 1)[:-1]
    rows = budget * (budget / low) ** (0.08 + 0.24 * share)
    axes.axhline(budget, color=_INK, linewidth=0.7, alpha=0.6)
    axes.set_ylim(low, budget * (budget / low) ** 0.34)
    _ticks(axes, "y", [*_round_values(low, 0.9 * budget), float(np.sqrt(rows[0] * rows[-1]))], last="miss")
    return np.asarray(rows)


def _end(results: Results, problem: str) -> float:
    """Right end of a panel over evaluations: the longest best run."""
    spent = [run.evaluations for (name, _), run in results.best.items() if name == problem]
    return 1.1 * max(10, *spent)


def _span(axes: Axes, side: str, low: float, high: float) -> None:
    """Ends and round ticks of a log axis."""
    axes.set(**{f"{side}lim": (low, high)})
    _ticks(axes, side, _round_values(low, high))


def _round_values(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, not more than about ten; with 2 and 5 between them if that is a short way."""
    first, last = int(np.floor(np.log10(low))), int(np.floor(np.log10(high)))
    powers = range(first, last + 1, 1 + (last - first) // 10)
    values = [step * 10.0**power for power in powers for step in ((1, 2, 5) if high < 60 * low else (1,))]
    return [value for value in values if low <= value <= high]


def _ticks(axes: Axes, side: str, values: Sequence[float], last: str = "") -> None:
    """Ticks with plain labels: parsing the usual powers as formulas is half the time of a picture."""
    labels = [f"{v:g}" if 0.001 <= v < 10_000 else f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e") for v in values]
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_ticks(list(values), [*labels[:-1], last or labels[-1]] if labels else [])
    axis.set_minor_locator(NullLocator())


def _picture(figure: Figure, ident: str, heading: str, what: str, styles: Sequence[Style]) -> Picture:
    return Picture(heading, _inline(figure, ident, f"{heading}: {what}", [style.name for style in styles]))


def _inline(figure: Figure, ident: str, label: str, names: Sequence[str]) -> str:
    """The figure as SVG for a page: nothing outside it, ids that start with `ident`, colours as variables."""
    figure.patch.set_visible(False)
    text = StringIO()
    with mpl.rc_context({**_RC, "svg.hashsalt": ident}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    box = re.search(r'viewBox="([^"]+)"', svg)
    inner = svg[svg.index(">", svg.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'<g id="method(\d+)">', lambda m: _named_group(names[int(m[1])]), inner)
    inner = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", inner)
    inner = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{ident}-", inner).replace("xlink:href", "href")
    inner = re.sub(r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), inner)
    for index, colour in enumerate(_LIGHT):
        inner = inner.replace(colour, f"var(--m{index})")
    inner = re.sub(r"\s*\n\s*", "\n", inner.replace(_INK, "currentColor"))
    title = escape(label)
    return f'<svg viewBox="{box and box[1]}" role="img" aria-label="{title}"><title>{title}</title>{inner}'


def _named_group(name: str) -> str:
    return f'<g class="method"><title>{escape(name)}</title>'
