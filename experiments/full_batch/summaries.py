"""What the rows say: a table for each problem, evaluations and seconds to L-BFGS's loss, the claims, the failures.

All of it for each round of starts, whose claims are of one method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import rows
from methods import ADAM, AGAIN, CONVERGED, LESS_ONCE, METHODS, NAN, ONCE, OURS, OWN, PLAIN, ROSE, STUCK, WOLFE
from problems import PROBLEMS
from rows import SEARCH, Row

from proxmom.study.report.statistics import geometric_mean

MODES = (WOLFE, PLAIN)
MISSED = 4  # budgets that a loss counts for which was not reached
WINS = 5  # of seven problems
CHANCE = "Lennard-Jones cluster"  # has a thousand minima: in which one a run ends is not a matter of its method
FAR = 1e-3  # of |loss|, and 1e-8: what a run that ended well may leave to L-BFGS


class Round(NamedTuple):
    """Starts that were run together, and what was claimed before of a method: names of the claims, and the ratio.

    method: the name today of what `minimize` was then. A fourth claim is of expected evaluations.
    """

    starts: range
    method: str
    claims: str
    ratio: float

    def __str__(self) -> str:
        return f"Starts {self.starts[0]} to {self.starts[-1]}"


ROUNDS = (
    Round(range(5), LESS_ONCE, "abc", 0.9),
    Round(range(5, 10), ONCE, "def", 1.15),
    Round(range(10, 15), OURS, "ghij", 0.9),
)


def of(found: list[Row], problem: str, method: str) -> list[Row]:
    """The runs from the starts that are compared, in their order."""
    chosen = [row for row in found if (row.problem, row.method) == (problem, method) and row.seed != SEARCH]
    return sorted(chosen, key=lambda row: row.seed)


def best_lr(found: list[Row], problem: str) -> float:
    """Adam's lr of the least loss in its search."""
    searched = [row for row in found if (row.problem, row.method, row.seed) == (problem, ADAM, SEARCH)]
    chosen = min(searched, key=lambda row: row.loss)
    assert chosen.lr is not None
    return chosen.lr


def better(found: list[Row], problem: str, seed: int) -> Row | None:
    """The run of the mode of L-BFGS that came lower from this start; of equal ones the faster."""
    both = [row for mode in MODES for row in of(found, problem, mode) if row.seed == seed and row.settled is not None]
    if not both:
        return None
    least = rows.slack(min(row.loss for row in both))
    return min((row for row in both if row.loss <= least), key=lambda row: row.settled or 0)


class Usual(NamedTuple):
    """The mode of L-BFGS whose median loss is lower, and that loss."""

    mode: str
    loss: float


def typical(found: list[Row], problem: str, starts: range) -> Usual:
    """How L-BFGS usually ends from these starts; of equal modes the one that is there sooner."""
    runs = {mode: [row for row in of(found, problem, mode) if row.seed in starts] for mode in MODES}
    least = rows.slack(min(map(_median, runs.values())))
    near = [mode for mode in MODES if _median(runs[mode]) <= least]
    mode = min(near, key=lambda mode: float(np.median([row.settled or np.inf for row in runs[mode]])))
    return Usual(mode, _median(runs[mode]))


def expected(found: list[Row], problem: str, method: str) -> float:
    """Evaluations until L-BFGS's usual loss: those of all runs until then, over the number of runs that get there.

    Source: the expected running time of Auger and Hansen, CEC 2005.
    """
    runs = of(found, problem, method)
    there = [row.typical for row in runs if row.typical is not None]
    spent = sum(there) + sum(row.evaluations for row in runs if row.typical is None)
    return spent / len(there) if there else np.inf


def sooner(found: list[Row], names: list[str], method: str) -> list[float]:
    """Expected evaluations over those of L-BFGS in its better mode, of each problem."""
    return [expected(found, name, method) / expected(found, name, AGAIN) for name in names]


def ratios(found: list[Row], problem: str, method: str, *, seconds: bool = False) -> list[float]:
    """Evaluations, or seconds, until the loss of the better mode of L-BFGS, over its own; one for each start.

    A loss that was not reached counts four budgets, and as many seconds as they would have taken.
    """
    found_ratios = []
    for row in of(found, problem, method):
        goal = better(found, problem, row.seed)
        if goal is None or goal.settled is None or goal.settled_seconds is None:
            continue
        reached, own = (row.reached_seconds, goal.settled_seconds) if seconds else (row.reached, goal.settled)
        if method in MODES:
            near = row.loss <= rows.slack(goal.loss)
            reached = (row.settled_seconds if seconds else row.settled) if near else None
        if reached is None:
            budgets = MISSED * goal.evaluations / row.evaluations
            reached = (
                MISSED * row.seconds * goal.evaluations / row.evaluations if seconds else budgets * row.evaluations
            )
        found_ratios.append(reached / own)
    return found_ratios


def far(row: Row) -> bool:
    """Whether a run ended before its budget without a word, and L-BFGS lowers the loss much further from there."""
    silent = row.ended in (CONVERGED, STUCK)
    return silent and row.left is not None and row.left > FAR * abs(row.loss) + 1e-8


def failures(found: list[Row]) -> str:
    """NaN, or a loss above the first; far from a stationary point without a word."""
    counts = [sum(row.ended == NAN for row in found), sum(row.ended == ROSE for row in found), sum(map(far, found))]
    return " / ".join(map(str, counts))


def _median(found: list[Row]) -> float:
    return float(np.median([row.loss for row in found]))


def _mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def _line(cells: tuple[str, ...]) -> str:
    name, *rest = cells
    return name.ljust(25) + "".join(cell.rjust(13) for cell in rest)


def section(found: list[Row], problem: str) -> list[str]:
    """A problem's table."""
    head = ("", "median loss", "lowest", "highest", "evaluations", "seconds", "ms each", "fails")
    lines = [problem, _line(head)]
    for method in METHODS:
        runs = of(found, problem, method)
        if not runs:
            continue
        losses = [f"{value:.6g}" for value in (_median(runs), min(r.loss for r in runs), max(r.loss for r in runs))]
        to_goal = [
            f"{np.median(ratios(found, problem, method, seconds=which) or [np.nan]):.2f}" for which in (False, True)
        ]
        each = 1e3 * np.median([row.seconds / row.evaluations for row in runs])
        name = f"{method}, lr {runs[0].lr:.2g}" if runs[0].lr is not None else method
        lines.append(_line((name, *losses, *to_goal, f"{each:.2f}", failures(runs))))
    return [*lines, ""]


def overall(found: list[Row], names: list[str]) -> list[str]:
    """Geometric means over problems of the medians over starts, over L-BFGS's."""
    lines = ["All problems", _line(("", "evaluations", "seconds", "all runs", "missed", "fails"))]
    for method in METHODS:
        runs = [row for name in names for row in of(found, name, method)]
        means = [
            _mean([float(np.median(each)) for name in names if (each := ratios(found, name, method, seconds=which))])
            for which in (False, True)
        ]
        every = [ratio for name in names for ratio in ratios(found, name, method)]
        missed = "" if method in MODES else str(sum(row.reached is None for row in runs))
        lines.append(_line((method, *(f"{value:.2f}" for value in (*means, _mean(every))), missed, failures(runs))))
    search = sum(row.evaluations for row in found if row.seed == SEARCH)
    spent = sum(row.evaluations for name in names for row in of(found, name, ADAM))
    return [*lines, f"Adam's search took {search} evaluations more, its runs {spent}.", ""]


def claims(found: list[Row], names: list[str], made: Round) -> list[str]:
    """Each claim of a round, with what it says and whether it holds."""
    method = made.method
    losses: Callable[[str, str], float] = lambda name, method: _median(of(found, name, method))  # noqa: E731
    won = [name for name in names if losses(name, method) <= rows.slack(min(losses(name, mode) for mode in MODES))]
    mean = _mean([float(np.median(ratios(found, name, method))) for name in names])
    own = [row for name in names for row in of(found, name, method)]
    bad = sum(row.ended == NAN or far(row) for row in own)
    verdict = {True: "holds", False: "fails"}
    least = WINS if len(names) == len(PROBLEMS) else len(names)
    lower, quicker, sound, *more = (f"({letter})" for letter in made.claims)
    usual = _mean(sooner(found, names, method))
    return [
        f"{lower} {verdict[len(won) >= least]}: no worse than L-BFGS on {len(won)} of {len(names)} ({', '.join(won)})",
        f"{quicker} {verdict[mean <= made.ratio]}: {mean:.3f} times L-BFGS's evaluations, at most {made.ratio} claimed",
        f"{sound} {verdict[bad == 0]}: {bad} of {len(own)} runs in NaN, or silently far from a stationary point",
        *(
            f"{letter} {verdict[usual <= made.ratio]}: {usual:.3f} times L-BFGS's expected evaluations, at most "
            f"{made.ratio} claimed"
            for letter in more
        ),
    ]


def intervals(found: list[Row], names: list[str]) -> list[str]:
    """Our methods' evaluations over L-BFGS's, as in (b), with the 95% bootstrap interval over problems."""
    lines = ["evaluations over L-BFGS's, geometric mean over problems, with its 95% interval over them"]
    for method in OWN:
        mean = geometric_mean(np.array([np.median(ratios(found, name, method)) for name in names]))
        lines.append(f"{method:25}{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]")
    return [*lines, ""]


def until_usual(found: list[Row], names: list[str]) -> list[str]:
    """Expected evaluations of our methods over L-BFGS's, problem by problem, and their mean with its interval."""
    lines = ["expected evaluations until L-BFGS's median loss, over its own: by problem, and geometric mean"]
    for method in OWN:
        if all(row.typical is None for name in names for row in of(found, name, method)):
            continue  # run before this was asked for
        each, told = np.array(sooner(found, names, method)), "no mean"
        if np.isfinite(each).all():
            mean = geometric_mean(each)
            told = f"{mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
        lines.append(f"{method:25}{' '.join(f'{value:.2f}' for value in each)}, {told}")
    return [*lines, ""]


def table(found: list[Row]) -> str:
    """All rounds; of each, problems without every method are left out."""
    note = [
        "evaluations, seconds: median over starts until the final loss of the better mode of L-BFGS, over its own;",
        f"a loss not reached counts {MISSED} budgets. fails: NaN / above the first loss / silently far.",
    ]
    told = [line for made in ROUNDS for line in _round(found, made)]
    told += _together(found)
    return "\n".join([*note, *told]) + "\n" if told else "no problem was run by every method yet\n"


def _title(text: str) -> list[str]:
    return ["", text, "=" * len(text), ""]


def _round(found: list[Row], made: Round) -> list[str]:
    found = [row for row in found if row.seed in made.starts or row.seed == SEARCH]
    names = [name for name in PROBLEMS if all(of(found, name, method) for method in (*METHODS, AGAIN))]
    if not names:
        return []
    parts = [line for name in names for line in section(found, name)]
    shared = [*overall(found, names), *intervals(found, names), *until_usual(found, names)]
    shared += claims(found, names, made)
    return [*_title(f"{made}; claimed of {made.method}"), *parts, *shared]


def _together(found: list[Row]) -> list[str]:
    """The intervals over all starts, with and without the problem where chance decides; nothing of one round."""
    if len({row.seed for row in found} - {SEARCH}) <= len(ROUNDS[0].starts):
        return []
    names = list(PROBLEMS)
    calm = [name for name in names if name != CHANCE]
    parts = [*intervals(found, names), f"The same without the {CHANCE}:", *intervals(found, calm)]
    return [*_title("All starts"), *parts[:-1]]
