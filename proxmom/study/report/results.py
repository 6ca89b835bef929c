"""The runs of studies by problem, method and seed, and the two measures of them: evaluations, and final losses.

Both are read alike. Points are compared by the runs that were *tried*; the runs of the best one, *final*, are the
answer: of a study that counts it is the best run itself, of a training study that point again with other seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from proxmom.study.record.ranking import best_run, evaluations, initial_losses, lost, points
from proxmom.study.record.run import Run
from proxmom.study.report.statistics import Array, last_mean, least

Pair = tuple[str, str]
Runs = Mapping[Pair, tuple[Run, ...]]

MISS_FACTOR = 10
"""A miss counts as this many times the budget in means."""
LEAST = 1e-10
"""Smaller losses count as this in ratios: relative gaps are not known any closer."""
_TOLERANCE, _SHARE = 1.2, 0.01  # as good as the best: at most 20% above it, a loss also at most 1% of the way back


@dataclass(frozen=True)
class Results(ABC):
    """Runs by (problem, method), names in the order to show; what a run came to, its value, is the smaller the better.

    limit: evaluations, or steps, of each run at most. A pair without runs is left out, and its values are nan.
    """

    problems: tuple[str, ...]
    methods: tuple[str, ...]
    limit: int
    tried: Runs
    final: Runs

    exact: ClassVar[bool]  # whether a value is the same in every repetition, so that any difference counts

    @abstractmethod
    def value(self, run: Run) -> float:
        """What a final run came to; inf if it did not get there."""

    @abstractmethod
    def score(self, run: Run) -> float:
        """What a run that was tried came to, in means."""

    @abstractmethod
    def excess(self, run: Run) -> float:
        """How much of the initial loss a run left over, 0 to 1."""

    @abstractmethod
    def as_good(self, runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
        """Which runs are at most a little behind the best one."""

    @property
    @abstractmethod
    def by_ratio(self) -> tuple[bool, ...]:
        """By problem, whether values are compared by ratios and have geometric means, for they span decades."""

    @property
    def searched(self) -> Runs:
        """What was tried, a run for each point."""
        return self.tried

    @cached_property
    def best(self) -> dict[Pair, Run]:
        """The best of each pair among the points that were tried."""
        return {pair: best_run(runs) for pair, runs in self.searched.items()}

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        groups = (self.tried,) if self.exact else (self.tried, self.final)
        return [run for group in groups for runs in group.values() for run in runs]

    @cached_property
    def variant_of(self) -> dict[str, str]:
        """The method of each row that is a variant of one: its defaults, or a control."""
        found = {run.method: run.variant_of for run in self.runs if run.variant_of}
        return {method: found[method] for method in self.methods if method in found}

    @cached_property
    def ran(self) -> tuple[str, ...]:
        """The methods that have final runs."""
        return tuple(method for method in self.methods if any(method == name for _, name in self.final))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the final runs, ascending."""
        return tuple(sorted({self._seed(run) for runs in self.final.values() for run in runs}))

    @cached_property
    def values(self) -> Array:
        """The value of the final runs, shape (problems, methods, seeds)."""
        return self.of_seeds(self.value)

    @cached_property
    def counted(self) -> Array:
        """The values as they count in means, all of them positive and finite."""
        return np.asarray(np.maximum(self.values, LEAST))

    @cached_property
    def points(self) -> Array:
        """The score of the best run of each pair, shape (problems, methods); nan where nothing was tried."""
        return self.points_of(self.best)

    @cached_property
    def curves(self) -> dict[str, dict[str, Array]]:
        """What each final run recorded, by its key; see `Run.curve`."""
        return {run.key: run.curve() for runs in self.final.values() for run in runs}

    def only(self, methods: Sequence[str]) -> Self:
        """The runs of these methods alone."""
        tried, final = ({p: r for p, r in runs.items() if p[1] in methods} for runs in (self.tried, self.final))
        return replace(self, methods=tuple(methods), tried=tried, final=final)

    def on(self, problems: Sequence[str]) -> Self:
        """The runs on these problems alone."""
        tried, final = ({p: r for p, r in runs.items() if p[0] in problems} for runs in (self.tried, self.final))
        return replace(self, problems=tuple(problems), tried=tried, final=final)

    def without_variants(self) -> Self:
        """The methods themselves; all rows where every one is a variant."""
        return self.only([method for method in self.methods if method not in self.variant_of] or self.methods)

    def profiled(self) -> Array:
        """What a performance profile is of: geometric means over seeds, shape (problems, methods)."""
        return np.asarray(np.exp(last_mean(np.log(self.counted))))

    def points_of(self, best: Mapping[Pair, Run]) -> Array:
        """The score of these runs, shape (problems, methods); nan elsewhere."""
        rows = [[(problem, method) for method in self.methods] for problem in self.problems]
        return np.array([[self.score(best[p]) if p in best else np.nan for p in row] for row in rows], dtype=float)

    def of_seeds(self, value: Callable[[Run], float | None]) -> Array:
        """`value` of each final run, shape (problems, methods, seeds); nan where there is none."""
        table = np.full((len(self.problems), len(self.methods), len(self.seeds)), np.nan)
        for (problem, method), runs in self.final.items():
            for run in runs:
                place = self.problems.index(problem), self.methods.index(method), self.seeds.index(self._seed(run))
                table[place] = value(run)
        return table

    def _seed(self, run: Run) -> int:
        return 0 if self.exact else run.seed


@dataclass(frozen=True)
class Counts(Results):
    """Evaluations until the target was reached: ranked, a miss is infinity; in means, ten times the budget."""

    target: float = np.nan

    exact: ClassVar[bool] = True

    @classmethod
    def of(cls, runs: Iterable[Run], budget: int, target: float = np.nan) -> Counts:
        """Groups runs by problem and method, names in the order of their first run."""
        problems, methods, tried = _grouped(runs)
        best = {pair: (best_run(found),) for pair, found in tried.items()}
        return cls(problems, methods, budget, tried, best, target)

    @property
    def by_ratio(self) -> tuple[bool, ...]:
        return (True,) * len(self.problems)

    @property
    def counts(self) -> Array:
        """Evaluations of the best runs, shape (problems, methods): inf for a miss, nan without a run."""
        return self.values[..., 0]

    @cached_property
    def counted(self) -> Array:
        return np.where(np.isinf(self.values), self.penalty, self.values)

    @property
    def penalty(self) -> int:
        """What a miss counts as."""
        return MISS_FACTOR * self.limit

    def value(self, run: Run) -> float:
        return evaluations(run)

    def score(self, run: Run) -> float:
        return min(evaluations(run), self.penalty)

    def excess(self, run: Run) -> float:
        """Relative gap a run ended with, at most 1, the initial loss; 1 if it diverged or failed."""
        return 1.0 if run.status in ("diverged", "failed") or np.isnan(run.best_gap) else min(run.best_gap, 1.0)

    def profiled(self) -> Array:
        return self.counts

    def as_good(self, runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
        if best.status == "reached":
            return np.array([evaluations(run) for run in runs]) <= _TOLERANCE * best.evaluations
        return np.array([run.best_gap for run in runs]) <= _TOLERANCE * best.best_gap


@dataclass(frozen=True)
class Losses(Results):
    """Losses of training runs at the end: the test loss where there is one, else the validation loss.

    Points are compared by their validation loss, or its mean over seeds. A run that diverged or failed counts as the
    initial loss of its problem and seed, and as accuracy 0; one that the machine aborted is not among the runs at all.
    """

    exact: ClassVar[bool] = False

    @classmethod
    def of(cls, runs: Iterable[Run], steps: int) -> Losses:
        """Groups runs by stage, problem and method, names in the order of their first run.

        Raises ValueError if none of them is final.
        """
        problems, methods, every = _grouped(runs)
        tried, final = (
            {pair: found for pair, group in every.items() if (found := tuple(r for r in group if r.stage == stage))}
            for stage in ("search", "final")
        )
        if not final:
            raise ValueError("no run of a best point is finished, so there is nothing to report. Run the study again.")
        return cls(problems, methods, steps, tried, final)

    @cached_property
    def by_ratio(self) -> tuple[bool, ...]:
        """Whether losses are relative gaps: those are 1 at the start, whatever the seed."""
        starts = {problem: [v for (name, _), v in self.initial.items() if name == problem] for problem in self.problems}
        return tuple(bool(np.allclose(starts[problem], 1.0, rtol=0, atol=1e-9)) for problem in self.problems)

    @cached_property
    def splits(self) -> dict[str, str]:
        """By problem, the split whose loss decides: "test" where it was evaluated, else "validation"."""
        tested = {problem for (problem, _), runs in self.final.items() for run in runs if "test loss" in run.final}
        return {problem: "test" if problem in tested else "validation" for problem in self.problems}

    @property
    def names(self) -> tuple[str, ...]:
        """By problem, what the deciding loss is called."""
        each = zip(self.splits.values(), self.by_ratio, strict=True)
        return tuple("relative gap" if gap else f"{split} loss" for split, gap in each)

    @property
    def measure(self) -> str:
        """What the deciding losses are called."""
        return " or ".join(dict.fromkeys(self.names))

    @cached_property
    def initial(self) -> dict[tuple[str, int], float]:
        """Validation loss before the first step, by problem and training seed; see `initial_losses`."""
        return initial_losses(self.runs)

    @cached_property
    def searched(self) -> Runs:
        """What was tried, each point as one run: the mean over its seeds where there are several."""
        return {pair: points(runs, self.initial) for pair, runs in self.tried.items()}

    @cached_property
    def search_seeds(self) -> int:
        """With how many training seeds points were tried, at most; 0 if none was."""
        return max((len({run.seed for run in runs}) for runs in self.tried.values()), default=0)

    def start(self, run: Run) -> float:
        """The initial loss of a run, or the mean over its seeds."""
        return float(np.mean([self.initial[run.problem, seed] for seed in run.seeds or (run.seed,)]))

    def loss(self, run: Run, split: str = "validation") -> float:
        """Loss at the end, the initial one if the run was lost."""
        return self.start(run) if lost(run) else run.final.get(f"{split} loss", np.nan)

    def value(self, run: Run) -> float:
        return self.loss(run, self.splits[run.problem])

    def score(self, run: Run) -> float:
        return max(self.loss(run), LEAST)

    def excess(self, run: Run) -> float:
        """How much of the way from the initial loss to the best of all points is left; a loss above the first is 1."""
        best = least(self.points)[self.problems.index(run.problem)]
        left, whole = self.loss(run) - best, self.start(run) - best
        return float(np.clip(left / whole, 0.0, 1.0)) if whole > 0 else 1.0

    def as_good(self, runs: Sequence[Run], best: Run) -> NDArray[np.bool_]:
        smallest = self.loss(best)
        gained = self.start(best) - smallest
        bound = min(_TOLERANCE * smallest, smallest + _SHARE * gained) if gained > 0 else smallest
        return np.array([self.loss(run) for run in runs]) <= max(bound, LEAST)

    @cached_property
    def validation(self) -> Array:
        """The validation loss of the final runs, shape (problems, methods, seeds)."""
        return self.of_seeds(self.loss)

    @cached_property
    def accuracy(self) -> Array:
        """The accuracy on the deciding split, shape (problems, methods, seeds); nan where it is not measured."""
        names = {problem: f"{split} accuracy" for problem, split in self.splits.items()}
        known = {run.problem for run in self.runs if names[run.problem] in run.final}

        def value(run: Run) -> float:
            return 0.0 if lost(run) and run.problem in known else run.final.get(names[run.problem], np.nan)

        return self.of_seeds(value)

    @cached_property
    def lost_seeds(self) -> dict[Pair, tuple[int, int, int]]:
        """By problem and method: seeds that diverged, that failed, and that were run."""
        failed = {pair: sum(run.status == "failed" for run in runs) for pair, runs in self.final.items()}
        return {pair: (sum(map(lost, r)) - failed[pair], failed[pair], len(r)) for pair, r in self.final.items()}


def _grouped(runs: Iterable[Run]) -> tuple[tuple[str, ...], tuple[str, ...], dict[Pair, tuple[Run, ...]]]:
    """Problems and methods in the order of their first run, and the runs of each pair in the order of points."""
    every = list(runs)
    problems, methods = (tuple(dict.fromkeys(getattr(run, key) for run in every)) for key in ("problem", "method"))
    groups: dict[Pair, list[Run]] = defaultdict(list)
    for run in every:
        groups[run.problem, run.method].append(run)
    ordered = {p: tuple(sorted(group, key=lambda run: (run.point_index, run.seed))) for p, group in groups.items()}
    return problems, methods, ordered
