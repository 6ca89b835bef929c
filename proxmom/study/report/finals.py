"""The runs of training studies: which are compared, and what they came to.

Points are compared by runs of one seed ("search"); the best point of each method is run again with other seeds
("final"), and these runs alone are the answer. What decides is the test loss where there is one, else the validation
loss. A run that diverged or failed counts as the initial loss of its problem and seed, and as accuracy 0; one that
the machine aborted is not among the runs at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from proxmom.study.record.ranking import lost
from proxmom.study.record.store import Run
from proxmom.study.report.summary import Array, Results

Pair = tuple[str, str]

LEAST = 1e-10
"""In ratios losses below this count as this: relative gaps are not known any closer."""


@dataclass(frozen=True)
class Trained:
    """The runs of training studies; names in the order to show. search and final have the same names."""

    search: Results
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

    @cached_property
    def gaps(self) -> tuple[bool, ...]:
        """By problem, whether its losses are relative gaps: those are 1 at the start, whatever the seed.

        They span decades, so geometric means and ratios stand for them instead of means and differences.
        """
        starts = {problem: [v for (name, _), v in self.initial.items() if name == problem] for problem in self.problems}
        return tuple(bool(np.allclose(starts[problem], 1.0, rtol=0, atol=1e-9)) for problem in self.problems)

    @property
    def names(self) -> tuple[str, ...]:
        """By problem, what the deciding loss is called."""
        each = zip(self.splits, self.gaps, strict=True)
        return tuple("relative gap" if gap else f"{split} loss" for split, gap in each)

    @property
    def measure(self) -> str:
        """What the deciding losses are called."""
        return " or ".join(dict.fromkeys(self.names))

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
    return Trained(Results(problems, methods, steps, search), Results(problems, methods, steps, final))


def lost_seeds(trained: Trained) -> dict[Pair, tuple[int, int, int]]:
    """By problem and method: seeds that diverged, that failed, and that were run."""
    counts = {}
    for pair, runs in trained.final.runs.items():
        failed = sum(run.status == "failed" for run in runs)
        counts[pair] = (sum(map(lost, runs)) - failed, failed, len(runs))
    return counts


def _only(results: Results, methods: tuple[str, ...]) -> Results:
    runs = {pair: found for pair, found in results.runs.items() if pair[1] in methods}
    return replace(results, methods=methods, runs=runs)
