"""Certificates: how far any weights are from solving the model, from heights and products alone.

With w on the simplex let z(w) be the move it stands for. The model's planes at z(w) have the values c - Q w, up to one
constant, and the quadratic terms are ½ <w, Q w>, up to the same constant. So primal and dual values need no vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxmom.planes import Array, namespace


@dataclass(frozen=True, eq=False)
class Certificate:
    """What proves that weights are optimal.

    primal, dual: (...), the shape of the batch: objective values, up to a constant common to both.
    gap: (...), primal - dual, >= 0 up to rounding, and 0 at the solution.
    kkt: (...), the largest violation of the optimality conditions: off the simplex, or weight on an inactive plane.
    """

    primal: Array
    dual: Array
    gap: Array
    kkt: Array


def certify(linear: Array, quadratic: Array, weights: Array) -> Certificate:
    """Primal value, dual value, gap and KKT residual of `weights`.

    Args:
        linear: c, shape (..., K).
        quadratic: Q, shape (..., K, K), symmetric positive semi-definite.
        weights: w, shape (..., K), on the simplex.
    """
    xp = namespace(linear)
    pull = (quadratic @ weights[..., None])[..., 0]
    values = linear - pull
    energy = xp.sum(weights * pull, axis=-1) / 2
    top = xp.max(values, axis=-1)
    dual = xp.sum(weights * linear, axis=-1) - energy
    inactive = xp.max(weights * (top[..., None] - values), axis=-1)
    off_simplex = xp.maximum(xp.abs(1 - xp.sum(weights, axis=-1)), -xp.min(weights, axis=-1))
    gap = top - xp.sum(weights * values, axis=-1)  # = primal - dual, without cancelling the energies
    return Certificate(primal=top + energy, dual=dual, gap=gap, kkt=xp.maximum(inactive, off_simplex))
