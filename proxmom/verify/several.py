"""Whether a rule treats several models side by side as it treats each alone: what one beta for each tensor rests on."""

from __future__ import annotations

import numpy as np

from proxmom.numpy import Runs
from proxmom.observed import sampled
from proxmom.rules import Facts, Rule

MODELS, STEPS, SIZE = 3, 4, 6


def check_several(rule: Rule) -> None:
    """Drive a few random models together and each alone.

    Raises:
        ValueError: where a rule that takes one model fails with several, or then gives other directions.
    """
    random, start = np.random.default_rng(0), np.zeros((MODELS, SIZE))
    together, alone = Runs(start, rule, lr=0.1), [Runs(start[:1], rule, lr=0.1) for _ in range(MODELS)]
    bound, observed = float(getattr(rule, "lower_bound", 0.0)), Facts.of(rule).observed
    for _ in range(STEPS):
        gradients = random.normal(size=(MODELS, SIZE)) * 10 ** random.uniform(-1, 1, size=(MODELS, 1))
        losses = bound + 10 ** random.uniform(-1, 1, size=MODELS)
        each = [sampled(observed, random) for _ in alone]
        seen = {name: np.array([own[name] for own in each]) for name in observed}
        for i, run in enumerate(alone):
            run.step(gradients[i : i + 1], losses[i : i + 1], {name: value[i : i + 1] for name, value in seen.items()})
        try:
            together.step(gradients, losses, seen)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{type(rule).__name__} takes one model of planes, and fails where its scalars stand for several, one "
                f"for each tensor: {error} Write formulas, not branches: with xp = namespace(now.lr), from "
                "proxmom.planes, xp.where in place of if, xp.maximum in place of max."
            ) from error
        if not np.allclose(together.memory, np.concatenate([run.memory for run in alone]), rtol=1e-9, atol=1e-9):
            raise ValueError(
                f"{type(rule).__name__} gives other directions for several models side by side than for each alone. "
                "Sums and maxima must go over the planes or vectors of a model, never over models."
            )
