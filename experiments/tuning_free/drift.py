"""What Alignment does to the step size over a long run with mini-batches: does it drift, does it undo a schedule?

python experiments/tuning_free/drift.py --out drift.png

An MLP on the digits of scikit-learn, batches of 32, heavy ball 0.9 with Alignment(rate=0.1), from five lr each
0.001 to 10, with lr constant and with a cosine to zero. Drawn and printed is lr times schedule times factor.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

from proxmom import Alignment, HeavyBall
from proxmom.torch import ProxOptimizer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LRS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
SCHEDULES = {"constant": lambda share: 1.0, "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2}
MARKS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)  # of the run, where the step size is printed


def run(lr: float, schedule: str, steps: int) -> tuple[list[float], float]:
    """lr times schedule times factor at each step, and the loss over all the data at the end."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = ProxOptimizer(model.parameters(), HeavyBall(0.9), lr, step_size=Alignment(rate=0.1))
    first = next(model.parameters())
    sizes = []
    for step in range(steps):
        batch = torch.randint(len(x), (32,))
        optimizer.param_groups[0]["lr"] = lr * SCHEDULES[schedule](step / steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        sizes.append(optimizer.param_groups[0]["lr"] * float(optimizer.state[first]["rule_scale"]))
    with torch.no_grad():
        return sizes, float(nn.functional.cross_entropy(model(x), y))


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The picture.")
@click.option("--steps", default=6000, show_default=True, help="Of each run.")
def main(out: Path, steps: int) -> None:
    torch.set_num_threads(1)
    _, panels = plt.subplots(1, len(SCHEDULES), figsize=(10, 3.6), sharey=True, layout="constrained")
    click.echo(f"{'schedule':10} {'lr':>6}  {'loss':>8}  step size after " + ", ".join(f"{m:.0%}" for m in MARKS))
    for (panel, schedule), lr in tqdm(list(product(zip(panels, SCHEDULES, strict=True), LRS)), disable=None):
        sizes, loss = run(lr, schedule, steps)
        at = "  ".join(f"{np.exp(np.mean(np.log(near(sizes, mark)))):8.2g}" for mark in MARKS)
        tqdm.write(f"{schedule:10} {lr:6g}  {loss:8.2g}  {at}")
        panel.semilogy(np.arange(1, steps + 1), sizes, label=f"lr {lr:g}", linewidth=0.8)
        panel.set(title=f"lr {schedule}", xlabel="step", xscale="log")
    panels[0].set_ylabel("lr · schedule · factor")
    panels[0].legend(fontsize=8)
    plt.savefig(out, dpi=120)


def near(sizes: list[float], mark: float) -> list[float]:
    """The step sizes around that share of the run."""
    middle, half = int(mark * len(sizes)), max(len(sizes) // 200, 1)
    return sizes[max(middle - half, 0) : middle + half]


if __name__ == "__main__":
    main()
