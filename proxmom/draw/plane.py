"""The plane of a picture of paths: the function's contours, the paths of its runs, and their ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from proxmom.draw import canvas
from proxmom.draw.functions import Array, Box, Function
from proxmom.draw.paths import Trace, grid_of, inside
from proxmom.rules import Facts, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

    Colours: TypeAlias = tuple[Colormap, Normalize]

FAR = 1e6  # the renderer breaks on coordinates like 1e100


@dataclass(frozen=True, eq=False)
class PathScene:
    """All that the picture shows: the runs of each rule, one for each start."""

    function: Function
    rules: list[Rule]
    settings: str
    runs: list[list[Trace]]
    view: Box

    @property
    def traces(self) -> list[Trace]:
        """All runs."""
        return [trace for traces in self.runs for trace in traces]

    @property
    def alone(self) -> bool:
        """Whether there is one rule, whose colours can then show its weight on memory."""
        return len(self.rules) == 1

    @property
    def beta_max(self) -> float | None:
        """Top of the scale of beta; None where no rule has a memory."""
        seen = max((float(trace.beta.max(initial=0)) for trace in self.traces), default=0.0)
        top = max(seen, *(Facts.of(rule).beta_max for rule in self.rules))
        return top if top > 0 else None


def colours_of(scene: PathScene) -> Colours | None:
    """The scale of the weight on memory; None where there is none, or several rules take the colours."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    if scene.beta_max is None or not scene.alone:
        return None
    part = colormaps["plasma"](np.linspace(0.0, 0.82, 256))  # its bright end would be lost on white
    return LinearSegmentedColormap.from_list("memory", part), Normalize(0, scene.beta_max)


def draw_function(axes: Axes, scene: PathScene) -> None:
    """Shades and contours."""
    from matplotlib.colors import LogNorm

    levels, (a, b, values) = scene.function.levels, grid_of(scene.function, scene.view)
    values = np.maximum(values - scene.function.base, levels[0] / 1e9)  # the scale is logarithmic
    most = np.max(values, initial=0.0, where=np.isfinite(values))
    shades = np.concatenate([[levels[0] / 1e9], levels, [max(levels[-1], most) * 2]])
    scale = LogNorm(levels[0] / 3, levels[-1] * 30, clip=True)
    # Pixels, for as shapes it would make a large file; by its order, since Matplotlib 3.8 ignores a contour's own wish.
    axes.contourf(a, b, values, levels=shades, cmap="Greys", norm=scale, alpha=0.35, zorder=0.5)
    axes.set_rasterization_zorder(0.75)
    axes.contour(a, b, values, levels=levels, colors="#9aa0a6", linewidths=0.6)
    left, right, bottom, top = scene.view
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")


def draw_paths(axes: Axes, scene: PathScene, colours: Colours | None) -> None:
    """The paths, where they start and end, and the minimisers."""
    for number, traces in enumerate(scene.runs):
        for trace in traces:
            _draw_path(axes, trace, colours, None if scene.alone else number)
    for number, trace in enumerate(scene.runs[0] if len(scene.runs[0]) > 1 else []):
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


def _draw_path(axes: Axes, trace: Trace, colours: Colours | None, number: int | None) -> None:
    """number: of the rule among several, which then have a line each."""
    from matplotlib.collections import LineCollection

    points = trace.points * np.minimum(1, FAR / np.abs(trace.points).max(axis=1, keepdims=True, initial=1))
    if number is not None:
        marker = canvas.MARKERS[number % len(canvas.MARKERS)]
        look = {**canvas.line_of(number), "marker": marker, "markersize": 3.5, "markeredgewidth": 0}
        axes.plot(*points.T, linewidth=1.3, zorder=3, **look)
        return
    scale: canvas.Look = {"cmap": colours[0], "norm": colours[1]} if colours else {"color": canvas.BLUE}
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    shade: canvas.Look = {"array": trace.beta} if colours else {}
    axes.add_collection(LineCollection(list(pieces), linewidths=1.3, zorder=3, **scale, **shade), autolim=False)
    shade = {"c": trace.beta} if colours else {}
    axes.scatter(points[1:, 0], points[1:, 1], s=13, zorder=4, linewidths=0, **scale, **shade)
