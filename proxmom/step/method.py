"""`Method`: a rule with its metric, step size and settings, checked once.

All that stays the same from step to step is here; nothing here looks at a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from proxmom.memories import Displacement, kept, mass_name, tracked
from proxmom.metrics import Metric, kind_of
from proxmom.now import NoInnerProduct, Now
from proxmom.observed import declared, sampled
from proxmom.rules import Facts, Rule
from proxmom.step.records import MEMORY
from proxmom.stepsize import StepSize, check_step_size

DECAYS = ("coupled", "decoupled", "proximal")
STATES = 32  # random states at which a rule is asked how much weight it gives to memory


class Method:
    """A rule with its settings, checked once.

    Args:
        rule, metric: what to step with.
        inertia: λ >= 0; must be 0 for rules that look at the loss.
        decay: "coupled" (added to the gradient), "decoupled" (AdamW's) or "proximal".
        step_size: what multiplies lr, see `proxmom.stepsize`; None: nothing does.

    Raises:
        ValueError, TypeError: for settings that do not go together.
    """

    def __init__(
        self, rule: Rule, metric: Metric, *, inertia: float, decay: str, step_size: StepSize | None = None
    ) -> None:
        self.rule, self.inertia, self.decay, self.step_size = rule, inertia, decay, step_size
        self.facts, self.name = Facts.of(rule), type(rule).__name__
        if step_size is not None:
            check_step_size(step_size)
        self.memories = self._joined("memories")
        self.scalars: dict[str, float] = self._joined("scalars")
        self.tracked = tracked(self.memories)
        self.scalars |= {mass_name(name): float(self.memories[name].start == "gradient") for name in self.tracked}
        self.names = ("gradient", "memory", *self.memories)
        self.observed = {**declared(getattr(step_size, "observed", ())), **self.facts.observed}
        self.remembers: list[Any] = [part for part in (rule, step_size) if hasattr(part, "remember")]
        self.metric: Any = metric
        self.measures = kind_of(metric)
        if not 0 <= inertia < float("inf"):
            raise ValueError(f"inertia must be >= 0 and finite, got {inertia}.")
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(map(repr, DECAYS))}, got {decay!r}.")
        if self.measures == "norm":  # a direction has no length that could tell of the mass of memory
            self.facts = replace(self.facts, normalised=True)
        self.memory_from_gradient = bool(getattr(metric, "memory_from_gradient", False))
        # of memory and the further ones: whether it starts as the first gradient
        self.seeded = [self.memory_from_gradient, *(kind.start == "gradient" for kind in self.memories.values())]
        # of what is kept of them, memory first: its names, and whether it starts as "zero", as the "gradient" or as "x"
        self.kept = ("memory", *kept(self.memories))
        further = (self.memories[name] for name in self.kept[1:])
        starts = ["x" if isinstance(kind, Displacement) else kind.start for kind in further]
        self.starts = ["gradient" if self.memory_from_gradient else "zero", *starts]
        self.mass_in_metric = not (self.facts.normalised or self.memory_from_gradient)
        # of a backend that records what a step does: the recordings, what they hold for, why there is none
        self.recorded: dict[Any, Any] = {}
        self.recorded_with: Any = None
        self.not_recorded = ""
        self._check_pairs()

    def __getstate__(self) -> dict[str, Any]:
        """Without recordings: a copy has its own, of the code as it is where it is."""
        return {**vars(self), "recorded": {}, "recorded_with": None, "not_recorded": ""}

    def _joined(self, kind: str) -> dict[str, Any]:
        """What rule and step size declare, together."""
        ours: Mapping[str, Any] = getattr(self.facts, kind)
        theirs: Mapping[str, Any] = getattr(self.step_size, kind, {})
        for name in ours.keys() & theirs.keys():
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{kind} of rule and step size must agree on {name!r}, got {ours[name]} and {theirs[name]}."
                )
        return {**ours, **theirs}

    def _check_pairs(self) -> None:
        metric = type(self.metric).__name__
        if self.inertia > 0 and self.measures != "diagonal":
            raise ValueError(
                f"inertia must be 0 with {metric}, got {self.inertia}: it needs (I + λP)⁻¹, which only metrics with a "
                "diagonal give."
            )
        if self.facts.beta_max == 1 and not self.memory_from_gradient:
            raise ValueError(
                f"{self.name}: beta_max must be < 1 with {metric}, got 1: memory starts from zero there and would stay "
                "zero."
            )
        if self.facts.needs_loss and self.inertia > 0:
            raise ValueError(
                f"{self.name} looks at the loss, so inertia must be 0, got {self.inertia}: with a floor the last move "
                "would no longer be proportional to memory, and such steps were seen to diverge."
            )
        if self.facts.needs_loss and self.decay == "coupled":
            raise ValueError(
                f"{self.name} looks at the loss, so decay must be 'decoupled' or 'proximal', got 'coupled': the "
                "gradient would contain a term that the loss does not."
            )
        if self.measures == "norm":
            self._check_norm(metric)
        weight = self.weight_on_memory if self.mass_in_metric else 0.0
        if weight > self.facts.beta_max + 1e-6:
            declared = f"beta_max = {self.facts.beta_max:g}" if hasattr(self.rule, "beta_max") else "no beta_max"
            raise ValueError(
                f"{self.name} gives memory a weight of up to {weight:.3g}, but declares {declared}. With {metric} "
                "memory starts from zero, and the first steps are corrected for that by the largest weight it may get: "
                f"say beta_max = {min(weight, 1):.3g} in the class."
            )

    def _check_norm(self, norm: str) -> None:
        """ValueError for what has no meaning in a norm."""
        if self.decay == "proximal":
            raise ValueError(
                f"decay must be 'decoupled' or 'coupled' with {norm}, got 'proximal': that measures x, which a norm of "
                "moves does not."
            )
        now = self._random_states()
        asked = [self.rule.planes, *(part.remember for part in self.remembers)]
        asked += [] if self.step_size is None else [self.step_size.factor]
        for ask in asked:
            try:
                ask(now)
            except NoInnerProduct as error:
                who = type(getattr(ask, "__self__", ask)).__name__
                raise ValueError(
                    f"{who} cannot be used with {norm}: it asks for inner products, now.dot(u, v), and a norm has "
                    "none. Use a metric like Euclidean(), or another rule or step size."
                ) from error
            except Exception:  # whatever else is wrong is said where it takes a step
                continue

    @cached_property
    def weight_on_memory(self) -> float:
        """The largest coefficient of memory in a plane of the rule, over random states; 0 if it cannot be asked so."""
        try:
            planes: Any = self.rule.planes(self._random_states())
            planes = planes if isinstance(planes, tuple | list) else [planes]
            return max(float(np.max(plane.slope.coefficients[..., MEMORY])) for plane in planes)
        except Exception:  # whatever is wrong with the rule is said where it takes a step
            return 0.0

    def _random_states(self) -> Now:
        """What the rule might see, at `STATES` scopes at once; memory has its full mass."""
        random, count = np.random.default_rng(0), len(self.names)
        vectors = random.normal(size=(STATES, count, count + 2))
        one, some = np.ones(STATES), np.abs(random.normal(size=(4, STATES)))
        given = [sampled(self.observed, random) for _ in range(STATES)]
        return Now(
            self.names,
            dual=None if self.measures == "norm" else vectors @ vectors.swapaxes(-1, -2),
            last_move=-(vectors @ vectors[:, MEMORY, :, None])[..., 0],
            lr=some[0],
            step=one,
            mass=one,
            normalised=self.facts.normalised,
            loss=some[1],
            previous_loss=some[2],
            memory_height=some[3],
            memories=self.memories,
            scalars={name: value * one for name, value in self.scalars.items()},
            observed={name: np.array([each[name] for each in given]) for name in self.observed},
            rule=self.name,
        )
