"""The planes along a run: a frame for each step, as GIF or as a page with a slider."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proxmom.draw import canvas
from proxmom.draw.functions import Array
from proxmom.draw.model import LR, SCALED_LR, ModelScene, caption_of, draw_step, heights, model_scene, span
from proxmom.metrics import Euclidean, Metric
from proxmom.rules import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".gif", ".html")
DPI = 100
MOST_STEPS = 200
# Matplotlib's page takes the signs of its buttons from another site.
_SIGNS = {
    "minus": "−",
    "fast-backward": "⇤",
    "step-backward": "←",
    "play fa-flip-horizontal": "◀",
    "pause": "❚❚",
    "play": "▶",
    "step-forward": "→",
    "fast-forward": "⇥",
    "plus": "+",
}


def animate_model(
    rule: Rule,
    *,
    lr: float | None = None,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    steps: int = 12,
    fps: float = 1.5,
    out: str | Path,
    dpi: float = DPI,
    title: bool = True,
    caption: bool = True,
) -> Path:
    """The pictures of `draw_model` one after the other, from the first step with a memory on.

    Args:
        rule: any rule.
        lr: step size, > 0; default: as for `draw_model`.
        metric, inertia, weight_decay: as for `proxmom.numpy.Optimizer`.
        steps: how many are shown, 1 <= steps <= 200.
        fps: frames a second, 0 < fps <= 50.
        out: the file, ending in .gif, or in .html, a page with a slider that needs nothing but itself.
        dpi: pixels an inch, in [10, 2400].
        title, caption: whether the rule's name, and settings and weights, stand in the picture.

    Returns:
        The path of the file.

    Raises:
        ValueError: for a bad suffix or argument, before anything is written.
        ModuleNotFoundError: without matplotlib.
    """
    canvas.check_out(out, dpi, SUFFIXES)
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be from 1 to {MOST_STEPS}, a frame each, got {steps}.")
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be > 0 and at most 50, got {fps}.")
    if lr is None:
        lr = LR if metric is None or isinstance(metric, Euclidean) else SCALED_LR
    settings: dict[str, Any] = {"lr": lr, "metric": metric, "inertia": inertia, "weight_decay": weight_decay}
    with canvas.style():
        scenes = [model_scene(rule, taken, settings) for taken in range(1, steps + 1)]
        return _write(scenes, (title, caption), fps, Path(out), dpi)


def _write(scenes: Sequence[ModelScene], words: tuple[bool, bool], fps: float, out: Path, dpi: float) -> Path:
    from matplotlib import rc_context
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = canvas.blank(11.5, 6.2)
    FigureCanvasAgg(figure)
    x, y = _limits(scenes)

    def show(number: int) -> list[Any]:
        _frame(figure, scenes[number], x, y, words)
        return []

    moving = FuncAnimation(
        figure, show, frames=len(scenes), init_func=lambda: [], interval=1000 / fps, cache_frame_data=False
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".gif":
        moving.save(out, writer=PillowWriter(fps=fps), dpi=dpi)  # type: ignore[arg-type]
        return out
    with rc_context({"animation.embed_limit": 1000, "savefig.dpi": dpi}):
        page = moving.to_jshtml(fps=fps, embed_frames=True, default_mode="once")  # type: ignore[arg-type]
    out.write_text(_alone(page, f"The planes of {canvas.name_of(scenes[0].rule)}"), encoding="utf-8")
    return out


def _frame(figure: Figure, scene: ModelScene, x: Array, y: tuple[float, float], words: tuple[bool, bool]) -> None:
    figure.clear()
    axes = figure.add_subplot()
    draw_step(axes, scene, x, y)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9)
    title, caption = words
    if title:
        figure.suptitle(f"{canvas.name_of(scene.rule)}: step {len(scene.path)}", fontsize=13)
    if caption:
        figure.supxlabel(caption_of(scene), fontsize=11, color=canvas.INK)


def _limits(scenes: Sequence[ModelScene]) -> tuple[Array, tuple[float, float]]:
    """The axes that hold all frames, so that nothing but the model moves."""
    spans = [span(scene) for scene in scenes]
    x = np.linspace(min(each[0] for each in spans), max(each[-1] for each in spans), len(spans[0]))
    ends = [heights(scene, x) for scene in scenes]
    return x, (min(low for low, _ in ends), max(high for _, high in ends))


def _alone(page: str, title: str) -> str:
    """Matplotlib's player as a whole page without anything from elsewhere."""
    page = re.sub(r"<link\b[^>]*>", "", page)
    page = re.sub(r'<i class="fa fa-([^"]*)"></i>', lambda found: _SIGNS.get(found[1], "•"), page)
    head = f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title></head>\n'
    return f"{head}<body>\n{page}\n</body>\n</html>\n"
