"""
A study in a notebook
=====================

From one run to a fair comparison, in cells. Results, checks and figures show themselves where they are the last line of
a cell, without pyplot and without a magic command.
"""

# %%
# One run
# -------
#
# A valley twenty times as steep one way as the other. `minimize` returns SciPy's result. Of its history the
# shapes are shown.

from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from proxmom import AdaptiveMemory, HeavyBall
from proxmom.draw import draw_model, draw_path
from proxmom.numpy import minimize
from proxmom.study.run.runner import run_study
from proxmom.verify import check_rule


def valley(x):
    return 10 * x[0] ** 2 + x[1] ** 2 / 2, np.array([20 * x[0], x[1]])


result = minimize(valley, np.array([3.0, 2.0]), AdaptiveMemory(), lr=0.05)
result

# %%
# The paths of two rules from the same start, with as many steps, the weight on memory as the colour:

draw_path([AdaptiveMemory(), HeavyBall(0.9)], valley, lr=0.05, starts=[3.0, 2.0], steps=30)

# %%
# And one step: the planes, their maximum, and where the step goes.

draw_model(AdaptiveMemory())

# %%
# Is the step right?
# ------------------
#
# A convex solver that knows nothing of this package is asked about the same states.

check_rule(AdaptiveMemory(), trials=5)

# %%
# A fair comparison
# -----------------
#
# A study gives every method as many points to search. Its file is written here, so that this page is whole by itself;
# usually it lies beside the notebook.

folder = Path(mkdtemp())
size = (folder / "small.toml").write_text(
    """
[study]
name = "small"
claim = "Adaptive memory needs fewer evaluations than heavy ball, both with lr tuned on as many points."
points = 8
max_evaluations = 600
target = 1e-4
reference = "heavy ball"

[[problem]]
kind = "quadratic"
condition = [30, 100, 300]
n = 20

[[method]]
name = "heavy ball"
rule = "HeavyBall"
search = {lr = {low = 1, high = 1e3, scale = "log"}}

[[method]]
name = "adaptive memory"
rule = "AdaptiveMemory"
search = {lr = {low = 1, high = 1e3, scale = "log"}}
""",
    encoding="utf-8",
)

# %%
# While it runs, a notebook shows a bar below the cell. What comes back is the folder of the results, with its
# table, its runs and its pictures.

study = run_study(folder / "small.toml", out=folder / "results", jobs=1)
study.table

# %%
study.figure("convergence")

# %%
# The same curve for a paper is `study.figure("convergence").savefig("convergence.pdf")`; `study.curves` has the numbers
# behind it, and `study.report()` writes the page. What may be in the file stands in :doc:`/study`.

len(study.runs), len(study.curves)
