"""The paths of rules over the contours of a function of two variables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from proxmom.draw import canvas
from proxmom.draw.functions import Box, Function
from proxmom.draw.own import Fun, check_function, find_function, own_function
from proxmom.draw.paths import Trace, checked_starts, follow, frame, inside, run
from proxmom.draw.plane import PathScene, colours_of, draw_function, draw_paths
from proxmom.metrics import Metric
from proxmom.rules import Facts, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from proxmom.draw.plane import Colours

BETA = r"weight on memory, $\beta_t$"
LEAST, MOST = 1e-30, 1e200  # beyond these the ticks of the axis of f - f* overflow


def draw_path(
    rule: Rule | Sequence[Rule],
    on: str | Fun = "rosenbrock",
    *,
    lr: float | None = None,
    starts: ArrayLike | None = None,
    steps: int = 200,
    metric: Metric | None = None,
    inertia: float = 0.0,
    view: Box | None = None,
    out: str | Path | None = None,
    dpi: float = canvas.DPI,
    ax: Axes | None = None,
    title: bool = True,
    caption: bool = True,
) -> Figure:
    """The path of a rule, or of several, on a function of two variables; beside it f and beta against the step.

    The colour of a single rule's path is its weight on memory; several have a colour, dash and marker each. A path
    that diverges is clipped to the view, and the caption says so. Runs stop early where the gradient's norm has fallen
    by 1e-8.

    Args:
        rule: any rule, with the lower bound it was made with, or a sequence of them; the minimum of `FUNCTIONS` is 0.
        on: one of `FUNCTIONS`, or a function of your own, fun(x) -> (f, gradient) for x of shape (2,), or its import
            path, "my_functions.py:valley". That is called for 15 000 points, and takes lr and starts.
        lr: step size, > 0; default: the function's own, which suits the built-in rules, and is said in the caption.
        starts: a point (2,) or several (k, 2), finite; default: the function's own.
        steps: how many at most, >= 1.
        metric, inertia: as for `proxmom.numpy.Optimizer`.
        view: left, right, bottom and top of the plane; default: the function's own, or what the runs of yours saw, and
            as much more as the paths take.
        out: a file to write, ending in .png, .svg, .pdf or .pgf (which takes LaTeX).
        dpi: of a .png, in [10, 2400].
        ax: axes for the plane alone, without what is beside it.
        title, caption: whether the names of rule and function, and the settings and results, stand above the picture.

    Returns:
        The matplotlib Figure, that of `ax` if it is given.

    Raises:
        ValueError: for an unknown function, a bad suffix or argument, before anything is computed or written.
        ModuleNotFoundError: without matplotlib.
    """
    canvas.check_out(out, dpi)
    rules = list(rule) if isinstance(rule, Sequence) else [rule]
    with canvas.style():
        scene = path_scene(rules, on, lr, starts, steps, metric, inertia, view)
        heading = [part for part, wanted in zip(_words(scene), (title, caption), strict=True) if wanted]
        figure = _figure(scene, heading) if ax is None else _on_axes(scene, ax, heading)
    return canvas.save(figure, out, dpi)


def path_scene(
    rules: list[Rule],
    on: str | Fun,
    lr: float | None,
    starts: ArrayLike | None,
    steps: int,
    metric: Metric | None,
    inertia: float,
    view: Box | None,
) -> PathScene:
    """Check the arguments of `draw_path`, and make the runs."""
    found = find_function(on)
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}.")
    if not rules:
        raise ValueError("rule must be a rule or a sequence of them, got an empty one.")
    if view is not None and not (np.isfinite(view).all() and view[0] < view[1] and view[2] < view[3]):
        raise ValueError(f"view must be left < right and bottom < top, got {view}.")
    for name, value in (("lr", lr), ("starts", starts)):
        if value is None and not isinstance(found, Function):
            raise ValueError(f"{name} must be given with a function of your own, got none.")
    points = checked_starts(starts if starts is not None else found.start)  # type: ignore[union-attr]
    step_size = lr if lr is not None else found.default_lr(metric)  # type: ignore[union-attr]
    settings: dict[str, Any] = {"lr": step_size, "metric": metric, "inertia": inertia, "max_iter": steps}
    if isinstance(found, Function):
        function, runs = found, [[run(found, rule, point, settings) for point in points] for rule in rules]
    else:
        check_function(found, points[0])
        runs = [[follow(found, rule, point, settings) for point in points] for rule in rules]
        function = own_function(found, step_size, [trace for traces in runs for trace in traces], view)
    words = canvas.settings(step_size, metric, inertia, default_lr=lr is None)
    return PathScene(function, rules, words, runs, view or frame(function, [t for traces in runs for t in traces]))


def _on_axes(scene: PathScene, axes: Axes, heading: Sequence[str]) -> Figure:
    draw_function(axes, scene)
    draw_paths(axes, scene, colours_of(scene))
    axes.set_title("\n".join(heading), pad=24)
    return axes.figure.figure


def _figure(scene: PathScene, heading: Sequence[str]) -> Figure:
    figure = canvas.blank(11.5, 6.2, gap=0.04)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    plane, colours = figure.add_subplot(grid[:, 0]), colours_of(scene)
    draw_function(plane, scene)
    draw_paths(plane, scene, colours)
    fall = figure.add_subplot(grid[0 if scene.beta_max else slice(None), 1])
    _draw_fall(fall, scene)
    if scene.beta_max:
        _draw_beta(figure.add_subplot(grid[1, 1], sharex=fall), scene, colours)
    if colours:
        bar = figure.colorbar(_mappable(colours), ax=plane, fraction=0.04, pad=0.02, label=BETA)
        bar.outline.set_visible(False)
    if not scene.alone:
        figure.legend(*_rules_legend(scene), loc="outside lower center", ncols=2)
    if heading:
        figure.suptitle("\n".join(heading), fontsize=13, linespacing=1.4)
    return figure


def _mappable(colours: Colours) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(colours[1], colours[0])


def _rules_legend(scene: PathScene) -> tuple[list[Any], list[str]]:
    """A line for each rule, and what it came to."""
    from matplotlib.lines import Line2D

    marks = [canvas.MARKERS[number % len(canvas.MARKERS)] for number in range(len(scene.rules))]
    lines = [Line2D([], [], marker=mark, markersize=4, **canvas.line_of(n)) for n, mark in enumerate(marks)]
    names = [f"{canvas.name_of(rule)}: {_ends(runs)}" for rule, runs in zip(scene.rules, scene.runs, strict=True)]
    return lines, names


def _draw_fall(axes: Axes, scene: PathScene) -> None:
    from matplotlib.ticker import MaxNLocator

    known = scene.function.minimum is not None
    for number, start, trace in _numbered(scene):
        marker = "." if len(trace.values) == 1 else ""
        shown = np.clip(trace.values, LEAST if known else -MOST, MOST)
        axes.plot(shown, marker=marker, linewidth=1.5, label=f"start {start + 1}", **_line(scene, number, start))
    longest = max(1, *(len(trace.values) - 1 for trace in scene.traces))
    every = np.concatenate([trace.values for trace in scene.traces])
    scale = "log" if known or every.max() > 30 * every.min() > 0 else "linear"
    axes.set(yscale=scale, ylabel="$f(x_t) - f^\\star$" if known else "$f(x_t)$", xlim=(0, 1.02 * longest))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, color="#e3e3e3", linewidth=0.7)
    if scene.alone and len(scene.traces) > 1:
        axes.legend()
    if scene.beta_max is None:
        axes.set_xlabel("step $t$")
    else:
        axes.tick_params(labelbottom=False)


def _numbered(scene: PathScene) -> list[tuple[int, int, Trace]]:
    """Numbers of rule and start, and the run."""
    return [(k, start, trace) for k, traces in enumerate(scene.runs) for start, trace in enumerate(traces)]


def _line(scene: PathScene, number: int, start: int) -> canvas.Look:
    """How the curve of a run looks beside the path: by its rule among several, else by its start."""
    if not scene.alone:
        return canvas.line_of(number)
    dash, ink = canvas.DASHES[start % len(canvas.DASHES)], (canvas.INK, canvas.FAINT)
    return {"linestyle": dash, "color": ink[start // len(canvas.DASHES) % 2]}


def _draw_beta(axes: Axes, scene: PathScene, colours: Colours | None) -> None:
    for number, start, trace in _numbered(scene):
        if not scene.alone and not Facts.of(scene.rules[number]).beta_max:
            continue
        t, faint = np.arange(1, len(trace.beta) + 1), 0.4 if colours else 1.0
        axes.plot(t, trace.beta, linewidth=0.8, alpha=faint, **_line(scene, number, start))
        if colours:
            axes.scatter(t, trace.beta, c=trace.beta, cmap=colours[0], norm=colours[1], s=11, linewidths=0, zorder=3)
    top = scene.beta_max or 1.0
    axes.set(ylim=(-0.04 * top, 1.06 * top), xlabel="step $t$", ylabel=BETA)
    axes.grid(True, color="#e3e3e3", linewidth=0.7)


def _words(scene: PathScene) -> tuple[str, str]:
    """Title and caption."""
    names = canvas.name_of(scene.rules[0]) if scene.alone else f"{len(scene.rules)} rules"
    words = _ends(scene.runs[0]) if scene.alone else ""
    if any(trace.diverged for trace in scene.traces):
        words += "; diverged, clipped to the view" if scene.alone else "; what diverged is clipped to the view"
    elif not all(inside(trace.points, scene.view).all() for trace in scene.traces):
        words += "; clipped to the view"
    return f"{names} on {scene.function.name}", f"{scene.settings}{': ' if scene.alone else ''}{words}"


def _ends(traces: Sequence[Trace]) -> str:
    """What the runs of a rule came to."""
    values, steps = _listed([float(t.values[-1]) for t in traces]), _listed([len(t.values) - 1 for t in traces])
    return f"f = {values} after {steps} step{'s' if steps != '1' else ''}"


def _listed(numbers: Sequence[float]) -> str:
    """All of a few numbers, the range of many."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return f"{low:.3g}"
    return f"{low:.3g} to {high:.3g}" if len(numbers) > 3 else ", ".join(f"{number:.3g}" for number in numbers)
