"""The last step made longer before the next: for step sizes with `finish`, see `proxmom.stepsize.Habits`.

The model is then that of a point where nothing was measured: its inner products are combinations of those that were.
The way there and back is here; the step in between is any other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from proxmom.now import Now
from proxmom.planes import Array, namespace
from proxmom.step.exchange import MEMORY, Outcome, Products
from proxmom.step.method import Method
from proxmom.step.model import Given


def blending(method: Method, reach: Array, now: Now) -> Array:
    """The named vectors where the last step is `reach` (N,) times as long, over those that are, (N, B, B)."""
    xp, previous = namespace(reach), method.names.index("previous")
    turn = xp.zeros_like(reach[:, None, None] + now.products[:1])
    turn[:, 0, 0], turn[:, 0, previous] = reach - 1, 1 - reach
    return turn + xp.eye(len(method.names), dtype=turn.dtype, device=turn.device)


def moved_on(method: Method, given: Given, now: Now, reach: Array, blend: Array) -> Given:
    """What would have been measured there, (T,) and (T, B, B); on a quadratic exactly."""
    products, scalars, scope, *_ = given
    xp = namespace(blend)
    last = -(scalars.last_lr * scalars.kept)[:, None] * products.dual[:, :, MEMORY]
    more = (reach - 1)[:, None]

    def rows(array: Array | None) -> Array | None:
        return None if array is None else (blend @ array[..., None])[..., 0]

    def both(array: Array) -> Array:
        return blend @ array @ xp.matrix_transpose(blend)

    measured = Products(
        both(products.dual),
        both(products.metric),
        rows(products.pull),
        None if products.decay is None else rows(products.decay + more * last),
    )
    scalars = replace(scalars, last_lr=scalars.last_lr * reach)
    if not method.facts.needs_loss:
        return given._replace(products=measured, scalars=scalars)
    moved = scope.total(more * last)
    scalars = replace(scalars, memory_height=scalars.memory_height + moved[:, MEMORY])
    return given._replace(products=measured, scalars=scalars, loss=now.loss + moved[:, 0] / 2)


def as_measured(
    method: Method, given: Given, finished: Given, now: Now, out: Outcome, reach: Array, again: Array, blend: Array
) -> Outcome:
    """The outcome in terms of what was measured; where `again`, only the last step becomes longer.

    now: as `finish` left it; what was kept after that does not count where `again`.
    """
    scalars, scope, xp = given.scalars, given.scope, namespace(again)
    wait = scope.spread(xp.astype(again, reach.dtype)) > 0
    stay = xp.zeros_like(out.direction)
    stay[:, MEMORY] = 1.0
    further = _averages(method, blend)
    names = xp.eye(len(method.names), dtype=further.dtype, device=further.device)[None, MEMORY + 1 :]
    left, before = out.scalars, finished.scalars
    after = replace(
        left,
        last_lr=xp.where(wait, before.last_lr, left.last_lr),
        kept=xp.where(wait, scalars.kept, left.kept),
        missing=xp.where(wait, scalars.missing, left.missing),
        own={name: xp.where(again, now.kept(name), value) for name, value in left.own.items()},
    )
    if method.facts.needs_loss:
        after = replace(
            after,
            loss=left.loss if scalars.loss is None else xp.where(again, scalars.loss, left.loss),
            memory_height=xp.where(again, before.memory_height, left.memory_height),
        )
    return replace(
        out,
        direction=xp.where(again[:, None], stay, (out.direction[:, None] @ blend)[:, 0]),
        beta=xp.where(again, 1.0, out.beta),
        slopes=out.slopes @ blend,
        scalars=after,
        lr=xp.where(wait, 0.0, out.lr),
        finish=(reach - 1) * scalars.last_lr * scalars.kept,
        further=xp.where(again[:, None, None], names, further),
    )


def _averages(method: Method, blend: Array) -> Array:
    """The further memories after a step, averaged with the gradient of `blend`, (S, M, B)."""
    xp = namespace(blend)
    names = xp.eye(len(method.names), dtype=blend.dtype, device=blend.device)[None, MEMORY + 1 :]
    return names + _column(tuple(method.memories.values()), xp, blend.dtype, blend.device) * (blend[:, :1] - names)


@lru_cache
def _column(values: tuple[float, ...], xp: Any, dtype: Any, where: Any) -> Array:
    """Numbers as a column, made once: on a device they would be waited for."""
    return xp.asarray(values, dtype=dtype, device=where)[:, None]
