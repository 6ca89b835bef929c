"""The picture of the README: evaluations on 28 instances, of methods with and without anything to tune.

python experiments/tuning_free/picture.py --out docs/pictures/tuning_free.png

From committed results: `counts.csv` here and `../convex/small/runs.csv`, where every method has its best of 24 runs.
"""

from __future__ import annotations

from pathlib import Path

import click
import counts
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TUNED = {  # of the convex study: label
    "heavy ball 0.9": "heavy ball 0.9,\nlr tuned on 24 points",
    "heavy ball, tuned": "heavy ball,\nlr and β tuned on 24",
    "adaptive memory": "adaptive memory,\nlr tuned on 24",
}
FREE = {  # of this folder: label
    "nonlinear CG": "nonlinear CG (SciPy),\nline search",
    'minimize(fun, x0, memory="low")': 'minimize(fun, x0,\nmemory="low"):\nnothing to tune',
    "L-BFGS": "L-BFGS (SciPy),\n10 pairs, line search",
    "L-BFGS, maxcor 20": "L-BFGS (SciPy),\n20 pairs, line search",
    "minimize(fun, x0)": "minimize(fun, x0):\n20 pairs, no line search,\nnothing to tune",
}
COLOURS = dict.fromkeys(("minimize(fun, x0)", 'minimize(fun, x0, memory="low")'), "#0a7d4f")


def found() -> dict[str, dict[str, float]]:
    """Evaluations by method and instance, a miss as ten times the budget."""
    evaluations: dict[str, dict[str, float]] = {method: counts.tuned(method) for method in TUNED}
    for row in counts.read():
        if row.set == "in-sample" and row.method in FREE:
            evaluations.setdefault(row.method, {})[row.instance] = float(row.evaluations or counts.MISS)
    return evaluations


@click.command()
@click.option("--out", default=HERE / "tuning_free.png", type=click.Path(dir_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Draw the ratio to L-BFGS of each method on each instance, and its geometric mean."""
    evaluations, labels = found(), {**TUNED, **FREE}
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for place, method in enumerate(reversed(labels)):
        instances = sorted(evaluations["L-BFGS"])
        ratios = np.array([evaluations[method][name] / evaluations["L-BFGS"][name] for name in instances])
        colour = COLOURS.get(method, "#5b6470")
        spread = np.linspace(-0.22, 0.22, len(ratios))
        axes.scatter(ratios, place + spread, s=12, color=colour, alpha=0.45, linewidths=0)
        mean = float(np.exp(np.log(ratios).mean()))
        axes.plot([mean, mean], [place - 0.36, place + 0.36], color=colour, linewidth=3)
        axes.text(mean * 1.06, place + 0.3, f"{mean:.2f}", color=colour, fontsize=10, fontweight="bold", va="center")
    axes.set_yticks(range(len(labels)), list(reversed(labels.values())), fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(0.6, 20)
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.set_xlabel("evaluations to a relative gap of 1e-6, over L-BFGS's, on 28 convex instances", fontsize=9)
    axes.axvline(1, color="#5b6470", linewidth=0.6, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)
    click.echo(out)


if __name__ == "__main__":
    main()
