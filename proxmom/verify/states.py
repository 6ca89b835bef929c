"""`sample_state`: the random and degenerate states in which rules are compared, for whoever wants to look into one.

A state is what a few random steps leave of memory, metric and mass, with the gradient and loss of the step after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from proxmom.metrics import Euclidean, Metric, kind_of
from proxmom.numpy.measures import join, split
from proxmom.numpy.optimizer import Model, Optimizer
from proxmom.observed import Observed, sampled
from proxmom.rules import Facts, Rule
from proxmom.verify import norms
from proxmom.verify.cases import CASES, IN_NORMS, SHAPES, SIZE, Case, Vector

Random = np.random.Generator


class Shown(NamedTuple):
    """What an optimizer is shown for one step.

    lr: step size, > 0. gradient: one array for each tensor. loss: None where the rule does not look at it.
    observed: by name the numbers that rules declare in `observed`.
    """

    lr: float
    gradient: list[Vector]
    loss: float | None
    observed: Mapping[str, float] = {}

    def of(self, optimizer: Optimizer) -> tuple[Any, ...]:
        """The arguments of a step or preview of an optimizer, which is shown only what it observes."""
        seen = {name: self.observed[name] for name in optimizer.observed}
        return (self.gradient, self.loss, *([seen] if seen else []))


@dataclass(frozen=True, eq=False)
class State:
    """A state to compare steps in.

    number: with the seed it reproduces the state. case: its name, "random" or one of the degenerate ones.
    x0: where the optimizer started, one array for each tensor. past: the one to four steps it has taken since.
    now: what it is to be shown next. optimizer: as `past` left it.
    """

    number: int
    case: str
    x0: list[Vector]
    past: tuple[Shown, ...]
    now: Shown
    optimizer: Optimizer

    @property
    def steps(self) -> tuple[Shown, ...]:
        """All that is shown from x0 on, the step in question last: another optimizer may be driven through the same."""
        return (*self.past, self.now)

    def model(self) -> Model:
        """The model of the step in question; nothing changes but `optimizer.lr`.

        Raises:
            ValueError: where that step would be skipped.
        """
        self.optimizer.lr = self.now.lr
        return self.optimizer.preview(*self.now.of(self.optimizer))


def sample_state(
    rule: Rule,
    number: int,
    *,
    metric: Metric | None = None,
    inertia: float = 0.0,
    weight_decay: float = 0.0,
    decay: str = "decoupled",
    loss: bool | None = None,
    seed: int = 0,
) -> State:
    """One of the states that `check_rule` and `check_same` compare steps in, driven there with `rule`.

    Three tensors of twelve numbers in all; of three states two are random, the others go through what is degenerate:
    a gradient that is zero, equal to memory or to its negative, huge or tiny, an lr of 1e4 or 1e-6, a loss at its
    bound or below; in a norm also gradients with zeros, of small integers, and of rank one.

    Args:
        rule: any rule.
        number: >= 0; 3, 6, 9, ... and 0 are the degenerate ones, in turn.
        metric: default `Euclidean()`.
        inertia, weight_decay, decay: as for `Optimizer`.
        loss: whether a loss is shown; None: if the rule looks at it.
        seed: >= 0; the state depends on (seed, number), and on the rule by its memory.

    Raises:
        ValueError: for a negative number or seed, and as `Optimizer`.
    """
    for name, value in (("number", number), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}. Each whole number from 0 on is another state.")
    metric = Euclidean() if metric is None else metric
    shapes, cases = surroundings(metric)

    def optimizer(x: Vector) -> Optimizer:
        return Optimizer(
            split(x, shapes), rule, lr=1.0, metric=metric, inertia=inertia, weight_decay=weight_decay, decay=decay
        )

    with_loss = Facts.of(rule).needs_loss if loss is None else loss
    bound = bound_of(rule) if with_loss else None
    return draw(optimizer, cases, number, seed, bound, Facts.of(rule).observed)


def surroundings(metric: Metric) -> tuple[tuple[tuple[int, ...], ...], Mapping[str, Case]]:
    """The shapes of the tensors that suit a metric, and the cases."""
    return (norms.shapes_for(metric), IN_NORMS) if kind_of(metric) == "norm" else (SHAPES, CASES)


def bound_of(rule: Rule) -> float:
    """The rule's lower bound, 0 where it has none."""
    return float(getattr(rule, "lower_bound", 0.0))


def draw(
    optimizer: Callable[[Vector], Optimizer],
    cases: Mapping[str, Case],
    number: int,
    seed: int,
    bound: float | None,
    observed: Mapping[str, Observed] | None = None,
) -> State:
    """State `number` of those that `optimizer` (x -> a fresh one) gets into; without a bound no loss is shown.

    observed: what is shown besides; gradients and losses do not depend on it.
    """
    seen = np.random.default_rng([seed, number, 1])
    random, name = np.random.default_rng([seed, number]), case_of(number, list(cases))
    case, state = cases[name], optimizer(random.normal(size=SIZE))
    x0, past = state.x, []
    shapes = [part.shape for part in x0]
    for _ in range(1 + random.integers(4)):
        lr = 10 ** random.uniform(-2, 0)
        before = split(case.before(_gradient(random)), shapes)
        height = bound + 10 ** random.uniform(-1, 2) if bound is not None else None
        past.append(Shown(lr, before, height, sampled(observed or {}, seen)))
        show(state, past[-1])
    gradient = case.gradient(_gradient(random), join(state.memory))
    lr = case.lr if case.lr is not None else 10 ** random.uniform(-3, 1)
    depth = case.depth if case.depth is not None else 10 ** random.uniform(-1.5, 1.5)
    loss = bound + depth * lr * float(gradient @ gradient) if bound is not None else None
    now = Shown(lr, split(gradient, shapes), loss, sampled(observed or {}, seen))
    return State(number, name, x0, tuple(past), now, state)


def show(optimizer: Optimizer, shown: Shown) -> None:
    """One step of an optimizer."""
    optimizer.lr = shown.lr
    optimizer.step(*shown.of(optimizer))


def case_of(number: int, names: list[str]) -> str:
    """Two of three trials are random, the others go through the degenerate cases."""
    return names[0] if number % 3 else names[1 + (number // 3) % (len(names) - 1)]


def _gradient(random: Random) -> Vector:
    return np.asarray(random.normal(size=SIZE) * 10 ** random.uniform(-1, 1, size=SIZE))
