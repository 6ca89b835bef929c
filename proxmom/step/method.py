"""`Method`: a rule with its metric and settings, checked once.

All that stays the same from step to step is here; nothing here looks at a gradient.
"""

from __future__ import annotations

from typing import Any

from proxmom.metrics import Metric
from proxmom.planes import Array
from proxmom.rules import Facts, Rule
from proxmom.step.exchange import Scalars
from proxmom.stepsize import Habits, StepSize

DECAYS = ("coupled", "decoupled", "proximal")


class Method:
    """A rule with its settings, checked once.

    Args:
        rule, metric: what to step with.
        inertia: λ >= 0; must be 0 for rules that look at the loss.
        decay: "coupled" (added to the gradient), "decoupled" (AdamW's) or "proximal".
        step_size: what multiplies lr, see `proxmom.stepsize`; None: nothing does, or the rule itself if it can.

    Raises:
        ValueError, TypeError: for settings that do not go together.
    """

    def __init__(
        self, rule: Rule, metric: Metric, *, inertia: float, decay: str, step_size: StepSize | None = None
    ) -> None:
        self.rule, self.metric, self.inertia, self.decay = rule, metric, inertia, decay
        self.facts = Facts.of(rule)
        own: Any = rule if hasattr(rule, "factor") else None
        self.step_size: StepSize | None = own if step_size is None else step_size
        self.habits = Habits() if self.step_size is None else Habits.of(self.step_size)
        self.memories = self._joined("memories")
        self.scalars = self._joined("scalars")
        self.names = ("gradient", "memory", *self.memories)
        if isinstance(metric, type) or not callable(getattr(metric, "diagonal", None)):
            raise TypeError(f"metric must be an object like Euclidean() or Adam(), got {metric!r}.")
        if not 0 <= inertia < float("inf"):
            raise ValueError(f"inertia must be >= 0 and finite, got {inertia}.")
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {decay!r}.")
        self._check_pairs()

    def _joined(self, kind: str) -> dict[str, float]:
        """What rule and step size declare, together."""
        ours, theirs = getattr(self.facts, kind), getattr(self.habits, kind)
        for name in ours.keys() & theirs.keys():
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{kind} of rule and step size must agree on {name!r}, got {ours[name]} and {theirs[name]}."
                )
        return {**ours, **theirs}

    def _check_pairs(self) -> None:
        name, metric = type(self.rule).__name__, type(self.metric).__name__
        if self.facts.beta_max == 1 and not self.metric.memory_from_gradient:
            raise ValueError(
                f"{name}: beta_max must be < 1 with {metric}, got 1: memory starts from zero there and would stay zero."
            )
        if self.facts.needs_loss and self.inertia > 0:
            raise ValueError(
                f"{name} looks at the loss, so inertia must be 0, got {self.inertia}: with a floor the last move would "
                "no longer be proportional to memory, and such steps were seen to diverge."
            )
        if self.facts.needs_loss and self.decay == "coupled":
            raise ValueError(
                f"{name} looks at the loss, so decay must be 'decoupled' or 'proximal', got 'coupled': the gradient "
                "would contain a term that the loss does not."
            )

    @property
    def bounded(self) -> bool:
        """Whether the metric, not the mixture, corrects the mass of a memory that starts from zero."""
        return not (self.facts.normalised or self.metric.memory_from_gradient)

    def own_scalars(self, scalars: Scalars) -> dict[str, Array]:
        """The scalars of rule and step size; before the first step those that they start with."""
        start = {name: 0 * scalars.step + value for name, value in self.scalars.items()}
        return {**start, **scalars.own}
