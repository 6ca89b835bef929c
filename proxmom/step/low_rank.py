"""Inner products in a metric that is the identity plus low rank, from plain ones, and the image of a direction.

Such a metric is one for all tensors of a scope, so its products are shared out among them: only their total counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from proxmom.metrics import Expansion
from proxmom.planes import Array, namespace
from proxmom.step.records import MEMORY, Products, Scope


class Seen(NamedTuple):
    """What a low-rank metric says of one step: itself, and <u, v> of the named vectors u and the kept v, (S, B, V)."""

    metric: Expansion
    cross: Array

    def image(self, direction: Array) -> Array:
        """Of P⁻¹ of a combination of named vectors, (S, B), the part over the kept ones, (S, V)."""
        return ((direction[:, None, :] @ self.cross) @ self.metric.middle)[:, 0, :]


def see(
    metric: Any, gram: Array, numbers: Mapping[str, Array], scope: Scope, reach: Array, decay: Array | None
) -> tuple[Products, Seen]:
    """The products of the B named vectors in the metric as it is after one more move.

    Args:
        metric: with `kept` and `low_rank`.
        gram: plain products of named vectors, kept ones, last move and change of the gradient, (T, N, N).
        numbers: what the metric keeps besides, (S,) each.
        scope: which tensors share it.
        reach: the last move was -reach·P⁻¹memory, (T,).
        decay: <u, x>, (T, B), or None.
    """
    total = scope.total(gram)
    named = total.shape[-1] - metric.kept - 2
    forecast = -scope.total(reach * gram[:, MEMORY, -2])
    told = metric.low_rank(total[:, named:, named:], numbers, forecast)
    turn = namespace(total).matrix_transpose
    cross = total[:, :named, named:] @ turn(told.keeps)
    dual = told.identity[:, None, None] * total[:, :named, :named] + cross @ told.middle @ turn(cross)
    shared = scope.divide(dual)
    return Products(shared, shared, None, decay, gram[:, :named, -2]), Seen(told, cross)
