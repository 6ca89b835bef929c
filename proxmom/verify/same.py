"""`check_same`: whether two rules are one, step by step, on random and degenerate states and along runs.

Both are shown the same gradients, those at the first one's iterates, so that a rounding is not blown up by f.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxmom.metrics import Euclidean, Metric
from proxmom.numpy.measures import join, split
from proxmom.numpy.optimizer import Optimizer
from proxmom.observed import Observed, sampled
from proxmom.rules import Facts, Rule
from proxmom.verify.cases import SIZE, Vector
from proxmom.verify.check import text_of
from proxmom.verify.functions import FUNCTIONS, Function
from proxmom.verify.states import Shown, State, bound_of, draw, show, surroundings

ROUNDING = 1e-9  # relative: equal formulas stay below 1e-11 or so
STEPS, LR, FAR = 60, 0.1, 1e6  # of a run, which ends where |x| is above the last


@dataclass(frozen=True)
class Difference:
    """Where two rules first take another step.

    place: "state 12 (gradient = memory)", or "the run on a noisy quadratic"; kind: the name in brackets, "run" of runs;
        step: counted from 1; apart: the largest difference of the two moves, relative to the longer one or to the
        planes' own steps, infinite where only one of them is finite; betas: what each gives memory.
    """

    place: str
    kind: str
    step: int
    apart: float
    betas: tuple[float, float]

    def __str__(self) -> str:
        if self.apart == np.inf:
            return f"{self.place}, step {self.step}: only one of them makes a step, the other is not finite"
        betas = " and ".join(f"{beta:.6g}" for beta in self.betas)
        return f"{self.place}, step {self.step}: the steps differ by {self.apart:.1e}, relative (beta {betas})"


@dataclass(frozen=True)
class Sameness:
    """What `check_same` saw.

    a, b, setting: what was compared, as text; seed: of the states; states, runs, steps: how many were compared; worst:
        the largest relative difference of two steps that count as the same; differences: the first different step of
        each state and each run that has one, in order.
    """

    a: str
    b: str
    setting: str
    seed: int
    states: int
    runs: int
    steps: int
    worst: float
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether every step is the same to rounding: to 1e-9, relative."""
        return not self.differences

    def __str__(self) -> str:
        head = f"{self.a} and {self.b}, {self.setting}"
        where = f"{self.states} states (seed {self.seed}) and {self.runs} runs"
        if self.same:
            return f"{head}: the same to rounding, {self.worst:.1e} at worst, in {self.steps} steps of {where}"
        kinds = Counter(difference.kind for difference in self.differences)
        counts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        return f"{head}: not the same. First in {self.differences[0]}. Different in {counts}, of {where}"


def check_same(
    a: Rule,
    b: Rule,
    *,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    decay: str = "decoupled",
    trials: int = 200,
    seed: int = 0,
    progress: Callable[[], Any] | None = None,
) -> Sameness:
    """Compare the steps of two rules, from the first one on.

    On the states of `sample_state`, driven there with `a`, and along a run on each of four functions (a quadratic, the
    same with noise, Rosenbrock's, a sum of absolute values). What differs by no more than 1e-9, relative, is rounding:
    this says that two formulas are one wherever it looked, and proves nothing.

    Args:
        a, b: any rules; where one of them looks at the loss both are shown it.
        metric: of both; default `Euclidean()`. In a norm, whose best step need not be unique, rules that solve the same
            model may take different ones where a coordinate or singular value of the slope is zero.
        inertia, weight_decay, decay: of both, as for `Optimizer`.
        trials: >= 1, the number of states.
        seed: >= 0; state i is `sample_state(a, i, ..., seed=seed)`.
        progress: called after each state and each run.

    Returns:
        a `Sameness`; print it, or ask `.same`.

    Raises:
        ValueError, TypeError: for invalid arguments, and for a rule that does not go with them.
    """
    if trials < 1:
        raise ValueError(f"trials must be >= 1, got {trials}.")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    metric = Euclidean() if metric is None else metric
    pair = _Pair((a, b), metric, {"inertia": inertia, "weight_decay": weight_decay, "decay": decay})
    found: list[Difference] = []
    steps, worst = 0, 0.0
    for place, kind, apart in pair.everywhere(trials, seed):
        count, least, difference = _follow(apart)
        steps, worst = steps + count, max(worst, least)
        if difference is not None:
            found.append(Difference(place, kind, count, *difference))
        if progress is not None:
            progress()
    setting = f"{text_of(metric)}, inertia {inertia:g}, weight decay {weight_decay:g} ({decay})"
    return Sameness(
        text_of(a), text_of(b), setting, seed, trials, len(FUNCTIONS), steps, worst, differences=tuple(found)
    )


Steps = Iterator[tuple[float, tuple[float, float]]]  # of each step how far apart, and both betas


def _follow(steps: Steps) -> tuple[int, float, tuple[float, tuple[float, float]] | None]:
    """How many steps were compared, the worst that counts as the same, and the first that does not."""
    count, worst = 0, 0.0
    for apart, betas in steps:
        count += 1
        if not apart <= ROUNDING:
            return count, worst, (apart, betas)
        worst = max(worst, apart)
    return count, worst, None


@dataclass(frozen=True)
class _Pair:
    """Two rules in one setting."""

    rules: tuple[Rule, Rule]
    metric: Metric
    options: dict[str, Any]

    def everywhere(self, trials: int, seed: int) -> Iterator[tuple[str, str, Steps]]:
        """Each state and each run: its place, its kind, and the comparison of its steps."""
        shapes, cases = surroundings(self.metric)
        looking = [rule for rule in self.rules if Facts.of(rule).needs_loss]
        bound = bound_of(looking[0]) if looking else None
        observed = {name: told for rule in self.rules for name, told in Facts.of(rule).observed.items()}
        for number in range(trials):
            state = draw(lambda x: self._optimizers(split(x, shapes))[0], cases, number, seed, bound, observed)
            place = f"state {number} ({state.case})"
            yield place, state.case, self._along(state.x0, _replay(state))
        for name, function in FUNCTIONS.items():
            random = np.random.default_rng([seed, SIZE])
            x0 = split(random.normal(size=SIZE), shapes)
            yield f"the run on {name}", "run", self._along(x0, _run(function, random, bound or 0.0, observed))

    def _optimizers(self, x: list[Vector]) -> list[Optimizer]:
        return [Optimizer(x, rule, lr=1.0, metric=self.metric, **self.options) for rule in self.rules]

    def _along(self, x0: list[Vector], shown_at: Callable[[list[Vector]], Shown | None]) -> Steps:
        """Both from x0 on, shown what belongs to the first one's iterate, until there is nothing more."""
        first, second = self._optimizers(x0)
        while (shown := shown_at(first.x)) is not None:
            size = _natural(first, shown)
            for optimizer in (first, second):
                show(optimizer, shown)
            yield _apart(first, second, size), (_beta(first), _beta(second))


def _replay(state: State) -> Callable[[list[Vector]], Shown | None]:
    """What led to a state, and what is shown there, wherever x is."""
    left = iter(state.steps)
    return lambda x: next(left, None)


def _run(
    function: Function, random: np.random.Generator, bound: float, observed: Mapping[str, Observed]
) -> Callable[[list[Vector]], Shown | None]:
    """What is shown at an iterate, until the run ends."""
    left, seen = iter(range(STEPS)), np.random.default_rng(SIZE)

    def shown(x: list[Vector]) -> Shown | None:
        flat = join(x)
        if next(left, None) is None or not np.abs(flat).max() < FAR:
            return None
        f, g = function(flat, random)
        return Shown(LR, split(g, [part.shape for part in x]), f + bound, sampled(observed, seen))

    return shown


def _natural(optimizer: Optimizer, shown: Shown) -> float:
    """How far the planes' own steps go, which a rounding is relative to; 0 where the step is skipped, or in a norm."""
    optimizer.lr = shown.lr
    try:
        model = optimizer.preview(*shown.of(optimizer))
    except ValueError:
        return 0.0
    return 0.0 if model.norm is not None else model.lr * max(np.abs(model.image(slope)).max() for slope in model.slopes)


def _apart(first: Optimizer, second: Optimizer, size: float) -> float:
    """How far apart the last moves are, relative to the longest of them and to `size`."""
    if first.diagnostics()["skipped"] != second.diagnostics()["skipped"]:
        return float("inf")
    ours, other = first.last_step, second.last_step
    size = max(size, float(np.abs(ours).max()), float(np.abs(other).max()))
    return float(np.abs(ours - other).max() / size) if size else 0.0


def _beta(optimizer: Optimizer) -> float:
    beta = optimizer.diagnostics()["beta"]
    return float("nan") if beta is None else float(beta)
