"""Whether the parts of a study's claim hold: the [[decide]] tables of its file, held against its results.

Every figure and interval is one that the tables show, from the functions that make the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log

import numpy as np

from proxmom.study.plan.decisions import FAILS, HOLDS, OPEN, PAIRED, Decision, about
from proxmom.study.plan.specs import Training
from proxmom.study.report.compare import Comparison, by_seed, differences, mean_ratios, over_problems
from proxmom.study.report.results import Losses, Pair, Results
from proxmom.study.report.sources import Source, results_of
from proxmom.study.report.statistics import FEWEST, Interval, size_needed
from proxmom.study.report.tuning import lr_sensitivity, lr_sensitivity_ratio

LEVEL, UNDECIDED = "level", "undecided"  # of single problems


@dataclass(frozen=True)
class Judged:
    """What one problem says.

    word: HOLDS, FAILS, LEVEL or UNDECIDED. more: how many further seeds would decide it, by the seeds' own variance; 0
    where that is no question of seeds, inf if a thousand would not do.
    """

    problem: str
    word: str
    pair: Comparison
    more: float = 0


@dataclass(frozen=True)
class Verdict:
    """What the results say of a part of the claim.

    figure: over all its problems; None without runs, or where problems are judged one by one, each in `problems`.
    reasons: why there are not enough runs. loss: what the losses are called.
    """

    decision: Decision
    word: str
    figure: Comparison | None = None
    problems: tuple[Judged, ...] = ()
    reasons: tuple[str, ...] = ()
    loss: str = "loss"

    @property
    def counts(self) -> Counter[str]:
        """How many problems say what."""
        return Counter(each.word for each in self.problems)


def verdicts(source: Source) -> list[Verdict]:
    """One for each decision of a study, in its order, from its own runs alone."""
    training = source.asked if isinstance(source.asked, Training) else None
    if training and not any(run.stage == "final" for run in source.runs):
        return [Verdict(each, OPEN, reasons=("no run of a best point is finished",)) for each in source.decisions]
    results = results_of(source.asked, source.runs)
    seeds = training.seeds if training else 1
    loss = results.measure if isinstance(results, Losses) else ""
    found = [decide(results, decision, source.lacking, seeds) for decision in source.decisions]
    return [replace(verdict, loss=loss) for verdict in found]


def decide(results: Results, decision: Decision, lacking: Mapping[Pair, int] | None = None, seeds: int = 1) -> Verdict:
    """What the results say of a part of the claim.

    Args:
        results: of the study.
        decision: the part.
        lacking: how many runs are not finished, by problem and method.
        seeds: how many final runs each pair should have.
    """
    known = list(dict.fromkeys([*results.problems, *(problem for problem, _ in lacking or {})]))
    chosen = [problem for problem in known if about(decision, problem)]
    if not chosen:
        return Verdict(decision, OPEN, reasons=(f"no problem is called that; problems: {', '.join(known)}",))
    asked = [(problem, method) for problem in chosen for method in (decision.method, decision.over) if method]
    missing = {pair: n for pair in asked if (n := _missing(results, pair, lacking or {}, seeds))}
    here = results.on([problem for problem in chosen if problem in results.problems])
    if not {method for _, method in asked} <= set(here.ran):
        return Verdict(decision, OPEN, reasons=_of_runs(missing))
    if decision.share is not None:
        return _by_problem(here, decision, missing, len(chosen))
    figure = _MEASURES[decision.measure](here, decision)
    if missing:
        return Verdict(decision, OPEN, figure, reasons=_of_runs(missing))
    word = _word(decision, figure)
    return Verdict(decision, word, figure, reasons=_why_open(here, decision, figure) if word == OPEN else ())


def _missing(results: Results, pair: Pair, lacking: Mapping[Pair, int], seeds: int) -> int:
    return lacking.get(pair, 0) or max(0, seeds - len(results.final.get(pair, ())))


def _of_runs(missing: Mapping[Pair, int]) -> tuple[str, ...]:
    """How many runs of which method are not there."""
    counts: Counter[str] = Counter()
    for (_, method), number in missing.items():
        counts[method] += number
    return tuple(f"{n} {'run' if n == 1 else 'runs'} of {method} missing" for method, n in counts.items())


def _word(decision: Decision, figure: Comparison) -> str:
    """HOLDS, FAILS, or OPEN where the interval does not say, or is not there."""
    exact = figure.exact or decision.by == "mean"
    low, high = [figure.interval.mean] * 2 if exact else (figure.interval.low, figure.interval.high)
    if np.isnan(low) or np.isnan(high):
        return OPEN
    if decision.bound.contains(low, high):
        return HOLDS
    if decision.bound.excludes(low, high):
        return FAILS
    return HOLDS if decision.by == "overlap" else OPEN


def _why_open(results: Results, decision: Decision, figure: Comparison) -> tuple[str, ...]:
    alone = isinstance(results, Losses) and len(results.problems) == 1 and decision.measure in PAIRED
    if np.isnan(figure.interval.mean):
        return ("there is no such figure of these runs",)
    if alone:
        [judged] = _judged(results, decision, {})
        few = () if figure.interval.low <= figure.interval.high else (f"fewer than {FEWEST} seeds give no interval",)
        return (*few, *([more_text(judged)] if judged.more else []))
    if np.isnan(figure.interval.low):
        return (f"fewer than {FEWEST} problems give no interval",)
    return (f"its interval contains {' or '.join(f'{end:g}' for end in _crossed(decision, figure))}",)


def _crossed(decision: Decision, figure: Comparison) -> list[float]:
    return [end for end in decision.bound.ends if figure.interval.low <= end <= figure.interval.high]


def more_text(judged: Judged) -> str:
    """How many seeds more would decide a problem."""
    if judged.more == np.inf:
        return "more than a thousand seeds would be needed"
    return f"about {judged.more:.0f} {'seed' if judged.more == 1 else 'seeds'} more would decide it"


def _by_problem(results: Results, decision: Decision, missing: Mapping[Pair, int], size: int) -> Verdict:
    """Holds where enough problems say so, fails where they no longer can."""
    judged = _judged(results, decision, missing)
    counts = Counter(each.word for each in judged)
    needed = ceil(decision.share * size - 1e-9) if decision.share else 0
    settled = counts[FAILS] + counts[LEVEL]
    word = HOLDS if counts[HOLDS] >= needed else FAILS if size - settled < needed else OPEN
    return Verdict(decision, word, None, tuple(judged), _of_runs(missing) if word == OPEN else ())


def _judged(results: Results, decision: Decision, missing: Mapping[Pair, int]) -> list[Judged]:
    column = results.methods.index(decision.method)
    ratios = [row[column] for row in by_seed(results, decision.over, True)]
    pairs = ratios
    if decision.measure == "loss difference":
        pairs = [row[column] for row in by_seed(results, decision.over, False)]
    lacking = {problem for problem, _ in missing}
    found = []
    for problem, pair, ratio in zip(results.problems, pairs, ratios, strict=True):
        word = _word(decision, pair)
        if word == OPEN and decision.level and _within(ratio.interval, decision.level):
            word = LEVEL
        open_ = word == OPEN or problem in lacking
        more = _more(decision, pair, ratio) if open_ and problem not in lacking else 0
        found.append(Judged(problem, UNDECIDED if open_ else word, pair, more))
    return found


def _within(interval: Interval, level: tuple[float, float]) -> bool:
    return level[0] <= interval.low and interval.high <= level[1]


def _more(decision: Decision, pair: Comparison, ratio: Comparison) -> float:
    """How many seeds more: until the interval leaves the bound's ends, or lies where values count as equal."""
    size = pair.interval.size
    if size < FEWEST:
        return FEWEST - size
    center = _scaled(pair)
    ends = [log(end) if pair.factor else end for end in decision.bound.ends if end > 0 or not pair.factor]
    needed = [size_needed(center, min(abs(center.mean - end) for end in ends))] if ends else []
    if decision.level:
        low, high = map(log, decision.level)
        equal = _scaled(ratio)
        needed.append(size_needed(equal, min(equal.mean - low, high - equal.mean)))
    return max(1.0, min(needed, default=np.inf) - size)


def _scaled(pair: Comparison) -> Interval:
    """The interval on the scale on which it is Student's."""
    if not pair.factor:
        return pair.interval
    mean, low, high = (log(value) for value in (pair.interval.mean, pair.interval.low, pair.interval.high))
    return Interval(mean, low, high, pair.interval.size)


def _ratio(results: Results, decision: Decision) -> Comparison:
    return Comparison(mean_ratios(results, decision.over)[decision.method], True)


def _difference(results: Results, decision: Decision) -> Comparison:
    column = results.methods.index(decision.method)
    return Comparison(over_problems(differences(results, decision.over)[:, column]), False)


def _sensitivity(results: Results, decision: Decision) -> Comparison:
    """That of the method, or over that of the other one."""
    if decision.over:
        return Comparison(lr_sensitivity_ratio(results, decision.method, decision.over), True)
    return Comparison(lr_sensitivity(results).get(decision.method, Interval(np.nan, np.nan, np.nan, 0)), True)


def _counted(count: Callable[[Results, str], float]) -> Callable[[Results, Decision], Comparison]:
    """A measure that is certain: of a method, less that of the other one if there is one."""

    def measure(results: Results, decision: Decision) -> Comparison:
        value = count(results, decision.method) - (count(results, decision.over) if decision.over else 0)
        return Comparison(Interval(value, value, value, len(results.problems)), False, exact=True)

    return measure


def _misses(results: Results, method: str) -> float:
    return float(np.isinf(results.values[:, results.methods.index(method)]).sum())


def _lost(results: Results, method: str) -> float:
    """The share of its final runs that diverged or failed."""
    assert isinstance(results, Losses)
    counts: Sequence[tuple[int, int, int]] = [n for (_, name), n in results.lost_seeds.items() if name == method]
    return sum(diverged + failed for diverged, failed, _ in counts) / sum(size for *_, size in counts)


_MEASURES: dict[str, Callable[[Results, Decision], Comparison]] = {
    "evaluations": _ratio,
    "loss": _ratio,
    "loss difference": _difference,
    "lr-sensitivity": _sensitivity,
    "misses": _counted(_misses),
    "lost seeds": _counted(_lost),
}
