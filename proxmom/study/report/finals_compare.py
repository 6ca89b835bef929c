"""Methods of training studies compared: means over seeds, pairs of seeds, variants, weights on memory.

Methods share initial weights and batches, so differences and ratios are taken seed by seed. Intervals over seeds are
Student's t, since resampling a few seeds gives too narrow ones; those over problems are bootstrap intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from proxmom.study.report import summary
from proxmom.study.report.finals import LEAST, Trained
from proxmom.study.report.summary import Array, Interval, Memory


@dataclass(frozen=True)
class Comparison:
    """A method against another on one problem, its mean over pairs of seeds with their t interval.

    factor: whether it is the geometric mean of ratios, as of relative gaps, and not the mean difference of losses.
    """

    interval: Interval
    factor: bool

    @property
    def sign(self) -> int:
        """-1 or 1 if the whole interval says lower or higher, else 0."""
        equal = 1.0 if self.factor else 0.0
        return int(self.interval.low > equal) - int(self.interval.high < equal)


@dataclass(frozen=True)
class Variant:
    """A row of defaults, or a control, against its method.

    ratio: of the deciding losses, as `mean_ratios`. pairs: by problem, as `comparisons`; lower, higher: on how many
    problems their intervals say so.
    """

    name: str
    of: str
    ratio: Interval
    pairs: tuple[Comparison, ...]
    lower: int
    higher: int


def over_seeds(values: Array) -> list[list[Interval]]:
    """Mean and t interval over seeds of values (problems, methods, seeds), as lists of problems of methods."""
    return [[summary.t_mean(seeds) for seeds in row] for row in values]


def means(trained: Trained, losses: Array) -> list[list[Interval]]:
    """Mean and t interval over seeds of losses (problems, methods, seeds); of relative gaps geometric ones."""
    logs = np.log(np.maximum(losses, LEAST))
    return [
        [summary.exponential(summary.t_mean(seeds)) for seeds in log] if gap else [summary.t_mean(s) for s in row]
        for row, log, gap in zip(losses, logs, trained.gaps, strict=True)
    ]


def comparisons(trained: Trained, reference: str) -> list[list[Comparison]]:
    """The deciding loss of each method against that of `reference`, as lists of problems of methods.

    Raises ValueError if the reference has no final run.
    """
    logs = log_ratios(trained, reference)
    differences = trained.losses - trained.losses[:, [trained.methods.index(reference)]]
    return [
        [Comparison(summary.exponential(summary.t_mean(seeds)), True) for seeds in ratios]
        if gap
        else [Comparison(summary.t_mean(seeds), False) for seeds in row]
        for row, ratios, gap in zip(differences, logs, trained.gaps, strict=True)
    ]


def log_ratios(trained: Trained, reference: str) -> Array:
    """Logarithms of the deciding loss over that of `reference`, shape (problems, methods, seeds).

    Raises ValueError if the reference has no final run.
    """
    _refuse_unknown(trained, reference)
    logs = np.log(np.maximum(trained.losses, LEAST))
    return np.asarray(logs - logs[:, [trained.methods.index(reference)]])


def mean_ratios(trained: Trained, reference: str) -> dict[str, Interval]:
    """Geometric mean of each method's deciding loss over that of `reference`, over seeds and then over problems.

    Its interval is `over_problems`'s.
    """
    columns = np.moveaxis(log_ratios(trained, reference), 1, 0)
    means = [summary.exponential(over_problems(column)) for column in columns]
    return dict(zip(trained.methods, means, strict=True))


def over_problems(values: Array) -> Interval:
    """Mean of values (problems, seeds) over seeds and then problems, with its bootstrap interval over problems.

    With one problem the interval is Student's over its seeds.
    """
    if len(values) == 1:
        return replace(summary.t_mean(values[0]), size=int(not np.isnan(values).all()))
    return summary.bootstrap_mean(_mean(values))


def variants(trained: Trained) -> list[Variant]:
    """Each variant against the method it belongs to, where both have final runs."""
    found = []
    tried = {method for _, method in trained.final.runs}
    for name, of in trained.variant_of.items():
        if {name, of} <= tried:
            column = tuple(row[trained.methods.index(name)] for row in comparisons(trained, of))
            signs = [pair.sign for pair in column]
            found.append(Variant(name, of, mean_ratios(trained, of)[name], column, signs.count(-1), signs.count(1)))
    return found


def memory(trained: Trained) -> list[Memory]:
    """The methods whose weight on memory changes, as `summary.memory`, of all final runs; intervals over problems."""
    beta = trained.of_seeds(lambda run: _number(run.mean_beta))
    capped = trained.of_seeds(lambda run: _number(run.capped))
    return [
        Memory(method, *(over_problems(values[:, trained.methods.index(method)]) for values in (beta, capped)))
        for method in adaptive(trained)
    ]


def adaptive(trained: Trained) -> tuple[str, ...]:
    """The methods whose weight on memory is neither always 0 nor, but for a step in a thousand, always the cap."""
    return tuple(
        method
        for method in trained.methods
        if summary.adapts(run for (_, name), runs in trained.final.runs.items() if name == method for run in runs)
    )


def profiled(trained: Trained) -> Array:
    """What a performance profile is of: geometric means over seeds of the deciding loss, shape (problems, methods)."""
    return np.asarray(np.exp(_mean(np.log(np.maximum(trained.losses, LEAST)))))


def _refuse_unknown(trained: Trained, reference: str) -> None:
    tried = {method for _, method in trained.final.runs}
    summary.refuse_unknown(reference, [method for method in trained.methods if method in tried])


def _mean(values: Array) -> Array:
    """Mean over the last axis of the values that are not nan; nan where there is none."""
    known = ~np.isnan(values)
    sizes = known.sum(axis=-1)
    return np.where(sizes, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(sizes, 1), np.nan)


def _number(value: float | None) -> float:
    return np.nan if value is None else value
