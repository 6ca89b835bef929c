"""A formula of a user's own, for the weights of the planes or for the step, in the place of our solver's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxmom.numpy.optimizer import Model
from proxmom.verify.cases import Vector

GIVES = ("weights", "step")
OFF = 1e-8  # how far weights may be off the simplex


@dataclass(frozen=True)
class ClosedForm:
    """What `check_rule` compares instead of our own step; arguments as there, ValueError for another `gives`."""

    formula: Callable[[Model], Any]
    gives: str = "weights"

    def __post_init__(self) -> None:
        if self.gives not in GIVES:
            raise ValueError(f"gives must be one of {', '.join(map(repr, GIVES))}, got {self.gives!r}.")
        if not callable(self.formula):
            raise TypeError(f"closed_form must be a function of a Model, got {self.formula!r}.")

    def __str__(self) -> str:
        return f"the {self.gives} by {getattr(self.formula, '__name__', type(self.formula).__name__)}"

    def answer(self, model: Model) -> Vector:
        """What the formula gives, (K,) weights or the (n,) move; ValueError for another shape or kind."""
        size, of = (len(model.heights), "planes") if self.gives == "weights" else (model.x.size, "numbers")
        given = np.asarray(self.formula(model), dtype=float)
        if given.shape != (size,):
            raise ValueError(
                f"closed_form must return the {self.gives} of {size} {of}, shape ({size},), got shape {given.shape}. "
                "gives='weights' is for the planes' weights, gives='step' for the move: see proxmom.numpy.optimizer."
            )
        return given

    def fault(self, given: Vector) -> str | None:
        """Why an answer is none: not finite, or weights that are not on the simplex; None where it is one."""
        if not np.isfinite(given).all():
            return f"the {self.gives} are not finite"
        if self.gives == "weights" and (given.min() < -OFF or abs(given.sum() - 1) > OFF):
            return f"weights must be >= 0 with the sum 1, got {np.array2string(given, precision=4)}"
        return None


def move_of(model: Model, weights: Vector) -> Vector:
    """The move z that weights of the planes stand for, (n,): where the model's quadratic terms balance their slope."""
    slope, mu, inertia = weights @ model.slopes, model.weight_decay, model.inertia
    if inertia:
        p = np.asarray(model.diagonal)
        slope = (slope + inertia * p * model.memory) / (1 + inertia * p)
    return np.asarray(-model.lr / (1 + model.lr * mu) * (model.image(slope) + mu * model.x))
