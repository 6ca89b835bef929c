"""Every method on every full-batch problem, from fifteen starts: the loss after equal evaluations, and in seconds.

\b
    python experiments/full_batch/compare.py            # runs what runs.csv has not yet
    python experiments/full_batch/compare.py --tables   # runs nothing: table.txt and the picture again

Writes runs.csv, curves.csv, table.txt and full_batch.png. It may be stopped at any time, and goes on from there.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import methods
import numpy as np
import picture
import rows
import summaries
import torch
from methods import ADAM, AGAIN, LRS, METHODS, OWN, Watch
from problems import PROBLEMS, Problem
from rows import HERE, SEARCH, Point, Row
from summaries import MODES, ROUNDS


class Job(NamedTuple):
    """A run to be made; lr is Adam's, None for the best of its search."""

    problem: str
    method: str
    lr: float | None
    seed: int


def jobs(names: list[str], seeds: int) -> list[Job]:
    """In this order: the two modes of L-BFGS say what the others are to reach, Adam's search what its lr is."""
    searches = [Job(name, ADAM, lr, SEARCH) for name in names for lr in LRS]
    others = [method for method in (AGAIN, *METHODS) if method not in MODES]
    return searches + [
        Job(name, method, None, seed)
        for name in names
        for made in ROUNDS
        for methods in (MODES, others)
        for seed in made.starts
        if seed < seeds
        for method in methods
    ]


def done(job: Job, found: list[Row]) -> bool:
    """Whether there is a row of it already."""
    same = [row for row in found if (row.problem, row.method, row.seed) == (job.problem, job.method, job.seed)]
    return any(job.seed != SEARCH or np.isclose(row.lr, job.lr) for row in same)


def goal(job: Job, found: list[Row]) -> float | None:
    """The loss of the better mode of L-BFGS from the same start; None for those modes, and where both failed."""
    if job.method in MODES or job.seed == SEARCH:
        return None
    better = summaries.better(found, job.problem, job.seed)
    return None if better is None else rows.slack(better.loss)


def first(losses: np.ndarray, limit: float | None) -> int | None:
    """After how many evaluations the loss is first no larger; None for never."""
    hits = np.flatnonzero(losses <= limit) if limit is not None else np.array([])
    return int(hits[0]) + 1 if hits.size else None


def execute(job: Job, problem: Problem, found: list[Row]) -> tuple[Row, list[Point]]:
    """Makes a run: its row, and its curve at about forty numbers of evaluations."""
    starts = next((made.starts for made in ROUNDS if job.seed in made.starts), None)
    usual = summaries.typical(found, job.problem, starts) if starts and job.method not in MODES else None
    method, lr = METHODS[usual.mode if usual and job.method == AGAIN else job.method], job.lr
    if job.method == ADAM:
        lr = summaries.best_lr(found, job.problem) if lr is None else lr
        method = partial(method, lr=lr)
    budget = problem.budget
    watch = Watch(*problem.start(job.seed), budget * (2 if job.method in OWN else 1))
    ended = methods.run(watch, method)
    least = np.array(list(accumulate((v if np.isfinite(v) else np.inf for v in watch.values), min)))
    loss = float(least[:budget][-1])
    settled, reached = first(least, rows.slack(loss)), first(least, goal(job, found))
    typical = first(least[:budget], None if usual is None else rows.slack(usual.loss))
    times = [None if n is None else watch.seconds[n - 1] for n in (settled, reached)]
    early = ended in (methods.CONVERGED, methods.TOLD, methods.STUCK)
    count = min(budget, len(least))
    figures = (watch.values[0], loss, count, watch.seconds[count - 1], settled, times[0], reached, times[1])
    row = Row(job.problem, job.method, lr, job.seed, *figures, ended, methods.left(watch) if early else None, typical)
    grid = sorted({int(n) for n in np.geomspace(1, budget, 40)})
    curve = [Point(job.problem, job.method, job.seed, n, float(least[min(n, len(least)) - 1])) for n in grid]
    return row, [] if job.seed == SEARCH or job.method == AGAIN else curve


def tell(folder: Path) -> None:
    """Writes table.txt and the picture, and prints the table."""
    text = summaries.table(rows.read(folder))
    (folder / "table.txt").write_text(text, encoding="utf-8")
    picture.draw(rows.read_curves(folder), folder / "full_batch.png")
    click.echo(text, nl=False)


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(PROBLEMS)), help="Only this problem; may be repeated.")
@click.option("--seeds", default=15, show_default=True, type=click.IntRange(1, SEARCH), help="Starts of each problem.")
@click.option("--budget", type=click.IntRange(2), help="Evaluations, instead of each problem's own number.")
@click.option("--out", default=HERE, type=click.Path(file_okay=False, path_type=Path), help="Folder of the files.")
@click.option("--tables", is_flag=True, help="Nothing is run: table.txt and the picture again.")
def main(only: tuple[str, ...], seeds: int, budget: int | None, out: Path, tables: bool) -> None:
    """See the module."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    found = rows.read(out)
    wanted = [] if tables else [job for job in jobs(list(only or PROBLEMS), seeds) if not done(job, found)]
    with click.progressbar(wanted, label="runs", item_show_func=lambda job: " ".join(map(str, job or ()))) as bar:
        for job in bar:
            problem = PROBLEMS[job.problem]
            problem = problem if budget is None else Problem(problem.name, budget, problem.start)
            row, curve = execute(job, problem, found)
            if curve:
                rows.append(out / "curves.csv", curve)
            rows.append(out / "runs.csv", [row])
            found.append(row)
    tell(out)


if __name__ == "__main__":
    main()
