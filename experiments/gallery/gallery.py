"""Draws the gallery: the paths of all rules from several starts, every rule with the same step sizes.

    python experiments/gallery/gallery.py [FOLDER]

One picture for each function of `proxmom draw`, and steps.csv with the numbers above the panels.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proxmom import AdaptiveMemory, GradientDescent, HeavyBall, MoMo, Polyak, TruncatedMemory
from proxmom.draw import FUNCTIONS, canvas
from proxmom.draw.functions import Function
from proxmom.draw.paths import Trace, grid_of, run
from proxmom.rules import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULES = {
    "gradient descent": GradientDescent(),
    "heavy ball 0.9": HeavyBall(0.9),
    "adaptive memory": AdaptiveMemory(beta_max=0.9),
    "Polyak": Polyak(lower_bound=0.0),
    "MoMo 0.9": MoMo(lower_bound=0.0, beta=0.9),
    "truncated memory": TruncatedMemory(lower_bound=0.0),
    "truncated memory,\nlinearised height": TruncatedMemory(lower_bound=0.0, height="linearised"),
}
STARTS = {
    "quadratic": [(-1.0, 4.0), (3.4, -1.4), (-3.2, -2.8)],
    "rosenbrock": [(-1.2, 1.0), (1.4, -0.6), (-0.4, 2.0)],
    "himmelblau": [(0.3, 4.4), (-0.5, -0.5), (4.6, -4.4)],
}
FACTORS = (0.25, 1.0, 4.0, 16.0)  # of the function's own lr, with which every rule goes down
STEPS = 500
TARGET = 1e-4
COLOURS = (canvas.BLUE, canvas.VERMILLION, canvas.GREEN)
ABOVE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
FAR = 1e6  # the renderer breaks on coordinates like 1e100


def count(trace: Trace) -> str:
    """Steps until f - f* is at most TARGET; "div." or "miss" where it never is."""
    reached = np.flatnonzero(trace.values <= TARGET)
    return str(reached[0]) if reached.size else "div." if trace.diverged else "miss"


def traces(name: str) -> dict[tuple[str, float], list[Trace]]:
    """The runs on a function by rule and lr, one for each start."""
    function, starts = FUNCTIONS[name], np.array(STARTS[name])
    return {
        (rule, function.lr * factor): [
            run(function, RULES[rule], start, {"lr": function.lr * factor, "max_iter": STEPS}) for start in starts
        ]
        for rule in RULES
        for factor in FACTORS
    }


def picture(function: Function, found: dict[tuple[str, float], list[Trace]]) -> Figure:
    """Rules from top to bottom, lr from left to right."""
    with canvas.style():
        figure = canvas.blank(9.6, 2.3 * len(RULES) + 1.0)
        axes = figure.subplots(len(RULES), len(FACTORS), sharex=True, sharey=True)
        for place, paths in zip(axes.flat, found.values(), strict=True):
            draw_panel(place, function, paths)
        for place, factor in zip(axes[0], FACTORS, strict=True):
            place.annotate(
                f"lr = {function.lr * factor:g}", (0.5, 1.0), xytext=(0, 26), ha="center", weight="bold", **ABOVE
            )
        for place, rule in zip(axes[:, 0], RULES, strict=True):
            place.set_ylabel(rule, fontsize=11)
        title = f"{function.name[0].upper()}{function.name[1:]}: steps to $f - f^\\star \\leq$ {TARGET:g}"
        figure.suptitle(title, fontsize=13)
    return figure


def draw_panel(axes: Axes, function: Function, paths: list[Trace]) -> None:
    """Contours and a path for each start, in its colour; above them its number of steps, in the same colour."""
    left, right, bottom, top = function.view
    axes.contour(*grid_of(function, function.view), levels=function.levels, colors="#c4c8cc", linewidths=0.5)
    axes.scatter(*function.minimisers.T, marker="*", s=90, color=canvas.INK, linewidths=0, zorder=5)
    for number, (trace, colour) in enumerate(zip(paths, COLOURS, strict=True)):
        points = np.clip(trace.points, -FAR, FAR)
        axes.plot(*points.T, color=colour, linewidth=0.8, marker=".", markersize=2.5, alpha=0.85, zorder=3)
        axes.scatter(*points[0], s=34, color="white", edgecolors=colour, linewidths=1.6, zorder=6)
        axes.annotate(
            count(trace), ((2 * number + 1) / 6, 1.0), xytext=(0, 4), ha="center", color=colour, fontsize=10, **ABOVE
        )
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=8, length=2)
    axes.spines[:].set_visible(True)


def write_table(found: dict[str, dict[tuple[str, float], list[Trace]]], out: Path) -> None:
    """A row for each run; at_cap: the share of steps with the largest weight on memory that the rule allows."""
    with out.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["function", "rule", "lr", "x1", "x2", "steps", "last_value", "end_x1", "end_x2", "at_cap"])
        for name, runs in found.items():
            for (rule, lr), paths in runs.items():
                cap = Facts.of(RULES[rule]).beta_max
                for start, trace in zip(STARTS[name], paths, strict=True):
                    end = [trace.values[-1], *trace.points[-1], np.mean(trace.beta >= cap * (1 - 1e-9)) if cap else 0]
                    shown = [f"{value:.3g}" for value in end]
                    writer.writerow([name, rule.replace("\n", " "), f"{lr:g}", *start, count(trace), *shown])


def write_picture(figure: Figure, out: Path) -> None:
    """A PNG with a palette, a third of the size of one without."""
    from PIL import Image

    figure.savefig(out, dpi=110, facecolor="white")
    with Image.open(out) as full:
        small = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(out, optimize=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: traces(name) for name in FUNCTIONS}
    write_table(found, folder / "steps.csv")
    for name, runs in found.items():
        write_picture(picture(FUNCTIONS[name], runs), folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
