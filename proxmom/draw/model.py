"""The picture of the idea: one step in one dimension, with the planes, their maximum, and the proximal term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proxmom.draw import canvas
from proxmom.draw.functions import Array, valley
from proxmom.metrics import Euclidean, Metric
from proxmom.numpy import Optimizer
from proxmom.numpy.optimizer import Model
from proxmom.observed import usual
from proxmom.reference import objective
from proxmom.rules import Facts, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

START = -3.0
LR, SCALED_LR = 1.6, 1.3  # with these the third step oversteps the minimiser, so gradient and memory disagree
GRID = 4001
FLOOR = "lower bound"
COLOURS = (canvas.BLUE, canvas.VERMILLION, "#6b4c1e", "#56b4e9")


@dataclass(frozen=True, eq=False)
class ModelScene:
    """All that the picture shows: the iterates (t + 1,), and f and the model at the last one."""

    rule: Rule
    settings: str
    path: Array
    loss: float
    model: Model

    @property
    def names(self) -> list[str]:
        """What each plane is made of."""
        levels = self.loss + self.model.heights
        rows = zip(self.model.coefficients, levels, strict=True)
        return [_plane_name(row, self.model.names, level) for row, level in rows]

    @property
    def next_x(self) -> float:
        """The next iterate."""
        return float(self.model.next_x[0])

    def planes(self, x: Array) -> Array:
        """The planes as functions of x, (K, n)."""
        return self.loss + self.model.heights[:, None] + self.model.slopes * (x - self.model.x)

    def objective(self, x: Array) -> Array:
        """What the step minimises, as a function of x, (n,)."""
        return self.loss + np.array([objective(self.model, move) for move in (x - self.model.x)[:, None]])


def draw_model(
    rule: Rule | Sequence[Rule],
    *,
    lr: float | None = None,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    steps: int = 3,
    out: str | Path | None = None,
    dpi: float = canvas.DPI,
    ax: Axes | None = None,
    title: bool = True,
    caption: bool = True,
) -> Figure:
    """One step in one dimension: f, the planes, their maximum, the proximal term, and the next iterate.

    f is convex and at least 0, with minimum 1/4 at x = 0. The dashed curve is what the step minimises; its line has
    the gid "objective". Weight decay is the proximal one, because only then the next iterate is the argmin of that
    curve.

    Args:
        rule: any rule, or a sequence of them, which stand one below the other.
        lr: step size, > 0; default: one with which most rules have just stepped over the minimum.
        metric, inertia, weight_decay: as for `proxmom.numpy.Optimizer`.
        steps: how many are taken before the one that is drawn, >= 1, so that there is a memory.
        out: a file to write, ending in .png, .svg, .pdf or .pgf (which takes LaTeX).
        dpi: of a .png, in [10, 2400].
        ax: axes to draw on, for a single rule.
        title, caption: whether the rule's name stands above, and settings and weights below the picture.

    Returns:
        The matplotlib Figure, that of `ax` if it is given.

    Raises:
        ValueError: for a bad suffix or argument, before anything is written.
        ModuleNotFoundError: without matplotlib.
    """
    canvas.check_out(out, dpi)
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}: before the first step there is no memory to draw.")
    rules = list(rule) if isinstance(rule, Sequence) else [rule]
    if not rules or (ax is not None and len(rules) > 1):
        limit = "one, since ax is given" if rules else "one or more"
        raise ValueError(f"rule must be {limit}, got {len(rules)}.")
    if lr is None:
        lr = LR if metric is None or isinstance(metric, Euclidean) else SCALED_LR
    settings: dict[str, Any] = {"lr": lr, "metric": metric, "inertia": inertia, "weight_decay": weight_decay}
    with canvas.style():
        scenes = [model_scene(each, steps, settings) for each in rules]
        figure = _figure(scenes, title, caption) if ax is None else _on_axes(scenes[0], ax, title, caption)
    return canvas.save(figure, out, dpi)


def model_scene(rule: Rule, steps: int, settings: dict[str, Any]) -> ModelScene:
    """Take the steps, and look at the model of the one after them."""
    optimizer = Optimizer(np.array([START]), rule, decay="proximal", **settings)
    path, seen = [START], usual(Facts.of(rule).observed)
    for _ in range(steps):
        value, gradient = valley(optimizer.x)
        path.append(float(optimizer.step(gradient, float(value[0]), seen)[0]))
    value, gradient = valley(optimizer.x)
    model = optimizer.preview(gradient, float(value[0]), seen)
    words = canvas.settings(settings["lr"], settings["metric"], settings["inertia"], settings["weight_decay"])
    return ModelScene(rule, words, np.array(path), float(value[0]), model)


def _plane_name(row: Array, vectors: Sequence[str], level: float) -> str:
    """E.g. "gradient", "0.1 gradient + 0.9 memory", "lower bound 0"."""
    parts = [(c, name) for c, name in zip(row, vectors, strict=True) if c]
    terms = [name if c == 1 else f"{c:.3g} {name}" for c, name in parts]
    return " + ".join(terms).replace("+ -", "− ") or f"{FLOOR} {round(level, 9) + 0.0:.4g}"


def _figure(scenes: Sequence[ModelScene], title: bool, caption: bool) -> Figure:
    figure = canvas.blank(11.5, 6.2 if len(scenes) == 1 else 4.6 * len(scenes))
    for row, scene in enumerate(scenes):
        axes = figure.add_subplot(len(scenes), 1, row + 1)
        if len(scenes) > 1:
            _on_axes(scene, axes, title, caption)
        else:
            draw_step(axes, scene)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9)
    if title and len(scenes) == 1:
        figure.suptitle(title_of(scenes[0]), fontsize=13)
    if caption and len(scenes) == 1:
        figure.supxlabel(caption_of(scenes[0]), fontsize=11, color=canvas.INK)
    return figure


def _on_axes(scene: ModelScene, axes: Axes, title: bool, caption: bool) -> Figure:
    draw_step(axes, scene)
    axes.legend(fontsize="x-small")
    if title:
        axes.set_title(title_of(scene))
    if caption:
        axes.set_xlabel(f"$x$\n{caption_of(scene)}")
    return axes.figure.figure


def draw_step(axes: Axes, scene: ModelScene, x: Array | None = None, y: tuple[float, float] | None = None) -> None:
    """The lines and points of the picture, without legend and words; x, y: the axes, this step's own by default."""
    x = span(scene) if x is None else x
    _draw_lines(axes, scene, x)
    _draw_points(axes, scene)
    axes.set(xlim=(x[0], x[-1]), xlabel="$x$", ylim=y or heights(scene, x))


def title_of(scene: ModelScene) -> str:
    """Which rule it is."""
    return f"One step of {canvas.name_of(scene.rule)}"


def span(scene: ModelScene) -> Array:
    """The x axis: the minimiser, the last two iterates and the next, with some air."""
    shown = np.array([0.0, *scene.path[-2:], scene.next_x])
    air = max(0.35 * np.ptp(shown), 0.7)
    return np.linspace(shown.min() - air, shown.max() + air, GRID)


def heights(scene: ModelScene, x: Array) -> tuple[float, float]:
    """The y axis: f and the marked points in full, and what the planes do below them as far as it matters."""
    low = min(0.0, float(scene.objective(x).min()), float(scene.planes(np.array([scene.next_x])).min()))
    high = max(float(valley(x)[0].max()), float(scene.objective(np.array([scene.next_x]))[0]))
    return low - 0.12 * (high - low), high + 0.05 * (high - low)


def _draw_lines(axes: Axes, scene: ModelScene, x: Array) -> None:
    axes.plot(x, valley(x)[0], color=canvas.INK, linewidth=2.4, label="$f$, the loss", gid="loss")
    planes, colours = scene.planes(x), iter(COLOURS)
    for plane, name, weight in zip(planes, scene.names, scene.model.weights, strict=True):
        colour = canvas.GREEN if name.startswith(FLOOR) else next(colours)
        look: canvas.Look = {"color": colour, "linewidth": 1.8, "zorder": 3}
        axes.plot(x, plane, label=f"plane: {name}\n$w$ = {_number(weight)}", gid="plane", **look)
    look = {"color": canvas.SAND, "linewidth": 7, "zorder": 1}
    axes.plot(x, planes.max(axis=0), label="$m$, the maximum of the planes", gid="model", **look)
    terms = ["$m$", "proximal term", "decay" * (scene.model.weight_decay > 0), "inertia" * (scene.model.inertia > 0)]
    look = {"color": canvas.PURPLE, "linewidth": 1.8, "linestyle": (0, (4, 2)), "zorder": 4}
    axes.plot(x, scene.objective(x), label=" + ".join(filter(None, terms)), gid="objective", **look)


def _draw_points(axes: Axes, scene: ModelScene) -> None:
    t, x = len(scene.path) - 1, np.array([scene.next_x])
    least, landing = scene.objective(x), valley(x)[0]
    _mark(axes, scene.path[:-1], "earlier iterates", markersize=6, color=canvas.FAINT)
    _mark(axes, scene.path[-1:], f"$x_{{{t}}}$, the iterate", markersize=10, color=canvas.INK)
    axes.plot([*x, *x], [*least, *landing], color=canvas.PURPLE, linewidth=1.0, linestyle=":", zorder=4)
    axes.plot(x, least, "D", markersize=9, color=canvas.PURPLE, label="minimum of the dashed curve", zorder=6)
    ring: canvas.Look = {"color": canvas.PURPLE, "markerfacecolor": "white", "markeredgewidth": 2}
    _mark(axes, x, f"$x_{{{t + 1}}}$, the next iterate", markersize=10, **ring)
    for number, point in enumerate([*scene.path[-2:], scene.next_x], start=t - 1):
        place: canvas.Look = {"xytext": (0, 11), "textcoords": "offset points", "ha": "center", "annotation_clip": True}
        axes.annotate(f"$x_{{{number}}}$", (point, valley(np.array(point))[0]), **place, zorder=7)


def _mark(axes: Axes, x: Array, label: str, **look: Any) -> None:
    axes.plot(x, valley(x)[0], "o", label=label, zorder=6, **look)


def _number(value: float) -> str:
    """Two decimals, without a negative zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def caption_of(scene: ModelScene) -> str:
    """Settings, weights and iterates."""
    t = len(scene.path) - 1
    weights = ", ".join(map(_number, scene.model.weights))
    return (
        f"{scene.settings}:   $w$ = ({weights}),   weight on memory $\\beta$ = {_number(scene.model.beta)},   "
        f"$x_{{{t}}}$ = {_number(scene.path[-1])},   $x_{{{t + 1}}}$ = {_number(scene.next_x)}"
    )
