"""The path of a rule over the contours of a function of two variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from proxmom.draw import canvas
from proxmom.draw.functions import FUNCTIONS, Array, Box, Function
from proxmom.draw.paths import Trace, checked_starts, frame, grid_of, inside, run
from proxmom.metrics import Metric
from proxmom.rules import Facts, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    Colours: TypeAlias = tuple[Colormap, Normalize]

FAR = 1e6  # the renderer breaks on coordinates like 1e100
BETA = r"weight on memory, $\beta_t$"
LEAST, MOST = 1e-30, 1e200  # beyond these the ticks of the axis of f - f* overflow
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.3)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, eq=False)
class PathScene:
    """All that the picture shows."""

    function: Function
    rule: Rule
    settings: str
    traces: list[Trace]
    view: Box

    @property
    def beta_max(self) -> float | None:
        """Top of the scale of beta; None where the rule has no memory."""
        seen = max((float(trace.beta.max(initial=0)) for trace in self.traces), default=0.0)
        top = max(seen, Facts.of(self.rule).beta_max)
        return top if top > 0 else None


def draw_trajectory(
    rule: Rule,
    on: str = "rosenbrock",
    *,
    lr: float | None = None,
    starts: ArrayLike | None = None,
    steps: int = 200,
    metric: Metric | None = None,
    inertia: float = 0.0,
    out: Path,
) -> Path:
    """Draw the path of a rule on a function of two variables, with f - f* and beta against the step beside it.

    A path that diverges is clipped to the view, and the title says so. Runs stop early where the gradient's norm has
    fallen by 1e-8.

    Args:
        rule: any rule, with the lower bound it was made with; the minimum of all functions is 0.
        on: one of `FUNCTIONS`.
        lr: step size, > 0; default: the function's own, which suits the built-in rules, and is said in the title.
        starts: a point (2,) or several (k, 2), finite; default: the function's own.
        steps: how many at most, >= 1.
        metric, inertia: as for `proxmom.numpy.Optimizer`.
        out: the file, ending in .png or .svg.

    Returns:
        `out`.

    Raises:
        ValueError: for an unknown function, a bad suffix or argument, before anything is computed or written.
        ModuleNotFoundError: without matplotlib.
    """
    out = canvas.checked_path(out)
    figure = trajectory_figure(rule, on, lr=lr, starts=starts, steps=steps, metric=metric, inertia=inertia)
    return canvas.save(figure, out)


def trajectory_figure(
    rule: Rule,
    on: str = "rosenbrock",
    *,
    lr: float | None = None,
    starts: ArrayLike | None = None,
    steps: int = 200,
    metric: Metric | None = None,
    inertia: float = 0.0,
) -> Figure:
    """The picture that `draw_trajectory` writes, as a matplotlib Figure."""
    if on not in FUNCTIONS:
        raise ValueError(f"on must be one of {', '.join(map(repr, FUNCTIONS))}, got {on!r}.")
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}.")
    function = FUNCTIONS[on]
    points = checked_starts(function.start if starts is None else starts)
    with canvas.style():
        step_size = function.default_lr(metric) if lr is None else lr
        settings: dict[str, Any] = {"lr": step_size, "metric": metric, "inertia": inertia, "max_iter": steps}
        traces = [run(function, rule, point, settings) for point in points]
        words = canvas.settings(step_size, metric, inertia, default_lr=lr is None)
        return _figure(PathScene(function, rule, words, traces, frame(function, traces)))


def _figure(scene: PathScene) -> Figure:
    figure = canvas.blank(11.5, 6.2, gap=0.04)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    plane, colours = figure.add_subplot(grid[:, 0]), _colours(scene)
    _draw_function(plane, scene)
    _draw_paths(plane, scene, colours)
    fall = figure.add_subplot(grid[0 if colours else slice(None), 1])
    _draw_fall(fall, scene)
    if colours:
        _draw_beta(figure.add_subplot(grid[1, 1], sharex=fall), scene, colours)
        bar = figure.colorbar(_mappable(colours), ax=plane, fraction=0.04, pad=0.02, label=BETA)
        bar.outline.set_visible(False)
    figure.suptitle(_title(scene), fontsize=13, linespacing=1.4)
    return figure


def _colours(scene: PathScene) -> Colours | None:
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    if scene.beta_max is None:
        return None
    part = colormaps["plasma"](np.linspace(0.0, 0.82, 256))  # its bright end would be lost on white
    return LinearSegmentedColormap.from_list("memory", part), Normalize(0, scene.beta_max)


def _mappable(colours: Colours) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(colours[1], colours[0])


def _draw_function(axes: Axes, scene: PathScene) -> None:
    from matplotlib.colors import LogNorm

    levels, grid = scene.function.levels, grid_of(scene.function, scene.view)
    shades = np.concatenate([[levels[0] / 1e9], levels, [max(levels[-1], grid[2].max()) * 2]])
    scale = LogNorm(levels[0] / 3, levels[-1] * 30, clip=True)
    # Pixels, for as shapes it would make a large file; by its order, since Matplotlib 3.8 ignores a contour's own wish.
    axes.contourf(*grid, levels=shades, cmap="Greys", norm=scale, alpha=0.35, zorder=0.5)
    axes.set_rasterization_zorder(0.75)
    axes.contour(*grid, levels=levels, colors="#9aa0a6", linewidths=0.6)
    left, right, bottom, top = scene.view
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")


def _draw_paths(axes: Axes, scene: PathScene, colours: Colours | None) -> None:
    for number, trace in enumerate(scene.traces):
        _draw_path(axes, trace, colours)
        if len(scene.traces) > 1:
            axes.annotate(str(number + 1), trace.points[0], xytext=(7, 7), textcoords="offset points", weight="bold")
    starts, ends = (np.array([trace.points[k] for trace in scene.traces]) for k in (0, -1))
    _mark(axes, scene, scene.function.minimisers, "minimiser", marker="*", s=190, color=canvas.YELLOW, linewidths=0.9)
    _mark(axes, scene, starts, "start", marker="o", s=60, color="white", linewidths=1.5)
    _mark(axes, scene, ends, "end", marker="s", s=80, color="none", linewidths=1.6)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, handletextpad=0.2, columnspacing=1.0)


def _mark(axes: Axes, scene: PathScene, points: Array, label: str, **look: Any) -> None:
    shown = points[inside(points, scene.view)]
    if len(shown):
        axes.scatter(shown[:, 0], shown[:, 1], label=label, zorder=5, edgecolors=canvas.INK, **look)


def _draw_path(axes: Axes, trace: Trace, colours: Colours | None) -> None:
    from matplotlib.collections import LineCollection

    points = trace.points * np.minimum(1, FAR / np.abs(trace.points).max(axis=1, keepdims=True, initial=1))
    scale: canvas.Look = {"cmap": colours[0], "norm": colours[1]} if colours else {"color": canvas.BLUE}
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    shade: canvas.Look = {"array": trace.beta} if colours else {}
    axes.add_collection(LineCollection(list(pieces), linewidths=1.3, zorder=3, **scale, **shade), autolim=False)
    shade = {"c": trace.beta} if colours else {}
    axes.scatter(points[1:, 0], points[1:, 1], s=13, zorder=4, linewidths=0, **scale, **shade)


def _draw_fall(axes: Axes, scene: PathScene) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, trace in enumerate(scene.traces):
        marker = "." if len(trace.values) == 1 else ""
        shown = np.clip(trace.values, LEAST, MOST)
        axes.plot(shown, marker=marker, linewidth=1.5, label=f"start {number + 1}", **_line(number))
    longest = max(1, *(len(trace.values) - 1 for trace in scene.traces))
    axes.set(yscale="log", ylabel="$f(x_t) - f^\\star$", xlim=(0, 1.02 * longest))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, color="#e3e3e3", linewidth=0.7)
    if len(scene.traces) > 1:
        axes.legend()
    if scene.beta_max is None:
        axes.set_xlabel("step $t$")
    else:
        axes.tick_params(labelbottom=False)


def _line(number: int) -> canvas.Look:
    """How the curve of a start looks beside the path."""
    return {"linestyle": DASHES[number % len(DASHES)], "color": (canvas.INK, canvas.FAINT)[number // len(DASHES) % 2]}


def _draw_beta(axes: Axes, scene: PathScene, colours: Colours) -> None:
    for number, trace in enumerate(scene.traces):
        t = np.arange(1, len(trace.beta) + 1)
        axes.plot(t, trace.beta, linewidth=0.8, alpha=0.4, **_line(number))
        axes.scatter(t, trace.beta, c=trace.beta, cmap=colours[0], norm=colours[1], s=11, linewidths=0, zorder=3)
    top = scene.beta_max or 1.0
    axes.set(ylim=(-0.04 * top, 1.06 * top), xlabel="step $t$", ylabel=BETA)
    axes.grid(True, color="#e3e3e3", linewidth=0.7)


def _title(scene: PathScene) -> str:
    values = _listed([float(trace.values[-1]) for trace in scene.traces])
    counts = _listed([len(trace.values) - 1 for trace in scene.traces])
    words = f"f = {values} after {counts} step{'s' if counts != '1' else ''}"
    if any(trace.diverged for trace in scene.traces):
        words += "; diverged, clipped to the view"
    elif not all(inside(trace.points, scene.view).all() for trace in scene.traces):
        words += "; clipped to the view"
    return f"{canvas.name_of(scene.rule)} on {scene.function.name}\n{scene.settings}: {words}"


def _listed(numbers: Sequence[float]) -> str:
    """All of a few numbers, the range of many."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return f"{low:.3g}"
    return f"{low:.3g} to {high:.3g}" if len(numbers) > 3 else ", ".join(f"{number:.3g}" for number in numbers)
