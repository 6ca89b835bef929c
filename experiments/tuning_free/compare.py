"""Every variant and rival on every instance, from several first steps: evaluations to a relative 1e-6.

    python experiments/tuning_free/compare.py [--jobs N]
    python experiments/tuning_free/compare.py --tables
    python experiments/tuning_free/compare.py [--set in-sample] [--only CG_DESCENT --only BFGS] [--every 3]

The first writes counts.csv (one row for each instance, method, first step and measure) and table.txt beside this
file, the second only table.txt, from counts.csv. With --set, --only or --every parts of it are run, and neither is
written. It may be stopped at any time: instances that are done are kept in results/tuning-free.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import rivals
import summaries
import variants
from counts import HERE, MEASURES, SETS, Row, count, read, write
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from proxmom.study.plan.config import load_study
from proxmom.study.problems.collection import build_problem
from proxmom.study.run.parts import kept

WIDE, NARROW, FLOOR = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6), (1e-3, 1e3), (1e6,)  # first lr, in units of 1/L
DENSE = {"BFGS"}  # n² numbers, and n reaches 10000 in the non-convex set
Entry = tuple[str, float | None, Any]  # a method's name, its first lr in units of 1/L, and what to run


def every_method() -> list[str]:
    """Every method of the table."""
    own = [*variants.DEFAULTS, *variants.MAIN, *variants.VARIANTS, *variants.truncated(0.0)]
    return [*rivals.SCIPY, *rivals.RIVALS, *rivals.GIVEN_L, *rivals.BEST_OF, *own]


def rival_entries(which: str, lr: float) -> list[Entry]:
    """SciPy's and the other rivals, from their own first step or, where all is convex, from 1/L."""
    own = {**rivals.SCIPY, **rivals.RIVALS}
    if which == "non-convex":
        return [(name, None, method) for name, method in own.items() if name not in DENSE]
    given = [(name, 1.0, lambda f, x, m=method: m(f, x, lr)) for name, method in rivals.GIVEN_L.items()]
    return [*((name, None, method) for name, method in own.items()), *given]


def own_entries(which: str, problem: Any) -> list[Entry]:
    """The defaults, and what takes a first step; the variants that were not chosen in the sample only."""
    sets: list[tuple[dict[str, Any], Iterable[float]]] = [(variants.MAIN, WIDE)]
    if which == "in-sample":
        sets += [(variants.VARIANTS, NARROW), (variants.truncated(problem.optimum), FLOOR)]
    given = [
        (name, first, lambda f, x, m=method, s=first / problem.smoothness: m(f, x, s))
        for methods, firsts in sets
        for name, method in methods.items()
        for first in firsts
    ]
    return [*((name, None, method) for name, method in variants.DEFAULTS.items()), *given]


def tuned_rows(which: str, problem: Any, wanted: set[str]) -> list[Row]:
    """Rivals that their authors tune: for each instance the best run; only in the sample."""
    rows, lr = [], 1 / problem.smoothness
    for name, tuned in rivals.BEST_OF.items():
        if name in wanted and which == "in-sample":
            for k, measure in enumerate(MEASURES[which]):
                found = [count(problem, lambda f, x, m=m: m(f, x, lr), MEASURES[which])[k] for m in tuned]
                best = min((n for n in found if n is not None), default=None)
                rows.append(Row(which, problem.name, name, None, measure, best))
    return rows


def measure(job: tuple[str, str, dict[str, Any], set[str]]) -> list[Row]:
    """All wanted rows of one instance."""
    which, kind, arguments, wanted = job
    with threadpool_limits(1):
        problem = build_problem(kind, None, **arguments)
        rows = []
        for name, first, method in [*rival_entries(which, 1 / problem.smoothness), *own_entries(which, problem)]:
            if name in wanted:
                found = zip(MEASURES[which], count(problem, method, MEASURES[which]), strict=True)
                rows += [Row(which, problem.name, name, first, measure, n) for measure, n in found]
        return rows + tuned_rows(which, problem, wanted)


def jobs(options: argparse.Namespace) -> list[tuple[str, str, dict[str, Any], set[str]]]:
    """An entry for each instance that was asked for, with the methods wanted; SciPy's always, to compare with."""
    wanted = {*options.only, *rivals.SCIPY} if options.only else set(every_method())
    return [
        (which, problem.kind, dict(problem.arguments), wanted)
        for which, path in SETS.items()
        if options.set in (None, which)
        for problem in load_study(path).problems[:: options.every]
    ]


def tell(rows: list[Row]) -> None:
    """Writes table.txt, and prints it."""
    (HERE / "table.txt").write_text(summaries.table(rows))
    print(summaries.table(rows), end="")


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
    work = jobs(options)
    with ProcessPoolExecutor(options.jobs) as pool:
        parts = pool.map(kept(measure, HERE.parents[1] / "results" / "tuning-free"), work)
        rows = [row for found in tqdm(parts, total=len(work), disable=None, desc="instances") for row in found]
    if options.only or options.every > 1 or options.set:
        return print("\n".join([*summaries.summary(rows), "", *summaries.missing(rows), "", *summaries.claims(rows)]))
    write(rows)
    return tell(rows)


if __name__ == "__main__":
    main()
