"""Verdicts as people read them: the word, what was asked, the figure, and what is missing for a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from textwrap import fill

from proxmom.study.plan.decisions import FAILS, HOLDS, OPEN
from proxmom.study.report.text import comparison_text, difference_text, interval_text, number_text, ratio_text
from proxmom.study.report.verdicts import LEVEL, UNDECIDED, Judged, Verdict, more_text

_COLOURS = {HOLDS: 32, FAILS: 31, OPEN: 33}  # of a terminal: green, red, yellow
_BY = {"interval": "by the whole interval", "overlap": "by some of the interval", "mean": "by the mean"}
_NAMED = {
    "evaluations": ("evaluations of {}", " over those of {}"),
    "loss": ("{loss} of {}", " over that of {}"),
    "loss difference": ("{loss} of {}", " less that of {}"),
    "lr-sensitivity": ("lr-sensitivity of {}", " over that of {}"),
    "misses": ("misses of {}", " less those of {}"),
    "lost seeds": ("share of lost seeds of {}", " less that of {}"),
}
_EXACT = ("misses", "lost seeds")


def told(verdicts: Sequence[Verdict]) -> str:
    """How many parts of the claim are what, as in "2 hold, 1 fails"."""
    counts = Counter(verdict.word for verdict in verdicts)
    words = {HOLDS: ("holds", "hold"), FAILS: ("fails", "fail"), OPEN: (f"has {OPEN}", f"have {OPEN}")}
    if len(verdicts) == 1:
        return f"The part of the claim that is decided here {words[verdicts[0].word][0]}."
    parts = [f"{counts[word]} {each[counts[word] > 1]}" for word, each in words.items() if counts[word]]
    return f"Of the {len(verdicts)} parts of the claim that are decided here {', '.join(parts)}."


def asked_text(verdict: Verdict) -> str:
    """The part of the claim as a sentence without an end: what is measured, and what it must be."""
    decision = verdict.decision
    one, other = _NAMED[decision.measure]
    measured = one.format(decision.method, loss=verdict.loss) + (other.format(decision.over) if decision.over else "")
    where = f" on {' or '.join(decision.problems)}" if decision.problems else ""
    way = "" if decision.measure in _EXACT else f" {_BY[decision.by]}"
    share = "" if decision.share is None else f" on at least {100 * decision.share:g}% of problems"
    share = " on every problem" if decision.share == 1 else share
    return f"{measured}{where}: {decision.bound.text}{way}{share}"


def found_text(verdict: Verdict) -> str:
    """The figure and its interval, or how many problems say what; and what is missing."""
    if verdict.decision.share is None:
        return "; ".join(filter(None, [_figure(verdict), *verdict.reasons]))
    return "; ".join(filter(None, [_tally(verdict), *verdict.reasons, _seeds(verdict)]))


def problem_text(judged: Judged) -> str:
    """A problem with what it says, its own figure, and what would decide it."""
    more = f", {more_text(judged)}" if judged.more else ""
    return f"{judged.problem}: {judged.word}, {comparison_text(judged.pair)}{more}"


def verdict_lines(verdicts: Sequence[Verdict], width: int, colours: bool = False) -> list[str]:
    """Lines of all verdicts, the word first; colours: for a terminal."""
    if not verdicts:
        return []
    lines = fill(told(verdicts), width).splitlines()
    indent = len(OPEN) + 2
    for verdict in verdicts:
        part = f"{verdict.decision.part} " if verdict.decision.part else ""
        text = f"{part}{asked_text(verdict)}. Found: {found_text(verdict)}."
        body = fill(text, width - indent, break_on_hyphens=False).splitlines()
        word = f"{verdict.word:<{indent}}"
        if colours:
            word = f"\033[{_COLOURS[verdict.word]}m{word}\033[0m"
        lines += [word + body[0], *(" " * indent + line for line in body[1:])]
    return lines


def _tally(verdict: Verdict) -> str:
    counts, size = verdict.counts, len(verdict.problems)
    texts = [f"{word} on {counts[word]}" for word in (HOLDS, FAILS, LEVEL, UNDECIDED) if counts[word]]
    return f"{', '.join(texts)} of {size} {'problem' if size == 1 else 'problems'}" if size else ""


def _seeds(verdict: Verdict) -> str:
    """How many seeds more would decide which problem."""
    needed = [
        f"{'more than 1000' if each.more == inf else f'{each.more:.0f}'} on {each.problem}"
        for each in verdict.problems
        if each.more
    ]
    return f"seeds more to decide: {'; '.join(needed)}" if needed and verdict.word == OPEN else ""


def _figure(verdict: Verdict) -> str:
    if verdict.figure is None:
        return ""
    interval, measure = verdict.figure.interval, verdict.decision.measure
    if measure in _EXACT:
        return number_text(interval.mean) if interval.mean % 1 else f"{interval.mean:.0f}"
    if measure == "loss difference":
        return difference_text(interval)
    return interval_text(interval) if measure == "evaluations" else ratio_text(interval)
