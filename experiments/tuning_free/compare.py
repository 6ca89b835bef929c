"""Every variant and rival on every instance, from several first steps: evaluations to a relative gap of 1e-6.

    python experiments/tuning_free/compare.py [--jobs N]
    python experiments/tuning_free/compare.py --tables
    python experiments/tuning_free/compare.py [--set in-sample] [--only CG_DESCENT --only BFGS] [--every 3]

The first writes counts.csv (one row for each instance, method and first step) and table.txt beside this file, the
second only table.txt, from counts.csv. With --set, --only or --every parts of it are run, and nothing is written.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import rivals
import variants
from threadpoolctl import threadpool_limits

from proxmom.study.plan.config import load_study
from proxmom.study.problems.collection import build_problem
from proxmom.study.report.statistics import geometric_mean

HERE = Path(__file__).resolve().parent
SETS = {"in-sample": HERE.parent / "convex" / "small.toml", "held-out": HERE / "heldout.toml"}
TARGET, BUDGET = 1e-6, 3000
MISS = 10 * BUDGET  # what a miss counts in means
WIDE, NARROW, FLOOR = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6), (1e-3, 1e3), (1e6,)  # first lr, in units of 1/L
FIELDS = ("set", "instance", "method", "first", "evaluations")
OWN = "minimize(fun, x0)"


class Row(NamedTuple):
    """One run; evaluations is empty for a miss."""

    set: str
    instance: str
    method: str
    first: float | None
    evaluations: int | None


class _Enough(Exception):
    pass


class Counter:
    """f and gradient, counted; ends the run at the target or the budget."""

    def __init__(self, problem: Any) -> None:
        self.fun, self.count, self.reached = problem.fun, 0, False
        self.target = problem.optimum + TARGET * (problem.fun(problem.x0)[0] - problem.optimum)

    def __call__(self, x: Any) -> tuple[float, Any]:
        if self.count >= BUDGET:
            raise _Enough
        self.count += 1
        with np.errstate(all="ignore"):
            value, gradient = self.fun(x)
        if value <= self.target:
            self.reached = True
            raise _Enough
        return float(value), gradient


def count(problem: Any, run: Any) -> int | None:
    """Evaluations to the target of run(fun, x0); None for a miss."""
    counter = Counter(problem)
    with contextlib.suppress(_Enough):
        run(counter, problem.x0.copy())
    return counter.count if counter.reached else None


def every_method() -> list[str]:
    """Every method of the table."""
    own = [OWN, *variants.MAIN, *variants.VARIANTS, *variants.truncated(0.0)]
    return [*rivals.SCIPY, *rivals.RIVALS, *rivals.GIVEN_L, *rivals.BEST_OF, *own]


def rival_rows(which: str, problem: Any, wanted: set[str]) -> list[Row]:
    """SciPy's and the other rivals, from their own first step or from 1/L; the tuned ones only in the sample."""
    rows, lr = [], 1 / problem.smoothness
    for name, method in {**rivals.SCIPY, **rivals.RIVALS}.items():
        if name in wanted:
            rows.append(Row(which, problem.name, name, None, count(problem, method)))
    for name, method in rivals.GIVEN_L.items():
        if name in wanted:
            rows.append(Row(which, problem.name, name, 1.0, count(problem, lambda f, x, m=method: m(f, x, lr))))
    for name, tuned in rivals.BEST_OF.items():
        if name in wanted and which == "in-sample":
            found = [count(problem, lambda f, x, m=method: m(f, x, lr)) for method in tuned]
            best = min((n for n in found if n is not None), default=None)
            rows.append(Row(which, problem.name, name, None, best))
    return rows


def methods(which: str, optimum: float) -> list[tuple[str, Any, Iterable[float]]]:
    """Name, method and first steps, but for SciPy's and the default; held out, only those that were chosen."""
    rows: list[tuple[str, Any, Iterable[float]]] = [(name, method, WIDE) for name, method in variants.MAIN.items()]
    if which == "held-out":
        return rows
    rows += [(name, method, NARROW) for name, method in variants.VARIANTS.items()]
    return rows + [(name, method, FLOOR) for name, method in variants.truncated(optimum).items()]


def measure(job: tuple[str, str, dict[str, Any], set[str]]) -> list[Row]:
    """All wanted rows of one instance."""
    which, kind, arguments, wanted = job
    with threadpool_limits(1):
        problem = build_problem(kind, None, **arguments)
        rows = rival_rows(which, problem, wanted)
        if OWN in wanted:
            rows += [Row(which, problem.name, OWN, None, count(problem, lambda f, x: variants.default(f, x, 1.0)))]
        for name, method, firsts in methods(which, problem.optimum):
            for first in firsts if name in wanted else ():
                lr = first / problem.smoothness
                evaluations = count(problem, lambda f, x, m=method, s=lr: m(f, x, s))
                rows.append(Row(which, problem.name, name, first, evaluations))
    return rows


def summary(rows: list[Row]) -> list[str]:
    """For each set and method: geometric means of ratios, worst instance, misses."""
    lines: list[str] = []
    for which in dict.fromkeys(row.set for row in rows):
        mine = [row for row in rows if row.set == which]
        base = {name: {r.instance: r.evaluations for r in mine if r.method == name} for name in rivals.SCIPY}
        instances = len(base["L-BFGS"])
        lines += [
            f"{which}, {instances} instances",
            f"{'':47}{'/L-BFGS':>9}{'/CG':>7}{'worst':>8}{'> 5':>6}{'missed':>8}{'runs':>6}",
        ]
        for name in dict.fromkeys(row.method for row in mine):
            runs = [(r.instance, MISS if r.evaluations is None else r.evaluations) for r in mine if r.method == name]
            over = {b: [n / (base[b][i] or MISS) for i, n in runs] for b in base}
            mean, cg = (math.exp(sum(map(math.log, over[b])) / len(runs)) for b in base)
            worst, above = max(over["L-BFGS"]), sum(x > 5 for x in over["L-BFGS"])
            missed = sum(n == MISS for _, n in runs)
            lines.append(f"{name:47}{mean:9.2f}{cg:7.2f}{worst:8.2f}{above:6d}{missed:8d}{len(runs):6d}")
        lines.append("")
    return lines


def table(rows: list[Row]) -> str:
    """The summary, what the claim is about, and the main methods by first step and by instance."""
    return "\n".join([*summary(rows), *claims(rows), "", *by_first(rows), "", *by_instance(rows)]) + "\n"


def claims(rows: list[Row]) -> list[str]:
    """What the claim is about, with 95% bootstrap intervals over instances."""
    chosen = ((OWN, "L-BFGS"), (OWN, "nonlinear CG"), (next(iter(variants.MAIN)), "L-BFGS"))
    lines = [f"{'geometric mean, and its 95% interval over instances':66}{'mean':>6}{'from':>7}{'to':>7}"]
    for which in SETS:
        for name, base in chosen:
            of = {r.instance: r.evaluations or MISS for r in rows if (r.set, r.method) == (which, base)}
            logs: dict[str, list[float]] = {instance: [] for instance in of}
            for r in rows:
                if (r.set, r.method) == (which, name):
                    logs[r.instance].append(math.log((r.evaluations or MISS) / of[r.instance]))
            found = geometric_mean(np.exp([np.mean(each) for each in logs.values()]))
            label = f"{which}, {name} over {base}"
            lines.append(f"{label:66}{found.mean:6.2f}{found.low:7.2f}{found.high:7.2f}")
    return lines


def by_first(rows: list[Row]) -> list[str]:
    """The main methods, by the length of the first step: geometric mean over L-BFGS."""
    lines = ["first lr, in units of 1/L" + " " * 33 + "".join(f"{first:8.0e}" for first in WIDE)]
    for which in SETS:
        base = {r.instance: r.evaluations for r in rows if r.set == which and r.method == "L-BFGS"}
        for name in variants.MAIN:
            line = f"{which + ', ' + name:57} "
            for first in WIDE:
                runs = [r for r in rows if (r.set, r.method, r.first) == (which, name, first)]
                logs = [math.log((r.evaluations or MISS) / (base[r.instance] or MISS)) for r in runs]
                line += f"{math.exp(sum(logs) / len(logs)):8.2f}"
            lines.append(line)
    return lines


def by_instance(rows: list[Row]) -> list[str]:
    """The default beside SciPy's."""
    names = (OWN, "L-BFGS", "nonlinear CG")
    found = {(r.set, r.instance, r.method): r.evaluations for r in rows if r.method in names}
    lines = [f"{'':62}" + "".join(f"{name:>18}" for name in names)]
    for which, instance in dict.fromkeys((r.set, r.instance) for r in rows):
        counts = [found[which, instance, name] for name in names]
        lines.append(f"{instance:62}" + "".join(f"{'miss' if n is None else n:>18}" for n in counts))
    return lines


def read() -> list[Row]:
    """The rows of counts.csv."""
    with (HERE / "counts.csv").open(newline="") as file:
        return [
            Row(which, instance, method, float(first) if first else None, int(found) if found else None)
            for which, instance, method, first, found in list(csv.reader(file))[1:]
        ]


def tell(rows: list[Row]) -> None:
    """Writes table.txt, and prints it."""
    (HERE / "table.txt").write_text(table(rows))
    print(table(rows), end="")


def jobs(options: argparse.Namespace) -> list[tuple[str, str, dict[str, Any], set[str]]]:
    """An entry for each instance that was asked for, with the methods wanted; SciPy's always, to compare with."""
    wanted = {*options.only, *rivals.SCIPY} if options.only else set(every_method())
    return [
        (which, problem.kind, dict(problem.arguments), wanted)
        for which, path in SETS.items()
        if options.set in (None, which)
        for problem in load_study(path).problems[:: options.every]
    ]


def main() -> None:
    only = "only this method, beside SciPy's; may be given again; nothing is written"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--set", choices=list(SETS), help="only these instances; nothing is written")
    parser.add_argument("--only", action="append", choices=every_method(), metavar="METHOD", help=only)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth instance; nothing is written")
    parser.add_argument("--tables", action="store_true", help="nothing is run: table.txt again, from counts.csv")
    options = parser.parse_args()
    if options.tables:
        return tell(read())
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = [row for found in pool.map(measure, jobs(options)) for row in found]
    if options.only or options.every > 1:
        return print("\n".join(summary(rows)))
    if options.set:
        SETS.pop(next(iter(SETS.keys() - {options.set})))
        return print(table(rows))
    with (HERE / "counts.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(rows)
    return tell(rows)


if __name__ == "__main__":
    main()
