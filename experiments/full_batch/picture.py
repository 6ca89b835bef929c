"""The picture of the README: the loss against evaluations, a panel for each problem, the median of the starts."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from methods import ADAM, CG, FEWER, LESS, MANY, MOST, OURS, PLAIN, WOLFE
from problems import PROBLEMS
from rows import Point

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {
    WOLFE: ("#c05a1e", "-"),
    PLAIN: ("#c05a1e", ":"),
    FEWER: ("#c05a1e", "--"),
    MANY: ("#c05a1e", "-."),
    CG: ("#7a5aa8", "-"),
    ADAM: ("#5b6470", "-"),
    LESS: ("#0a7d4f", "--"),
    OURS: ("#0a7d4f", "-"),
    MOST: ("#0a7d4f", "-."),
}
FLOORS = {"Lennard-Jones cluster": -44.326801, "matrix factorisation": 0.0}  # the least there can be, where known
CONVEX = ("logistic regression", "softmax regression")  # where the least loss that any run found is the least there is
LEAST = 1e-8  # of the losses shown: below it all are rounding, of the rows too, or the limit of a tolerance


def median(found: list[Point], problem: str, method: str) -> tuple[list[int], np.ndarray]:
    """Numbers of evaluations, and the median loss after so many."""
    points = [point for point in found if (point.problem, point.method) == (problem, method)]
    grid = sorted({point.evaluations for point in points})
    return grid, np.array([np.median([p.loss for p in points if p.evaluations == n]) for n in grid])


def draw(found: list[Point], out: Path) -> None:
    """Draws the problems that there are points of."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained")
    names = [name for name in PROBLEMS if any(point.problem == name for point in found)]
    for panel, name in zip(axes.flat, names, strict=False):
        curves = {method: median(found, name, method) for method in STYLES}
        shown = np.concatenate([losses for _, losses in curves.values()])
        floor = FLOORS.get(name, min(p.loss for p in found if p.problem == name) if name in CONVEX else 0.0)
        for method, (grid, losses) in curves.items():
            colour, line = STYLES[method]
            gap = np.maximum(losses - floor, LEAST)
            panel.loglog(grid, gap, line, color=colour, linewidth=2 if method == OURS else 1.2, label=method)
        panel.set_title(name + (f", above {floor:.4g}" if floor else ""), fontsize=9)
        panel.set_ylim(top=min(float(np.nanmax(shown - floor)) * 2, 1e4))
    for panel in axes.flat[len(names) :]:
        panel.axis("off")
    for panel in axes[-1]:
        panel.set_xlabel("evaluations", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].legend(handles, labels, loc="center", frameon=False)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    plt.close(figure)
