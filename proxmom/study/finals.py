"""What training studies say, as numbers: no files, no plotting.

Points are compared by runs of one seed ("search"); the best point of each method is run again with other seeds
("final"), and these runs alone are the answer. What decides is the test loss where there is one, else the validation
loss. A run that diverged or failed counts as the initial loss of its problem and seed, and as accuracy 0. Seeds are
paired: methods share initial weights and batches, so differences and ratios are taken seed by seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from proxmom.study import summary, tuning
from proxmom.study.store import Run
from proxmom.study.summary import Array, Interval, Memory, Results
from proxmom.study.tuning import Edge

Pair = tuple[str, str]
AnyResults = TypeVar("AnyResults", bound=Results)

LEAST = 1e-10
"""In ratios losses below this count as this: relative gaps are not known any closer."""
_TOLERANCE, _SHARE = 1.2, 0.01  # as good as the best: a loss at most 20% above, and at most 1% of the way back


class Search(Results):
    """The runs that compare points; the best is the one of the smallest validation loss at the end."""

    @cached_property
    def best(self) -> dict[Pair, Run]:
        """The best run of each pair."""
        return {pair: best_run(runs) for pair, runs in self.runs.items()}


@dataclass(frozen=True)
class Variant:
    """A row of defaults, or a control, against its method.

    ratio: of the deciding losses, as `mean_ratios`. differences: by problem, as `differences`; lower, higher: on how
    many problems their intervals exclude 0.
    """

    name: str
    of: str
    ratio: Interval
    differences: tuple[Interval, ...]
    lower: int
    higher: int


@dataclass(frozen=True)
class Trained:
    """The runs of training studies; names in the order to show. search and final have the same names."""

    search: Search
    final: Results

    @property
    def problems(self) -> tuple[str, ...]:
        return self.final.problems

    @property
    def methods(self) -> tuple[str, ...]:
        return self.final.methods

    @property
    def steps(self) -> int:
        """Steps of each run."""
        return self.final.budget

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for group in (self.search, self.final) for runs in group.runs.values() for run in runs]

    @property
    def variant_of(self) -> dict[str, str]:
        """The method of each row that is a variant of one: its defaults, or a control."""
        found = self.search.variant_of | self.final.variant_of
        return {method: found[method] for method in self.methods if method in found}

    def without_variants(self) -> Trained:
        """The methods themselves; all rows where every one is a variant."""
        kept = tuple(method for method in self.methods if method not in self.variant_of) or self.methods
        return Trained(_only(self.search, kept), _only(self.final, kept))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds of the final runs, ascending."""
        return tuple(sorted({run.seed for runs in self.final.runs.values() for run in runs}))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """By problem, the split whose loss decides: "test" where it was evaluated, else "validation"."""
        tested = {problem for (problem, _), runs in self.final.runs.items() for run in runs if "test loss" in run.final}
        return tuple("test" if problem in tested else "validation" for problem in self.problems)

    @property
    def measure(self) -> str:
        """What the deciding loss is called."""
        return " or ".join(f"{split} loss" for split in dict.fromkeys(self.splits))

    @cached_property
    def initial(self) -> dict[tuple[str, int], float]:
        """Validation loss before the first step, by problem and training seed.

        Where no run of that seed recorded it: the mean over the problem's other seeds, or nan.
        """
        known = {(run.problem, run.seed): run.final["initial loss"] for run in self.runs if "initial loss" in run.final}
        values: dict[str, list[float]] = defaultdict(list)
        for (problem, _), value in known.items():
            values[problem].append(value)
        wanted = {(run.problem, run.seed) for run in self.runs}
        return {key: known.get(key, float(np.mean(values[key[0]] or [np.nan]))) for key in wanted}

    def loss(self, run: Run, split: str = "validation") -> float:
        """Loss at the end, the initial one if the run was lost."""
        value = run.final.get(f"{split} loss", np.nan)
        return self.initial[run.problem, run.seed] if lost(run) else value

    @cached_property
    def curves(self) -> dict[str, dict[str, Array]]:
        """What each final run recorded, by its key; see `Run.curve`."""
        return {run.key: run.curve() for runs in self.final.runs.values() for run in runs}

    def of_seeds(self, value: Callable[[Run], float]) -> Array:
        """`value` of each final run, shape (problems, methods, seeds); nan where there is none."""
        table = np.full((len(self.problems), len(self.methods), len(self.seeds)), np.nan)
        for (problem, method), runs in self.final.runs.items():
            for run in runs:
                table[self.problems.index(problem), self.methods.index(method), self.seeds.index(run.seed)] = value(run)
        return table

    @cached_property
    def losses(self) -> Array:
        """The deciding loss of the final runs, shape (problems, methods, seeds)."""
        split = dict(zip(self.problems, self.splits, strict=True))
        return self.of_seeds(lambda run: self.loss(run, split[run.problem]))

    @cached_property
    def validation(self) -> Array:
        """The validation loss of the final runs, shape (problems, methods, seeds)."""
        return self.of_seeds(self.loss)

    @cached_property
    def accuracy(self) -> Array:
        """The accuracy on the deciding split, shape (problems, methods, seeds); nan where it is not measured."""
        split = dict(zip(self.problems, self.splits, strict=True))
        known = {run.problem for run in self.runs if f"{split[run.problem]} accuracy" in run.final}

        def value(run: Run) -> float:
            return 0.0 if lost(run) else run.final.get(f"{split[run.problem]} accuracy", np.nan)

        return self.of_seeds(lambda run: value(run) if run.problem in known else np.nan)

    @cached_property
    def points_losses(self) -> Array:
        """The validation loss of the best search run, shape (problems, methods); nan where nothing was searched."""
        return self.best_losses(self.search)

    def best_losses(self, search: Results) -> Array:
        """The validation loss of the best of these search runs, shape (problems, methods), at least `LEAST`."""
        return np.maximum(search.tabulate(lambda pair: self.loss(search.best[pair])), LEAST)


def collect(runs: Iterable[Run], steps: int) -> Trained:
    """Group the runs of training studies by stage, problem and method, names in the order of their first run.

    Raises ValueError if none of them is final.
    """
    every = list(runs)
    problems, methods = (tuple(dict.fromkeys(getattr(run, key) for run in every)) for key in ("problem", "method"))
    groups: dict[str, dict[Pair, list[Run]]] = {"search": defaultdict(list), "final": defaultdict(list)}
    for run in sorted(every, key=lambda run: (run.point_index, run.seed)):
        groups[run.stage][run.problem, run.method].append(run)
    if not groups["final"]:
        raise ValueError("no run of a best point is finished, so there is nothing to report. Run the study again.")
    search, final = ({pair: tuple(found) for pair, found in groups[stage].items()} for stage in ("search", "final"))
    return Trained(Search(problems, methods, steps, search), Results(problems, methods, steps, final))


def lost(run: Run) -> bool:
    """Whether a run has no loss of its own at the end: it diverged, failed, or that loss is not finite."""
    return run.status != "finished" or not np.isfinite(run.final.get("validation loss", np.nan))


def best_run(runs: Iterable[Run]) -> Run:
    """The smallest validation loss at the end among the runs that finished, then the earlier point."""
    return min(runs, key=lambda run: (lost(run), 0.0 if lost(run) else run.final["validation loss"], run.point_index))


def lost_seeds(trained: Trained) -> dict[Pair, tuple[int, int, int]]:
    """By problem and method: seeds that diverged, that failed, and that were run."""
    counts = {}
    for pair, runs in trained.final.runs.items():
        failed = sum(run.status == "failed" for run in runs)
        counts[pair] = (sum(map(lost, runs)) - failed, failed, len(runs))
    return counts


def over_seeds(values: Array) -> list[list[Interval]]:
    """Mean and t interval over seeds of values (problems, methods, seeds), as lists of problems of methods."""
    return [[summary.t_mean(seeds) for seeds in row] for row in values]


def differences(trained: Trained, reference: str) -> list[list[Interval]]:
    """Mean paired difference of the deciding loss to that of `reference`, with its t interval over seeds.

    Lists of problems of methods. Raises ValueError if the reference has no final run.
    """
    _refuse_unknown(trained, reference)
    return over_seeds(trained.losses - trained.losses[:, [trained.methods.index(reference)]])


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
            column = tuple(row[trained.methods.index(name)] for row in differences(trained, of))
            signs = [interval.sign for interval in column]
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


def first_below(trained: Trained, target: float) -> tuple[Array, Array]:
    """Steps and seconds at which the validation loss was first recorded at or below `target`, of the final runs.

    Both of shape (problems, methods, seeds): inf for a miss, nan without a run.
    """
    found = {key: _first(curve, target) for key, curve in trained.curves.items()}
    return trained.of_seeds(lambda run: found[run.key][0]), trained.of_seeds(lambda run: found[run.key][1])


def median(values: Array) -> Array:
    """Median over the last axis of the values that are not nan; inf is a value."""
    ordered = np.sort(values, axis=-1)
    size = np.sum(~np.isnan(values), axis=-1)
    low, high = (np.maximum(index, 0)[..., None] for index in ((size - 1) // 2, size // 2))
    pair = [np.take_along_axis(ordered, index, -1)[..., 0] for index in (low, high)]
    return np.asarray((pair[0] + pair[1]) / 2)


def curve_of(trained: Trained, pair: Pair, name: str) -> tuple[Array, list[Interval]]:
    """Steps, and mean and t interval over seeds of what was recorded as `name` at them; a seed counts until it ends."""
    curves, steps = _curves(trained, pair)
    table = np.full((len(curves), steps.size), np.nan)
    for row, curve in zip(table, curves, strict=True):
        _, here, there = np.intersect1d(steps, curve["step"], return_indices=True)
        row[here] = curve[name][there]
    return steps, [summary.t_mean(column) for column in table.T]


def betas_of(trained: Trained, pair: Pair) -> tuple[Array, Array]:
    """Steps, and weights on memory at them, (steps, units of all seeds); seeds that ended early are left out."""
    curves, steps = _curves(trained, pair)
    whole = [curve["beta"] for curve in curves if np.array_equal(curve["step"], steps)]
    return steps, np.concatenate([np.empty((steps.size, 0)), *whole], axis=1)


def middle_run(trained: Trained, pair: Pair) -> Run | None:
    """The final run of the median validation loss among those that finished; None if none did."""
    kept = sorted((r for r in trained.final.runs.get(pair, ()) if not lost(r)), key=lambda r: (trained.loss(r), r.seed))
    return kept[len(kept) // 2] if kept else None


def excess(trained: Trained) -> Callable[[Run], float]:
    """How much of the way from the problem's initial loss to the best validation loss a search run left: 0 to 1.

    The best is that of all methods' search runs; a loss above the initial one counts as 1.
    """
    best = dict(zip(trained.problems, _least(trained.points_losses), strict=True))

    def value(run: Run) -> float:
        left, whole = (loss - best[run.problem] for loss in (trained.loss(run), trained.initial[run.problem, run.seed]))
        return float(np.clip(left / whole, 0.0, 1.0)) if whole > 0 else 1.0

    return value


def lr_sensitivity(trained: Trained, seed: int = 0) -> dict[str, Interval]:
    """Mean `excess` of the search runs whose lr is within a factor of ten of the best's, log-uniform as points are.

    With its bootstrap interval over problems; with one problem, over points. Methods that nowhere have four such runs
    are left out.
    """
    value = excess(trained)
    found = {}
    for method in trained.methods:
        pairs = [(problem, method) for problem in trained.problems if (problem, method) in trained.search.runs]
        points = [tuning.excess_near_best(trained.search, pair, value) for pair in pairs]
        known = [values for values in points if not np.isnan(values).all()]
        if known:
            alone = len(trained.problems) == 1
            found[method] = summary.bootstrap_mean(known[0] if alone else np.array([v.mean() for v in known]), seed)
    return found


def best_so_far(trained: Trained, goal: Array) -> tuple[tuple[int, ...], Array]:
    """Budgets, and the geometric mean ratio of the best validation loss so far to `goal`, shape (methods, budgets).

    goal: (problems,), say `points_losses` of the reference. Both are empty if nothing was searched.
    """
    if not trained.search.runs:
        return (), np.empty((len(trained.methods), 0))
    return tuning.best_so_far_against(trained.search, goal, trained.best_losses)


def edges(trained: Trained) -> list[Edge]:
    """Best points that sit on the edge of what was tried.

    Plateaus among them, where a decade inwards costs at most 20% of the loss and 1% of what was gained, are marked.
    """

    def as_good(runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
        least = trained.loss(best)
        gained = trained.initial[best.problem, best.seed] - least
        bound = min(_TOLERANCE * least, least + _SHARE * gained) if gained > 0 else least
        return np.array([trained.loss(run) for run in runs]) <= max(bound, LEAST)

    return tuning.edges(trained.search, as_good)


def profiled(trained: Trained) -> Array:
    """What a performance profile is of: geometric means over seeds of the deciding loss, shape (problems, methods)."""
    return np.asarray(np.exp(_mean(np.log(np.maximum(trained.losses, LEAST)))))


def _only(results: AnyResults, methods: tuple[str, ...]) -> AnyResults:
    runs = {pair: found for pair, found in results.runs.items() if pair[1] in methods}
    return replace(results, methods=methods, runs=runs)


def _refuse_unknown(trained: Trained, reference: str) -> None:
    tried = {method for _, method in trained.final.runs}
    summary.refuse_unknown(reference, [method for method in trained.methods if method in tried])


def _mean(values: Array) -> Array:
    """Mean over the last axis of the values that are not nan; nan where there is none."""
    known = ~np.isnan(values)
    sizes = known.sum(axis=-1)
    return np.where(sizes, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(sizes, 1), np.nan)


def _least(values: Array) -> Array:
    least = np.where(np.isnan(values), np.inf, values).min(axis=1)
    return np.where(np.isinf(least), np.nan, least)


def _curves(trained: Trained, pair: Pair) -> tuple[list[dict[str, Array]], Array]:
    """The curves of a pair's seeds, and the steps that the longest recorded."""
    curves = [trained.curves[run.key] for run in trained.final.runs.get(pair, ())]
    return curves, max((curve["step"] for curve in curves), key=len, default=np.empty(0))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _first(curve: dict[str, Array], target: float) -> tuple[float, float]:
    hits = np.flatnonzero(curve["validation"] <= target)
    return (curve["step"][hits[0]], curve["seconds"][hits[0]]) if hits.size else (np.inf, np.inf)
