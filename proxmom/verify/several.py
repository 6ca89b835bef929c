"""Whether a rule treats several models side by side as it treats each alone: what one beta for each tensor rests on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from proxmom.metrics import Euclidean
from proxmom.rules import Rule
from proxmom.step import MEMORY, Outcome, Products, Scalars, Scope, Step

MODELS, STEPS, SIZE = 3, 4, 6
Vector = NDArray[np.float64]


def check_several(rule: Rule) -> None:
    """Drive a few random models together and each alone.

    Raises:
        ValueError: where a rule that takes one model fails with several, or then gives other directions.
    """
    step, random, zero = (
        Step(rule, Euclidean(), inertia=0.0, decay="decoupled"),
        np.random.default_rng(0),
        np.zeros(MODELS),
    )
    together = Scalars.start(zero, zero, memory_from_gradient=True)
    alone = [Scalars.start(zero[:1], zero[:1], memory_from_gradient=True)] * MODELS
    bound = float(getattr(rule, "lower_bound", 0.0))
    for _ in range(STEPS):
        named = random.normal(size=(MODELS, len(step.names), SIZE)) * 10 ** random.uniform(-1, 1, size=(MODELS, 1, 1))
        loss = bound + 10 ** random.uniform(-1, 1, size=MODELS) if step.facts.needs_loss else None
        each = [
            _take(step, named[i : i + 1], alone[i], None if loss is None else loss[i : i + 1]) for i in range(MODELS)
        ]
        try:
            out = _take(step, named, together, loss)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{type(rule).__name__} takes one model of planes, and fails where its scalars stand for several, one "
                f"for each tensor: {error} Write formulas, not branches: with xp = namespace(now.lr), from "
                "proxmom.planes, xp.where in place of if, xp.maximum in place of max."
            ) from error
        if not np.allclose(out.direction, np.concatenate([lone.direction for lone in each]), rtol=1e-9, atol=1e-9):
            raise ValueError(
                f"{type(rule).__name__} gives other directions for several models side by side than for each alone. "
                "Sums and maxima must go over the planes or vectors of a model, never over models."
            )
        together, alone = out.scalars, [lone.scalars for lone in each]


def _take(step: Step, named: Vector, scalars: Scalars, loss: Vector | None) -> Outcome:
    dual = named @ named.swapaxes(1, 2)
    products = Products(dual, dual, dual[:, :, MEMORY], None)
    lr = np.full(len(named), 0.1)
    return step.take(products, scalars, Scope(), lr=lr, weight_decay=0 * lr, loss=loss)
