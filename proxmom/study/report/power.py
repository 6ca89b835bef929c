"""How small a difference a training study can tell, by its own variance: how many final seeds, and what else spreads.

More final seeds narrow the mean of one point. Which point that is, the search has chosen by few seeds: another choice
is another mean, and no final seed tells. Both are estimated from the runs of the study, on logarithms of losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, log1p, sqrt
from pathlib import Path
from textwrap import fill

import numpy as np

from proxmom.columns import columns
from proxmom.study.plan.decisions import FAILS, HOLDS, LEVEL, Bound, Decision
from proxmom.study.report.compare import log_ratios
from proxmom.study.report.results import LEAST, Losses, Pair
from proxmom.study.report.sources import merge, read_source
from proxmom.study.report.statistics import (
    FEWEST,
    Array,
    Interval,
    size_for_power,
    variance_factors,
)
from proxmom.study.report.terminal import WIDTH
from proxmom.study.report.text import ratio_text
from proxmom.study.report.verdicts import UNDECIDED, Judged, decide

_REPETITIONS = 4000  # of a search
_WORDS = {HOLDS: "lower", FAILS: "higher"}


@dataclass(frozen=True)
class Power:
    """A method against the reference on one problem.

    judged: whether its loss is lower, higher or level, or how many more seeds decide. size: pairs of seeds. spread:
    standard deviation over them of the logarithm of the ratio. seeds: how many tell each difference. choice: standard
    deviation of the logarithm of the ratio if both searches are repeated with other seeds. share: of choice in the
    variance of the mean ratio of a study that is repeated, search and all.
    """

    method: str
    judged: Judged
    size: int
    spread: float
    seeds: tuple[float, ...]
    choice: float
    share: float

    @property
    def ratio(self) -> Interval:
        """The geometric mean over seeds with its interval."""
        return self.judged.pair.interval


def powers(
    results: Losses,
    reference: str,
    differences: Sequence[float] = (0.02, 0.05),
    power: float = 0.8,
    search_seeds: int | None = None,
) -> dict[str, list[Power]]:
    """By problem, what each other method's comparison with the reference can tell.

    Args:
        results: of a training study.
        reference: a method with final runs.
        differences: of the final loss, relative, > 0.
        power: chance that an interval excludes 1 where the true ratio is 1 + difference, in (0.05, 1).
        search_seeds: by how many a point is chosen, >= 1; default: as it was. Its influence is estimated by choosing
            again: the mean losses of the points, and the final runs' variance over seeds around each, the same for all.

    Raises:
        ValueError: for values out of range, and a reference that has no final run.
    """
    if not all(difference > 0 for difference in differences):
        raise ValueError(f"difference must be > 0, a share of the loss, got {min(differences)}.")
    if not 0.05 < power < 1:
        raise ValueError(f"power must be in (0.05, 1), got {power}.")
    ratios = log_ratios(results, reference)
    choices = choice_spreads(results, search_seeds)
    found: dict[str, list[Power]] = {}
    for column, method in enumerate(results.methods):
        if method == reference or method not in results.ran:
            continue
        decision = Decision("", "loss", method, reference, (), Bound(-inf, 1.0, True, ""), "interval", 1.0, LEVEL)
        for row, judged in enumerate(decide(results, decision).problems):
            known = ratios[row, column][~np.isnan(ratios[row, column])]
            spread = float(known.std(ddof=1)) if known.size >= FEWEST else np.nan
            seeds = tuple(_seeds(difference, spread, power) for difference in differences)
            choice = hypot(*(choices[judged.problem, name] for name in (method, reference)))
            share = choice**2 / (choice**2 + spread**2 / known.size) if choice else 0.0
            found.setdefault(judged.problem, []).append(Power(method, judged, known.size, spread, seeds, choice, share))
    return found


def choice_spreads(results: Losses, search_seeds: int | None = None) -> dict[Pair, float]:
    """By problem and method, the standard deviation of the logarithm of the chosen point's loss over repeated searches.

    The losses of the points are those of the search, noise included, and that of every point is the noise of the best
    one: too large a figure where all points are equally good, too small a one where the best is at the edge of
    stability, and some seeds fall over it. Where three seeds had tried each point (experiments/norms), choices by one
    of them, judged by the others, spread in the median 1.2 and 1.9 times as far, in the root mean square 1.7 and 2.8
    times. 0 where nothing was searched. search_seeds: as for `powers`.
    """
    losses = np.log(np.maximum(results.validation, LEAST))
    losses = losses - np.nanmean(losses, axis=-1, keepdims=True)
    noise = np.nanstd(losses - np.nanmedian(losses, axis=1, keepdims=True), axis=-1, ddof=1)  # less what seeds share
    seeds = search_seeds or max(results.search_seeds, 1)
    found = {}
    for row, problem in enumerate(results.problems):
        for column, method in enumerate(results.methods):
            points = np.log([results.score(run) for run in results.searched.get((problem, method), ())])
            found[problem, method] = choice_spread(points, float(noise[row, column]) / sqrt(seeds))
    return found


def choice_spread(points: Array, noise: float, seed: int = 0) -> float:
    """Standard deviation of what is chosen of `points`, the smallest after normal noise of this size was added."""
    if points.size < 2 or np.isnan(noise):
        return 0.0
    losses = points - points.min()  # a choice that is always the best one spreads nothing, to the last digit
    noisy = losses + noise * np.random.default_rng(seed).standard_normal((_REPETITIONS, points.size))
    return float(losses[noisy.argmin(axis=1)].std())


def power_table(
    directories: Sequence[str | Path],
    reference: str | None = None,
    differences: Sequence[float] = (0.02, 0.05),
    power: float = 0.8,
    search_seeds: int | None = None,
) -> str:
    """The powers of finished training studies as text: a block for each problem, and what its columns are.

    Raises ValueError as `write_report` and `powers` do, and for a study that counts evaluations.
    """
    sources = [read_source(directory) for directory in directories]
    results, chosen = merge(sources, reference), reference or sources[0].reference
    if not isinstance(results, Losses):
        raise ValueError(
            "power is of training studies, whose losses differ by seed: a count of evaluations is certain."
        )
    found = powers(results, chosen, differences, power, search_seeds)
    blocks = [[problem, *_block(rows, differences), ""] for problem, rows in found.items()]
    told = _told(results, chosen, differences, power, search_seeds)
    return "\n".join([line for block in blocks for line in block] + fill(told, WIDTH).splitlines())


def _seeds(difference: float, spread: float, power: float) -> float:
    if np.isnan(spread):
        return np.nan
    return size_for_power(log1p(difference) / spread if spread > 0 else inf, power)


def _block(rows: Sequence[Power], differences: Sequence[float]) -> list[str]:
    titles = [f"{100 * difference:g}%" for difference in differences]
    texts = [["method", "ratio", "says", "spread", *titles, "choice", "share"]]
    for row in rows:
        shown = [_percent(row.spread), *map(_count, row.seeds), _percent(row.choice), _percent(row.share)]
        texts.append([row.method, ratio_text(row.ratio), _says(row.judged), *shown])
    middle = [float(np.nanmedian([row.seeds[k] for row in rows])) for k in range(len(differences))]
    texts.append(["median", "", "", "", *map(_count, middle), "", ""])
    lines = columns(texts, numbers=True)
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _says(judged: Judged) -> str:
    if judged.word != UNDECIDED:
        return _WORDS.get(judged.word, judged.word)
    return ">1000 more" if judged.more == inf else f"{judged.more:.0f} more"


def _count(seeds: float) -> str:
    return "" if np.isnan(seeds) else f"{seeds:.0f}" if seeds < 1_000_000 else ">1e6"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.2g}%" if value < 0.995 else f"{100 * value:.0f}%"


def _told(results: Losses, reference: str, differences: Sequence[float], power: float, search_seeds: int | None) -> str:
    """What the columns are."""
    size, number = len(results.seeds), search_seeds or max(results.search_seeds, 1)
    names = " or ".join(f"{100 * difference:g}%" for difference in differences)
    known = ""
    if size >= FEWEST:
        low, high = variance_factors(size)
        known = f" {size} seeds know a variance, and so these numbers, to factors of 1/{1 / low:.1f} and {high:.1f}."
    return (
        f"ratio: of the {results.measure} to that of {reference!r}, paired by seed, with its 95% interval. says: lower "
        "or higher if the interval excludes 1, level if it lies within 0.95 to 1.05, else how many more seeds would "
        "decide it, were mean and spread to stay. spread: standard deviation of the ratio over seeds (of its "
        f"logarithm). {names}: how many seeds tell such a difference, 5% two-sided, with power {power:g}.{known} "
        "choice: how far the ratio would spread if both searches were repeated, each point tried by "
        f"{number} {'seed' if number == 1 else 'seeds'}; share: the part of that in the variance of the mean over "
        f"{size} seeds, which no final seeds make smaller."
    )
