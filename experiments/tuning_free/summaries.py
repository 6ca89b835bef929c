"""table.txt, made of the rows of counts.csv: means, what the claim is about, first steps, single instances.

An instance on which the method compared with missed has no ratio: it is left out of means and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import rivals
import variants
from counts import GAP, MISS, Row, tuned

from proxmom.study.report.statistics import geometric_mean

Case = tuple[str, str]  # a set and a measure
LBFGS, CG = rivals.SCIPY
LARGER = "L-BFGS, maxcor 20"  # as many pairs as the default of minimize
TUNED = "heavy ball, tuned"  # lr and beta, in the convex study
CLAIMS = (
    *((name, LBFGS) for name in variants.DEFAULTS),
    (variants.OWN, LARGER),
    (variants.OWN, CG),
    (variants.LOW, CG),
    *((name, LBFGS) for name in variants.MAIN),
)


def table(rows: list[Row]) -> str:
    """Everything, as text."""
    parts: tuple[Callable[[list[Row]], list[str]], ...] = (summary, missing, claims, by_first, by_instance)
    return "\n\n".join("\n".join(part(rows)) for part in parts) + "\n"


def cases(rows: Iterable[Row]) -> list[Case]:
    """The sets and measures that there are rows of."""
    return list(dict.fromkeys((row.set, row.measure) for row in rows))


def ratios(rows: Iterable[Row], case: Case, name: str, base: str) -> dict[str, list[float]]:
    """Evaluations over those of `base`, run by run, for each instance on which that met the measure."""
    mine = [row for row in rows if (row.set, row.measure) == case]
    of = {row.instance: row.evaluations for row in mine if row.method == base}
    found: dict[str, list[float]] = {instance: [] for instance in of}
    for row in mine:
        below = of.get(row.instance)
        if row.method == name and below is not None:
            found[row.instance].append((row.evaluations or MISS) / below)
    return {instance: each for instance, each in found.items() if each}


def summary(rows: list[Row]) -> list[str]:
    """For each set, measure and method: geometric means of ratios, worst run, misses."""
    lines: list[str] = []
    for case in cases(rows):
        mine = [row for row in rows if (row.set, row.measure) == case]
        instances = len({row.instance for row in mine})
        lines += [
            f"{', '.join(case)}, {instances} instances",
            f"{'':47}{'/L-BFGS':>9}{'/CG':>7}{'worst':>8}{'> 5':>6}{'missed':>8}{'runs':>6}",
        ]
        for name in dict.fromkeys(row.method for row in mine):
            runs = [row.evaluations for row in mine if row.method == name]
            over, cg = (_runs(mine, case, name, base) for base in (LBFGS, CG))
            worst, above = max(over, default=math.nan), sum(x > 5 for x in over)
            means = f"{_mean(over):9.2f}{_mean(cg):7.2f}"
            lines.append(f"{name:47}{means}{worst:8.2f}{above:6d}{runs.count(None):8d}{len(runs):6d}")
        lines.append("")
    return lines[:-1]


def _runs(rows: Iterable[Row], case: Case, name: str, base: str) -> list[float]:
    return [x for each in ratios(rows, case, name, base).values() for x in each]


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def missing(rows: list[Row]) -> list[str]:
    """The instances without a ratio to L-BFGS, and who met the measure there from a first step of its own."""
    lines = ["without a ratio, because L-BFGS missed, and who did not"]
    for row in rows:
        if row.method == LBFGS and row.evaluations is None:
            same = [r for r in rows if (r.set, r.measure, r.instance) == (row.set, row.measure, row.instance)]
            others = [f"{r.method} {r.evaluations}" for r in same if r.evaluations is not None and r.first is None]
            lines.append(f"{row.set}, {row.measure}, {row.instance}: {'; '.join(others) or 'none'}")
    return lines


def claims(rows: list[Row]) -> list[str]:
    """What the claim is about, with 95% bootstrap intervals over instances; misses where the other one did not."""
    title = "geometric mean, and its 95% interval over instances"
    lines = [f"{title:80}{'mean':>6}{'from':>7}{'to':>7}{'worst':>8}{'missed':>8}"]
    for case in cases(rows):
        for name, base in CLAIMS:
            found = ratios(rows, case, name, base)
            kept = [r for r in rows if (r.set, r.measure, r.method) == (*case, name) and r.instance in found]
            if found:
                missed = sum(row.evaluations is None for row in kept)
                lines.append(_claim(f"{', '.join(case)}, {name} over {base}", found, missed))
    best, sample = tuned(TUNED), ("in-sample", GAP)
    for name in (variants.OWN, variants.LOW):
        own = [row for row in rows if (row.set, row.measure, row.method) == (*sample, name)]
        found = {row.instance: [(row.evaluations or MISS) / best[row.instance]] for row in own}
        if found:
            missed = sum(row.evaluations is None for row in own)
            lines.append(_claim(f"{', '.join(sample)}, {name} over {TUNED} on 24", found, missed))
    return lines


def _claim(label: str, found: dict[str, list[float]], missed: int) -> str:
    mean = geometric_mean(np.exp([np.mean(np.log(each)) for each in found.values()]))
    worst = max(max(each) for each in found.values())
    return f"{label:80}{mean.mean:6.2f}{mean.low:7.2f}{mean.high:7.2f}{worst:8.2f}{missed:8d}"


def by_first(rows: list[Row]) -> list[str]:
    """The main methods, by the length of the first step: geometric mean over L-BFGS."""
    firsts = sorted({row.first for row in rows if row.method in variants.MAIN and row.first is not None})
    lines = [f"{'first lr, in units of 1/L':58}" + "".join(f"{first:8.0e}" for first in firsts)]
    for case in cases(rows):
        for name in variants.MAIN:
            line = f"{', '.join((*case, name)):58}"
            for first in firsts:
                chosen = [row for row in rows if row.method == LBFGS or (row.method, row.first) == (name, first)]
                line += f"{_mean(_runs(chosen, case, name, LBFGS)):8.2f}"
            lines.append(line)
    return lines


def by_instance(rows: list[Row]) -> list[str]:
    """The defaults beside SciPy's."""
    names = (variants.OWN, variants.LOW, LBFGS, CG)
    titles = ("minimize", "... low", LBFGS, CG)
    lines = []
    for case in cases(rows):
        mine = [row for row in rows if (row.set, row.measure) == case]
        found = {(r.instance, r.method): r.evaluations for r in mine if r.method in names}
        lines += [f"{', '.join(case):62}" + "".join(f"{title:>14}" for title in titles)]
        for instance in dict.fromkeys(row.instance for row in mine):
            counts = [found.get((instance, name)) for name in names]
            lines.append(f"{instance:62}" + "".join(f"{'miss' if n is None else n:>14}" for n in counts))
        lines.append("")
    return lines[:-1]
