"""Where in the bracket of two planes in a norm the best weight lies, as a glance at some elements tells.

A guide and no more: what it says decides where the solver asks, and not what it answers.
"""

from __future__ import annotations

from collections.abc import Callable

from proxmom.planes import Array, namespace
from proxmom.step.records import Glance, Scope

DEVIATIONS = 5  # standard deviations of what was not seen


def near(
    scope: Scope, lr: Array, seen: Glance, slopes: Array, signal: Callable[[Array, Array, Array], Array]
) -> tuple[Array, Array]:
    """Two weights of the second plane, (S,) each, between which the best one very probably lies.

    Args:
        scope, lr: which tensors share a model, and their step sizes (T,).
        seen: from the first plane's slope to the second's.
        slopes: theirs, (S, 2, B).
        signal: weights (S, E), <A, s_1> and <A, s_2 - s_1> there -> the dual's derivative, falling, (S, E).
    """
    changes = scope.total(lr[:, None, None] * seen.changes)
    xp, parts = namespace(changes), changes.shape[1]
    pull = xp.concat([scope.total(lr[:, None] * seen.pull)[:, None, :], changes], axis=1)
    pull = xp.cumulative_sum(pull, axis=1)
    first, turn = slopes[:, None, 0, :], slopes[:, None, 1, :] - slopes[:, None, 0, :]
    along = xp.sum(pull * turn, axis=-1)
    b = xp.arange(parts + 1, dtype=along.dtype, device=along.device) / parts + 0 * along
    falls = signal(b, xp.sum(pull * first, axis=-1), along)
    total, spread = scope.total(lr * seen.total), xp.sqrt(scope.total(lr**2 * seen.variance))
    doubt = DEVIATIONS * spread / xp.where(total > 0, total, 1.0) * xp.abs(falls[:, -1] - falls[:, 0])
    above = xp.sum(xp.astype(falls >= doubt[:, None], b.dtype), axis=1)
    not_below = xp.sum(xp.astype(falls >= -doubt[:, None], b.dtype), axis=1)
    # half a part more on both sides: who changes sign at a border is on one side of it by rounding
    low, high = (above - 1.5) / parts, (not_below + 0.5) / parts
    return xp.clip(low, 0.0, 1.0), xp.clip(high, 0.0, 1.0)
